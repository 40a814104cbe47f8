//! Messages that belong to no channel: to all connections of a user, or to everyone.
//!
//! Both pass through one shard, the user's home or the broadcasting shard, so that all connections get
//! them in one order; from there they go to the shards with connections, and are encoded once on each.

use super::Shard;
use super::core::Core;
use super::handler::{Audience, Handler, MAX_FORMS};
use crate::hub::Publication;
use crate::mesh::{Message, Receipt};
use crate::ring::Ring;
use crate::wire::frame;
use smallvec::SmallVec;

impl<R: Ring, H: Handler> Shard<R, H> {
    /// A message to a user's connections here.
    pub(super) fn deliver_direct(&mut self, user: &str, publication: &Publication) {
        let mut keys = SmallVec::<[u32; 8]>::new();
        self.core.users.for_each(user, |key| keys.push(key));
        let delivered = self.deliver_to(&keys, publication, Audience::User);
        self.core.counters.directs.add(delivered);
    }

    /// A message to everybody here.
    pub(super) fn deliver_broadcast(
        &mut self,
        publication: &Publication,
        exclude: Option<(u32, u32)>,
    ) {
        let core = &self.core;
        let keys: Vec<u32> = core
            .connections
            .iter()
            .map(|(key, connection)| (key as u32, connection))
            .filter(|(key, connection)| {
                connection.is_open()
                    && core.endpoints[usize::from(connection.endpoint)].hears_broadcasts
                    && exclude != Some((*key, connection.generation))
            })
            .map(|(key, _)| key)
            .collect();
        let delivered = self.deliver_to(&keys, publication, Audience::Everyone);
        self.core.counters.broadcasts.add(delivered);
    }

    fn deliver_to(&mut self, keys: &[u32], publication: &Publication, audience: Audience) -> u64 {
        let mut delivered = 0;
        for form in 0..MAX_FORMS {
            let core = &mut self.core;
            if !keys.iter().any(|key| core.form(*key) == form) {
                continue;
            }
            let mut payload = std::mem::take(&mut core.scratch);
            payload.clear();
            let kind = self
                .handler
                .encode_direct(form, publication, audience, &mut payload);
            let mut frame = Vec::with_capacity(payload.len() + frame::MAX_HEADER_BYTES);
            frame::encode(&mut frame, kind.into(), &payload);
            core.scratch = payload;
            delivered += core.deliver_frame(frame, form, keys);
        }
        super::run_events(&mut self.handler, &mut self.core);
        delivered
    }
}

impl Core {
    /// The part of a user's home: passes a message on to the shards with connections of the user.
    pub(super) fn pass_on(&mut self, user: Box<str>, publication: Publication, receipt: Receipt) {
        let (hash, _) = self.user_home(&user);
        let mut shards: SmallVec<[(u16, u64); 4]> = self
            .directory
            .shards(hash)
            .map(|(shard, connections)| (shard, connections.into()))
            .collect();
        let own = self.users.connections(&user);
        if own > 0 {
            shards.push((self.shard, own as u64));
        }
        let connections = shards.iter().map(|(_, connections)| connections).sum();
        let to = shards.iter().map(|(shard, _)| *shard);
        self.send_to(to, connections, receipt, |_| Message::DeliverDirect {
            user: user.clone(),
            publication: publication.clone(),
        });
    }

    /// The part of the broadcasting shard: passes a message on to all shards.
    pub(super) fn pass_on_to_all(&mut self, publication: Publication, receipt: Receipt) {
        let links = self.mesh.links();
        let shards = links.shards();
        // Some of them are in their handshake, or at endpoints that hear no broadcasts.
        let connections = (0..shards)
            .map(|shard| links.connections(shard) as u64)
            .sum();
        let exclude = (!receipt.echo).then_some((receipt.key, receipt.generation));
        let sender = receipt.shard;
        self.send_to(0..shards as u16, connections, receipt, |to| {
            Message::DeliverBroadcast {
                publication: publication.clone(),
                exclude: exclude.filter(|_| to == sender),
            }
        });
    }

    /// Sends to several shards, or to none if one of them does not keep up.
    fn send_to(
        &mut self,
        shards: impl Iterator<Item = u16> + Clone,
        connections: u64,
        receipt: Receipt,
        message: impl Fn(u16) -> Message,
    ) {
        if let Some(pending_bytes) = shards.clone().find_map(|to| self.mesh.backlog(to)) {
            self.counters.publishes_refused.add(1);
            let to = receipt.shard;
            let refused = Message::Refused {
                receipt,
                pending_bytes,
            };
            return self.mesh.post(to, refused);
        }
        for to in shards {
            self.mesh.post(to, message(to));
        }
        if receipt.tag.is_some() {
            let to = receipt.shard;
            let sent = Message::Sent {
                receipt,
                connections,
            };
            self.mesh.post(to, sent);
        }
    }
}
