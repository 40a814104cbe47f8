//! Memory: what a million sockets take before a byte is sent, and what gets in the way.

use super::{bytes, number, shards, table_places};
use crate::doctor::Wanted;
use crate::doctor::facts::Facts;
use crate::doctor::finding::{Finding, Status};
use crate::doctor::need;

const GROUP: &str = "memory";
/// Up to here the kernel rather drops cached files than swaps out programs (vm.rst).
const MOST_SWAPPINESS: u64 = 10;

pub(super) fn findings(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    vec![
        memory(facts, wanted),
        cgroup(facts, wanted),
        swap(facts),
        huge_pages(facts),
        zone_reclaim(facts),
        numa_balancing(facts),
    ]
}

fn idle_bytes(facts: &Facts, wanted: &Wanted) -> u64 {
    let places = table_places(facts, wanted);
    need::memory_bytes(wanted.connections, wanted.shards, places)
}

/// The same with a page of buffers for each connection.
fn busy_bytes(facts: &Facts, wanted: &Wanted) -> u64 {
    let pages = need::buffer_pages(wanted.connections);
    idle_bytes(facts, wanted) + pages * wanted.page_bytes
}

fn compared(finding: Finding, available: u64, facts: &Facts, wanted: &Wanted) -> Finding {
    let places = table_places(facts, wanted);
    let held = need::held_by_memory(available, wanted.shards, places);
    let finding = finding
        .needed(format!(
            "{} idle, {} with a message to all on its way",
            bytes(idle_bytes(facts, wanted)),
            bytes(busy_bytes(facts, wanted))
        ))
        .holds(held, wanted.connections);
    match finding.status {
        Status::Ok if available < busy_bytes(facts, wanted) => finding.status(Status::Warn),
        _ => finding,
    }
}

fn memory(facts: &Facts, wanted: &Wanted) -> Finding {
    let finding = Finding::new(
        GROUP,
        "available memory",
        format!(
            "An idle connection takes {} bytes of the kernel and at most {} of the server, more with a user id, presence \
             or many channels; {} with tables of {} places take {}. A socket with data on its way has at least a page \
             more. None of the kernel's part can be swapped out.",
            number(need::KERNEL_BYTES),
            need::USER_BYTES,
            shards(wanted.shards),
            number(table_places(facts, wanted)),
            bytes(need::fixed_bytes(wanted.shards, table_places(facts, wanted))),
        ),
    )
    .how(
        "",
        "Install more memory, stop what else uses it (ps aux --sort=-rss | head), or spread the connections over \
         several hosts.",
    )
    .decides();
    match &facts.memory.available_bytes {
        Ok(available) => {
            let now = match &facts.memory.total_bytes {
                Ok(total) => format!("{} of {}", bytes(*available), bytes(*total)),
                Err(_) => bytes(*available),
            };
            compared(finding.now(now), *available, facts, wanted)
        }
        Err(unknown) => finding
            .needed(format!("{} idle", bytes(idle_bytes(facts, wanted))))
            .unknown(unknown),
    }
}

fn cgroup(facts: &Facts, wanted: &Wanted) -> Finding {
    let advised = busy_bytes(facts, wanted).div_ceil(1 << 30);
    let finding = Finding::new(
        GROUP,
        "memory.max of the cgroup",
        "The kernel's memory for the sockets of a process counts in its cgroup and in all those around it \
         (cgroup-v2.rst, memory.max and memory.high). Where there is no more, connections fail or the server is killed.",
    )
    .needed("-")
    .unit(format!("MemoryMax={advised}G"))
    .unit("MemoryHigh=infinity")
    .how("in a container", format!("--memory {advised}g (Docker, Podman)"));
    match &facts.cgroup.memory {
        Ok(None) => finding.now("unlimited").status(Status::Ok),
        Ok(Some(limit)) => {
            let now = format!(
                "{}, {} left ({})",
                bytes(limit.limit_bytes),
                bytes(limit.available_bytes),
                limit.file
            );
            compared(finding.now(now), limit.available_bytes, facts, wanted)
        }
        Err(unknown) => finding.unknown(unknown),
    }
}

fn swap(facts: &Facts) -> Finding {
    let finding = Finding::new(
        GROUP,
        "vm.swappiness",
        "Sockets cannot be swapped out, so when memory is short it is the server's own that goes, an idle connection's \
         entry first; and the once-a-second sweep brings all of it back. A shard that waits for the disk serves nobody.",
    )
    .needed(format!("{MOST_SWAPPINESS} or less, or no swap"))
    .sysctl("vm.swappiness", MOST_SWAPPINESS)
    .how("or, without swap", "swapoff -a, and remove it from /etc/fstab");
    let finding = finding.unit("MemorySwapMax=0");
    match (&facts.memory.swap_bytes, &facts.memory.swappiness) {
        _ if facts.cgroup.swaps == Ok(false) => finding
            .now("no swap for this cgroup (memory.swap.max)")
            .status(Status::Ok),
        (Ok(0), _) => finding.now("no swap").status(Status::Ok),
        (Ok(swap), Ok(swappiness)) => {
            let now = format!("{swappiness}, {} of swap", bytes(*swap));
            finding.now(now).status(match *swappiness {
                ..=MOST_SWAPPINESS => Status::Ok,
                _ => Status::Warn,
            })
        }
        (Err(unknown), _) | (_, Err(unknown)) => finding.unknown(unknown),
    }
}

fn huge_pages(facts: &Facts) -> Finding {
    let finding = Finding::new(
        GROUP,
        "transparent huge pages",
        "No setting is needed: the server switches them off for itself while its rings are made, where locked memory is \
         limited (a registered buffer would count as 2 MiB). With \"always\" its memory grows in steps of 2 MiB, which \
         does no harm with many connections.",
    )
    .how(
        "if \"always\" disturbs other programs",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
    );
    match &facts.memory.huge_pages {
        Ok(choice) => finding.now(choice),
        // Where the rest of /sys is there.
        Err(unknown) if unknown.is_missing() && facts.cores.online.is_ok() => {
            finding.now("this kernel has none")
        }
        Err(unknown) => finding.unknown(unknown),
    }
}

fn zone_reclaim(facts: &Facts) -> Finding {
    let finding = Finding::new(
        GROUP,
        "vm.zone_reclaim_mode",
        "Other than 0, a shard whose NUMA node is full waits for memory to be taken back there, although other nodes \
         have some (vm.rst).",
    )
    .needed("0")
    .sysctl("vm.zone_reclaim_mode", 0);
    match &facts.memory.zone_reclaim {
        Ok(0) => finding.now("0").status(Status::Ok),
        Ok(mode) => finding.now(number(*mode)).status(Status::Warn),
        // It exists only in kernels for several nodes; here among its neighbours.
        Err(unknown) if unknown.is_missing() && facts.memory.swappiness.is_ok() => {
            finding.now("this kernel knows no nodes").status(Status::Ok)
        }
        Err(unknown) => finding.unknown(unknown),
    }
}

fn numa_balancing(facts: &Facts) -> Finding {
    let finding = Finding::new(
        GROUP,
        "kernel.numa_balancing",
        "The kernel takes pages away from time to time to see from which node they are used. Shards are pinned and \
         use memory of their own node, so that there is nothing to gain and a page fault for each look \
         (admin-guide/sysctl/kernel.rst).",
    )
    .needed("0 where there are several nodes")
    .sysctl("kernel.numa_balancing", 0);
    match (&facts.memory.numa_nodes, &facts.memory.numa_balancing) {
        (Ok(..=1), _) => finding.now("one NUMA node").status(Status::Ok),
        (Ok(nodes), Ok(mode)) => {
            let now = format!("{mode}, {nodes} nodes");
            finding.now(now).status(match mode {
                0 => Status::Ok,
                _ => Status::Warn,
            })
        }
        (_, Err(unknown)) if unknown.is_missing() && facts.kernel.is_ok() => finding
            .now("this kernel does not do that")
            .status(Status::Ok),
        (Err(unknown), _) | (_, Err(unknown)) => finding.unknown(unknown),
    }
}
