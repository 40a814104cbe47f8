//! Memory of servers: their own, and what the kernel holds for their sockets.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use ringwire::load::Process;
use ringwire::load::process::{SlabCache, settled_dirty_bytes, slab_bytes, socket_slabs};
use ringwire::load::statistics::slope;
use serde::Serialize;

/// User memory is read after this time at the latest, settled or not.
const LIMIT: Duration = Duration::from_secs(15);

/// Memory at one number of connections.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Point {
    pub(crate) connections: u32,
    pub(crate) private_dirty_bytes: u64,
    pub(crate) slabs: Option<Vec<SlabCache>>,
    /// TCP sockets of the whole machine, as whose memory the slabs are.
    tcp_sockets: Option<u64>,
}

impl Point {
    /// Reads the memory of `processes`, which hold `connections`, once it has not changed for `quiet`; that of
    /// the kernel once it has stopped moving, or after `slab_looks` looks. `None`: that one not at all.
    pub(crate) fn take(
        processes: &[Process],
        connections: u32,
        quiet: Duration,
        slab_looks: Option<u32>,
    ) -> anyhow::Result<Self> {
        let private_dirty_bytes = settled_dirty_bytes(processes, quiet, LIMIT)?;
        let slabs = slab_looks.map(settled_slabs);
        if let Some(Err(error)) = &slabs {
            eprintln!("note: kernel memory is unknown: /proc/slabinfo: {error}");
        }
        Ok(Self {
            connections,
            private_dirty_bytes,
            slabs: slabs.and_then(Result::ok),
            tcp_sockets: tcp_sockets(),
        })
    }

    /// User memory, in bytes.
    pub(crate) fn user_bytes(&self) -> Option<u64> {
        Some(self.private_dirty_bytes)
    }

    /// Kernel slab of both ends of the connections, in bytes; `None` where it cannot be read.
    pub(crate) fn kernel_bytes(&self) -> Option<u64> {
        self.slabs.as_deref().map(slab_bytes)
    }
}

/// Whether the machine has as many TCP sockets more at the second point as the connections that were opened
/// between have, but for one in 500: others open and close some, too, and their memory cannot be told apart.
pub(crate) fn undisturbed(few: &Point, many: &Point) -> bool {
    let Some((before, after)) = few.tcp_sockets.zip(many.tcp_sockets) else {
        return true;
    };
    let ends = 2 * u64::from(many.connections - few.connections);
    (before + ends).abs_diff(after) <= ends / 500
}

/// `alloc` in the line `TCP:` of sockstat: not of this network namespace alone, as the slabs are not.
fn tcp_sockets() -> Option<u64> {
    let text = fs::read_to_string("/proc/net/sockstat").ok()?;
    let line = text.lines().find(|line| line.starts_with("TCP:"))?;
    let mut words = line.split_whitespace().skip_while(|&word| word != "alloc");
    words.nth(1)?.parse().ok()
}

/// Growth from one point to the other, in bytes per connection.
pub(crate) fn per_connection(
    few: &Point,
    many: &Point,
    bytes: impl Fn(&Point) -> Option<u64>,
) -> Option<f64> {
    let at = |point: &Point| Some((f64::from(point.connections), bytes(point)? as f64));
    slope(at(few)?, at(many)?)
}

/// Kernel memory once it has stopped moving: sockets are freed some time after their process ended.
pub(crate) fn settled_slabs(looks: u32) -> io::Result<Vec<SlabCache>> {
    const STEP: Duration = Duration::from_millis(250);
    const SAME_BYTES: u64 = 64 * 1024;
    let mut last = socket_slabs()?;
    let mut same = 0;
    for _ in 0..looks {
        thread::sleep(STEP);
        let now = socket_slabs()?;
        let moved = slab_bytes(&now).abs_diff(slab_bytes(&last));
        same = if moved < SAME_BYTES { same + 1 } else { 0 };
        last = now;
        if same == 4 {
            break;
        }
    }
    Ok(last)
}
