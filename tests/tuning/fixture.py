"""A host's files in a folder, for `--root`: two sockets of 8 cores with two hardware threads each, a
card with 8 queues on node 0, one with a single queue on node 1, and a firewall that tracks connections.
"""

import hashlib
import os
import pathlib
import stat
import subprocess

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
TUNING = REPOSITORY / "tuning"

STATE = "var/lib/ringwire-tuning"

# As a Debian 12 on such a machine has them.
SYSCTLS = {
    "fs/nr_open": "1048576",
    "fs/file-max": "9223372036854775807",
    "net/core/somaxconn": "4096",
    "net/ipv4/tcp_max_syn_backlog": "4096",
    "net/ipv4/tcp_syncookies": "1",
    "net/ipv4/tcp_max_orphans": "262144",
    "net/ipv4/tcp_mem": "380000\t506000\t760000",
    "net/ipv4/tcp_notsent_lowat": "4294967295",
    "net/ipv4/tcp_rmem": "4096\t131072\t6291456",
    "net/ipv4/tcp_wmem": "4096\t16384\t4194304",
    "net/ipv4/tcp_slow_start_after_idle": "1",
    "net/ipv4/ip_local_port_range": "32768\t60999",
    "net/ipv4/tcp_ehash_entries": "524288",
    "net/netfilter/nf_conntrack_max": "262144",
    "net/netfilter/nf_conntrack_buckets": "262144",
    "kernel/numa_balancing": "1",
}

MEMORY_KIB = 32 << 20


def write(path, text, mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def make(root):
    """Makes the host below `root`."""
    for key, value in SYSCTLS.items():
        write(root / "proc/sys" / key, value + "\n")
    write(root / "proc/meminfo", f"MemTotal:       {MEMORY_KIB} kB\nMemFree:        1000 kB\n")
    for folder in ["etc/sysctl.d", "etc/systemd/system", "var/lib", "run"]:
        (root / folder).mkdir(parents=True)
    make_processors(root, sockets=2, cores=8, threads=2)
    names = ["eth0"] + [f"eth0-TxRx-{queue}" for queue in range(8)]
    make_card(root, "eth0", "0000:01:00.0", node=0, first_irq=40, names=names, receive=8, transmit=8)
    names = ["virtio0-config", "virtio0-input.0", "virtio0-output.0"]
    make_card(root, "eth1", "0000:81:00.0", node=1, first_irq=60, names=names, receive=1, transmit=1)
    (root / "sys/class/net/lo").mkdir()
    interrupts = ["            CPU0       CPU1"]
    for folder in sorted((root / "proc/irq").iterdir(), key=lambda path: int(path.name)):
        name = (folder / "name").read_text()
        interrupts.append(f" {folder.name}:   1   2  PCI-MSIX-0000:01:00.0   0-edge      {name}")
        (folder / "name").unlink()
    interrupts.append("NMI:          0          0   Non-maskable interrupts")
    write(root / "proc/interrupts", "\n".join(interrupts) + "\n")


def make_processors(root, sockets, cores, threads):
    """Linux numbers the first threads of all cores before the second ones."""
    total = sockets * cores
    system = root / "sys/devices/system"
    write(system / "cpu/online", f"0-{total * threads - 1}\n")
    for cpu in range(total * threads):
        siblings = ",".join(str(cpu % total + total * thread) for thread in range(threads))
        write(system / f"cpu/cpu{cpu}/topology/thread_siblings_list", siblings + "\n")
    for node in range(sockets):
        parts = [
            f"{node * cores + total * thread}-{(node + 1) * cores - 1 + total * thread}"
            for thread in range(threads)
        ]
        write(system / f"node/node{node}/cpulist", ",".join(parts) + "\n")


def make_card(root, interface, address, node, first_irq, names, receive, transmit):
    device = root / "sys/devices/pci0000:00" / address
    card = device / "net" / interface
    write(device / "numa_node", f"{node}\n")
    for number, name in enumerate(names, first_irq):
        write(device / f"msi_irqs/{number}", "msix\n", 0o444)
        write(root / f"proc/irq/{number}/smp_affinity_list", "0-31\n")
        write(root / f"proc/irq/{number}/name", name)
    for queue in range(receive):
        write(card / f"queues/rx-{queue}/rps_cpus", "00000000\n")
    # With a single queue there is nothing to choose, and the kernel refuses to read it.
    for queue in range(transmit if transmit > 1 else 0):
        write(card / f"queues/tx-{queue}/xps_cpus", "00000000\n")
    (card / "device").symlink_to("../..")
    (root / "sys/class/net").mkdir(parents=True, exist_ok=True)
    (root / "sys/class/net" / interface).symlink_to(f"../../devices/pci0000:00/{address}/net/{interface}")


def snapshot(root):
    """Everything below `root`: kind, mode, owner and content of each path; also the time of what is no
    value of the kernel's.
    """
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = pathlib.Path(folder, name)
            status = path.lstat()
            relative = str(path.relative_to(root))
            content = ""
            if path.is_symlink():
                content = os.readlink(path)
            elif path.is_file():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                if not relative.startswith(("proc/", "sys/")):
                    content += f" {status.st_mtime_ns}"
            found[relative] = (stat.filemode(status.st_mode), status.st_uid, status.st_gid, content)
    return found


def call(script, *options, root=None, prefix=(), code=0):
    """Calls a script of tuning/, and returns what it printed."""
    command = [*prefix, str(TUNING / script), *options]
    if root is not None:
        command += ["--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == code, f"{command}: exit code {done.returncode}, not {code}\n{output}"
    return output


def value(root, key):
    """A value of the kernel's, with single spaces."""
    return " ".join((root / "proc/sys" / key).read_text().split())
