//! Servers under load: started, pinned, found, stopped.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::Process;
use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};
use tempfile::TempDir;

/// A server prints its address within this time, or something is wrong.
const START: Duration = Duration::from_secs(20);
/// A server that was asked to stop is ended after this time.
const STOP: Duration = Duration::from_secs(10);
/// How variables of the environment begin that change what a server does: ringwire's own, and those of
/// the runtimes that peers need.
const SETTINGS: [&str; 6] = ["RINGWIRE_", "BUN_", "NODE_", "PYTHON", "TOKIO_", "WS_NO_"];
/// The name of the configuration in its directory.
const CONFIG: &str = "ringwire.toml";

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What tables call it.
    pub name: String,
    /// The program; examples of this crate stand next to this one.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What stands in the file that `--config` names; empty: there is no such file.
    pub config: String,
    /// Cores (operating system indexes) that all its threads are kept on. Empty: any.
    pub cores: Vec<usize>,
    /// Whether it collects garbage when it gets SIGUSR2. Others would be ended by that.
    pub collects_garbage: bool,
}

impl Launch {
    /// The command as a person would type it. Of files it shows the names: where they lie on this
    /// machine says nothing.
    #[must_use]
    pub fn command_line(&self) -> String {
        let name = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
        let mut words = vec![name(&self.program.to_string_lossy())];
        words.extend(self.arguments.iter().map(|word| name(word)));
        if !self.config.is_empty() {
            words.push("--config FILE".to_owned());
        }
        words.join(" ")
    }

    /// The same server with `config` in its file.
    #[must_use]
    pub fn with_config(&self, config: &str) -> Self {
        Self {
            config: config.to_owned(),
            ..self.clone()
        }
    }
}

/// A running server; it is stopped at the latest when this value is dropped.
pub struct Server {
    child: Child,
    /// Holds the configuration while the server runs.
    _config: Option<TempDir>,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it uses.
    pub process: Process,
}

impl Server {
    /// Starts a server and waits until it says where it listens. Its standard error goes to
    /// `NAME.stderr` in `log_dir`.
    ///
    /// # Errors
    /// When it cannot be started, or does not say where it listens within 20 s; with what it said.
    pub fn start(launch: &Launch, log_dir: &Path) -> anyhow::Result<Self> {
        let log = log_dir.join(format!("{}.stderr", launch.name));
        let mut command = Command::new(&launch.program);
        // What is measured depends on the command alone.
        for (name, _) in std::env::vars_os() {
            let word = name.to_string_lossy();
            if SETTINGS.iter().any(|prefix| word.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        let config = write_config(&launch.config).context("cannot write a configuration")?;
        command.args(&launch.arguments);
        if let Some(directory) = &config {
            command.arg("--config").arg(directory.path().join(CONFIG));
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?);
        let started = start_on(command, &launch.cores);
        let mut child =
            started.with_context(|| format!("cannot start {}", launch.program.display()))?;
        let stdout = child.stdout.take().context("stdout is a pipe")?;
        match listening_address(stdout) {
            Ok(address) => Ok(Self {
                address,
                process: Process::new(child.id())?,
                child,
                _config: config,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                Err(error.context(format!("{} said: {}", launch.command_line(), said.trim())))
            }
        }
    }

    /// The process's identity.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets the server collect garbage, if it knows how to; it does so soon after.
    ///
    /// # Errors
    /// When its process is gone.
    pub fn collect_garbage(&self, launch: &Launch) -> anyhow::Result<()> {
        match i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            Some(pid) if launch.collects_garbage => Ok(kill_process(pid, Signal::USR2)?),
            _ => Ok(()),
        }
    }

    /// Asks the server to stop (SIGTERM) and waits for it; ends it after 10 s. Returns how it ended.
    ///
    /// # Errors
    /// When it had ended by itself before.
    pub fn stop(mut self) -> anyhow::Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server ended by itself during the measurement: {status}");
        }
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if asked.elapsed() > STOP {
                self.child.kill()?;
                return Ok(self.child.wait()?);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a server's configuration into a directory of its own, if there is any.
fn write_config(config: &str) -> std::io::Result<Option<TempDir>> {
    if config.is_empty() {
        return Ok(None);
    }
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join(CONFIG), config)?;
    Ok(Some(directory))
}

/// Starts `command` from a thread that is kept on `cores`: a child inherits that.
fn start_on(mut command: Command, cores: &[usize]) -> anyhow::Result<Child> {
    thread::scope(|scope| {
        let starter = scope.spawn(|| -> anyhow::Result<Child> {
            pin_thread(cores)?;
            Ok(command.spawn()?)
        });
        starter
            .join()
            .unwrap_or_else(|_| bail!("the starting thread panicked"))
    })
}

/// Keeps the current thread on `cores`, if there are any.
///
/// # Errors
/// When the system does not know one of them, or this process may not run there.
pub fn pin_thread(cores: &[usize]) -> anyhow::Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core);
    }
    sched_setaffinity(None, &set).with_context(|| format!("cannot pin to cores {cores:?}"))
}

/// Reads lines until one names an address; a thread reads on, so that the server never blocks.
fn listening_address(stdout: ChildStdout) -> anyhow::Result<SocketAddr> {
    let (found, address) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let host = line.strip_prefix("listening on ws://");
            let host = host.and_then(|rest| rest.split('/').next());
            if let Some(address) = host.and_then(|host| host.trim().parse::<SocketAddr>().ok()) {
                let _ = found.send(address);
            }
        }
    });
    address
        .recv_timeout(START)
        .context("no line `listening on ws://ADDRESS:PORT` on its standard output")
}
