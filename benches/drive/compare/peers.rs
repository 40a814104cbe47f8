//! The other servers: where `scripts/compare` put them, how they are started, which versions they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::server::Launch;
use ringwire::load::machine::without_folders;

/// How a peer is started, from the folder where the peers are installed.
struct Description {
    name: &'static str,
    program: Program,
    arguments: &'static [&'static str],
    /// What it runs, in that folder.
    script: Option<&'static str>,
    collects_garbage: bool,
}

#[derive(Clone, Copy)]
enum Program {
    /// In the folder of the peers.
    Installed(&'static str),
    /// The system's.
    System(&'static str),
}

const PEERS: [Description; 5] = [
    Description {
        name: "bun",
        program: Program::Installed("bun/bun"),
        arguments: &[],
        script: Some("bun/server.js"),
        collects_garbage: true,
    },
    Description {
        name: "ws",
        program: Program::System("node"),
        arguments: &["--expose-gc"],
        script: Some("ws/server.js"),
        collects_garbage: true,
    },
    Description {
        name: "fastwebsockets",
        program: Program::Installed("rust/release/fastwebsockets-server"),
        arguments: &[],
        script: None,
        collects_garbage: false,
    },
    Description {
        name: "tokio-tungstenite",
        program: Program::Installed("rust/release/tokio-tungstenite-server"),
        arguments: &[],
        script: None,
        collects_garbage: false,
    },
    Description {
        name: "websockets",
        program: Program::Installed("python/venv/bin/python"),
        arguments: &[],
        script: Some("python/server.py"),
        collects_garbage: true,
    },
];

/// A peer that can be started.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) launch: Launch,
    /// What it says of itself.
    pub(crate) version: String,
}

/// A peer that is not part of the comparison, or not any more.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Absent {
    pub(crate) peer: String,
    pub(crate) reason: String,
}

/// The names of all peers.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PEERS.iter().map(|peer| peer.name)
}

/// The peers called `wanted` (all if there are none), kept on `core`; and those that are not there.
pub(crate) fn find(
    directory: &Path,
    wanted: &[String],
    core: usize,
) -> anyhow::Result<(Vec<Peer>, Vec<Absent>)> {
    if let Some(unknown) = wanted.iter().find(|name| !names().any(|own| own == **name)) {
        let known = names().collect::<Vec<_>>().join(", ");
        bail!("--peers: there is no peer {unknown:?}; there are {known}");
    }
    let (mut found, mut absent) = (Vec::new(), Vec::new());
    for description in &PEERS {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == description.name) {
            continue;
        }
        match description.find(directory, core) {
            Ok(peer) => found.push(peer),
            Err(error) => absent.push(Absent {
                peer: description.name.to_owned(),
                reason: without_folders(&format!("{error:#}")),
            }),
        }
    }
    Ok((found, absent))
}

impl Description {
    fn find(&self, directory: &Path, core: usize) -> anyhow::Result<Peer> {
        // The script leaves a note where it could not install one.
        let note = directory.join(format!("{}.missing", self.name));
        if let Ok(reason) = fs::read_to_string(note) {
            bail!("not installed: {}", reason.trim());
        }
        let installed = |file: &str| {
            let path = directory.join(file);
            path.exists()
                .then_some(path)
                .context("not installed: scripts/compare does that")
        };
        let program = match self.program {
            Program::Installed(file) => installed(file)?,
            Program::System(name) => PathBuf::from(name),
        };
        let mut arguments: Vec<String> = self.arguments.iter().map(|&word| word.into()).collect();
        if let Some(script) = self.script {
            arguments.push(installed(script)?.to_string_lossy().into_owned());
        }
        let launch = Launch {
            name: self.name.to_owned(),
            program,
            arguments,
            config: String::new(),
            cores: vec![core],
            collects_garbage: self.collects_garbage,
        };
        let version = version(&launch)?;
        Ok(Peer { launch, version })
    }
}

/// What a server says with `--version`.
pub(crate) fn version(launch: &Launch) -> anyhow::Result<String> {
    let output = Command::new(&launch.program)
        .args(&launch.arguments)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .context("it cannot be started")?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.lines().next() {
        Some(version) if output.status.success() => Ok(version.trim().to_owned()),
        _ => {
            let error = String::from_utf8_lossy(&output.stderr);
            let last = error.lines().last().unwrap_or_default();
            bail!("it does not say its version ({}): {last}", output.status)
        }
    }
}
