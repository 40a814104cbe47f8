//! Formats of `/proc` and `/sys` that are more than a number. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::cores;

/// A resource limit (getrlimit(2)); `None`: unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) soft: Option<u64>,
    pub(super) hard: Option<u64>,
}

/// One line of `/proc/PID/limits` (proc(5)).
pub(super) fn limit(limits: &str, name: &str) -> Option<Limit> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = line.split_whitespace();
    let mut next = || match words.next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some(Limit {
        soft: next()?,
        hard: next()?,
    })
}

/// A line `Name: 12 kB` of `/proc/meminfo` (proc(5)), in bytes.
pub(super) fn meminfo_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

/// A line `name 12` of a file such as `memory.stat` (cgroup-v2.rst).
pub(super) fn stat_number(stat: &str, name: &str) -> Option<u64> {
    stat.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?
        .trim()
        .parse()
        .ok()
}

/// A set of capabilities in `/proc/PID/status`, a hexadecimal mask (capabilities(7)).
pub(super) fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Sockets in use of one protocol in `/proc/net/sockstat`: the number after `inuse`.
pub(super) fn sockets_in_use(sockstat: &str, protocol: &str) -> Option<u64> {
    let line = sockstat
        .lines()
        .find_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'))?;
    let mut words = line.split_whitespace();
    words.find(|&word| word == "inuse")?;
    words.next()?.parse().ok()
}

/// Packets dropped because the queue in front of a processor was full: the second field of each line of
/// `/proc/net/softnet_stat`, hexadecimal, summed over the processors.
pub(super) fn softnet_drops(softnet_stat: &str) -> Option<u64> {
    softnet_stat
        .lines()
        .map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok())
        .sum()
}

/// A list of processors such as `0-3,8`. An empty one is a valid one.
pub(super) fn cpu_list(text: &str) -> Option<BTreeSet<usize>> {
    match text.trim() {
        "" => Some(BTreeSet::new()),
        text => cores::parse(text).ok().map(BTreeSet::from_iter),
    }
}

/// A mask of processors such as `00000000,0000000f`, the highest ones first (`rps_cpus`).
pub(super) fn cpu_mask(text: &str) -> Option<BTreeSet<usize>> {
    let mut cpus = BTreeSet::new();
    for (group, mask) in text.trim().rsplit(',').enumerate() {
        let mask = u32::from_str_radix(mask, 16).ok()?;
        cpus.extend(
            (0..32)
                .filter(|bit| mask >> bit & 1 == 1)
                .map(|bit| group * 32 + bit),
        );
    }
    Some(cpus)
}

/// A line of `/proc/interrupts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interrupt {
    /// Over all processors, since the machine started.
    pub(super) count: u64,
    /// What the driver calls it: `eth0-TxRx-3`.
    pub(super) action: String,
}

/// The numbered interrupts of `/proc/interrupts`.
pub(super) fn interrupts(text: &str) -> BTreeMap<u32, Interrupt> {
    text.lines()
        .filter_map(|line| {
            let (number, rest) = line.split_once(':')?;
            let number = number.trim().parse().ok()?;
            let mut words = rest.split_whitespace().peekable();
            let mut count = 0u64;
            while let Some(Ok(of_cpu)) = words.peek().map(|word| word.parse::<u64>()) {
                count = count.saturating_add(of_cpu);
                words.next();
            }
            let action = words.next_back().unwrap_or_default().to_owned();
            Some((number, Interrupt { count, action }))
        })
        .collect()
}

/// A limit in a unit or in `system.conf` (systemd.exec(5)): `SOFT:HARD` or one number for both, with the
/// suffixes K, M, G, T (1,024 each), or `infinity`, which is `None`.
pub(super) fn systemd_limit(text: &str) -> Option<Limit> {
    let one = |text: &str| -> Option<Option<u64>> {
        let text = text.trim();
        if text == "infinity" {
            return Some(None);
        }
        let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
        let factor: u64 = match &text[digits.len()..] {
            "" => 1,
            "K" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1 << 30,
            "T" => 1 << 40,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(factor).map(Some)
    };
    let (soft, hard) = match text.split_once(':') {
        Some((soft, hard)) => (one(soft)?, one(hard)?),
        None => (one(text)?, one(text)?),
    };
    Some(Limit { soft, hard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_process() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 1048576              files     \n\
                    Max locked memory         unlimited            unlimited            bytes     \n\
                    Max msgqueue size         soon                 819200               bytes     \n";
        assert_eq!(
            limit(text, "Max open files"),
            Some(Limit {
                soft: Some(1024),
                hard: Some(1 << 20)
            })
        );
        assert_eq!(
            limit(text, "Max locked memory"),
            Some(Limit {
                soft: None,
                hard: None
            })
        );
        assert_eq!(limit(text, "Max msgqueue size"), None);
        assert_eq!(limit(text, "Max nice priority"), None);
    }

    #[test]
    fn lines_with_a_name() {
        let meminfo = "MemTotal:  24 kB\nMemAvailable:       2 kB\nHugePages_Total:       0\n";
        assert_eq!(meminfo_bytes(meminfo, "MemTotal"), Some(24 * 1024));
        assert_eq!(meminfo_bytes(meminfo, "Mem"), None);
        assert_eq!(meminfo_bytes(meminfo, "HugePages_Total"), None);
        assert_eq!(
            stat_number("anon 5\nfile 7\nfile_mapped 9", "file"),
            Some(7)
        );
        assert_eq!(stat_number("anon x", "anon"), None);
        assert_eq!(
            effective_capabilities("CapPrm:\t0\nCapEff:\t0000000000004000\n"),
            Some(1 << 14)
        );
        assert_eq!(effective_capabilities("CapEff:\tz\n"), None);
        let sockstat = "sockets: used 9\nTCP: inuse 7 orphan 1 tw 2 alloc 8 mem 3\n";
        assert_eq!(sockets_in_use(sockstat, "TCP"), Some(7));
        assert_eq!(sockets_in_use(sockstat, "TCP6"), None);
        assert_eq!(softnet_drops("0a 0f 1\n0b 01 2\n"), Some(16));
        assert_eq!(softnet_drops("0a\n"), None);
    }

    #[test]
    fn lists_and_masks_of_processors() {
        assert_eq!(cpu_list("0-2,5\n"), Some(BTreeSet::from([0, 1, 2, 5])));
        assert_eq!(cpu_list("\n"), Some(BTreeSet::new()));
        assert_eq!(cpu_list("all"), None);
        assert_eq!(cpu_mask("5\n"), Some(BTreeSet::from([0, 2])));
        assert_eq!(
            cpu_mask("00000001,80000000"),
            Some(BTreeSet::from([31, 32]))
        );
        assert_eq!(cpu_mask("0"), Some(BTreeSet::new()));
        assert_eq!(cpu_mask("5 6"), None);
    }

    #[test]
    fn interrupts_with_their_names() {
        let text = "           CPU0       CPU1       \n \
                    24:          1          2  IO-APIC   5-edge      ACPI:Ged\n \
                    42:          0      45203 PCI-MSIX-0000:00:04.0   2-edge      eth0-tx\n\
                    NMI:          0          0   Non-maskable interrupts\n";
        let interrupts = interrupts(text);
        assert_eq!(interrupts.keys().copied().collect::<Vec<_>>(), [24, 42]);
        assert_eq!(
            interrupts[&42],
            Interrupt {
                count: 45203,
                action: "eth0-tx".into()
            }
        );
        assert_eq!(interrupts[&24].count, 3);
    }

    #[test]
    fn limits_as_systemd_writes_them() {
        let both = |number| {
            Some(Limit {
                soft: number,
                hard: number,
            })
        };
        assert_eq!(systemd_limit("1100000"), both(Some(1_100_000)));
        assert_eq!(systemd_limit("512K"), both(Some(512 << 10)));
        assert_eq!(systemd_limit("infinity"), both(None));
        assert_eq!(
            systemd_limit("1024:524288"),
            Some(Limit {
                soft: Some(1024),
                hard: Some(524_288)
            })
        );
        for wrong in ["", "many", "1:2:3", "1X", ":5", "99999999T"] {
            assert_eq!(systemd_limit(wrong), None, "{wrong}");
        }
    }
}
