//! The rules by which shards get cores. Pure: a [`Machine`] and a configuration in, a [`Plan`] out.

use std::fmt;

use super::{Machine, TopologyError};
use crate::config::{Config, RingConfig, cores};

/// Rows of the printed table at most: what one looks at without scrolling.
const MAX_ROWS: usize = 25;
/// Rows before those that are left out of a longer table; the rest stands behind them.
const FIRST_ROWS: usize = 16;

/// Which shard runs where.
///
/// The rules: NUMA node by NUMA node in ascending order, and within a node in the hardware's order,
/// so that few shards share a node and its memory. Each shard gets a physical core, on its first
/// hardware thread that this process may use. Where there are more shards than cores they go round:
/// the second round takes the second hardware threads where there are any. `cores` replaces the
/// order by its own; it may list SMT siblings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The shards in order; at least one.
    pub shards: Vec<ShardPlace>,
    /// Whether some shards share a physical core. They must not wait busily then.
    pub oversubscribed: bool,
    /// Hardware threads for threads that are not shards: first those whose core has no shard, then
    /// the SMT siblings of shards. Empty where shards fill the machine: leave those threads unpinned.
    pub spare: Vec<usize>,
    /// Physical cores with at least one hardware thread that this process may use.
    pub allowed_cores: usize,
    /// Physical cores of the machine.
    pub machine_cores: usize,
}

/// Where one shard runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardPlace {
    /// Number of the shard, from 0.
    pub shard: usize,
    /// The hardware thread it is pinned to, by the operating system's number.
    pub core: usize,
    /// NUMA node of the core, by the operating system's number.
    pub numa_node: usize,
    /// The other hardware threads of its physical core, whether this process may use them or not.
    pub smt_siblings: Vec<usize>,
}

/// A hardware thread that can take a shard.
#[derive(Clone, Copy)]
struct Seat {
    core: usize,
    os_index: usize,
}

/// Places the shards of `config` on `machine`.
///
/// # Errors
/// When this process may use no core, or `cores` lists one that is not there or not allowed.
pub fn plan_on(machine: &Machine, config: &Config) -> Result<Plan, TopologyError> {
    if machine.allowed().is_empty() {
        return Err(TopologyError::NoCore);
    }
    let (seats, default_shards) = match &config.cores {
        Some(list) => {
            let seats = listed(machine, list)?;
            let count = seats.len();
            (seats, count)
        }
        None => rounds(machine),
    };
    let count = config.shards.unwrap_or(default_shards).max(1);
    let taken: Vec<Seat> = seats.iter().copied().cycle().take(count).collect();
    let shards = taken
        .iter()
        .enumerate()
        .map(|(shard, seat)| ShardPlace {
            shard,
            core: seat.os_index,
            numa_node: machine.cores[seat.core].numa_node,
            smt_siblings: machine.cores[seat.core]
                .pus
                .iter()
                .map(|pu| pu.os_index)
                .filter(|&os_index| os_index != seat.os_index)
                .collect(),
        })
        .collect();

    let mut shards_of_core = vec![0; machine.cores.len()];
    for seat in &taken {
        shards_of_core[seat.core] += 1;
    }
    let mut spare: Vec<Seat> = machine
        .pus()
        .filter(|(_, pu)| pu.allowed && !taken.iter().any(|seat| seat.os_index == pu.os_index))
        .map(|(core, pu)| Seat {
            core,
            os_index: pu.os_index,
        })
        .collect();
    spare.sort_by_key(|seat| (shards_of_core[seat.core] > 0, seat.os_index));
    Ok(Plan {
        shards,
        oversubscribed: shards_of_core.iter().any(|&shards| shards > 1),
        spare: spare.into_iter().map(|seat| seat.os_index).collect(),
        allowed_cores: machine
            .cores
            .iter()
            .filter(|core| core.pus.iter().any(|pu| pu.allowed))
            .count(),
        machine_cores: machine.cores.len(),
    })
}

/// The seats that `list` names, in its order.
fn listed(machine: &Machine, list: &[usize]) -> Result<Vec<Seat>, TopologyError> {
    let mut seats = Vec::new();
    let mut missing = Vec::new();
    let mut forbidden = Vec::new();
    for &wanted in list {
        match machine.pus().find(|(_, pu)| pu.os_index == wanted) {
            None => missing.push(wanted),
            Some((_, pu)) if !pu.allowed => forbidden.push(wanted),
            Some((core, pu)) => seats.push(Seat {
                core,
                os_index: pu.os_index,
            }),
        }
    }
    if missing.is_empty() && forbidden.is_empty() {
        Ok(seats)
    } else {
        Err(TopologyError::Cores {
            missing,
            forbidden,
            allowed: machine.allowed(),
        })
    }
}

/// All seats: the first of every core, then the second of those that have two, and so on; and the
/// number of cores.
fn rounds(machine: &Machine) -> (Vec<Seat>, usize) {
    let mut cores: Vec<(usize, Vec<usize>)> = machine
        .cores
        .iter()
        .enumerate()
        .map(|(index, core)| {
            (
                index,
                core.pus
                    .iter()
                    .filter(|pu| pu.allowed)
                    .map(|pu| pu.os_index)
                    .collect(),
            )
        })
        .filter(|(_, pus): &(usize, Vec<usize>)| !pus.is_empty())
        .collect();
    cores.sort_by_key(|&(index, _)| machine.cores[index].numa_node);
    let deepest = cores.iter().map(|(_, pus)| pus.len()).max().unwrap_or(0);
    let seats = (0..deepest)
        .flat_map(|round| {
            cores.iter().filter_map(move |(core, pus)| {
                pus.get(round).map(|&os_index| Seat {
                    core: *core,
                    os_index,
                })
            })
        })
        .collect();
    (seats, cores.len())
}

impl Plan {
    /// How long a shard may wait on its ring before it parks, in microseconds: as configured, but 0
    /// where shards share a core, because a shard that waits busily keeps its neighbour from working.
    pub fn wait_us(&self, ring: &RingConfig) -> u32 {
        if self.oversubscribed { 0 } else { ring.wait_us }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize, thing: &str| {
            format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
        };
        write!(
            f,
            "{}; {} allowed",
            plural(self.shards.len(), "shard"),
            plural(self.allowed_cores, "core")
        )?;
        if self.allowed_cores != self.machine_cores {
            write!(f, " of {}", self.machine_cores)?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:>6}  {:>4}  {:>9}  SMT siblings",
            "shard", "core", "NUMA node"
        )?;
        let hidden = match self.shards.len() {
            count if count > MAX_ROWS => FIRST_ROWS..count - (MAX_ROWS - 1 - FIRST_ROWS),
            _ => 0..0,
        };
        for place in &self.shards {
            if place.shard == hidden.start && !hidden.is_empty() {
                writeln!(f, "   ...  {} more", hidden.len())?;
            }
            if hidden.contains(&place.shard) {
                continue;
            }
            let siblings = match place.smt_siblings.as_slice() {
                [] => "-".into(),
                siblings => cores::format(siblings),
            };
            writeln!(
                f,
                "{:>6}  {:>4}  {:>9}  {siblings}",
                place.shard, place.core, place.numa_node
            )?;
        }
        if self.oversubscribed {
            writeln!(
                f,
                "Shards share cores, so none waits busily (ring.wait_us is taken as 0)."
            )?;
        }
        match self.spare.as_slice() {
            [] => write!(f, "No core is left for other threads; they are not pinned."),
            spare => write!(f, "Other threads: {}.", cores::format(spare)),
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
