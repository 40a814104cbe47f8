//! System calls of a server, counted from outside.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// Counts the system calls of all threads of `pid` for `window`, in calls per second.
///
/// `perf stat` on the tracepoint costs little. Without it (or without the right to use it) there is
/// no figure: `strace` slows a server so much that it would do something else.
pub(crate) fn per_second(pid: u32, window: Duration) -> anyhow::Result<f64> {
    let seconds = window.as_secs_f64();
    let output = Command::new("perf")
        .args(["stat", "-x", ";", "-e", "raw_syscalls:sys_enter", "-p"])
        .arg(pid.to_string())
        .args(["--", "sleep", &seconds.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("perf is not installed")?;
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text
        .lines()
        .find(|line| line.contains("raw_syscalls:sys_enter"));
    let count = line.and_then(|line| line.split(';').next()?.parse::<f64>().ok());
    match count {
        Some(count) => Ok(count / seconds),
        None => bail!("perf stat counts no system calls here: {}", text.trim()),
    }
}

/// How a profile divides a server's time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Profile {
    /// The share of them in user space, from 0 to 1.
    pub(crate) user_share: f64,
}

/// Samples `pid` on the processor clock for `window` and says how much of it was user space: finer
/// than the accounting by ticks.
pub(crate) fn profile(pid: u32, window: Duration, data: PathBuf) -> anyhow::Result<Profile> {
    let recorded = Command::new("perf")
        .args(["record", "-q", "-e", "cpu-clock", "-F", "20000", "-p"])
        .arg(pid.to_string())
        .arg("-o")
        .arg(&data)
        .args(["--", "sleep", &window.as_secs_f64().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("perf is not installed")?;
    if !recorded.success() {
        bail!("perf record does not work here");
    }
    let script = Command::new("perf")
        .args(["script", "-F", "misc,ip", "-i"])
        .arg(&data)
        .stderr(Stdio::null())
        .output()?;
    let (mut user, mut samples) = (0u64, 0u64);
    for line in String::from_utf8_lossy(&script.stdout).lines() {
        match line.split_whitespace().next() {
            Some("U") => {
                user += 1;
                samples += 1;
            }
            Some("K") => samples += 1,
            _ => {}
        }
    }
    if samples == 0 {
        bail!("perf record took no samples");
    }
    Ok(Profile {
        user_share: user as f64 / samples as f64,
    })
}
