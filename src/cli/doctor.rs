//! `ringwire doctor`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::config::refuse;
use super::{FAILURE, USAGE, print};
use crate::config::{Config, FlagValue, Loaded, Sources, load};
use crate::doctor::{Explain, Host, MAX_CONNECTIONS, Wanted};
use crate::server::limits;
use crate::topology;

/// How it ends, for its help.
pub(super) const ENDING: &str = "\
Nothing is changed. Settings that need root to be read, or are not there (containers hide some), are \"unknown\", with the \
reason. Below --root nothing is tried: whether io_uring is allowed by seccomp is not known then, and the limits are those of \
proc/self or proc/PID there.

Exit codes: 0 the connections fit; 1 they don't, or something that decides it is unknown; 2 wrong flags or configuration.";

/// The flags of `ringwire doctor`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Connections that the host is to hold at the same time
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(1..=MAX_CONNECTIONS),
    )]
    connections: u64,
    /// Shards that the server runs [default: as configured, or one per physical core]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    shards: Option<String>,
    /// The server's configuration file, for its shards, rings and addresses [env: RINGWIRE_CONFIG]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Look at the limits and the cgroup of this process, such as a running server's, instead of this one's
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// Read proc, sys and etc below this folder, such as a copied tree, instead of /
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Explain every setting, not only those that want something done
    #[arg(long, conflicts_with = "json")]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: Options) -> anyhow::Result<ExitCode> {
    let loaded = match settings(&options) {
        Ok(loaded) => loaded,
        Err(problems) => return Ok(refuse(&problems)),
    };
    let root = options.root.as_deref().unwrap_or(Path::new("/"));
    let mut host = match Host::read(root, options.pid) {
        Ok(host) => host,
        Err(error) => return Ok(wrong(&error.to_string())),
    };
    let shards = match (loaded.config.shards, &loaded.config.cores, &options.root) {
        (Some(shards), _, _) => shards as u64,
        (None, Some(cores), Some(_)) => cores.len() as u64,
        (None, None, Some(_)) => match host.physical_cores() {
            Some(cores) => cores,
            None => {
                return Ok(wrong(&format!(
                    "sys/devices/system/cpu below {} does not say how many cores there are: give --shards",
                    root.display()
                )));
            }
        },
        (None, _, None) => match topology::plan(&loaded.config) {
            Ok(plan) => plan.shards.len() as u64,
            Err(error) => return Ok(wrong(&format!("{error}; or give --shards"))),
        },
    };
    if options.root.is_none() {
        host.try_ring();
    }
    let report = host.examine(&wanted(&loaded.config, options.connections, shards));
    if options.json {
        let json = serde_json::to_string_pretty(&report)?;
        print(&format!("{json}\n"))?;
    } else {
        let explain = match options.all {
            true => Explain::All,
            false => Explain::Problems,
        };
        print(&report.to_text(explain))?;
    }
    Ok(match report.fits {
        Some(true) => ExitCode::SUCCESS,
        _ => ExitCode::from(FAILURE),
    })
}

/// The configuration as `serve` would have it: file, environment, and `--shards`.
fn settings(options: &Options) -> Result<Loaded, Vec<crate::config::ConfigError>> {
    let shards = options.shards.iter().map(|shards| FlagValue {
        key: "shards",
        flag: "--shards".to_owned(),
        values: vec![shards.clone()],
    });
    load(&Sources {
        file: options.config.clone(),
        environment: std::env::vars_os().collect(),
        flags: shards.collect(),
    })
}

fn wanted(config: &Config, connections: u64, shards: u64) -> Wanted {
    Wanted {
        connections,
        shards,
        connections_per_shard: config.client.connections_per_shard,
        descriptors: limits::descriptors(config, shards),
        locked_bytes: limits::locked_bytes(config, shards),
        rings_locked_since: limits::RINGS_ARE_LOCKED,
        page_bytes: rustix::param::page_size() as u64,
    }
}

fn wrong(problem: &str) -> ExitCode {
    eprintln!("ringwire: {problem}");
    ExitCode::from(USAGE)
}
