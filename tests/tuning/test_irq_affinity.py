"""irq-affinity on a host with two sockets: which queue goes where."""

import pathlib
import shutil
import tempfile
import unittest

import fixture


class Queues(unittest.TestCase):
    """A fixture of its own for each test."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        fixture.make(self.root)

    def call(self, *options, code=0):
        return fixture.call("irq-affinity", *options, root=self.root, code=code)

    def affinity(self, irqs):
        return [(self.root / f"proc/irq/{irq}/smp_affinity_list").read_text().strip() for irq in irqs]

    def mask(self, interface, queue, name):
        text = (self.root / f"sys/class/net/{interface}/queues/{queue}/{name}").read_text()
        number = int(text.replace(",", ""), 16)
        return [cpu for cpu in range(64) if number >> cpu & 1]

    def processors(self, sockets, cores, threads):
        shutil.rmtree(self.root / "sys/devices/system")
        fixture.make_processors(self.root, sockets, cores, threads)

    def test_siblings_of_shards_on_the_node_of_the_card(self):
        before = fixture.snapshot(self.root)
        text = self.call()
        self.assertEqual(fixture.snapshot(self.root), before)
        self.assertIn("processors for queues: 16-31 (SMT siblings of shards)", text)
        self.call("--check", code=1)
        self.call("--apply")
        self.call("--check")
        # Interrupt 40 is the card's own, not a queue's.
        self.assertEqual(self.affinity(range(40, 49)), ["0-31", *map(str, range(16, 24))])
        # Input and output of the virtual card's only queue.
        self.assertEqual(self.affinity(range(60, 63)), ["0-31", "24", "24"])
        fixture.call("revert", "--apply", root=self.root)
        self.assertEqual(fixture.snapshot(self.root), before)

    def test_transmit_queues_cover_all_processors_once(self):
        self.call("--apply", "--interface", "eth0")
        masks = [self.mask("eth0", f"tx-{queue}", "xps_cpus") for queue in range(8)]
        self.assertEqual(sorted(sum(masks, [])), list(range(32)))
        for queue, cpus in enumerate(masks):
            # The queue's interrupt, the shard on the same core, and a core of the other node.
            self.assertEqual(cpus, [queue, queue + 8, queue + 16, queue + 24])

    def test_a_single_receive_queue_is_spread_in_software(self):
        self.call("--apply")
        self.assertEqual(self.mask("eth1", "rx-0", "rps_cpus"), list(range(24, 32)))
        self.assertEqual(self.mask("eth0", "rx-0", "rps_cpus"), [])

    def test_cores_without_a_shard_come_first(self):
        text = self.call("--apply", "--shard-cores", "0-5,8-13")
        self.assertIn("processors for queues: 6-7,14-15,22-23,30-31 (cores without a shard)", text)
        # Four on the card's node are not enough for eight queues: the other node's follow.
        self.assertEqual(self.affinity(range(41, 49)), ["6", "7", "22", "23", "14", "15", "30", "31"])

    def test_shards_on_both_threads_leave_the_shards_own_processors(self):
        text = self.call("--apply", "--shard-cores", "0-31", "--interface", "eth0")
        self.assertIn("0-31 (the shards' own processors: there are no others)", text)
        self.assertEqual(self.affinity(range(41, 49)), [*map(str, range(8))])

    def test_without_smt_one_queue_per_shard(self):
        self.processors(sockets=1, cores=4, threads=1)
        text = self.call("--apply", "--interface", "eth0")
        self.assertIn("0-3 (the shards' own processors", text)
        self.assertEqual(self.affinity(range(41, 49)), ["0", "1", "2", "3"] * 2)

    def test_masks_beyond_32_processors(self):
        self.processors(sockets=2, cores=10, threads=2)
        self.call("--apply")
        self.assertEqual((self.root / "sys/class/net/eth1/queues/rx-0/rps_cpus").read_text(), "000000ff,c0000000\n")
        self.assertEqual(self.mask("eth1", "rx-0", "rps_cpus"), list(range(30, 40)))
        self.call("--check")

    def test_offline_siblings_do_not_count(self):
        (self.root / "sys/devices/system/cpu/online").write_text("0-15\n")
        self.assertIn("processors for queues: 0-15 (the shards' own", self.call())

    def test_names_of_drivers(self):
        interrupts = self.root / "proc/interrupts"
        for pattern, queue in [
            ("mlx5_comp3@pci:0000:01:00.0", 3),
            ("i40e-eth0-TxRx-2", 2),
            ("eth0-Tx-Rx-1", 1),
            ("eth0-rx-5", 5),
            ("virtio2-output.4", 4),
            ("eth0-fp-6", 6),
            ("eth0-7", 7),
            ("gve-ntfy-blk2@pci:0000:01:00.0", 2),
            ("mlx5_async0@pci:0000:01:00.0", None),
            ("ena-mgmnt@pci:0000:01:00.0", None),
            ("virtio2-config", None),
            ("eth0", None),
        ]:
            with self.subTest(name=pattern):
                interrupts.write_text(f"     CPU0\n 44:   1  PCI-MSIX-0000:01:00.0  0-edge   {pattern}\n")
                text = self.call("--interface", "eth0")
                if queue is None:
                    self.assertIn("no interrupts of queues were found", text)
                else:
                    self.assertIn(f"queue {queue}, interrupt 44", text)
                    self.assertIn(f"0-31 -> {16 + queue}\n", text)

    def test_irqbalance_is_told_of(self):
        self.assertNotIn("irqbalance", self.call())
        (self.root / "run/irqbalance").mkdir()
        self.assertIn("irqbalance seems to run", self.call())

    def test_no_card_is_no_error(self):
        shutil.rmtree(self.root / "sys/class/net")
        self.assertIn("There is no network card", self.call("--apply"))


if __name__ == "__main__":
    unittest.main()
