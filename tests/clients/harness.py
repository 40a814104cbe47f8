"""What the Python clients share: where the server is, which tests there are, and how they are run."""

import os
import secrets
import sys
import traceback

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("RINGWIRE_URL", "")
PID = os.environ.get("RINGWIRE_PID")
# How long anything may take before the test gives up, in seconds. Nothing is measured with it.
PATIENCE_S = 20

TESTS = []


def test(function):
    TESTS.append(function)
    return function


def equal(actual, expected):
    if actual != expected:
        raise AssertionError(f"expected {expected!r}, got {actual!r}")


def channel(name):
    """A channel that nobody else uses."""
    return f"py-{name}-{secrets.token_hex(6)}"


def main(shutdown):
    """Runs every test, and `shutdown` last if there is a process to end."""
    if not URL:
        sys.exit("where is the server? Set RINGWIRE_URL, for example to ws://127.0.0.1:9000/ws")
    if PID:
        test(shutdown)
    failed = 0
    for run in TESTS:
        try:
            run()
            print(f"ok      {run.__name__}", flush=True)
        except Exception:  # every test is reported, whatever went wrong in it
            failed += 1
            print(f"FAILED  {run.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"{len(TESTS) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
