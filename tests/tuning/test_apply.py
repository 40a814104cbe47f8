"""apply, check and revert on a fixture: what was there is restored, to the byte."""

import json
import os
import pathlib
import tempfile
import unittest

import fixture


class Host(unittest.TestCase):
    """A fixture of its own for each test."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name, "host")
        fixture.make(self.root)

    def call(self, script, *options, code=0):
        return fixture.call(script, *options, root=self.root, code=code)

    def value(self, key):
        return fixture.value(self.root, key)

    def set(self, key, text):
        (self.root / "proc/sys" / key).write_text(text + "\n")

    def assert_unchanged(self, before):
        after = fixture.snapshot(self.root)
        self.assertEqual({path: after.get(path) for path in before}, before)
        self.assertEqual(sorted(set(after) - set(before)), [])


class RoundTrip(Host):
    """There and back again."""

    def test_a_dry_run_changes_nothing_and_shows_everything(self):
        before = fixture.snapshot(self.root)
        text = self.call("apply")
        self.assert_unchanged(before)
        for line in [
            "net.core.somaxconn                         4096 -> 65535",
            "fs.nr_open                                 1048576 -> 2097152",
            "net.ipv4.ip_local_port_range               32768 60999 -> 10240 65535",
            "kernel.io_uring_disabled                   skipped: not in this kernel",
            "/etc/sysctl.d/90-ringwire.conf: new",
            "/etc/systemd/system/ringwire.service: new",
            "queue 3, interrupt 44              0-31 -> 19",
            "this was a dry run",
        ]:
            self.assertIn(line, text)
        self.assertNotIn("file-max", text, "it is larger than wanted")
        self.assertEqual(self.call("apply", "--dry-run"), text)

    def test_apply_check_apply_revert(self):
        before = fixture.snapshot(self.root)
        self.assertIn("differs  net.core.somaxconn: 4096; wanted: 65535", self.call("check", code=1))
        self.call("apply", "--apply")
        self.assertEqual(self.value("net/core/somaxconn"), "65535")
        self.assertEqual(self.value("fs/file-max"), "9223372036854775807")
        self.assertEqual(self.value("net/ipv4/tcp_rmem"), "4096 131072 1048576")
        self.assertEqual(self.value("net/ipv4/tcp_mem"), "937500 1250000 1875000")
        self.assertIn("Ready for 1000000 connections.", self.call("check"))
        applied = fixture.snapshot(self.root)
        again = self.call("apply", "--apply")
        self.assertNotIn(" -> ", again)
        self.assertIn("(all as wanted, or better)\n", again)
        self.assert_same_but_for_times(applied)
        self.call("revert")
        self.assert_same_but_for_times(applied)
        self.call("revert", "--apply")
        self.assert_unchanged(before)
        self.assertIn("nothing to restore", self.call("revert", "--apply", code=2))

    def assert_same_but_for_times(self, before):
        """The state's own files are written anew, with the same content."""

        def timeless(tree):
            return {
                path: (*entry[:3], entry[3].split(" ")[0] if path.startswith(fixture.STATE) else entry[3])
                for path, entry in tree.items()
            }

        self.assertEqual(timeless(fixture.snapshot(self.root)), timeless(before))

    def test_files_that_were_there_come_back_as_they_were(self):
        sysctl = self.root / "etc/sysctl.d/90-ringwire.conf"
        fixture.write(sysctl, "net.core.somaxconn = 1024\n", 0o600)
        os.utime(sysctl, (1_000_000_000, 1_000_000_000))
        if os.geteuid() == 0:
            os.chown(sysctl, 12, 34)
        # A unit that is masked, and limits without a newline at their end.
        (self.root / "etc/systemd/system/ringwire.service").symlink_to("/dev/null")
        limits = self.root / "etc/security/limits.d/90-ringwire.conf"
        fixture.write(limits, "* - nofile 99", 0o640)
        before = fixture.snapshot(self.root)
        text = self.call("apply", "--apply")
        self.assertIn("ringwire.service: a link to /dev/null would be replaced", text)
        self.assertIn("-net.core.somaxconn = 1024", text)
        self.assertFalse((self.root / "etc/systemd/system/ringwire.service").is_symlink())
        self.assertEqual(sysctl.stat().st_mode & 0o777, 0o644)
        self.call("check")
        self.call("revert", "--apply")
        self.assert_unchanged(before)

    def test_the_first_state_is_the_one_that_is_kept(self):
        before = fixture.snapshot(self.root)
        self.call("apply", "--apply", "--no-systemd")
        self.call("apply", "--apply", "--connections", "4000000", "--shard-cores", "0-5,8-13")
        self.assertEqual(self.value("fs/nr_open"), "8388608")
        self.assertIn("Ready for 4000000 connections.", self.call("check"))
        self.call("revert", "--apply")
        self.assert_unchanged(before)

    def test_revert_needs_a_state(self):
        self.assertIn("nothing to restore", self.call("revert", code=2))

    def test_values_of_others_are_kept(self):
        before = fixture.snapshot(self.root)
        self.call("apply", "--apply")
        self.set("net/core/somaxconn", "8192")
        unit = self.root / "etc/systemd/system/ringwire.service"
        unit.write_text("[Service]\n")
        text = self.call("revert", "--apply", code=1)
        self.assertIn("somaxconn: kept: it is 8192", text)
        self.assertIn("ringwire.service: kept: somebody", text)
        self.assertEqual(self.value("net/core/somaxconn"), "8192")
        self.assertEqual(unit.read_text(), "[Service]\n")
        self.assertEqual(self.value("fs/nr_open"), "1048576")
        # What was restored is not touched again, whoever changes it.
        self.set("fs/nr_open", "3000000")
        self.call("revert", "--apply", "--force")
        self.assertEqual(self.value("fs/nr_open"), "3000000")
        self.set("fs/nr_open", "1048576")
        self.assert_unchanged(before)

    def test_apply_after_half_a_revert_saves_anew(self):
        self.call("apply", "--apply", "--no-irq")
        self.set("net/core/somaxconn", "8192")
        self.call("revert", "--apply", code=1)
        self.set("fs/nr_open", "1500000")
        self.call("apply", "--apply", "--no-irq")
        self.assertEqual(self.value("fs/nr_open"), "2097152")
        self.call("revert", "--apply")
        self.assertEqual(self.value("fs/nr_open"), "1500000")
        self.assertEqual(self.value("net/core/somaxconn"), "4096")

    def test_what_restored_itself_is_no_error(self):
        """After a restart the kernel has its own values again."""
        before = fixture.snapshot(self.root)
        self.call("apply", "--apply")
        for key, text in fixture.SYSCTLS.items():
            self.set(key, text)
        self.call("revert", "--apply")
        self.assert_unchanged(before)

    def test_folders_of_others_stay(self):
        self.call("apply", "--apply")
        other = self.root / "etc/security/limits.d/50-other.conf"
        other.write_text("x\n")
        self.assertIn("limits.d: stays", self.call("revert", "--apply"))
        self.assertTrue(other.exists())
        self.assertFalse((self.root / "etc/security/limits.d/90-ringwire.conf").exists())


class Rules(Host):
    """What is better is kept; what is impossible is refused."""

    def test_better_values_are_kept_and_written(self):
        self.set("net/core/somaxconn", "100000")
        self.set("net/ipv4/tcp_rmem", "4096\t87380\t500000")
        self.set("net/ipv4/ip_local_port_range", "2000\t50000")
        self.set("net/ipv4/tcp_mem", "1\t2\t9999999")
        self.call("apply", "--apply", "--no-irq")
        self.assertEqual(self.value("net/core/somaxconn"), "100000")
        self.assertEqual(self.value("net/ipv4/tcp_rmem"), "4096 87380 500000")
        self.assertEqual(self.value("net/ipv4/ip_local_port_range"), "2000 65535")
        self.assertEqual(self.value("net/ipv4/tcp_mem"), "937500 1250000 9999999")
        text = (self.root / "etc/sysctl.d/90-ringwire.conf").read_text()
        self.assertIn("\nnet.core.somaxconn = 100000\n", text)
        self.assertIn("\nnet.ipv4.tcp_mem = 937500 1250000 9999999\n", text)
        self.call("check")

    def test_what_the_kernel_lets_nobody_write_is_skipped(self):
        """As the host's values are in a network namespace."""
        key = self.root / "proc/sys/net/netfilter/nf_conntrack_max"
        key.chmod(0o444)
        self.assertIn("nf_conntrack_max             skipped: ", self.call("apply", "--apply"))
        self.assertEqual(self.value("net/netfilter/nf_conntrack_max"), "262144")
        self.assertIn("skipped  net.netfilter.nf_conntrack_max: 262144; wanted: 2097152", self.call("check"))

    def test_memory_bounds_tcp_mem(self):
        # 8 GiB: a quarter is 524,288 pages, less than a million connections would want.
        (self.root / "proc/meminfo").write_text("MemTotal:        8388608 kB\n")
        self.assertIn("-> 393216 524288 786432", self.call("apply"))
        # What the kernel has is enough for 100,000.
        self.assertNotIn("tcp_mem", self.call("apply", "--connections", "100000"))

    def test_connections_scale(self):
        text = self.call("apply", "--connections", "2000000")
        self.assertIn("1048576 -> 4194304", text)
        self.call("apply", "--apply", "--connections", "2000000")
        self.assertIn("LimitNOFILE=2200000\n", (self.root / "etc/systemd/system/ringwire.service").read_text())
        self.assertIn("nofile   2200000\n", (self.root / "etc/security/limits.d/90-ringwire.conf").read_text())
        # check remembers; told otherwise, it compares with that.
        self.call("check")
        self.call("check", "--connections", "3000000", code=1)

    def test_check_notices_each_kind_of_change(self):
        self.call("apply", "--apply", "--shard-cores", "0-5,8-13")
        self.call("check")
        sysctl = self.root / "etc/sysctl.d/90-ringwire.conf"
        for path, text in [
            (self.root / "proc/sys/net/ipv4/tcp_syncookies", "0\n"),
            (self.root / "proc/irq/44/smp_affinity_list", "0\n"),
            (self.root / "etc/systemd/system/ringwire.service", "[Unit]\n"),
            (self.root / "etc/systemd/system/ringwire.service.d/10-cpu-affinity.conf", "[Service]\n"),
            (self.root / "etc/security/limits.d/90-ringwire.conf", "\n"),
            (sysctl, sysctl.read_text().replace("somaxconn = 65535", "somaxconn = 128")),
            (sysctl, "net.core.somaxconn = 65535\n"),
        ]:
            with self.subTest(path=path):
                before = path.read_text()
                path.write_text(text)
                self.assertIn("differs ", self.call("check", code=1))
                path.write_text(before)
        sysctl.unlink()
        self.assertIn("missing  /etc/sysctl.d/90-ringwire.conf", self.call("check", code=1))

    def test_check_tells_of_the_table_that_only_a_boot_can_change(self):
        self.set("net/ipv4/tcp_ehash_entries", "-65536")
        self.call("apply", "--apply")
        self.assertIn("note     thash_entries: 65536; wanted: kernel command line: thash_entries=524288", self.call("check"))

    def test_check_tells_of_files_that_are_read_later(self):
        self.call("apply", "--apply")
        folder = self.root / "etc/sysctl.d"
        fixture.write(folder / "10-early.conf", "net.core.somaxconn = 1\n")
        fixture.write(folder / "99-late.conf", "# a comment\nnet/core/somaxconn=128\nnet.core.other = 1\n")
        fixture.write(self.root / "etc/sysctl.conf", "-fs.nr_open = 9999999\n")
        text = self.call("check")
        self.assertIn("note     net.core.somaxconn: 128 from the next start on, by /etc/sysctl.d/99-late.conf; wanted: 65535", text)
        self.assertEqual(text.count("note "), 1)

    def test_check_as_json(self):
        report = json.loads(self.call("check", "--json", code=1))
        self.assertEqual((report["connections"], report["ok"]), (1000000, False))
        rows = {row["name"]: row for row in report["rows"]}
        self.assertEqual(
            rows["net.core.somaxconn"],
            {"name": "net.core.somaxconn", "status": "differs", "now": "4096", "wanted": "65535"},
        )
        self.assertEqual(rows["kernel.io_uring_disabled"]["status"], "skipped")
        self.call("apply", "--apply")
        self.assertTrue(json.loads(self.call("check", "--json"))["ok"])

    def test_only_what_is_asked_for(self):
        self.call("apply", "--apply", "--no-irq", "--no-systemd")
        self.assertFalse((self.root / "etc/systemd/system/ringwire.service").exists())
        self.assertEqual((self.root / "proc/irq/44/smp_affinity_list").read_text(), "0-31\n")
        self.call("check")

    def test_shard_cores_reach_the_unit_with_their_siblings(self):
        self.call("apply", "--apply", "--shard-cores", "0-5,8-13")
        text = (self.root / "etc/systemd/system/ringwire.service.d/10-cpu-affinity.conf").read_text()
        self.assertIn("\nCPUAffinity=0-5,8-13,16-21,24-29\n", text)
        self.assertNotIn("#CPUAffinity", text)

    def test_wrong_calls(self):
        for script, options, words in [
            ("apply", ["--connections", "0"], "must be a number from 1 to 16000000"),
            ("apply", ["--connections", "1e6"], "must be a number from"),
            ("apply", ["--connections"], "must be a number from"),
            ("apply", ["--shard-cores", "0-99"], "processor 32 of '0-99' is not online"),
            ("apply", ["--shard-cores", "3-1"], "is no list of processors"),
            ("apply", ["--shard-cores", "x"], "is no list of processors"),
            ("apply", ["--shard-cores", "0", "--no-irq", "--no-systemd"], "does nothing"),
            ("irq-affinity", ["--interface", "eth9"], "there is no interface 'eth9'"),
            ("irq-affinity", ["--interface", "../x"], "there is no interface"),
        ]:
            before = fixture.snapshot(self.root)
            if script == "apply":
                options = ["--apply", *options]
            self.assertIn(words, self.call(script, *options, code=2))
            self.assert_unchanged(before)

    def test_roots_that_are_none(self):
        for root, words in [
            ("/", "leave --root away"),
            (self.root / "nowhere", "there is no such folder"),
            (self.root / "etc", "no copy of a host's files"),
        ]:
            self.assertIn(words, fixture.call("apply", "--apply", root=root, code=2))

    def test_links_do_not_lead_out_of_the_root(self):
        outside = self.root.parent / "outside"
        (outside / "limits.d").mkdir(parents=True)
        (self.root / "etc/security").symlink_to(outside)
        text = self.call("apply", "--apply", code=2)
        self.assertIn("lies outside of --root", text)
        self.assertEqual(list((outside / "limits.d").iterdir()), [])

    @unittest.skipUnless(os.geteuid() == 0, "an ordinary user cannot try to become another one")
    def test_the_live_host_takes_root(self):
        # As nobody, who may read everything that a dry run looks at.
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        text = fixture.call("apply", "--apply", prefix=prefix, code=2)
        self.assertIn("takes root", text)


if __name__ == "__main__":
    unittest.main()
