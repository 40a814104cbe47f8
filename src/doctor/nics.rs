//! Network cards: which processors handle what arrives (scaling.rst of the kernel's documentation).

use std::collections::{BTreeMap, BTreeSet};

use super::parse::{self, Interrupt};
use super::tree::{Fact, Tree, Unknown, Why};

/// Interrupts of a card that bring no packets in. What `TxRx` carries goes both ways.
const NOTHING_RECEIVED: [&str; 8] = [
    "config", "control", "event", "async", "mgmt", "misc", "output", "-tx",
];

/// A network card. Devices without hardware (lo, bridges, tunnels, bonds) are not looked at: what they
/// carry came in through one that has some.
#[derive(Clone, Debug)]
pub(super) struct Nic {
    pub(super) name: String,
    /// Queues for receiving.
    pub(super) rx_queues: usize,
    /// Processors that receive packet steering (RPS) passes packets on to; empty: it is off.
    pub(super) rps_cpus: Fact<BTreeSet<usize>>,
    /// Processors that the interrupts of its queues go to.
    pub(super) irq_cpus: Fact<BTreeSet<usize>>,
}

impl Nic {
    /// All processors that work on what arrives.
    pub(super) fn cpus(&self) -> Fact<BTreeSet<usize>> {
        let irq = self.irq_cpus.clone()?;
        let rps = self.rps_cpus.clone()?;
        Ok(irq.union(&rps).copied().collect())
    }
}

/// The cards of this network namespace.
pub(super) fn read(tree: &Tree) -> Fact<Vec<Nic>> {
    let interrupts = tree
        .text("/proc/interrupts")
        .map(|text| parse::interrupts(&text));
    let names = tree.list("/sys/class/net")?;
    Ok(names
        .into_iter()
        .filter(|name| tree.exists(&format!("/sys/class/net/{name}/device")))
        .map(|name| nic(tree, name, &interrupts))
        .collect())
}

fn nic(tree: &Tree, name: String, interrupts: &Fact<BTreeMap<u32, Interrupt>>) -> Nic {
    let folder = format!("/sys/class/net/{name}/queues");
    let mut queues = tree.list(&folder).unwrap_or_default();
    queues.retain(|queue| queue.starts_with("rx-"));
    let rps_cpus = queues.iter().try_fold(BTreeSet::new(), |mut all, queue| {
        let file = format!("{folder}/{queue}/rps_cpus");
        let text = tree.text(&file)?;
        all.extend(
            parse::cpu_mask(&text)
                .ok_or_else(|| Unknown::malformed(&file, &text, "a mask of processors"))?,
        );
        Ok(all)
    });
    let irq_cpus = interrupts
        .as_ref()
        .map_err(Clone::clone)
        .and_then(|interrupts| irq_cpus(tree, &name, interrupts));
    Nic {
        name,
        rx_queues: queues.len(),
        rps_cpus,
        irq_cpus,
    }
}

fn irq_cpus(
    tree: &Tree,
    name: &str,
    interrupts: &BTreeMap<u32, Interrupt>,
) -> Fact<BTreeSet<usize>> {
    let irqs = queue_irqs(tree, name, interrupts);
    if irqs.is_empty() {
        return Err(Unknown {
            path: "/proc/interrupts".into(),
            why: Why::Malformed(format!("names no interrupt of {name}")),
        });
    }
    let mut cpus = BTreeSet::new();
    for irq in irqs {
        // Where the kernel chose one of the allowed ones, that one does the work.
        let effective = format!("/proc/irq/{irq}/effective_affinity_list");
        let allowed = format!("/proc/irq/{irq}/smp_affinity_list");
        let (file, text) = match tree.text(&effective) {
            Ok(text) if !text.is_empty() => (effective, text),
            _ => {
                let text = tree.text(&allowed)?;
                (allowed, text)
            }
        };
        cpus.extend(
            parse::cpu_list(&text)
                .ok_or_else(|| Unknown::malformed(&file, &text, "a list of processors"))?,
        );
    }
    Ok(cpus)
}

/// The interrupts of the card's queues: those that its device lists, or that carry its name.
fn queue_irqs(tree: &Tree, name: &str, interrupts: &BTreeMap<u32, Interrupt>) -> Vec<u32> {
    let device = format!("/sys/class/net/{name}/device");
    // A virtio card is the child of the PCI device that has the interrupts.
    let listed = tree
        .list(&format!("{device}/msi_irqs"))
        .or_else(|_| tree.list(&format!("{device}/../msi_irqs")))
        .unwrap_or_default();
    let mut irqs: Vec<(u32, &Interrupt)> = listed
        .iter()
        .filter_map(|irq| irq.parse().ok())
        .filter_map(|irq| Some((irq, interrupts.get(&irq)?)))
        .collect();
    if irqs.is_empty() {
        irqs = interrupts
            .iter()
            .filter(|(_, interrupt)| {
                let rest = interrupt.action.strip_prefix(name);
                // `eth1` must not take those of `eth10`.
                rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
            })
            .map(|(&irq, interrupt)| (irq, interrupt))
            .collect();
    }
    irqs.retain(|(_, interrupt)| {
        let action = interrupt.action.to_ascii_lowercase();
        action.contains("txrx") || !NOTHING_RECEIVED.iter().any(|word| action.contains(word))
    });
    // Drivers reserve more than they use: count those that have fired, if any has.
    if irqs.iter().any(|(_, interrupt)| interrupt.count > 0) {
        irqs.retain(|(_, interrupt)| interrupt.count > 0);
    }
    irqs.into_iter().map(|(irq, _)| irq).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(root: &std::path::Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn interrupts_are_found_by_the_device_and_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        write(
            root,
            "proc/interrupts",
            "  CPU0 CPU1\n 10: 0 0 PCI 0-edge virtio0-config\n 11: 5 0 PCI 1-edge virtio0-input.0\n \
             12: 0 7 PCI 2-edge eth1-TxRx-0\n 13: 0 0 PCI 3-edge eth1-TxRx-1\n 14: 1 1 PCI 3-edge eth10-TxRx-0\n 15: 1 1 PCI 4-edge virtio0-output.0\n 16: 3 0 PCI 5-edge eth1-tx-0\n",
        );
        write(root, "proc/irq/11/effective_affinity_list", "0\n");
        write(root, "proc/irq/12/effective_affinity_list", "\n");
        write(root, "proc/irq/12/smp_affinity_list", "2-3\n");
        write(root, "proc/irq/14/smp_affinity_list", "9\n");
        for irq in ["10", "11", "15"] {
            write(
                root,
                &format!("sys/class/net/eth0/device/msi_irqs/{irq}"),
                "msix\n",
            );
        }
        write(root, "sys/class/net/eth0/queues/rx-0/rps_cpus", "c\n");
        write(root, "sys/class/net/eth0/queues/tx-0/xps_cpus", "0\n");
        write(root, "sys/class/net/eth1/device/vendor", "0x1\n");
        write(root, "sys/class/net/eth1/queues/rx-0/rps_cpus", "0\n");
        write(root, "sys/class/net/lo/queues/rx-0/rps_cpus", "0\n");
        write(root, "sys/class/net/wlan0/device/vendor", "0x1\n");
        let nics = read(&Tree::new(root)).expect("cards");
        let names: Vec<&str> = nics.iter().map(|nic| &*nic.name).collect();
        assert_eq!(names, ["eth0", "eth1", "wlan0"]);
        assert_eq!(nics[0].rx_queues, 1);
        assert_eq!(nics[0].irq_cpus, Ok(BTreeSet::from([0])));
        assert_eq!(nics[0].cpus(), Ok(BTreeSet::from([0, 2, 3])));
        assert_eq!(nics[1].cpus(), Ok(BTreeSet::from([2, 3])));
        let error = nics[2].cpus().unwrap_err().to_string();
        assert_eq!(error, "/proc/interrupts names no interrupt of wlan0");
    }

    #[test]
    fn nonsense_is_no_processor() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        write(root, "proc/interrupts", "  CPU0\n 12: 7 PCI 2-edge eth0\n");
        write(root, "proc/irq/12/smp_affinity_list", "none\n");
        write(root, "sys/class/net/eth0/device/vendor", "0x1\n");
        write(root, "sys/class/net/eth0/queues/rx-0/rps_cpus", "zz\n");
        let nics = read(&Tree::new(root)).expect("cards");
        assert!(nics[0].irq_cpus.is_err() && nics[0].rps_cpus.is_err());
        assert!(nics[0].cpus().is_err());
    }
}
