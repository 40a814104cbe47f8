//! The report that goes beside the sources: raw data, and what people read of it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;

use super::peers::{Absent, Peer};
use crate::report::{Finished, Table};

/// What stands above figures of a quick run.
pub(super) const QUICK: &str =
    "A quick run: smaller than the names of the cases say, and its figures mean nothing.";

/// Everything that is published.
pub(super) struct Document<'a> {
    pub(super) finished: Finished,
    pub(super) quick: bool,
    pub(super) summary: Table,
    /// With their titles.
    pub(super) tables: Vec<(String, Table)>,
    /// Where peers are ahead.
    pub(super) better: Vec<String>,
    pub(super) peers: &'a [Peer],
    pub(super) absent: &'a [Absent],
}

impl Document<'_> {
    /// Writes `DATE-compare/raw.json` and `DATE-compare/README.md` in `folder`; where that is taken,
    /// `DATE-compare-2`, and so on. Returns the folder that it made.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let time = UNIX_EPOCH + Duration::from_secs(self.finished.machine.unix_time);
        let day = humantime::format_rfc3339_seconds(time).to_string();
        let day = day.split('T').next().unwrap_or_default().to_owned();
        let name = |number: u32| match number {
            1 => format!("{day}-compare"),
            _ => format!("{day}-compare-{number}"),
        };
        let mut number = 1;
        while folder.join(name(number)).exists() {
            number += 1;
        }
        let made = folder.join(name(number));
        let failed = || format!("cannot write to {}", made.display());
        fs::create_dir_all(&made).with_context(failed)?;
        let raw = serde_json::to_vec(&self.finished.raw)?;
        fs::write(made.join("raw.json"), raw).with_context(failed)?;
        let text = self.markdown(&day);
        fs::write(made.join("README.md"), text).with_context(failed)?;
        Ok(made)
    }

    fn markdown(&self, day: &str) -> String {
        let mut text = format!("# Comparison of {day}\n\n");
        text.push_str("How each server is set up, and why: `docs/comparison.md`. All measurements: `raw.json`.\n\n");
        if self.quick {
            let _ = writeln!(text, "{QUICK}\n");
        }
        for (name, fact) in self.finished.machine.facts() {
            let _ = writeln!(text, "- {name}: {fact}");
        }
        text.push_str("\n## Peers\n\n");
        for peer in self.peers {
            let (launch, version) = (&peer.launch, &peer.version);
            let _ = writeln!(
                text,
                "- {}: {version}; `{}`",
                launch.name,
                launch.command_line()
            );
        }
        for Absent { peer, reason } in self.absent {
            let _ = writeln!(text, "- {peer}: not compared, {reason}");
        }
        let _ = writeln!(
            text,
            "\n## Summary\n\nMedians; in brackets ringwire's figure to the peer's, the median of the \
             rounds' ratios. Below 1 ringwire is ahead.\n\n{}",
            self.summary.markdown()
        );
        let _ = writeln!(
            text,
            "## Figures and their bounds\n\n{}",
            self.finished.figures.markdown()
        );
        text.push_str("## Where a peer is better than ringwire\n\n");
        for line in &self.better {
            let _ = writeln!(text, "- {line}");
        }
        for (title, table) in &self.tables {
            let _ = writeln!(text, "\n## {title}\n\n{}", table.markdown().trim_end());
        }
        text
    }
}
