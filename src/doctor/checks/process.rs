//! The kernel's io_uring, and the limits of the process.

use super::{bytes, limit, number, shards};
use crate::config::limits::{MAX_CONNECTIONS_PER_SHARD, SHARDS};
use crate::doctor::Wanted;
use crate::doctor::facts::Facts;
use crate::doctor::finding::{Finding, Status};
use crate::doctor::need;
use crate::doctor::tree::Unknown;
use crate::ring::probe::{MEMLOCK_PER_EXECUTOR, OLDEST_KERNEL, kernel_version};

const KERNEL: &str = "kernel";
const LIMITS: &str = "limits of the process";
/// Locked memory that is advised: room for some 480 shards.
const ADVISED_MEMLOCK_BYTES: u64 = 256 << 20;

pub(super) fn findings(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    let mut findings = vec![
        kernel(facts),
        ring(facts),
        nofile(facts, wanted),
        memlock(facts, wanted),
        systemd(facts, wanted),
    ];
    findings.extend(connections_per_shard(wanted));
    findings
}

fn kernel(facts: &Facts) -> Finding {
    let (major, minor) = OLDEST_KERNEL;
    let finding = Finding::new(
        KERNEL,
        "Linux",
        "io_uring with deferred task work came with 6.1. From 6.6 on a ring is a little cheaper; 6.12 has what \
         ring.min_wait_us needs.",
    )
    .needed(format!("{major}.{minor} or newer"))
    .how(
        "on Debian",
        "apt install linux-image-amd64 (or linux-image-arm64; newer ones: from backports), then reboot",
    )
    .decides();
    let release = match &facts.kernel {
        Ok(release) => release,
        Err(unknown) => return finding.unknown(unknown),
    };
    match kernel_version(release) {
        Some(version) if version >= OLDEST_KERNEL => finding.now(release).status(Status::Ok),
        Some(_) => finding.now(release).holds(0, 1),
        None => finding.unknown(&Unknown::malformed(
            "/proc/sys/kernel/osrelease",
            release,
            "a version",
        )),
    }
}

fn ring(facts: &Facts) -> Finding {
    let finding = Finding::new(
        KERNEL,
        "io_uring",
        "The server does all of its network I/O with it. A sysctl can switch it off (kernel.io_uring_disabled: \
         1 leaves it to root and to the group kernel.io_uring_group, 2 to nobody), and so can a filter of system calls, \
         as containers have by default.",
    )
    .needed("allowed")
    .sysctl("kernel.io_uring_disabled", 0)
    .how(
        "in a container",
        "allow io_uring_setup, io_uring_enter and io_uring_register (Docker, Podman: --security-opt \
         seccomp=PROFILE.json; systemd: SystemCallFilter=@io-uring)",
    );
    match (&facts.ring, &facts.io_uring_disabled) {
        (Some(Ok(features)), _) => finding.now(features).status(Status::Ok),
        (Some(Err(problem)), _) => finding.now(problem).holds(0, 1),
        (None, Ok(0)) => finding
            .now("not switched off; not tried")
            .status(Status::Ok),
        (None, Ok(1)) => finding
            .now("kernel.io_uring_disabled = 1")
            .status(Status::Warn),
        (None, Ok(value)) => finding
            .now(format!("kernel.io_uring_disabled = {value}"))
            .holds(0, 1),
        // The sysctl came with 6.6.
        (None, Err(unknown)) if unknown.is_missing() => {
            finding.unknown(&"not tried, and there is no sysctl that says")
        }
        (None, Err(unknown)) => finding.unknown(unknown),
    }
}

/// What to raise the limit to; no more than fs.nr_open allows, where that is enough.
fn advised_nofile(facts: &Facts, wanted: &Wanted, needed: u64) -> u64 {
    let advised = need::advised_nofile(wanted.connections, needed);
    match facts.nr_open {
        Ok(most) if most >= needed => advised.min(most),
        _ => advised,
    }
}

fn nofile(facts: &Facts, wanted: &Wanted) -> Finding {
    let needed = need::places(wanted.connections, wanted.shards).max(wanted.descriptors);
    let advised = advised_nofile(facts, wanted, needed);
    let mut finding = Finding::new(
        LIMITS,
        "RLIMIT_NOFILE",
        format!(
            "Sockets are direct descriptors of a shard's ring, which do not count against the limit of open files \
             (getrlimit(2)). But it caps the size of each ring's table of them, for each shard by itself, and no table has \
             more than {}. The server raises the soft limit to the hard one. With {} shares are not quite \
             even, and some places stay free for connections that shards hand over.",
            number(MAX_CONNECTIONS_PER_SHARD.into()),
            shards(wanted.shards),
        ),
    )
    .needed(format!("{} for each of {}", number(needed), shards(wanted.shards)))
    .decides();
    let nofile = match &facts.nofile {
        Ok(nofile) => nofile,
        Err(unknown) => {
            return finding
                .unit(format!("LimitNOFILE={advised}"))
                .unknown(unknown);
        }
    };
    let largest = u64::from(MAX_CONNECTIONS_PER_SHARD);
    let enough_shards = |places: u64| {
        let each = need::held(places, 2) / 2;
        let shards = wanted.connections.div_ceil(each.max(1));
        (each > 0 && shards <= SHARDS.max).then_some(shards.max(2))
    };
    if needed > largest {
        let count = enough_shards(largest).unwrap_or(SHARDS.max);
        finding = finding.how(
            "more shards: a table of that size does not exist",
            format!("ringwire serve --shards {count}"),
        );
    }
    finding = finding
        .unit(format!("LimitNOFILE={advised}"))
        .how(
            "in a shell, as root, before the server starts",
            format!("ulimit -n {advised}"),
        )
        .how(
            "in /etc/security/limits.d/90-ringwire.conf, for logins of the user ringwire (services do not read it)",
            format!("ringwire - nofile {advised}"),
        );
    let places = need::table_places(nofile.hard);
    if places < needed
        && needed <= largest
        && let Some(count) = enough_shards(places)
    {
        finding = finding.how(
            "without root: more shards, which share the cores",
            format!("ringwire serve --shards {count}"),
        );
    }
    let starts = wanted.descriptors <= nofile.hard.unwrap_or(u64::MAX)
        && wanted
            .connections_per_shard
            .is_none_or(|configured| u64::from(configured) <= places);
    let holds = match starts {
        true => need::held(places, wanted.shards),
        false => 0,
    };
    let now = match nofile.soft == nofile.hard {
        true => limit(nofile.hard),
        false => format!("{} (soft {})", limit(nofile.hard), limit(nofile.soft)),
    };
    let now = match starts {
        true => now,
        false => format!("{now}: the server does not start"),
    };
    finding.now(now).holds(holds, wanted.connections)
}

/// Only where it is configured; otherwise the limit of open files decides.
fn connections_per_shard(wanted: &Wanted) -> Option<Finding> {
    let configured = u64::from(wanted.connections_per_shard?);
    let needed = need::places(wanted.connections, wanted.shards);
    Some(
        Finding::new(
            LIMITS,
            "client.connections_per_shard",
            "The configuration sets the size of each shard's table, and with it how many connections a shard holds; \
             more wait in the listen backlog.",
        )
        .now(number(configured))
        .needed(number(needed))
        .how(
            "in the configuration, under [client] (or leave it out)",
            format!("connections_per_shard = {needed}"),
        )
        .holds(need::held(configured, wanted.shards), wanted.connections),
    )
}

fn memlock(facts: &Facts, wanted: &Wanted) -> Finding {
    let since = wanted.rings_locked_since;
    let version = facts
        .kernel
        .as_ref()
        .ok()
        .and_then(|kernel| kernel_version(kernel));
    let rings_count = version.is_none_or(|version| version >= since);
    let needed = match rings_count {
        true => wanted.locked_bytes.max(MEMLOCK_PER_EXECUTOR),
        false => MEMLOCK_PER_EXECUTOR,
    };
    let advised = ADVISED_MEMLOCK_BYTES.max(needed.next_multiple_of(1 << 20));
    let finding = Finding::new(
        LIMITS,
        "RLIMIT_MEMLOCK",
        format!(
            "Locked memory (getrlimit(2)). From Linux {}.{} on the rings count, {} for {}; before, only buffers that \
             are registered do. Nothing counts for a process with CAP_IPC_LOCK, which a service under a user of its own does \
             not have.",
            since.0,
            since.1,
            bytes(wanted.locked_bytes),
            shards(wanted.shards),
        ),
    )
    .needed(bytes(needed))
    .unit(format!("LimitMEMLOCK={}M", advised >> 20))
    .how(
        "in a shell, as root, before the server starts",
        format!("ulimit -l {}", advised >> 10),
    );
    let soft = match &facts.memlock {
        Ok(limit) => limit.soft,
        Err(unknown) => return finding.unknown(unknown),
    };
    let enough = soft.is_none_or(|soft| soft >= needed);
    let now = soft.map_or_else(|| "unlimited".to_owned(), bytes);
    match (enough, facts.may_lock()) {
        (true, _) => finding.now(now).status(Status::Ok),
        (false, true) => finding
            .now(format!("{now}; this process is exempt (CAP_IPC_LOCK)"))
            .status(Status::Warn),
        (false, false) => finding
            .now(format!("{now}: the server does not start"))
            .holds(0, wanted.connections),
    }
}

/// The hard limit that systemd gives to a service without a `LimitNOFILE=`, from its version 240 on
/// (systemd-system.conf(5)).
const SYSTEMD_DEFAULT: u64 = 524_288;

fn systemd(facts: &Facts, wanted: &Wanted) -> Finding {
    let needed = need::places(wanted.connections, wanted.shards).max(wanted.descriptors);
    let advised = advised_nofile(facts, wanted, needed);
    let finding = Finding::new(
        LIMITS,
        "LimitNOFILE of systemd",
        "A service gets the limit of open files from its unit or from systemd's default, not from a shell or from \
         /etc/security. Read from ringwire.service and system.conf with their drop-ins.",
    )
    .needed(number(needed))
    .unit(format!("LimitNOFILE={advised}"))
    .how("then", "systemctl daemon-reload && systemctl restart ringwire");
    let systemd = &facts.systemd;
    let set = match (&systemd.unit_nofile, &systemd.default_nofile) {
        (Err(unknown), _) => return finding.unknown(unknown),
        (Ok(Some(set)), _) => Some(set),
        (Ok(None), Err(unknown)) => return finding.unknown(unknown),
        (Ok(None), Ok(set)) => set.as_ref(),
    };
    let (hard, now) = match set {
        Some(set) => (
            set.limit.hard,
            format!("{} ({})", limit(set.limit.hard), set.file),
        ),
        None if systemd.has_unit || systemd.runs == Ok(true) => (
            Some(SYSTEMD_DEFAULT),
            format!("{} (systemd's own default)", number(SYSTEMD_DEFAULT)),
        ),
        None => {
            return match &systemd.runs {
                Ok(_) => finding.now("systemd does not run this host"),
                Err(unknown) => finding.unknown(unknown),
            };
        }
    };
    let enough = hard.is_none_or(|hard| hard >= needed);
    finding.now(now).status(match enough {
        true => Status::Ok,
        false => Status::Warn,
    })
}
