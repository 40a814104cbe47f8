//! What a figure was measured on.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// The facts that belong beside every figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    virtualized: bool,
    memory_gib: f64,
    kernel: String,
    nofile: u64,
    load_average: f64,
    ringwire: String,
    commit: String,
    rustc: String,
    command: String,
    unix_time: u64,
}

impl Machine {
    /// Looks around.
    pub(crate) fn look() -> Self {
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
        let memory = read("/proc/meminfo");
        let total_kb = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next())
            .and_then(|number| number.parse::<f64>().ok());
        Self {
            processor: format!("{processor} ({details})"),
            cores: cpuinfo
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            virtualized: cpuinfo.contains(" hypervisor"),
            memory_gib: (total_kb.unwrap_or_default() / 1024.0 / 1024.0 * 10.0).round() / 10.0,
            kernel: format!(
                "{} {}",
                system.sysname().to_string_lossy(),
                system.release().to_string_lossy()
            ),
            nofile: rustix::process::getrlimit(rustix::process::Resource::Nofile)
                .maximum
                .unwrap_or(u64::MAX),
            load_average: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|number| number.parse().ok())
                .unwrap_or_default(),
            ringwire: env!("CARGO_PKG_VERSION").to_owned(),
            commit: output("git", &["rev-parse", "--short", "HEAD"]),
            rustc: output("rustc", &["--version"]),
            command: command(),
            unix_time: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |time| time.as_secs()),
        }
    }

    /// When it was looked at, in seconds since 1970.
    pub(crate) fn unix_time(&self) -> u64 {
        self.unix_time
    }

    /// The facts, one a line.
    pub(crate) fn print(&self) {
        let virtualized = if self.virtualized { ", virtual" } else { "" };
        println!(
            "machine   {} × {}{virtualized}, {} GiB, nofile {}",
            self.cores, self.processor, self.memory_gib, self.nofile
        );
        println!("kernel    {}", self.kernel);
        println!(
            "versions  ringwire {} ({}), {}",
            self.ringwire, self.commit, self.rustc
        );
        println!("command   {}", self.command);
        if self.load_average > 0.5 {
            println!(
                "warning   load average {:.2}: something else is running here; figures will vary",
                self.load_average
            );
        }
        println!();
    }
}

/// The command as a person would type it: the script that started this program, or this program.
fn command() -> String {
    let mut words: Vec<String> = std::env::args().collect();
    if let Some(program) = words.first_mut() {
        let name = program.rsplit('/').next().unwrap_or_default().to_owned();
        *program = name;
    }
    std::env::var("BENCH_COMMAND").unwrap_or_else(|_| words.join(" "))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn output(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map_or_else(
            || "unknown".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
}
