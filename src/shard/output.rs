//! The end of a turn: at most one send per socket, one batch per other shard, closes last.

use super::Shard;
use super::connection::{Flags, Phase};
use super::deliver::write_gap;
use super::handler::Handler;
use super::outbox::{PAUSE_BYTES, Piece};
use super::queue::Gap;
use crate::ring::{Completion, Op, Ring, Token, errno};
use std::net::Shutdown;

impl<R: Ring, H: Handler> Shard<R, H> {
    /// Delivers what the turn brought for channels, sends for every connection that has something,
    /// closes those that are over, and passes on what other shards are to know. Returns whether
    /// anything was done.
    pub(super) fn flush(&mut self) -> bool {
        let mut busy = self.deliver_touched();
        super::run_events(&mut self.handler, &mut self.core);

        let mut dirty = std::mem::take(&mut self.core.dirty);
        busy |= !dirty.is_empty();
        // In slab order: walking connections at random costs more than the sort.
        if !dirty.is_sorted() {
            dirty.sort_unstable();
        }
        for &key in &dirty {
            self.flush_connection(key);
        }
        dirty.clear();
        // Closing one connection can make another dirty only through the handler, in a later turn;
        // those that were marked meanwhile are kept.
        dirty.append(&mut self.core.dirty);
        self.core.dirty = dirty;

        let Self { ring, core, .. } = self;
        let kept = core.mesh.flush(|to| {
            busy = true;
            ring.wake(to);
        });
        self.held_back = kept > 0;
        if kept > 0 {
            core.counters.batches_kept.add(kept as u64);
        }
        busy
    }

    /// Delivers what has come for channels and is not gathered any longer. Returns whether there was
    /// anything.
    pub(super) fn deliver_touched(&mut self) -> bool {
        let mut touched = std::mem::take(&mut self.touched);
        let now_ms = self.core.clock.elapsed_ms;
        self.core.local.take_touched(&mut touched, now_ms);
        for &channel in &touched {
            self.core.deliver_channel(channel);
        }
        let any = !touched.is_empty();
        self.touched = touched;
        any
    }

    /// Sends what waits for a connection, or takes the step that follows when all has left.
    fn flush_connection(&mut self, key: u32) {
        let core = &mut self.core;
        let (local, codec, endpoints) = (&core.local, &core.codec, &core.endpoints);
        let Some(connection) = core.connections.get_mut(key as usize) else {
            return;
        };
        connection.flags.clear(Flags::DIRTY);
        if connection.phase == Phase::Dead || connection.flags.any(Flags::SENDING) {
            return;
        }
        let endpoint = usize::from(connection.endpoint);
        let write = |gap: &Gap| write_gap(local, codec, endpoints[endpoint].form, gap);
        if let Some(Piece {
            payload,
            start,
            end,
        }) = connection.next_piece(&mut core.pool, write)
        {
            connection.flags.set(Flags::SENDING);
            connection.sending_since = core.clock.now;
            connection.in_flight += 1;
            let token = Token::new(Op::Send, key, connection.generation);
            self.ring.send(connection.slot, payload, start, end, token);
            return;
        }
        let over = connection.flags.any(Flags::CLOSE_WHEN_SENT)
            || (connection.phase == Phase::Lingering && connection.flags.any(Flags::ENDED));
        if over {
            if connection.is_open() {
                return;
            }
            self.kill(key);
        } else if connection.phase == Phase::Lingering && !connection.flags.any(Flags::SHUT) {
            connection.flags.set(Flags::SHUT | Flags::SHUTTING);
            connection.in_flight += 1;
            let token = Token::new(Op::Shutdown, key, connection.generation);
            self.ring.shutdown(connection.slot, Shutdown::Write, token);
        } else {
            connection.release_rare();
        }
    }

    /// A send finished.
    pub(super) fn sent(&mut self, key: u32, completion: Completion) {
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(key as usize) else {
            return;
        };
        connection.flags.clear(Flags::SENDING);
        let expected = connection.sent_expected(completion.payload.as_ref());
        if let Some(payload) = completion.payload {
            core.pool.put(payload);
        }
        if connection.phase == Phase::Dead {
            return;
        }
        if completion.result == -errno::EINTR || completion.result == -errno::EAGAIN {
            // Nothing left: with MSG_WAITALL a part would have been reported. The bytes are gone
            // from the outbox, so the stream cannot go on.
            self.lost(key);
            return;
        }
        if completion.result < 0 || completion.result as usize != expected {
            // Failed, or cut short: with MSG_WAITALL that means that the peer is gone.
            self.lost(key);
            return;
        }
        core.counters.bytes_out.add(expected as u64);
        connection.piece_sent(expected);
        if connection.flags.any(Flags::PAUSED) && connection.outbox_bytes <= PAUSE_BYTES / 2 {
            connection.flags.clear(Flags::PAUSED);
            if connection.flags.any(Flags::READABLE) {
                self.read(key);
            }
        }
        let Some(connection) = self.core.connections.get_mut(key as usize) else {
            return;
        };
        if connection.has_output() || connection.phase != Phase::Open || connection.rare.is_some() {
            self.core.mark_dirty(key);
        }
    }
}
