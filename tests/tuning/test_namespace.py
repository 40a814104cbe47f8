"""The values of a network namespace, for real: applied, checked, restored.

Everything but /proc/sys/net is a fixture, and that is a namespace's own. So nothing of this host can
be changed, whatever the scripts do.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import fixture

NET = pathlib.Path("/proc/sys/net")
UNSHARE = ["unshare", "--net", "--mount"]

# What a namespace has of its own, of those that are set.
OWN = [
    "core/somaxconn",
    "ipv4/tcp_syncookies",
    "ipv4/tcp_notsent_lowat",
    "ipv4/tcp_rmem",
    "ipv4/tcp_slow_start_after_idle",
    "ipv4/ip_local_port_range",
]


def values(net):
    """Every value below a folder that can be read."""
    found = {}
    for path in sorted(net.rglob("*")):
        try:
            found[str(path.relative_to(net))] = path.read_text()
        except OSError:
            pass  # folders, and what can only be written
    return found


def permitted():
    """Why this cannot be tried, or None."""
    try:
        done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unshare is not installed"
    return None if done.returncode == 0 else f"no namespaces can be made here: {done.stderr.strip()}"


def inside(root):
    """Runs in the namespace: a round trip, of which each stage is reported."""
    net = root / "proc/sys/net"
    subprocess.run(["mount", "--bind", str(NET), str(net)], check=True)
    stages = {"before": values(net)}
    options = ["--apply", "--no-irq"]
    stages["apply"] = fixture.call("apply", *options, root=root)
    stages["applied"] = values(net)
    stages["check"] = fixture.call("check", root=root)
    stages["again"] = fixture.call("apply", *options, root=root)
    fixture.call("revert", "--apply", root=root)
    stages["after"] = values(net)
    print(json.dumps(stages))


class Namespace(unittest.TestCase):
    """One round trip, looked at from several sides."""

    @classmethod
    def setUpClass(cls):
        reason = permitted()
        if reason:
            raise unittest.SkipTest(reason)
        cls.host_before = values(pathlib.Path("/proc/sys"))
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            fixture.make(root)
            cls.fixture_before = fixture.snapshot(root)
            command = [*UNSHARE, sys.executable, __file__, "--inside", str(root)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            cls.fixture_after = fixture.snapshot(root)
        if done.returncode != 0:
            raise AssertionError(done.stdout + done.stderr)
        cls.stages = json.loads(done.stdout)

    def test_applied(self):
        applied = self.stages["applied"]
        self.assertEqual(applied["core/somaxconn"], "65535\n")
        self.assertEqual(applied["ipv4/ip_local_port_range"].split(), ["10240", "65535"])
        self.assertEqual(applied["ipv4/tcp_slow_start_after_idle"], "0\n")
        self.assertIn("Ready for", self.stages["check"])
        before = self.stages["before"]
        changed = [key for key in before if applied[key] != before[key]]
        self.assertLessEqual(set(changed), set(OWN))
        self.assertIn("core/somaxconn", changed)

    def test_the_host_s_values_are_skipped(self):
        self.assertIn("net.ipv4.tcp_mem                           skipped", self.stages["apply"])

    def test_the_second_time_nothing_changes(self):
        self.assertNotIn(" -> ", self.stages["again"])

    def test_restored(self):
        self.assertEqual(self.stages["after"], self.stages["before"])
        self.assertEqual(self.fixture_after, self.fixture_before)

    def test_this_host_was_not_touched(self):
        after = values(pathlib.Path("/proc/sys"))
        for key in ["fs/nr_open", "fs/file-max", "kernel/numa_balancing", *(f"net/{key}" for key in OWN)]:
            self.assertEqual(after.get(key), self.host_before.get(key), key)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(pathlib.Path(sys.argv[2]))
    else:
        unittest.main()
