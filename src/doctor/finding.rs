//! What the doctor has found about one setting, and all of it together.

use serde::Serialize;

use super::tree::Fact;

/// How a setting is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Enough.
    Ok,
    /// Nothing to compare it with; worth knowing.
    Info,
    /// The connections fit, but something about them will be worse than it could be.
    Warn,
    /// The connections don't fit.
    Fail,
    /// It cannot be known here; `now` says why.
    Unknown,
}

/// A step of setting something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct How {
    /// Where or when: "now", "in /etc/sysctl.d/90-ringwire.conf".
    #[serde(rename = "where")]
    pub place: String,
    /// What to type or write there, as it is; or a sentence.
    pub line: String,
}

impl How {
    pub(super) fn new(place: impl Into<String>, line: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            line: line.into(),
        }
    }
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The part of the host that it belongs to.
    pub group: &'static str,
    /// Its name, as the system calls it where it has one.
    pub setting: String,
    /// How it is.
    pub status: Status,
    /// Its value, or why that is not known.
    pub now: String,
    /// What the connections that were asked for need.
    pub needed: String,
    /// What it does to connections, and why so much is needed.
    pub why: String,
    /// How to set it; at least one step.
    pub how: Vec<How>,
    /// Connections that fit as it is; `None` where it does not limit their number, or it is not known.
    pub holds: Option<u64>,
    /// Whether nothing can be said about the host while this is unknown.
    #[serde(skip)]
    pub(super) decides: bool,
}

impl Finding {
    pub(super) fn new(
        group: &'static str,
        setting: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self {
            group,
            setting: setting.into(),
            status: Status::Info,
            now: String::new(),
            needed: "-".into(),
            why: why.into(),
            how: Vec::new(),
            holds: None,
            decides: false,
        }
    }

    pub(super) fn now(mut self, now: impl Into<String>) -> Self {
        self.now = now.into();
        self
    }

    pub(super) fn needed(mut self, needed: impl Into<String>) -> Self {
        self.needed = needed.into();
        self
    }

    pub(super) fn status(mut self, status: Status) -> Self {
        self.status = status;
        self
    }

    pub(super) fn how(mut self, place: impl Into<String>, line: impl Into<String>) -> Self {
        self.how.push(How::new(place, line));
        self
    }

    /// How to set a sysctl: now, and for good where sysctl.d(5) reads it.
    pub(super) fn sysctl(self, name: &str, value: impl ToString) -> Self {
        let value = value.to_string();
        let quoted = match value.contains(' ') {
            true => format!("\"{value}\""),
            false => value.clone(),
        };
        self.how("now", format!("sysctl -w {name}={quoted}"))
            .how(SYSCTL_FILE, format!("{name} = {value}"))
    }

    /// The same for a value of which more does no harm: never less than it is `now`.
    pub(super) fn sysctl_at_least(self, name: &str, value: u64, now: &Fact<u64>) -> Self {
        let value = now.as_ref().map_or(value, |now| value.max(*now));
        self.sysctl(name, value)
    }

    /// How to set a limit of the service.
    pub(super) fn unit(self, line: impl Into<String>) -> Self {
        self.how(
            "in the unit of the service (systemctl edit ringwire), under [Service]",
            line,
        )
    }

    /// It holds this many connections, and fails if `wanted` are more.
    pub(super) fn holds(mut self, holds: u64, wanted: u64) -> Self {
        self.holds = Some(holds);
        self.status = match holds >= wanted {
            true => Status::Ok,
            false => Status::Fail,
        };
        self
    }

    /// It is not known, because of `reason`.
    pub(super) fn unknown(self, reason: &impl ToString) -> Self {
        self.now(reason.to_string()).status(Status::Unknown)
    }

    /// Without it nothing can be said about the host.
    pub(super) fn decides(mut self) -> Self {
        self.decides = true;
        self
    }
}

/// Where tuning/apply writes too.
const SYSCTL_FILE: &str = "in /etc/sysctl.d/90-ringwire.conf";

/// A setting that limits the number of connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// Its name.
    pub setting: String,
    /// How many it allows.
    pub connections: u64,
}

/// Everything about a host and a number of connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How many were asked for.
    pub connections: u64,
    /// The shards that it was computed with.
    pub shards: u64,
    /// Whether they fit; `None` where something that decides it is not known.
    pub fits: Option<bool>,
    /// Connections that the host holds as it is; `None` where something that decides it is not known. Then
    /// it is at most the first of `limits`.
    pub holds: Option<u64>,
    /// What limits the number, the tightest first; all of them, also those that allow more than asked for.
    pub limits: Vec<Stop>,
    /// What one has to know about where the figures come from.
    pub notes: Vec<String>,
    /// The settings.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(
        connections: u64,
        shards: u64,
        notes: Vec<String>,
        findings: Vec<Finding>,
    ) -> Self {
        let mut limits: Vec<Stop> = findings
            .iter()
            .filter_map(|finding| {
                Some(Stop {
                    setting: finding.setting.clone(),
                    connections: finding.holds?,
                })
            })
            .collect();
        limits.sort_by_key(|limit| limit.connections);
        let least = limits.first().map(|limit| limit.connections);
        let undecided = findings
            .iter()
            .any(|finding| finding.decides && finding.status == Status::Unknown);
        let fits = match least {
            Some(least) if least < connections => Some(false),
            _ if undecided => None,
            Some(_) => Some(true),
            None => None,
        };
        let holds = least.filter(|_| !undecided);
        Self {
            connections,
            shards,
            fits,
            holds,
            limits,
            notes,
            findings,
        }
    }
}
