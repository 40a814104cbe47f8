//! Limits of the whole system and of the cgroup that are no memory: files, threads.

use super::number;
use crate::doctor::Wanted;
use crate::doctor::facts::Facts;
use crate::doctor::finding::{Finding, Status};
use crate::doctor::need;

const GROUP: &str = "limits of the system";

/// What tuning/ sets for a million connections; a larger bound costs nothing.
const LEAST_FILE_MAX: u64 = 1 << 21;

pub(super) fn findings(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    vec![
        nr_open(facts, wanted),
        file_max(facts, wanted),
        threads(facts, wanted),
    ]
}

fn nr_open(facts: &Facts, wanted: &Wanted) -> Finding {
    let needed = need::places(wanted.connections, wanted.shards).max(wanted.descriptors);
    let advised = need::advised_nr_open(need::advised_nofile(wanted.connections, needed));
    let finding = Finding::new(
        GROUP,
        "fs.nr_open",
        "Nobody, not even root, can set a process's limit of open files above it (proc(5)). LimitNOFILE= and ulimit \
         fail or are cut off there.",
    )
    .needed(number(needed))
    .sysctl_at_least("fs.nr_open", advised, &facts.nr_open);
    match (&facts.nr_open, &facts.nofile) {
        (Ok(nr_open), nofile) => {
            // What a process has already stays.
            let has = nofile
                .as_ref()
                .map_or(0, |nofile| nofile.hard.unwrap_or(u64::MAX));
            let places = need::table_places(Some(has.max(*nr_open)));
            finding
                .now(number(*nr_open))
                .holds(need::held(places, wanted.shards), wanted.connections)
        }
        (Err(unknown), _) => finding.unknown(unknown),
    }
}

fn file_max(facts: &Facts, wanted: &Wanted) -> Finding {
    let finding = Finding::new(
        GROUP,
        "fs.file-max",
        "Open files of the whole system (proc(5)). A direct descriptor needs no number in the process, but it is \
         an open file: each connection counts here. Processes with CAP_SYS_ADMIN are exempt; a service under a user of \
         its own is not.",
    )
    .decides();
    let needed = |open: u64| open + wanted.connections + wanted.descriptors;
    let advised = |needed: u64| needed.next_power_of_two().max(LEAST_FILE_MAX);
    match (&facts.file_max, &facts.open_files) {
        (Ok(most), Ok(open)) => {
            let needed = needed(*open);
            let finding = finding
                .needed(format!(
                    "{} ({} are open now)",
                    number(needed),
                    number(*open)
                ))
                .now(number(*most))
                .sysctl_at_least("fs.file-max", advised(needed), &facts.file_max);
            let held = most.saturating_sub(open + wanted.descriptors);
            finding.holds(held, wanted.connections)
        }
        (Err(unknown), _) | (_, Err(unknown)) => {
            let needed = needed(0);
            finding
                .needed(number(needed))
                .sysctl("fs.file-max", advised(needed))
                .unknown(unknown)
        }
    }
}

fn threads(facts: &Facts, wanted: &Wanted) -> Finding {
    let needed = need::threads(wanted.shards);
    let finding = Finding::new(
        GROUP,
        "pids.max of the cgroup",
        "Threads that the cgroup and those around it may have (cgroup-v2.rst; TasksMax= of systemd). A shard is a \
         thread, and has a second one for calls that block.",
    )
    .needed(format!("{} more", number(needed)))
    .unit(format!("TasksMax={}", (needed * 4).max(4096)));
    match &facts.cgroup.threads {
        Ok(None) => finding.now("unlimited").status(Status::Ok),
        Ok(Some(limit)) => {
            let finding = finding.now(format!(
                "{}, {} left ({})",
                number(limit.limit),
                number(limit.available),
                limit.file
            ));
            if limit.available >= needed {
                finding.status(Status::Ok)
            } else {
                finding.holds(0, wanted.connections)
            }
        }
        Err(unknown) => finding.unknown(unknown),
    }
}
