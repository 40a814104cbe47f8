//! How much of what a number of connections needs, and how many connections there are in what there is.
//! Pure arithmetic; every figure with where it comes from.

use crate::config::limits::{LISTEN_BACKLOG, MAX_CONNECTIONS_PER_SHARD};

/// Kernel memory of one idle connection, in bytes. Measured with a million of them and clients that cost
/// nothing on this host: TCP socket, inode, file, directory entry, the security module's labels, the armed poll, and
/// the slabs' waste. Without buffers, which an idle connection has none of.
pub(super) const KERNEL_BYTES: u64 = 4600;
/// The server's own memory of one connection, in bytes: 84 to 104 idle, 119 with a common channel
/// (README, "Figures"), rounded up. A user id, presence and more channels come on top.
pub(super) const USER_BYTES: u64 = 160;
/// A shard itself, in bytes: buffer rings, completion queue, pool of payloads, stacks
/// (docs/architecture.md, "Memory").
const SHARD_BYTES: u64 = 8 << 20;
/// One place of a ring's table of direct descriptors: a pointer, allocated for the whole table at start.
const TABLE_PLACE_BYTES: u64 = 8;

/// Places of each table that no accept takes (`shard/accept.rs`): they are for connections that other
/// shards hand over.
const SPARE_PLACES: u64 = 64;
/// Shards are kept even to 1 part in 32 (`mesh`: `relief_for`). Whoever is hashed to a full one waits while
/// others have places.
const UNEVEN_PARTS: u64 = 32;

/// All clients come back within so many seconds after a restart: what clients with a backoff of some
/// seconds do.
const RECONNECT_S: u64 = 10;
/// For so long a busy shard may not accept, in seconds.
const STALL_S: u64 = 1;

/// Connections that share a bucket of the kernel's table of established ones, beyond which a lookup (one per
/// packet) is felt. Linux by itself makes at most 524,288 buckets, so a million connections are 2 in each.
const PER_BUCKET: u64 = 2;

/// Places in one shard's table, for `connections` on `shards` shards that are not quite even.
pub(super) fn places(connections: u64, shards: u64) -> u64 {
    let share = connections.div_ceil(shards);
    let uneven = match shards {
        1 => 0,
        _ => share.div_ceil(UNEVEN_PARTS),
    };
    let places = share + uneven;
    // Of a small table an eighth is spare.
    places + SPARE_PLACES.min(places.div_ceil(7))
}

/// Connections that `shards` tables of `places` hold: the inverse of [`places`].
pub(super) fn held(places: u64, shards: u64) -> u64 {
    let usable = places - SPARE_PLACES.min(places / 8);
    let even = match shards {
        1 => usable,
        _ => usable * UNEVEN_PARTS / (UNEVEN_PARTS + 1),
    };
    even.saturating_mul(shards)
}

/// The largest table that a limit of open files allows.
pub(super) fn table_places(nofile: Option<u64>) -> u64 {
    nofile
        .unwrap_or(u64::MAX)
        .min(MAX_CONNECTIONS_PER_SHARD.into())
}

/// What to set LimitNOFILE to: a tenth more than all connections on one shard, so that it need not be
/// touched when the number of shards changes; never more than a table may have, where that is enough.
pub(super) fn advised_nofile(connections: u64, needed: u64) -> u64 {
    needed.max(connections + connections / 10)
}

/// What to set fs.nr_open to, so that the limit may be raised to `nofile`.
pub(super) fn advised_nr_open(nofile: u64) -> u64 {
    nofile.next_power_of_two()
}

/// Memory of the server and of the kernel, for idle connections.
pub(super) fn memory_bytes(connections: u64, shards: u64, places: u64) -> u64 {
    connections * (KERNEL_BYTES + USER_BYTES) + fixed_bytes(shards, places)
}

/// Connections that this much memory holds.
pub(super) fn held_by_memory(bytes: u64, shards: u64, places: u64) -> u64 {
    bytes.saturating_sub(fixed_bytes(shards, places)) / (KERNEL_BYTES + USER_BYTES)
}

/// What shards take before the first connection.
pub(super) fn fixed_bytes(shards: u64, places: u64) -> u64 {
    shards * (SHARD_BYTES + places * TABLE_PLACE_BYTES)
}

/// `net.core.somaxconn`: what arrives at one shard while it accepts nothing, when all clients come back at
/// the same time (listen(2), ip-sysctl.rst). The server asks for [`LISTEN_BACKLOG`] and gets no more.
pub(super) fn backlog(connections: u64, shards: u64) -> u64 {
    let a_second = connections.div_ceil(RECONNECT_S * shards);
    (a_second * STALL_S).clamp(128, LISTEN_BACKLOG as u64)
}

/// `tcp_mem`, in pages: a page for each connection, as when a message to all of them is on its way (tcp(7)).
/// The kernel takes whole pages for a socket's buffers, and none for an idle socket.
pub(super) fn buffer_pages(connections: u64) -> u64 {
    connections
}

/// Buckets of the table of established connections.
pub(super) fn buckets(connections: u64) -> u64 {
    connections.div_ceil(PER_BUCKET)
}

/// `nf_conntrack_max`: what there is, one entry for each connection, and an eighth for those that have
/// closed, whose entries stay for up to two minutes (nf_conntrack-sysctl.rst).
pub(super) fn conntrack_entries(connections: u64, tracked: u64) -> u64 {
    tracked + connections + connections / 8
}

/// Threads: one for each shard, one for blocking calls of each shard's executor, and some for the process.
pub(super) fn threads(shards: u64) -> u64 {
    2 * shards + 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_hold_what_they_are_for() {
        for shards in [1, 2, 7, 16, 53, 1024] {
            for connections in [1, 10, 99, 1000, 20_000, 1_000_000, 1 << 30] {
                let places = places(connections, shards);
                let held = held(places, shards);
                assert!(
                    held >= connections,
                    "{connections} on {shards}: {places} places hold {held}"
                );
                assert!(
                    held <= connections + connections / 10 + 10 * shards,
                    "{connections} on {shards}: {places} places hold {held}"
                );
            }
        }
        assert_eq!(held(0, 4), 0);
        // A million with nofile 20,000 (docs: it took 53 shards).
        assert!(held(20_000, 51) < 1_000_000 && held(20_000, 53) >= 1_000_000);
    }

    #[test]
    fn a_table_has_its_own_bound() {
        assert_eq!(table_places(Some(20_000)), 20_000);
        assert_eq!(table_places(Some(2_000_000)), 1 << 20);
        assert_eq!(table_places(None), 1 << 20);
    }

    #[test]
    fn figures_of_a_million() {
        const MILLION: u64 = 1_000_000;
        assert_eq!(advised_nofile(MILLION, places(MILLION, 1)), 1_100_000);
        assert_eq!(advised_nr_open(1_100_000), 2_097_152);
        assert_eq!(backlog(MILLION, 1), 65_535);
        assert_eq!(backlog(MILLION, 16), 6_250);
        assert_eq!(backlog(10, 16), 128);
        assert_eq!(buckets(MILLION), 500_000);
        assert_eq!(conntrack_entries(MILLION, 7), 1_125_007);
        let bytes = memory_bytes(MILLION, 16, 1 << 20);
        assert!((4_900_000_000..5_200_000_000).contains(&bytes), "{bytes}");
        assert_eq!(held_by_memory(bytes, 16, 1 << 20), MILLION);
        assert_eq!(held_by_memory(1 << 20, 16, 1 << 20), 0);
    }
}
