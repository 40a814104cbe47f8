#!/usr/bin/env python3
"""Judges the reports of the Autobahn test suite.

usage: compare.py expected REPORTS EXPECTED.json GROUP...
       compare.py unmasked REPORTS CASES

`expected`: every case of the groups must have run, with the result that EXPECTED.json lists for it
or a better one. `unmasked`: the suite, contrary to RFC 6455 section 5.1, sent frames without a mask;
all CASES must have had their connection failed with code 1002 and nothing echoed.

REPORTS is the folder with the suite's index.json. The last line printed is "N passed, N failed";
the exit status is 0 if nothing failed, 1 if something did, 2 if the reports cannot be judged.
"""

import json
import pathlib
import sys

# What the suite calls a result, from best to worst; what is not listed here is a failure.
# INFORMATIONAL: RFC 6455 leaves the outcome open, and the suite only reports it.
# NON-STRICT: correct in the end, but not in the best way.
RANK = {"OK": 0, "INFORMATIONAL": 1, "NON-STRICT": 2}
FIELDS = ("behavior", "behaviorClose")


class BadReport(Exception):
    """The reports or the expectations are not what they should be."""


def case_key(case):
    """Orders 1.1.10 after 1.1.9."""
    return [int(part) for part in case.split(".")]


def describe(result):
    """A result in one or two words."""
    first, close = (result.get(field, "MISSING") for field in FIELDS)
    return first if first == close else f"{first}, close {close}"


def rank(result):
    """The worse of the two verdicts of a case: of its messages, and of its closing handshake."""
    return max(RANK.get(result.get(field), len(RANK)) for field in FIELDS)


def check_expectations(expected):
    """Every exception from OK must be a result that passes, and carry its reason."""
    for case, entry in expected.items():
        if rank(entry) >= len(RANK):
            raise BadReport(f"expectation of case {case}: {describe(entry)} is not a result to expect")
        if rank(entry) > 0 and not entry.get("reason"):
            raise BadReport(f"expectation of case {case}: {describe(entry)} needs a reason")


def judge_expected(results, expected):
    """Compares results with expectations: lists of (case, text) that regressed and that improved."""
    regressions, improvements = [], []
    for case in sorted(expected.keys() | results.keys(), key=case_key):
        if case not in results:
            regressions.append((case, "did not run"))
            continue
        got = results[case]
        if case not in expected:
            regressions.append((case, f"{describe(got)}, and no expectation is listed for it"))
            continue
        want = expected[case]
        if all(got.get(field) == want[field] for field in FIELDS):
            continue
        text = f"{describe(got)}, expected {describe(want)}"
        (improvements if rank(got) < rank(want) else regressions).append((case, text))
    return regressions, improvements


def why_not_failed(report):
    """What is wrong about the end of a connection that sent an unmasked frame; None: nothing."""
    if not report.get("rxOctetStats"):
        return "the server sent nothing at all, not even the answer to the upgrade"
    data_frames = [opcode for opcode in ("0", "1", "2") if report["rxFrameStats"].get(opcode)]
    if report["received"] or data_frames:
        return "the server echoed an unmasked message"
    if report["closedByMe"] or report["failedByMe"]:
        return "the server left it to the client to end the connection"
    if report["remoteCloseCode"] != 1002:
        return f"the connection ended with code {report['remoteCloseCode']}, expected 1002"
    return None


def load_index(reports):
    """The results of the one agent that was tested: case -> result."""
    path = pathlib.Path(reports) / "index.json"
    try:
        agents = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadReport(f"no report: {error}") from error
    if len(agents) != 1:
        raise BadReport(f"{path}: {len(agents)} servers, expected the results of one")
    return next(iter(agents.values()))


def main_expected(reports, expectations, groups):
    """Mode `expected`."""
    expected = json.loads(pathlib.Path(expectations).read_text())
    check_expectations(expected)
    unknown = set(groups) - {case.split(".")[0] for case in expected}
    if unknown:
        raise BadReport(f"{expectations} lists no case of group {', '.join(sorted(unknown))}")
    expected = {case: entry for case, entry in expected.items() if case.split(".")[0] in groups}
    results = load_index(reports)
    regressions, improvements = judge_expected(results, expected)
    for case, text in regressions:
        report = results.get(case, {}).get("reportfile")
        print(f"FAILED {case}: {text}" + (f" ({pathlib.Path(reports) / report})" if report else ""))
    for case, text in improvements:
        print(f"better than expected {case}: {text}; update {expectations}")
    for case in sorted((set(expected) & set(results)) - {case for case, _ in regressions}, key=case_key):
        if rank(results[case]) > 0:
            print(f"not OK, as expected, {case}: {describe(results[case])}. {expected[case]['reason']}")
    return len(expected.keys() | results.keys()) - len(regressions), len(regressions)


def main_unmasked(reports, cases):
    """Mode `unmasked`."""
    results = load_index(reports)
    if len(results) != cases:
        raise BadReport(f"{len(results)} of {cases} cases ran")
    failed = 0
    for case in sorted(results, key=case_key):
        path = pathlib.Path(reports) / results[case]["reportfile"]
        problem = why_not_failed(json.loads(path.read_text()))
        if problem:
            failed += 1
            print(f"FAILED {case} without mask: {problem} ({path})")
    return len(results) - failed, failed


def main(arguments):
    """Runs one mode; the exit status."""
    try:
        if len(arguments) >= 4 and arguments[0] == "expected":
            passed, failed = main_expected(arguments[1], arguments[2], arguments[3:])
        elif len(arguments) == 3 and arguments[0] == "unmasked":
            passed, failed = main_unmasked(arguments[1], int(arguments[2]))
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except BadReport as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
