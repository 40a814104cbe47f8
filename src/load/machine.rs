//! What a figure was measured on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use serde::Serialize;

/// Settings of the kernel (sysctl(8)) that decide how many connections there can be, and how fast they
/// come.
const SYSCTLS: &[&str] = &[
    "fs.file-max",
    "fs.nr_open",
    "kernel.io_uring_disabled",
    "net.core.somaxconn",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_child_ehash_entries",
    "net.ipv4.tcp_ehash_entries",
    "net.ipv4.tcp_max_orphans",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_mem",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.netfilter.nf_conntrack_max",
    "vm.swappiness",
];

/// The facts that belong beside every figure. No names of hosts, users or folders.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Its model, as the kernel names it.
    pub processor: String,
    /// Hardware threads.
    pub cores: usize,
    /// Whether it is a virtual machine.
    pub virtualized: bool,
    /// Memory, in GiB.
    pub memory_gib: f64,
    /// The kernel's name and release.
    pub kernel: String,
    /// The hard limit of open files (RLIMIT_NOFILE).
    pub nofile: u64,
    /// Processes that wanted to run in the minute before.
    pub load_average: f64,
    /// Settings of the kernel, as it prints them; those that it has.
    pub sysctls: BTreeMap<String, String>,
    /// Programs and their versions.
    pub versions: Vec<String>,
    /// What was called.
    pub command: String,
    /// When it was looked at, in seconds since 1970.
    pub unix_time: u64,
}

impl Machine {
    /// Looks around. `versions` are those of what is measured; this program's own comes first.
    #[must_use]
    pub fn look(versions: Vec<String>) -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let processor = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        let stepping = [("family", "cpu family"), ("model", "model\t")]
            .into_iter()
            .filter_map(|(short, name)| Some(format!("{short} {}", field(name)?)));
        let details = stepping.collect::<Vec<_>>().join(", ");
        let system = rustix::system::uname();
        let total_kib = memory_kib("MemTotal").unwrap_or_default() as f64;
        let mut all = vec![format!("ringwire {}", env!("CARGO_PKG_VERSION"))];
        all.extend(versions);
        Self {
            processor: format!("{processor} ({details})"),
            cores: cpuinfo
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            virtualized: cpuinfo.contains(" hypervisor"),
            memory_gib: (total_kib / 1024.0 / 1024.0 * 10.0).round() / 10.0,
            kernel: format!(
                "{} {}",
                system.sysname().to_string_lossy(),
                system.release().to_string_lossy()
            ),
            nofile: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
            load_average: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|number| number.parse().ok())
                .unwrap_or_default(),
            sysctls: SYSCTLS.iter().filter_map(|name| sysctl(name)).collect(),
            versions: all,
            command: command(),
            unix_time: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |time| time.as_secs()),
        }
    }

    /// The facts, each with its name.
    #[must_use]
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let virtualized = if self.virtualized { ", virtual" } else { "" };
        let machine = format!(
            "{} × {}{virtualized}, {} GiB, nofile {}",
            self.cores, self.processor, self.memory_gib, self.nofile
        );
        let mut facts = vec![
            ("machine", machine),
            ("kernel", self.kernel.clone()),
            ("versions", self.versions.join(", ")),
            ("command", self.command.clone()),
        ];
        if self.load_average > 0.5 {
            let warning = format!(
                "load average {:.2}: something else is running here; figures will vary",
                self.load_average
            );
            facts.push(("warning", warning));
        }
        facts
    }

    /// The facts, one a line.
    #[must_use]
    pub fn text(&self) -> String {
        let line = |(name, fact): (&str, String)| format!("{name:<9} {fact}\n");
        self.facts().into_iter().map(line).collect()
    }
}

/// A line of `/proc/meminfo` (proc(5)), in KiB.
#[must_use]
pub fn memory_kib(name: &str) -> Option<u64> {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.strip_prefix(':')
    })?;
    line.split_whitespace().next()?.parse().ok()
}

fn sysctl(name: &str) -> Option<(String, String)> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    let value = fs::read_to_string(path).ok()?;
    let words: Vec<&str> = value.split_whitespace().collect();
    Some((name.to_owned(), words.join(" ")))
}

/// The command as a person would type it: the script that started this program, or this program; without
/// the folders of its files, and without secrets.
fn command() -> String {
    match std::env::var("BENCH_COMMAND") {
        Ok(command) => shown(command.split(' ').map(str::to_owned)),
        Err(_) => shown(std::env::args()),
    }
}

/// Options whose values are nobody's business.
const SECRET: &[&str] = &["--token", "--header"];

fn shown(words: impl IntoIterator<Item = String>) -> String {
    let mut shown = Vec::new();
    let mut secret = false;
    for word in words {
        let name = word.split('=').next().unwrap_or_default();
        let named = SECRET.contains(&name);
        shown.push(match &word {
            _ if shown.is_empty() && !word.starts_with("scripts/") => {
                word.rsplit('/').next().unwrap_or_default().to_owned()
            }
            _ if std::mem::take(&mut secret) => "…".to_owned(),
            _ if named && name.len() < word.len() => format!("{name}=…"),
            _ => without_folders(&word),
        });
        secret = named && name.len() == word.len();
    }
    shown.join(" ")
}

/// A text without the folders of the files that it names: where they lie on this machine is nobody's
/// business.
#[must_use]
pub fn without_folders(text: &str) -> String {
    let shown = |word: &str| match word.split_once('=') {
        Some((name, value)) if name.starts_with("--") => format!("{name}={}", public(value)),
        _ => public(word),
    };
    let words = text.split_whitespace().map(shown);
    words.collect::<Vec<_>>().join(" ")
}

/// A word that may be a URL, without who asks and what for; or a file's name without its folders.
fn public(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else {
        return file_name(word).to_owned();
    };
    let (place, query) = match rest.split_once('?') {
        Some((place, _)) => (place, "?…"),
        None => (rest, ""),
    };
    let place = place.split_once('@').map_or(place, |(_, place)| place);
    format!("{scheme}://{place}{query}")
}

/// The name of the file that a word names, or the word.
fn file_name(word: &str) -> &str {
    // With one slash only, it is the path of a URL.
    let is_absolute = word.starts_with('/') && word.matches('/').count() > 1;
    if !is_absolute && !word.starts_with("./") && !word.starts_with("../") {
        return word;
    }
    word.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(word)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_what_every_machine_has() {
        let machine = Machine::look(vec!["something 1.2".to_owned()]);
        assert!(machine.cores >= 1 && machine.memory_gib > 0.0);
        assert!(machine.sysctls.contains_key("fs.file-max"));
        let text = machine.text();
        assert!(text.contains("something 1.2"), "{text}");
        assert!(text.contains(env!("CARGO_PKG_VERSION")), "{text}");
        assert!(memory_kib("MemAvailable") <= memory_kib("MemTotal"));
        assert_eq!(memory_kib("Mem"), None);
    }

    #[test]
    fn secrets_are_not_told() {
        let words = "/usr/bin/ringwire bench echo --token abc --header=X:y --header X:z -n 3";
        let shown = shown(words.split(' ').map(str::to_owned));
        assert_eq!(
            shown,
            "ringwire bench echo --token … --header=… --header … -n 3"
        );
    }

    #[test]
    fn folders_are_not_told() {
        let text = "/home/somebody/ringwire --report ../results/ ws://127.0.0.1:9000/ws /echo";
        let shown = "ringwire --report results ws://127.0.0.1:9000/ws /echo";
        assert_eq!(without_folders(text), shown);
        let text = "--report=/home/somebody/x --url ws://me:word@host:1/ws?token=abc";
        let shown = "--report=x --url ws://host:1/ws?…";
        assert_eq!(without_folders(text), shown);
    }
}
