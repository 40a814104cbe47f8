//! What is read of a host. Nothing is judged here.

use std::collections::{BTreeMap, BTreeSet};

use super::cgroup::Cgroup;
use super::nics::{self, Nic};
use super::parse::{self, Limit};
use super::systemd::Systemd;
use super::tree::{Fact, Tree, Unknown};

/// CAP_IPC_LOCK (capabilities(7)), as a bit of the mask.
const IPC_LOCK: u64 = 1 << 14;

/// A host, and the process whose limits count.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Whether a ring could be made; `None`: not tried, because this is not the running host.
    pub(super) ring: Option<Result<String, String>>,
    /// The release of the kernel.
    pub(super) kernel: Fact<String>,
    pub(super) io_uring_disabled: Fact<u64>,
    pub(super) nofile: Fact<Limit>,
    pub(super) memlock: Fact<Limit>,
    pub(super) capabilities: Fact<u64>,
    pub(super) systemd: Systemd,
    pub(super) nr_open: Fact<u64>,
    pub(super) file_max: Fact<u64>,
    /// Files that are open in the whole system.
    pub(super) open_files: Fact<u64>,
    pub(super) memory: Memory,
    pub(super) tcp: Tcp,
    pub(super) cores: Cores,
    pub(super) cgroup: Cgroup,
    pub(super) nics: Fact<Vec<Nic>>,
}

/// Memory (proc(5), vm.rst).
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) total_bytes: Fact<u64>,
    pub(super) available_bytes: Fact<u64>,
    pub(super) swap_bytes: Fact<u64>,
    pub(super) swappiness: Fact<u64>,
    /// `always`, `madvise` or `never`.
    pub(super) huge_pages: Fact<String>,
    pub(super) zone_reclaim: Fact<u64>,
    pub(super) numa_nodes: Fact<usize>,
    pub(super) numa_balancing: Fact<u64>,
}

/// TCP and what stands around it (ip-sysctl.rst, nf_conntrack-sysctl.rst).
#[derive(Clone, Debug)]
pub(super) struct Tcp {
    pub(super) sockets: Fact<u64>,
    pub(super) somaxconn: Fact<u64>,
    pub(super) max_syn_backlog: Fact<u64>,
    pub(super) syncookies: Fact<u64>,
    pub(super) max_orphans: Fact<u64>,
    /// Pages: below, pressure, most.
    pub(super) mem_pages: Fact<[u64; 3]>,
    /// Bytes: least, at first, most.
    pub(super) rmem: Fact<[u64; 3]>,
    pub(super) wmem: Fact<[u64; 3]>,
    /// Negative in a network namespace that shares the table of the first one.
    pub(super) ehash_entries: Fact<i64>,
    pub(super) port_range: Fact<[u64; 2]>,
    pub(super) tw_reuse: Fact<u64>,
    pub(super) max_tw_buckets: Fact<u64>,
    pub(super) conntrack_max: Fact<u64>,
    pub(super) conntrack_count: Fact<u64>,
    pub(super) max_backlog: Fact<u64>,
    pub(super) backlog_drops: Fact<u64>,
}

/// Processors.
#[derive(Clone, Debug)]
pub(super) struct Cores {
    /// Physical cores that are online, whoever may use them.
    pub(super) physical: Fact<usize>,
    /// Processors (hardware threads) that are online.
    pub(super) online: Fact<usize>,
    /// Processors per governor of their frequency; empty where there is no scaling.
    pub(super) governors: Fact<BTreeMap<String, usize>>,
    /// Name and state of each vulnerability.
    pub(super) vulnerabilities: Fact<Vec<(String, String)>>,
    /// The kernel's command line.
    pub(super) command_line: Fact<String>,
}

impl Facts {
    /// Reads them, with the limits of the process `process`: `self` or a number.
    pub(super) fn read(tree: &Tree, process: &str) -> Self {
        let limits = format!("/proc/{process}/limits");
        let limit = |name: &str| {
            let text = tree.text(&limits)?;
            parse::limit(&text, name)
                .ok_or_else(|| Unknown::malformed(&limits, &text, "a table of limits"))
        };
        Self {
            ring: None,
            kernel: tree.text("/proc/sys/kernel/osrelease"),
            io_uring_disabled: tree.number("/proc/sys/kernel/io_uring_disabled"),
            nofile: limit("Max open files"),
            memlock: limit("Max locked memory"),
            capabilities: parsed(
                tree,
                &format!("/proc/{process}/status"),
                "the status of a process",
                parse::effective_capabilities,
            ),
            systemd: Systemd::read(tree),
            nr_open: tree.number("/proc/sys/fs/nr_open"),
            file_max: tree.number("/proc/sys/fs/file-max"),
            open_files: tree
                .numbers("/proc/sys/fs/file-nr")
                .map(|[open]: [u64; 1]| open),
            memory: Memory::read(tree),
            tcp: Tcp::read(tree),
            cores: Cores::read(tree),
            cgroup: Cgroup::read(tree, process),
            nics: nics::read(tree),
        }
    }

    /// Whether the process has CAP_IPC_LOCK: nothing that it locks is counted.
    pub(super) fn may_lock(&self) -> bool {
        matches!(self.capabilities, Ok(set) if set & IPC_LOCK != 0)
    }
}

impl Memory {
    fn read(tree: &Tree) -> Self {
        let meminfo = |name: &'static str| {
            parsed(tree, "/proc/meminfo", "a table of memory", |text| {
                parse::meminfo_bytes(text, name)
            })
        };
        Self {
            total_bytes: meminfo("MemTotal"),
            available_bytes: meminfo("MemAvailable"),
            swap_bytes: meminfo("SwapTotal"),
            swappiness: tree.number("/proc/sys/vm/swappiness"),
            huge_pages: parsed(
                tree,
                "/sys/kernel/mm/transparent_hugepage/enabled",
                "a choice such as \"always [madvise] never\"",
                |text| {
                    let (_, rest) = text.split_once('[')?;
                    Some(rest.split_once(']')?.0.to_owned())
                },
            ),
            zone_reclaim: tree.number("/proc/sys/vm/zone_reclaim_mode"),
            numa_nodes: parsed(
                tree,
                "/sys/devices/system/node/online",
                "a list of nodes",
                |text| parse::cpu_list(text).map(|nodes| nodes.len()),
            ),
            numa_balancing: tree.number("/proc/sys/kernel/numa_balancing"),
        }
    }
}

impl Tcp {
    fn read(tree: &Tree) -> Self {
        let inuse = |file: &str, protocol: &'static str| {
            parsed(tree, file, "a table of sockets", |text| {
                parse::sockets_in_use(text, protocol)
            })
        };
        Self {
            sockets: inuse("/proc/net/sockstat", "TCP").map(|ipv4| {
                // Absent where IPv6 is off.
                ipv4 + inuse("/proc/net/sockstat6", "TCP6").unwrap_or(0)
            }),
            somaxconn: tree.number("/proc/sys/net/core/somaxconn"),
            max_syn_backlog: tree.number("/proc/sys/net/ipv4/tcp_max_syn_backlog"),
            syncookies: tree.number("/proc/sys/net/ipv4/tcp_syncookies"),
            max_orphans: tree.number("/proc/sys/net/ipv4/tcp_max_orphans"),
            mem_pages: tree.numbers("/proc/sys/net/ipv4/tcp_mem"),
            rmem: tree.numbers("/proc/sys/net/ipv4/tcp_rmem"),
            wmem: tree.numbers("/proc/sys/net/ipv4/tcp_wmem"),
            ehash_entries: tree.number("/proc/sys/net/ipv4/tcp_ehash_entries"),
            port_range: tree.numbers("/proc/sys/net/ipv4/ip_local_port_range"),
            tw_reuse: tree.number("/proc/sys/net/ipv4/tcp_tw_reuse"),
            max_tw_buckets: tree.number("/proc/sys/net/ipv4/tcp_max_tw_buckets"),
            conntrack_max: tree.number("/proc/sys/net/netfilter/nf_conntrack_max"),
            conntrack_count: tree.number("/proc/sys/net/netfilter/nf_conntrack_count"),
            max_backlog: tree.number("/proc/sys/net/core/netdev_max_backlog"),
            backlog_drops: parsed(
                tree,
                "/proc/net/softnet_stat",
                "a table of packets",
                parse::softnet_drops,
            ),
        }
    }
}

impl Cores {
    fn read(tree: &Tree) -> Self {
        const CPUS: &str = "/sys/devices/system/cpu";
        let numbered = tree.list(CPUS).map(|names| {
            let is_cpu = |name: &String| {
                let number = name.strip_prefix("cpu").unwrap_or_default();
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            };
            names.into_iter().filter(is_cpu).collect::<Vec<_>>()
        });
        let physical = numbered.clone().and_then(|cpus| {
            let mut cores = BTreeSet::new();
            for cpu in &cpus {
                let topology = format!("{CPUS}/{cpu}/topology");
                // One that is switched off has no topology.
                if !tree.exists(&topology) {
                    continue;
                }
                let of = |name: &str| tree.number::<i64>(&format!("{topology}/{name}"));
                // Dies number their cores each from 0; kernels that know of no dies don't have the file.
                cores.insert((
                    of("physical_package_id")?,
                    of("die_id").unwrap_or(0),
                    of("core_id")?,
                ));
            }
            match cores.len() {
                0 => Err(Unknown {
                    path: format!("{CPUS}/cpu0/topology"),
                    why: super::tree::Why::Missing,
                }),
                count => Ok(count),
            }
        });
        let governors = numbered.and_then(|cpus| {
            let mut governors = BTreeMap::new();
            for cpu in &cpus {
                match tree.text(&format!("{CPUS}/{cpu}/cpufreq/scaling_governor")) {
                    Ok(governor) => *governors.entry(governor).or_insert(0) += 1,
                    Err(unknown) if unknown.is_missing() => {}
                    Err(unknown) => return Err(unknown),
                }
            }
            Ok(governors)
        });
        let vulnerabilities = format!("{CPUS}/vulnerabilities");
        Self {
            physical,
            online: parsed(
                tree,
                &format!("{CPUS}/online"),
                "a list of processors",
                |text| parse::cpu_list(text).map(|cpus| cpus.len()),
            ),
            governors,
            vulnerabilities: tree.list(&vulnerabilities).and_then(|names| {
                names
                    .into_iter()
                    .map(|name| {
                        let state = tree.text(&format!("{vulnerabilities}/{name}"))?;
                        Ok((name, state))
                    })
                    .collect()
            }),
            command_line: tree.text("/proc/cmdline"),
        }
    }
}

fn parsed<T>(
    tree: &Tree,
    file: &str,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Fact<T> {
    let text = tree.text(file)?;
    parse(&text).ok_or_else(|| Unknown::malformed(file, &text, expected))
}
