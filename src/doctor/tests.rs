//! Hosts made of files: what the doctor says about them.

use std::fs;
use std::path::Path;

use super::finding::{Finding, Report, Status};
use super::{Explain, Host, Wanted};

const MILLION: u64 = 1_000_000;

/// A host below a temporary folder.
struct Fixture(tempfile::TempDir);

impl Fixture {
    fn empty() -> Self {
        let fixture = Self(tempfile::tempdir().expect("a temporary folder"));
        fixture.folder("proc")
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn folder(self, path: &str) -> Self {
        fs::create_dir_all(self.root().join(path)).expect("folders");
        self
    }

    fn with(self, path: &str, text: &str) -> Self {
        let file = self.root().join(path);
        fs::create_dir_all(file.parent().expect("a folder")).expect("folders");
        fs::write(file, text).expect("written");
        self
    }

    fn without(self, path: &str) -> Self {
        let path = self.root().join(path);
        match path.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        }
        .expect("it was there");
        self
    }

    /// A Debian 12 as it is installed, on a machine with 16 cores, 32 threads and 64 GB; in the shell of a user.
    fn debian() -> Self {
        let mut fixture = Self::empty()
            .with("proc/1/comm", "systemd\n")
            .with("proc/cmdline", "root=/dev/sda1 quiet\n")
            .with("proc/sys/kernel/osrelease", "6.1.0-30-amd64\n")
            .with(
                "proc/self/limits",
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max open files            1024                 1048576              files     \n\
                 Max locked memory         8388608              8388608              bytes     \n",
            )
            .with("proc/self/status", "Name:\tringwire\nCapEff:\t0000000000000000\n")
            .with("proc/self/cgroup", "0::/user.slice/session-1.scope\n")
            .with(
                "proc/meminfo",
                "MemTotal:       65000000 kB\nMemAvailable:   62000000 kB\nSwapTotal:       1000000 kB\n",
            )
            .with("proc/net/sockstat", "sockets: used 200\nTCP: inuse 9 orphan 0 tw 0 alloc 9 mem 1\n")
            .with("proc/net/sockstat6", "TCP6: inuse 3\n")
            .with("proc/net/softnet_stat", "0a00 0000 0000\n0b00 0000 0000\n")
            .with("proc/sys/fs/nr_open", "1048576\n")
            .with("proc/sys/fs/file-max", "9223372036854775807\n")
            .with("proc/sys/fs/file-nr", "1504\t0\t9223372036854775807\n")
            .with("proc/sys/vm/swappiness", "60\n")
            .with("proc/sys/vm/zone_reclaim_mode", "0\n")
            .with("proc/sys/kernel/numa_balancing", "0\n")
            .with("proc/sys/net/core/somaxconn", "4096\n")
            .with("proc/sys/net/core/netdev_max_backlog", "1000\n")
            .with("proc/sys/net/ipv4/tcp_max_syn_backlog", "4096\n")
            .with("proc/sys/net/ipv4/tcp_syncookies", "1\n")
            .with("proc/sys/net/ipv4/tcp_max_orphans", "262144\n")
            .with("proc/sys/net/ipv4/tcp_mem", "759000\t1012000\t1518000\n")
            .with("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n")
            .with("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304\n")
            .with("proc/sys/net/ipv4/tcp_ehash_entries", "524288\n")
            .with("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
            .with("proc/sys/net/ipv4/tcp_tw_reuse", "2\n")
            .with("proc/sys/net/ipv4/tcp_max_tw_buckets", "262144\n")
            .with("etc/systemd/system.conf", "[Manager]\n#DefaultLimitNOFILE=1024:524288\n")
            .with("sys/fs/cgroup/cgroup.controllers", "cpuset cpu memory pids\n")
            .with("sys/fs/cgroup/cpuset.cpus.effective", "0-31\n")
            .with("sys/fs/cgroup/user.slice/session-1.scope/memory.max", "max\n")
            .with("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
            .with("sys/devices/system/node/online", "0\n")
            .with("sys/devices/system/cpu/online", "0-31\n")
            .with("sys/devices/system/cpu/vulnerabilities/meltdown", "Mitigation: PTI\n")
            .with("sys/devices/system/cpu/vulnerabilities/mds", "Not affected\n")
            .with("sys/class/net/lo/queues/rx-0/rps_cpus", "0\n")
            .folder("sys/class/net/eth0/device");
        let mut interrupts = String::from("   CPU0 CPU1\n");
        for cpu in 0..32 {
            let folder = format!("sys/devices/system/cpu/cpu{cpu}");
            fixture = fixture
                .with(&format!("{folder}/topology/physical_package_id"), "0\n")
                .with(
                    &format!("{folder}/topology/core_id"),
                    &format!("{}\n", cpu % 16),
                )
                .with(&format!("{folder}/cpufreq/scaling_governor"), "schedutil\n");
        }
        for queue in 0..16 {
            interrupts += &format!(
                " {}: {queue} 7 PCI-MSI {queue}-edge eth0-TxRx-{queue}\n",
                40 + queue
            );
            fixture = fixture
                .with(
                    &format!("sys/class/net/eth0/queues/rx-{queue}/rps_cpus"),
                    "00000000\n",
                )
                .with(
                    &format!("proc/irq/{}/smp_affinity_list", 40 + queue),
                    &format!("{queue}\n"),
                );
        }
        fixture.with("proc/interrupts", &interrupts)
    }

    /// The same after tuning/apply, in the service.
    fn tuned() -> Self {
        let mut fixture = Self::debian()
            .with(
                "proc/self/limits",
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max open files            1024                 1100000              files     \n\
                 Max locked memory         67108864             67108864             bytes     \n",
            )
            .with("proc/sys/fs/nr_open", "2097152\n")
            .with("proc/sys/vm/swappiness", "10\n")
            .with("proc/sys/net/core/somaxconn", "65535\n")
            .with("proc/sys/net/ipv4/tcp_max_syn_backlog", "65535\n")
            .with("proc/sys/net/ipv4/tcp_max_orphans", "1048576\n")
            .with(
                "etc/systemd/system/ringwire.service",
                "[Service]\nLimitNOFILE=1100000\n",
            );
        for cpu in 0..32 {
            let file = format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
            fixture = fixture.with(&file, "performance\n");
        }
        fixture
    }

    fn examine(&self, wanted: &Wanted) -> Report {
        Host::read(self.root(), None)
            .expect("a host")
            .examine(wanted)
    }

    /// A million connections on 16 shards.
    fn report(&self) -> Report {
        self.examine(&wanted(16))
    }
}

fn wanted(shards: u64) -> Wanted {
    Wanted {
        connections: MILLION,
        shards,
        connections_per_shard: None,
        descriptors: 64 + 13 * shards,
        locked_bytes: shards * (540 << 10) + (64 << 10),
        rings_locked_since: (6, 14),
        page_bytes: 4096,
    }
}

fn finding<'a>(report: &'a Report, setting: &str) -> &'a Finding {
    report
        .findings
        .iter()
        .find(|finding| finding.setting == setting)
        .unwrap_or_else(|| panic!("{setting} is not among the findings"))
}

fn status(report: &Report, setting: &str) -> Status {
    finding(report, setting).status
}

/// Settings that are not as they should be.
fn problems(report: &Report) -> Vec<&str> {
    report
        .findings
        .iter()
        .filter(|finding| !matches!(finding.status, Status::Ok | Status::Info))
        .map(|finding| finding.setting.as_str())
        .collect()
}

/// What stops it, the tightest first.
fn stops(report: &Report) -> Vec<&str> {
    report
        .limits
        .iter()
        .filter(|limit| limit.connections < report.connections)
        .map(|limit| limit.setting.as_str())
        .collect()
}

#[test]
fn a_tuned_host_fits_and_has_no_problem() {
    let report = Fixture::tuned().report();
    // Nothing that is good is advised to be made worse.
    let raised = Fixture::tuned()
        .with("proc/sys/fs/nr_open", "1073741816\n")
        .report();
    for (setting, line) in [
        ("fs.nr_open", "sysctl -w fs.nr_open=1073741816"),
        ("fs.file-max", "sysctl -w fs.file-max=9223372036854775807"),
        (
            "net.ipv4.tcp_mem",
            "sysctl -w net.ipv4.tcp_mem=\"759000 1012000 1518000\"",
        ),
    ] {
        assert_eq!(finding(&raised, setting).how[0].line, line);
    }
    // What no copied tree can tell.
    assert_eq!(problems(&report), ["io_uring"]);
    assert_eq!(report.fits, Some(true));
    assert!(report.holds >= Some(MILLION), "{:?}", report.holds);
    let text = report.to_text(Explain::Problems);
    assert!(
        text.contains("This host holds 1,000,000 connections as it is."),
        "{text}"
    );
    assert!(!text.contains("tuning/apply"), "{text}");
}

#[test]
fn a_default_debian_holds_a_million_idle_ones_with_warnings() {
    // 1,048,576 open files for each of 16 shards are enough; the rest costs clients, not connections.
    let report = Fixture::debian().report();
    assert_eq!(report.fits, Some(true));
    assert_eq!(
        problems(&report),
        [
            "io_uring",
            "vm.swappiness",
            "net.core.somaxconn",
            "net.ipv4.tcp_max_orphans",
            "frequency governor"
        ]
    );
    // Linux 6.1 does not count rings; 6.14 does, and 16 shards are one too many for 8 MiB.
    let newer = Fixture::debian()
        .with("proc/sys/kernel/osrelease", "6.14.2-amd64\n")
        .report();
    assert_eq!(stops(&newer), ["RLIMIT_MEMLOCK"]);
    let root = Fixture::debian()
        .with("proc/sys/kernel/osrelease", "6.14.2-amd64\n")
        .with("proc/self/status", "CapEff:\t000001ffffffffff\n")
        .report();
    assert_eq!(status(&root, "RLIMIT_MEMLOCK"), Status::Warn);
}

#[test]
fn the_limit_of_open_files_is_named() {
    let low = |hard: u64| {
        Fixture::debian().with(
            "proc/self/limits",
            &format!(
                "Max open files            1024                 {hard}               files     \n\
                 Max locked memory         unlimited            unlimited            bytes     \n"
            ),
        )
    };
    let report = low(20_000).report();
    assert_eq!(report.fits, Some(false));
    assert_eq!(stops(&report), ["RLIMIT_NOFILE"]);
    assert_eq!(report.holds, Some((20_000 - 64) * 32 / 33 * 16));
    let nofile = finding(&report, "RLIMIT_NOFILE");
    let lines: Vec<&str> = nofile.how.iter().map(|how| how.line.as_str()).collect();
    // No more than fs.nr_open, which is enough here.
    assert!(lines.contains(&"LimitNOFILE=1048576"), "{lines:?}");
    assert!(lines.contains(&"ringwire serve --shards 52"), "{lines:?}");
    // As it says, so it is.
    assert_eq!(low(20_000).examine(&wanted(52)).fits, Some(true));
    assert_eq!(low(20_000).examine(&wanted(51)).fits, Some(false));

    // On one shard a table is too small whatever the limit.
    let report = Fixture::tuned().examine(&Wanted {
        connections: 1_200_000,
        ..wanted(1)
    });
    assert!(stops(&report).contains(&"RLIMIT_NOFILE"));
    let nofile = finding(&report, "RLIMIT_NOFILE");
    assert_eq!(nofile.how[0].line, "ringwire serve --shards 2");

    // Too few for the server itself.
    let report = low(100).report();
    assert_eq!(report.holds, Some(0));
    let text = report.to_text(Explain::Problems);
    assert!(text.contains("The server does not start"), "{text}");
    let raised = low(20_000)
        .with("proc/sys/fs/nr_open", "2097152\n")
        .report();
    let nofile = finding(&raised, "RLIMIT_NOFILE");
    assert_eq!(nofile.how[0].line, "LimitNOFILE=1100000");
    // What root could raise it to comes next.
    let report = low(20_000).with("proc/sys/fs/nr_open", "30000\n").report();
    assert_eq!(stops(&report), ["RLIMIT_NOFILE", "fs.nr_open"]);
}

#[test]
fn a_configured_table_is_a_limit_of_its_own() {
    let configured = |places| {
        Fixture::tuned().examine(&Wanted {
            connections_per_shard: Some(places),
            ..wanted(16)
        })
    };
    assert_eq!(stops(&configured(50_000)), ["client.connections_per_shard"]);
    assert_eq!(configured(70_000).fits, Some(true));
    // The server refuses to start with more than the limit of open files.
    assert_eq!(configured(1_200_000).holds, Some(0));
}

#[test]
fn systemd_gives_services_less_than_shells() {
    let report = Fixture::debian().examine(&wanted(1));
    let systemd = finding(&report, "LimitNOFILE of systemd");
    assert_eq!(systemd.status, Status::Warn);
    assert_eq!(systemd.now, "524,288 (systemd's own default)");
    let report = Fixture::debian()
        .with(
            "etc/systemd/system.conf.d/a.conf",
            "[Manager]\nDefaultLimitNOFILE=infinity\n",
        )
        .examine(&wanted(1));
    assert_eq!(status(&report, "LimitNOFILE of systemd"), Status::Ok);
    let report = Fixture::debian()
        .with(
            "etc/systemd/system.conf.d/a.conf",
            "[Manager]\nDefaultLimitNOFILE=many\n",
        )
        .report();
    assert_eq!(status(&report, "LimitNOFILE of systemd"), Status::Unknown);
    let report = Fixture::debian().with("proc/1/comm", "init\n").report();
    assert_eq!(status(&report, "LimitNOFILE of systemd"), Status::Info);
}

#[test]
fn memory_stops_a_small_host_and_its_cgroup_too() {
    let report = Fixture::tuned()
        .with(
            "proc/meminfo",
            "MemTotal: 4000000 kB\nMemAvailable: 3000000 kB\nSwapTotal: 0 kB\n",
        )
        .report();
    assert_eq!(stops(&report), ["available memory"]);
    assert_eq!(status(&report, "vm.swappiness"), Status::Ok);
    assert!(
        report
            .holds
            .is_some_and(|holds| (500_000..700_000).contains(&holds))
    );

    // Idle ones fit, a message to all does not.
    let report = Fixture::tuned()
        .with(
            "proc/meminfo",
            "MemTotal: 9000000 kB\nMemAvailable: 6000000 kB\nSwapTotal: 0 kB\n",
        )
        .report();
    assert_eq!(
        (report.fits, status(&report, "available memory")),
        (Some(true), Status::Warn)
    );

    let group = "sys/fs/cgroup/user.slice/session-1.scope";
    let report = Fixture::debian()
        .with(&format!("{group}/memory.swap.max"), "0\n")
        .report();
    assert_eq!(status(&report, "vm.swappiness"), Status::Ok);
    let report = Fixture::tuned()
        .with(&format!("{group}/memory.max"), "2147483648\n")
        .with(&format!("{group}/memory.current"), "1048576\n")
        .report();
    assert_eq!(stops(&report), ["memory.max of the cgroup"]);
    assert!(
        report
            .holds
            .is_some_and(|holds| (350_000..450_000).contains(&holds))
    );
    let memory = finding(&report, "memory.max of the cgroup");
    assert!(
        memory.now.contains(&format!("/{group}/memory.max")),
        "{}",
        memory.now
    );
}

#[test]
fn connection_tracking_counts_only_where_it_tracks() {
    let absent = Fixture::tuned().report();
    let name = "net.netfilter.nf_conntrack_max";
    assert_eq!(
        (status(&absent, name), finding(&absent, name).holds),
        (Status::Ok, None)
    );

    let loaded = |max: &str, count: &str| {
        Fixture::tuned()
            .with("proc/sys/net/netfilter/nf_conntrack_max", max)
            .with("proc/sys/net/netfilter/nf_conntrack_count", count)
            .report()
    };
    let idle = loaded("262144", "0");
    assert_eq!((idle.fits, status(&idle, name)), (Some(true), Status::Warn));
    let active = loaded("262144", "144");
    assert_eq!((active.fits, active.holds), (Some(false), Some(262_000)));
    assert_eq!(stops(&active), [name]);
    assert_eq!(
        finding(&active, name).how[0].line,
        "sysctl -w net.netfilter.nf_conntrack_max=2097152"
    );
    assert_eq!(status(&loaded("1050000", "144"), name), Status::Warn);
    assert_eq!(status(&loaded("2097152", "144"), name), Status::Ok);
    assert_eq!(status(&loaded("lots", "144"), name), Status::Unknown);
}

#[test]
fn a_container_without_sysctls_is_not_judged() {
    let report = Fixture::tuned()
        .without("proc/sys/fs")
        .without("proc/sys/net")
        .without("sys")
        .without("proc/interrupts")
        .report();
    assert_eq!(report.fits, None);
    for setting in [
        "fs.file-max",
        "fs.nr_open",
        "net.core.somaxconn",
        "network cards",
        "cores",
    ] {
        let finding = finding(&report, setting);
        assert_eq!(finding.status, Status::Unknown, "{setting}");
        assert!(finding.now.contains("is not there"), "{}", finding.now);
    }
    let text = report.to_text(Explain::Problems);
    assert!(text.contains("is not known"), "{text}");
    assert!(!text.contains("as it is"), "{text}");
    let flowing: Vec<&str> = text.split_whitespace().collect();
    let flowing = flowing.join(" ");
    assert!(
        flowing.contains("left out of this: io_uring, fs.nr_open, "),
        "{text}"
    );
    // What is known to be too little is said all the same.
    let report = Fixture::tuned()
        .without("proc/sys/fs")
        .with(
            "proc/meminfo",
            "MemTotal: 2 kB\nMemAvailable: 1 kB\nSwapTotal: 0 kB\n",
        )
        .report();
    assert_eq!((report.fits, report.holds), (Some(false), None));
    let text = report.to_text(Explain::Problems);
    assert!(text.contains("takes no connection"), "{text}");
}

#[test]
fn nothing_but_a_folder_proc_is_all_unknown() {
    let report = Fixture::empty().report();
    assert_eq!((report.fits, report.holds), (None, None));
    let known: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.status != Status::Unknown)
        .map(|finding| finding.setting.as_str())
        .collect();
    assert_eq!(known, Vec::<&str>::new());
}

#[test]
fn malformed_files_are_unknown_and_named() {
    let mut fixture = Fixture::tuned();
    for (path, setting) in [
        ("proc/sys/kernel/osrelease", "Linux"),
        ("proc/self/limits", "RLIMIT_NOFILE"),
        ("proc/self/limits", "RLIMIT_MEMLOCK"),
        ("proc/sys/kernel/io_uring_disabled", "io_uring"),
        ("proc/sys/fs/nr_open", "fs.nr_open"),
        ("proc/sys/fs/file-max", "fs.file-max"),
        ("proc/sys/fs/file-nr", "fs.file-max"),
        ("proc/meminfo", "available memory"),
        ("proc/meminfo", "vm.swappiness"),
        ("proc/sys/net/ipv4/tcp_mem", "net.ipv4.tcp_mem"),
        ("proc/sys/net/ipv4/tcp_rmem", "net.ipv4.tcp_rmem"),
        ("proc/sys/net/ipv4/tcp_wmem", "net.ipv4.tcp_wmem"),
        (
            "proc/sys/net/ipv4/tcp_syncookies",
            "net.ipv4.tcp_syncookies",
        ),
        (
            "proc/sys/net/ipv4/tcp_ehash_entries",
            "net.ipv4.tcp_ehash_entries",
        ),
        (
            "proc/sys/net/ipv4/ip_local_port_range",
            "net.ipv4.ip_local_port_range",
        ),
        ("proc/net/softnet_stat", "net.core.netdev_max_backlog"),
        ("proc/self/cgroup", "memory.max of the cgroup"),
        (
            "sys/fs/cgroup/user.slice/session-1.scope/memory.max",
            "memory.max of the cgroup",
        ),
        (
            "sys/fs/cgroup/user.slice/pids.max",
            "pids.max of the cgroup",
        ),
        ("sys/fs/cgroup/user.slice/cpu.max", "cpu.max of the cgroup"),
        ("sys/devices/system/cpu/cpu3/topology/core_id", "cores"),
        ("sys/class/net/eth0/queues/rx-3/rps_cpus", "packets of eth0"),
        ("proc/irq/43/smp_affinity_list", "packets of eth0"),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            "transparent huge pages",
        ),
        ("sys/devices/system/node/online", "kernel.numa_balancing"),
    ] {
        let original = fs::read_to_string(fixture.root().join(path)).ok();
        for text in ["", "x y z", "-1", "99999999999999999999"] {
            fixture = fixture.with(path, text);
            let finding = finding(&fixture.report(), setting).clone();
            // What means something all the same: an empty list or table, and numbers below 0.
            let meant = match path {
                "proc/sys/net/ipv4/tcp_ehash_entries" => text == "-1",
                "sys/devices/system/cpu/cpu3/topology/core_id" => text == "-1",
                "sys/devices/system/node/online" => text.is_empty(),
                "proc/irq/43/smp_affinity_list" => text.is_empty(),
                "proc/net/softnet_stat" => text.is_empty(),
                _ => false,
            };
            assert_eq!(
                finding.status != Status::Unknown,
                meant,
                "{path} says {text:?}, and {setting} is {finding:?}"
            );
            if !meant {
                assert!(
                    finding.now.contains(&format!("/{path} says")),
                    "{}",
                    finding.now
                );
            }
        }
        fixture = match original {
            Some(text) => fixture.with(path, &text),
            None => fixture.without(path),
        };
    }
}

#[test]
fn the_kernel_and_io_uring_have_to_be_there() {
    let report = Fixture::tuned()
        .with("proc/sys/kernel/osrelease", "5.15.0-1\n")
        .report();
    assert_eq!((report.fits, stops(&report)), (Some(false), vec!["Linux"]));
    for (value, expected) in [("0", Status::Ok), ("1", Status::Warn), ("2", Status::Fail)] {
        let report = Fixture::tuned()
            .with("proc/sys/kernel/io_uring_disabled", value)
            .report();
        assert_eq!(status(&report, "io_uring"), expected);
    }
}

#[test]
fn queues_and_buffers_are_warned_about() {
    let change = |path: &str, text: &str| Fixture::tuned().with(path, text).report();
    let report = change("proc/sys/net/ipv4/tcp_syncookies", "0");
    assert_eq!(status(&report, "net.ipv4.tcp_syncookies"), Status::Warn);
    assert_eq!(status(&report, "net.ipv4.tcp_max_syn_backlog"), Status::Ok);
    let report = Fixture::tuned()
        .with("proc/sys/net/ipv4/tcp_syncookies", "0")
        .with("proc/sys/net/ipv4/tcp_max_syn_backlog", "2048")
        .report();
    assert_eq!(
        status(&report, "net.ipv4.tcp_max_syn_backlog"),
        Status::Warn
    );
    for (path, text, setting) in [
        (
            "proc/sys/net/ipv4/tcp_ehash_entries",
            "-65536",
            "net.ipv4.tcp_ehash_entries",
        ),
        (
            "proc/sys/net/ipv4/tcp_mem",
            "1 2 999999",
            "net.ipv4.tcp_mem",
        ),
        (
            "proc/sys/net/ipv4/tcp_rmem",
            "65536 131072 6291456",
            "net.ipv4.tcp_rmem",
        ),
        (
            "proc/sys/net/ipv4/tcp_wmem",
            "65536 131072 6291456",
            "net.ipv4.tcp_wmem",
        ),
        (
            "proc/net/softnet_stat",
            "0a00 0001 0000\n",
            "net.core.netdev_max_backlog",
        ),
        ("proc/sys/vm/zone_reclaim_mode", "1", "vm.zone_reclaim_mode"),
        (
            "sys/fs/cgroup/user.slice/cpu.max",
            "150000 100000",
            "cpu.max of the cgroup",
        ),
        ("sys/fs/cgroup/cpuset.cpus.effective", "0-3", "cores"),
    ] {
        let report = change(path, text);
        assert_eq!(status(&report, setting), Status::Warn, "{setting}");
        assert_eq!(report.fits, Some(true), "{setting}");
    }
    let balancing = |nodes: &str| {
        let fixture = Fixture::tuned()
            .with("sys/devices/system/node/online", nodes)
            .with("proc/sys/kernel/numa_balancing", "1");
        status(&fixture.report(), "kernel.numa_balancing")
    };
    assert_eq!(
        (balancing("0"), balancing("0-1")),
        (Status::Ok, Status::Warn)
    );
    let pids = Fixture::tuned()
        .with("sys/fs/cgroup/user.slice/pids.max", "50")
        .with("sys/fs/cgroup/user.slice/pids.current", "20")
        .report();
    assert_eq!(stops(&pids), ["pids.max of the cgroup"]);
}

#[test]
fn one_core_for_all_packets_is_noticed_and_steering_helps() {
    let mut fixture = Fixture::tuned();
    for queue in 0..16 {
        let file = format!("proc/irq/{}/smp_affinity_list", 40 + queue);
        fixture = fixture.with(&file, "0\n");
    }
    let report = fixture.report();
    let card = finding(&report, "packets of eth0");
    assert_eq!(card.status, Status::Warn);
    assert_eq!(card.now, "16 queues, interrupts on 1 processor, RPS off");
    assert_eq!(card.needed, "4 processors or more");
    // More shards than processors need no more of them than there are.
    let many = fixture.examine(&wanted(100));
    assert_eq!(
        finding(&many, "packets of eth0").needed,
        "8 processors or more"
    );
    let fixture = fixture.with("sys/class/net/eth0/queues/rx-0/rps_cpus", "ffffffff\n");
    assert_eq!(status(&fixture.report(), "packets of eth0"), Status::Ok);
}

#[test]
fn every_finding_says_why_and_how_and_nothing_is_too_wide() {
    let fixtures = [
        Fixture::tuned(),
        Fixture::debian(),
        Fixture::empty(),
        Fixture::debian().without("sys/class/net/eth0"),
        Fixture::debian().with("proc/sys/net/netfilter/nf_conntrack_max", "1"),
    ];
    for fixture in &fixtures {
        for shards in [1, 2, 16] {
            let report = fixture.examine(&Wanted {
                connections_per_shard: Some(5),
                ..wanted(shards)
            });
            let mut names = Vec::new();
            for finding in &report.findings {
                assert!(
                    !finding.setting.is_empty() && !finding.now.is_empty(),
                    "{finding:?}"
                );
                assert!(
                    finding.why.len() > 40 && finding.why.ends_with('.'),
                    "{finding:?}"
                );
                assert!(!finding.how.is_empty(), "{}", finding.setting);
                assert!(
                    finding.how.iter().all(|how| !how.line.is_empty()),
                    "{finding:?}"
                );
                assert!(!finding.needed.is_empty(), "{finding:?}");
                assert!(
                    !names.contains(&&finding.setting),
                    "{} is there twice",
                    finding.setting
                );
                names.push(&finding.setting);
            }
            let text = report.to_text(Explain::All);
            let copied = |line: &&str| line.starts_with("         ");
            for line in text.lines().filter(|line| !copied(line)) {
                assert!(line.chars().count() <= 100, "{line}");
            }
        }
    }
}

#[test]
fn the_figures_of_a_running_server_can_be_asked_for() {
    let fixture = Fixture::debian()
        .with("proc/77/comm", "ringwire\n")
        .with("proc/77/cgroup", "0::/\n")
        .with("proc/77/status", "CapEff:\t0\n")
        .with(
            "proc/77/limits",
            "Max open files            7000                 7000               files     \n\
             Max locked memory         unlimited            unlimited            bytes     \n",
        );
    let report = Host::read(fixture.root(), Some(77))
        .expect("it runs")
        .examine(&wanted(16));
    assert_eq!(finding(&report, "RLIMIT_NOFILE").now, "7,000");
    let note = "Limits and cgroup are those of process 77 (ringwire).";
    assert!(
        report.notes.iter().any(|line| line == note),
        "{:?}",
        report.notes
    );
    let error = Host::read(fixture.root(), Some(78))
        .unwrap_err()
        .to_string();
    assert!(error.contains("no process 78"), "{error}");
    let error = Host::read(&fixture.root().join("etc"), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("has no folder proc"), "{error}");
}

#[test]
fn sockets_that_are_open_already_are_mentioned() {
    let fixture = Fixture::tuned().with("proc/net/sockstat", "TCP: inuse 600000 orphan 0\n");
    let text = fixture.report().to_text(Explain::Problems);
    assert!(
        text.contains("600,003 TCP sockets are open already"),
        "{text}"
    );
    let text = Fixture::tuned().report().to_text(Explain::Problems);
    assert!(!text.contains("open already"), "{text}");
}
