//! Processors, and which of them take care of the network cards.

use super::{number, shards};
use crate::doctor::Wanted;
use crate::doctor::facts::Facts;
use crate::doctor::finding::{Finding, Status};
use crate::doctor::nics::Nic;

const GROUP: &str = "cores and network cards";

pub(super) fn findings(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    let mut findings = vec![
        cores(facts, wanted),
        quota(facts, wanted),
        governor(facts),
        mitigations(facts),
    ];
    findings.extend(cards(facts, wanted));
    findings.push(backlog(facts));
    findings
}

fn cores(facts: &Facts, wanted: &Wanted) -> Finding {
    let finding = Finding::new(
        GROUP,
        "cores",
        "A shard is a thread that is pinned to a core. Where shards outnumber the cores they share them, and never wait \
         busily. That is slower, but it holds the connections: more shards make up for a low limit of open files.",
    )
    .needed(format!("one for each of {}", shards(wanted.shards)))
    .how(
        "fewer shards, which takes a higher RLIMIT_NOFILE, or more cores",
        "AllowedCPUs= of the unit, --cpuset-cpus of the container",
    );
    let physical = match &facts.cores.physical {
        Ok(physical) => *physical,
        Err(unknown) => return finding.unknown(unknown),
    };
    let allowed = facts.cgroup.cpus.as_ref().ok().copied().flatten();
    // A cpuset counts hardware threads.
    let usable = allowed.map_or(physical, |allowed| allowed.min(physical));
    let mut now = number(physical as u64);
    if let (Ok(online), Some(allowed)) = (&facts.cores.online, allowed)
        && allowed < *online
    {
        now += &format!(", {} in the cpuset", number(allowed as u64));
    }
    finding
        .now(now)
        .status(match wanted.shards <= usable as u64 {
            true => Status::Ok,
            false => Status::Warn,
        })
}

fn quota(facts: &Facts, wanted: &Wanted) -> Finding {
    let finding = Finding::new(
        GROUP,
        "cpu.max of the cgroup",
        "Time of processors that the cgroup and those around it may use (cgroup-v2.rst; CPUQuota= of systemd). When it is \
         used up, all shards stand still until the next period: every client notices.",
    )
    .needed("unlimited")
    .unit("CPUQuota=")
    .how("in a container", "without --cpus");
    match &facts.cgroup.cpu_thousandths {
        Ok(None) => finding.now("unlimited").status(Status::Ok),
        Ok(Some(thousandths)) => finding
            .now(format!(
                "{}.{:02} processors",
                thousandths / 1000,
                thousandths % 1000 / 10
            ))
            .status(match *thousandths >= wanted.shards * 1000 {
                true => Status::Ok,
                false => Status::Warn,
            }),
        Err(unknown) => finding.unknown(unknown),
    }
}

fn governor(facts: &Facts) -> Finding {
    let finding = Finding::new(
        GROUP,
        "frequency governor",
        "Others than \"performance\" clock a core down when it is quiet, and up some milliseconds after a burst has begun: \
         the first messages of each burst are slow (admin-guide/pm/cpufreq.rst).",
    )
    .needed("performance")
    .how(
        "now (until the next boot)",
        "echo performance | tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    )
    .how("at every boot, on Debian: in /etc/default/cpufrequtils (package cpufrequtils)", "GOVERNOR=performance");
    match &facts.cores.governors {
        Ok(governors) if governors.is_empty() => {
            finding.now("none: a virtual machine, or firmware decides")
        }
        Ok(governors) => {
            let now: Vec<String> = governors
                .iter()
                .map(|(governor, cpus)| format!("{governor} ({cpus})"))
                .collect();
            let all_perform = governors.keys().all(|governor| governor == "performance");
            finding.now(now.join(", ")).status(match all_perform {
                true => Status::Ok,
                false => Status::Warn,
            })
        }
        Err(unknown) => finding.unknown(unknown),
    }
}

fn mitigations(facts: &Facts) -> Finding {
    let finding = Finding::new(
        GROUP,
        "mitigations",
        "Protection against leaks between programs costs time at each system call and interrupt. The server makes few \
         calls under load, but the kernel's part of each message pays for indirect branches too. Leave them on unless \
         nothing but your own code runs on the machine (admin-guide/hw-vuln).",
    )
    .how(
        "only on a machine that runs nothing of others: in /etc/default/grub, added to GRUB_CMDLINE_LINUX; then \
         update-grub, and reboot",
        "mitigations=off",
    );
    let all = match &facts.cores.vulnerabilities {
        Ok(all) => all,
        Err(unknown) => return finding.unknown(unknown),
    };
    let active: Vec<&str> = all
        .iter()
        .filter(|(_, state)| state.starts_with("Mitigation"))
        .map(|(name, _)| name.as_str())
        .collect();
    let chosen = facts.cores.command_line.as_ref().ok().and_then(|line| {
        let word = line
            .split_whitespace()
            .find(|word| word.starts_with("mitigations="))?;
        // What follows are exceptions, by the dozen where somebody has thought about it.
        word.split(',').next()
    });
    let mut now = match active.as_slice() {
        [] => "none active".to_owned(),
        names => format!("{} active: {}", names.len(), names.join(", ")),
    };
    if let Some(chosen) = chosen {
        now += &format!(" ({chosen})");
    }
    finding.now(now)
}

fn cards(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    let finding = |setting: &str| {
        Finding::new(
            GROUP,
            setting,
            "Most of the work for a message is the kernel's for its packets, on the processors that the interrupts of the \
             card's queues go to (RSS) or that packets are passed on to (RPS). With one processor for all, it is full long \
             before the shards are (networking/scaling.rst).",
        )
    };
    match &facts.nics {
        Err(unknown) => {
            vec![steps(finding("network cards"), "eth0", 1, facts, wanted).unknown(unknown)]
        }
        Ok(cards) if cards.is_empty() => {
            let finding =
                finding("network cards").now("no card with hardware in this network namespace");
            vec![steps(finding, "eth0", 1, facts, wanted)]
        }
        Ok(cards) => cards
            .iter()
            .map(|card| {
                let named = steps(
                    finding(&format!("packets of {}", card.name)),
                    &card.name,
                    card.rx_queues,
                    facts,
                    wanted,
                );
                spread(named, card, facts, wanted)
            })
            .collect(),
    }
}

/// Shards for one processor that works on packets, at most: by rule of thumb, because the kernel's part of a
/// message is mostly done by the shard that sends it, and what is left depends on the traffic.
const SHARDS_PER_CPU: u64 = 4;

/// Processors that should work on packets at least; with several shards never one for all.
fn least_cpus(facts: &Facts, wanted: &Wanted) -> u64 {
    // Shards that share cores work no faster than those cores.
    let busy = advised_cpus(facts, wanted);
    busy.div_ceil(SHARDS_PER_CPU).max(busy.min(2))
}

/// Processors to spread them over: as many as shards, if there are as many.
fn advised_cpus(facts: &Facts, wanted: &Wanted) -> u64 {
    let online = facts
        .cores
        .online
        .as_ref()
        .map_or(wanted.shards, |online| *online as u64);
    wanted.shards.min(online).max(1)
}

fn steps(finding: Finding, card: &str, queues: usize, facts: &Facts, wanted: &Wanted) -> Finding {
    let cpus = advised_cpus(facts, wanted);
    let online = facts
        .cores
        .online
        .as_ref()
        .map_or(cpus, |online| *online as u64);
    finding
        .needed(match least_cpus(facts, wanted) {
            1 => "1 processor".to_owned(),
            cpus => format!("{} processors or more", number(cpus)),
        })
        .how(
            "more queues, if the card has them (ethtool -l shows)",
            format!("ethtool -L {card} combined {cpus}"),
        )
        .how(
            "interrupts spread over the cores (irqbalance would move them again)",
            format!("systemctl disable --now irqbalance; tuning/irq-affinity --apply --interface {card}"),
        )
        .how(
            format!(
                "or in software, from {} on to all processors",
                match queues {
                    0 | 1 => "the one queue".to_owned(),
                    queues => format!("each of {queues} queues"),
                }
            ),
            format!(
                "for queue in /sys/class/net/{card}/queues/rx-*; do echo {} > $queue/rps_cpus; done",
                mask(online)
            ),
        )
}

fn spread(finding: Finding, card: &Nic, facts: &Facts, wanted: &Wanted) -> Finding {
    let cpus = match card.cpus() {
        Ok(cpus) => cpus.len() as u64,
        Err(unknown) => return finding.unknown(&unknown),
    };
    let rps = card.rps_cpus.as_ref().is_ok_and(|rps| !rps.is_empty());
    let now = format!(
        "{}, {} on {}{}",
        match card.rx_queues {
            1 => "1 queue".to_owned(),
            queues => format!("{queues} queues"),
        },
        if rps { "RSS and RPS" } else { "interrupts" },
        match cpus {
            1 => "1 processor".to_owned(),
            cpus => format!("{cpus} processors"),
        },
        if rps { "" } else { ", RPS off" }
    );
    finding
        .now(now)
        .status(match cpus >= least_cpus(facts, wanted) {
            true => Status::Ok,
            false => Status::Warn,
        })
}

/// A mask of the first `cpus` processors, in groups of 32 bits as the kernel reads it.
fn mask(cpus: u64) -> String {
    let full = cpus / 32;
    let rest = cpus % 32;
    let mut groups = Vec::new();
    if rest > 0 {
        groups.push(format!("{:x}", (1u64 << rest) - 1));
    }
    groups.extend((0..full).map(|_| "ffffffff".to_owned()));
    groups.join(",")
}

fn backlog(facts: &Facts) -> Finding {
    let finding = Finding::new(
        GROUP,
        "net.core.netdev_max_backlog",
        "Packets that may wait in front of a processor, where RPS or the loopback put them. What is too much is dropped and \
         counted since the boot, in the second column of /proc/net/softnet_stat.",
    )
    .needed("no packets dropped");
    match (&facts.tcp.max_backlog, &facts.tcp.backlog_drops) {
        (Ok(most), Ok(drops)) => finding
            .sysctl("net.core.netdev_max_backlog", (most * 4).max(16_384))
            .now(format!("{}; {} dropped", number(*most), number(*drops)))
            .status(match drops {
                0 => Status::Ok,
                _ => Status::Warn,
            }),
        (Err(unknown), _) | (_, Err(unknown)) => finding
            .sysctl("net.core.netdev_max_backlog", 16_384)
            .unknown(unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read_back_as_they_were_meant() {
        for cpus in [1, 2, 31, 32, 33, 64, 100] {
            let read = crate::doctor::parse::cpu_mask(&mask(cpus)).expect("a mask");
            assert!(read.into_iter().eq(0..cpus as usize), "{cpus}");
        }
    }
}
