"""The systemd unit: that systemd understands it, and that the server can live with its restrictions."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request

import fixture

UNIT = fixture.TUNING / "systemd/ringwire.service"
DROP_IN = fixture.TUNING / "systemd/ringwire.service.d/10-cpu-affinity.conf"

# Tenths of what `systemd-analyze security` calls the exposure level: 10 is unrestricted. What is left in
# 252 is the network, which the server is for, and @resources.
WORST_EXPOSURE = "14"


def settings(text):
    """Name and value of each setting, in order."""
    return re.findall(r"^([A-Za-z]+)=(.*)$", text, re.MULTILINE)


def seconds(name):
    return int(dict(settings(UNIT.read_text()))[name])


class Settings(unittest.TestCase):
    """What must fit the server."""

    def test_there_is_time_to_drain(self):
        limits = (fixture.REPOSITORY / "docs/configuration.md").read_text()
        drain = re.search(r"### `timeouts.drain_ms`.*?- default: `(\d+)`", limits, re.DOTALL)
        close = re.search(r"### `timeouts.close_ms`.*?- default: `(\d+)`", limits, re.DOTALL)
        self.assertGreater(seconds("TimeoutStopSec") * 1000, int(drain[1]) + int(close[1]))

    def test_descriptors_are_allowed(self):
        sysctls = (fixture.TUNING / "sysctl.d/90-ringwire.conf").read_text()
        nr_open = int(re.search(r"^fs.nr_open = (\d+)$", sysctls, re.MULTILINE)[1])
        self.assertLessEqual(seconds("LimitNOFILE"), nr_open)


@unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed (Debian: systemd)")
class Systemd(unittest.TestCase):
    """What systemd says."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def verify(self, unit, drop_in):
        """The program need not be installed here."""
        path = self.folder / "ringwire.service"
        path.write_text(unit.replace("/usr/bin/ringwire", shutil.which("true")))
        (self.folder / "ringwire.service.d").mkdir(exist_ok=True)
        (self.folder / "ringwire.service.d/10-cpu-affinity.conf").write_text(drop_in)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
        )
        # Whether other units are installed here is not the question.
        return [line for line in (done.stdout + done.stderr).splitlines() if str(self.folder) in line or "ringwire" in line]

    def test_verify(self):
        affinity = DROP_IN.read_text().replace("#CPUAffinity", "CPUAffinity")
        self.assertIn("\nCPUAffinity=", affinity)
        self.assertEqual(self.verify(UNIT.read_text(), affinity), [])

    def test_verify_notices_mistakes(self):
        self.assertNotEqual(self.verify(UNIT.read_text() + "\n[Service]\nLimitNOFLIE=1\n", ""), [])
        self.assertNotEqual(self.verify(UNIT.read_text(), "[Service]\nCPUAffinity=many\n"), [])

    def test_security(self):
        path = self.folder / "ringwire.service"
        path.write_text(UNIT.read_text())
        command = ["systemd-analyze", "security", "--offline=true", f"--threshold={WORST_EXPOSURE}", "--no-pager"]
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
        if "unrecognized option" in done.stderr:
            self.skipTest("this systemd-analyze is too old for --offline")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


def group(name):
    """The system calls of one of systemd's groups."""
    text = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", name], capture_output=True, text=True, check=True
    ).stdout
    calls = set()
    for line in text.splitlines()[1:]:
        line = line.strip()
        if line.startswith("@"):
            calls |= group(line)
        elif line and not line.startswith("#"):
            calls.add(line)
    return calls


def allowed_calls():
    """What is left of the unit's SystemCallFilter= lines."""
    # Always allowed, whatever the filter says: systemd.exec(5).
    calls = group("@default") | {"execve", "exit", "exit_group", "getrlimit", "rt_sigreturn", "sigreturn"}
    for name, value in settings(UNIT.read_text()):
        if name != "SystemCallFilter":
            continue
        words = value.lstrip("~").split()
        listed = set().union(*(group(word) if word.startswith("@") else {word} for word in words))
        calls = calls - listed if value.startswith("~") else calls | listed
    return calls


def server():
    """A server to try, newest first."""
    named = os.environ.get("TUNING_SERVER")
    paths = [pathlib.Path(named)] if named else [fixture.REPOSITORY / f"target/{kind}/ringwire" for kind in ("release", "debug")]
    found = [path for path in paths if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


@unittest.skipUnless(shutil.which("strace"), "strace is not installed")
@unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed (Debian: systemd)")
@unittest.skipUnless(server(), "there is no server (cargo build, or TUNING_SERVER=FILE)")
class Restrictions(unittest.TestCase):
    """The system calls that the server makes, and whether the unit allows them.

    A server runs without capabilities, answers, and ends; strace writes down what it did.
    """

    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            folder.chmod(0o777)
            config = folder / "ringwire.toml"
            config.write_text('listen = ["127.0.0.1:0", "unix:%s/socket"]\nshards = 2\n' % folder)
            program = folder / "ringwire"
            shutil.copy(server(), program)
            log = folder / "log"
            command = ["strace", "--follow-forks", "--quiet=all", f"--output={log}"]
            if os.geteuid() == 0:
                unprivileged = ["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
                command += ["setpriv", "--no-new-privs", *unprivileged, "--"]
            command += [program, "serve", "--config", config]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            try:
                url = None
                for line in process.stdout:
                    if found := re.search(r"listening on ws://(127[^/]+)/", line):
                        url = f"http://{found[1]}/healthz"
                        break
                if url is None:
                    raise AssertionError("the server did not start")
                cls.healthy = cls.get(url)
                # The traced server, not strace, which would leave it behind.
                children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                os.kill(int(children[0]), signal.SIGTERM)
                cls.output = process.communicate(timeout=60)[0]
            finally:
                process.kill()
                process.wait()
            cls.code = process.returncode
            cls.log = log.read_text()

    @staticmethod
    def get(url):
        deadline = time.monotonic() + 30
        while True:
            try:
                return urllib.request.urlopen(url, timeout=10).status
            except urllib.error.URLError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def calls(self):
        """Name and arguments of each call from the server's own execve on."""
        started = False
        for line in self.log.splitlines():
            found = re.match(r"\d+ +([a-z_0-9]+)\((.*)", line)
            if not found:
                continue
            started = started or (found[1] == "execve" and "/ringwire" in found[2].split(",")[0])
            if started:
                yield found[1], found[2]

    def test_it_served_and_ended(self):
        self.assertEqual((self.healthy, self.code), (200, 0), self.output)

    def test_all_calls_are_allowed(self):
        made = {name for name, _ in self.calls()}
        self.assertIn("io_uring_enter", made)
        self.assertEqual(sorted(made - allowed_calls()), [])

    def test_io_uring_is_allowed_by_name(self):
        allowed = " ".join(value for name, value in settings(UNIT.read_text()) if name == "SystemCallFilter")
        for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"]:
            self.assertIn(f" {call}", allowed)
            self.assertIn(call, allowed_calls())

    def test_no_memory_is_writable_and_executable(self):
        for name, arguments in self.calls():
            if name in ("mmap", "mprotect", "pkey_mprotect"):
                self.assertNotIn("PROT_WRITE|PROT_EXEC", arguments)
            if name in ("mprotect", "pkey_mprotect"):
                self.assertNotIn("PROT_EXEC", arguments)

    def test_address_families(self):
        families = {arguments.split(",")[0] for name, arguments in self.calls() if name == "socket"}
        permitted = dict(settings(UNIT.read_text()))["RestrictAddressFamilies"].split()
        self.assertLessEqual(families, set(permitted))
        self.assertIn("AF_INET", families)


if __name__ == "__main__":
    unittest.main()
