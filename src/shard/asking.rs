//! What a handler asks for on behalf of a connection: subscriptions, publishes, histories, messages to
//! users. All of it ends in a message to the shard that decides, or in an event for the handler.

use super::connection::ConnectionId;
use super::core::{Answer, Core, Event, MESSAGE_ENVELOPE_BYTES, Unanswered};
use super::handler::{HistoryOptions, MembersOptions, PublishOptions, Refusal, SubscribeOptions};
use crate::config::limits::{
    HISTORY_PAGE_MESSAGES, MAX_WILDCARDS_PER_SHARD, PRESENCE_PAGE_MEMBERS,
};
use crate::hub::directory::UserHash;
use crate::hub::history::Query;
use crate::hub::home::{CatchUp, ChannelRef, Interest};
use crate::hub::local::GivenUp;
use crate::hub::users::NOBODY as NO_USER;
use crate::hub::wildcards::is_wildcard;
use crate::hub::{Position, Publication, Shape};
use crate::mesh::{BROADCASTING_SHARD, Message, Receipt};
use bytes::Bytes;

/// Subscriptions of one connection to one channel that may wait for the home's answer at once; also how
/// many of its questions for histories.
const MAX_WAITING: usize = 16;

/// How many more of its subscriptions may wait for what they begin with than it may have channels: those
/// that it gave up before the answer came.
const SPARE_RECOVERIES: usize = 64;

impl Receipt {
    /// The receipt of what a connection sends.
    fn new(from: ConnectionId, tag: Option<Bytes>, echo: bool) -> Self {
        Self {
            shard: from.shard,
            key: from.key,
            generation: from.generation,
            tag,
            echo,
        }
    }

    /// Whose it is.
    pub(super) fn publisher(&self) -> ConnectionId {
        ConnectionId {
            shard: self.shard,
            key: self.key,
            generation: self.generation,
        }
    }
}

impl Core {
    /// A connection turns out to be of this user.
    pub(super) fn user_joins(&mut self, name: &str, key: u32) {
        let user = self.users.join(name, key);
        if let Some(connection) = self.connections.get_mut(key as usize) {
            connection.user = user;
        }
        let (user, home) = self.user_home(name);
        let shard = self.shard;
        if home != shard {
            self.mesh.post(home, Message::UserJoined { user, shard });
        }
    }

    /// A connection of a user ends.
    pub(super) fn user_leaves(&mut self, number: u32, key: u32) {
        if let Some(connection) = self.connections.get_mut(key as usize) {
            connection.user = NO_USER;
        }
        let Some(name) = self.users.name(number) else {
            return;
        };
        let (user, home) = self.user_home(name);
        let shard = self.shard;
        if home != shard {
            self.mesh.post(home, Message::UserLeft { user, shard });
        }
        self.users.leave(number, key);
    }

    /// A user as homes know it, and which of them. What is on that shard itself needs no message.
    pub(super) fn user_home(&self, name: &str) -> (UserHash, u16) {
        let user = UserHash::of(name, self.seed);
        (user, user.home(self.mesh.links().shards()))
    }

    pub(super) fn direct(
        &mut self,
        from: ConnectionId,
        user: &str,
        publication: Publication,
        tag: Option<Bytes>,
    ) -> Result<(), Refusal> {
        let (_, home) = self.user_home(user);
        self.may_send(from, home)?;
        let receipt = Receipt::new(from, tag, true);
        let direct = Message::Direct {
            user: user.into(),
            publication,
            receipt,
        };
        self.mesh.post(home, direct);
        Ok(())
    }

    pub(super) fn broadcast(
        &mut self,
        from: ConnectionId,
        publication: Publication,
        options: PublishOptions,
    ) -> Result<(), Refusal> {
        self.may_send(from, BROADCASTING_SHARD)?;
        let receipt = Receipt::new(from, options.tag, !options.exclude_self);
        let broadcast = Message::Broadcast {
            publication,
            receipt,
        };
        self.mesh.post(BROADCASTING_SHARD, broadcast);
        Ok(())
    }

    /// Whether an open connection asks, and a shard that keeps up is to do it.
    fn may_send(&mut self, from: ConnectionId, to: u16) -> Result<(), Refusal> {
        if !self.is_open(from) {
            return Err(Refusal::Closed);
        }
        if let Some(pending_bytes) = self.mesh.backlog(to) {
            self.counters.publishes_refused.add(1);
            return Err(Refusal::Busy { pending_bytes });
        }
        Ok(())
    }

    pub(super) fn subscribe(
        &mut self,
        id: ConnectionId,
        name: &str,
        options: SubscribeOptions,
    ) -> Result<(), Refusal> {
        let SubscribeOptions {
            tag,
            recover,
            batch,
        } = options;
        let shape = Shape::new(self.form(id.key), batch);
        if let Some(channel) = self.local.find(name) {
            // What this turn brought so far comes before the answer, and is for those who were
            // there before. Whom it finds too slow it closes, possibly this connection.
            self.deliver_channel(channel);
        }
        let limit = self.settings.channels;
        let known = self.local.find(name);
        let connection = self
            .get(id)
            .filter(|c| c.is_open())
            .ok_or(Refusal::Closed)?;
        if let Some(channel) = known
            && connection.channels.binary_search(&channel).is_ok()
        {
            if self.local.waits(channel, id.key) >= MAX_WAITING {
                return Err(Refusal::Unanswered { limit: MAX_WAITING });
            }
            if let Some(position) = self.local.position_for(channel, id.key, shape, tag.clone()) {
                self.confirm(id, channel, position, tag, None);
            }
            return Ok(());
        }
        if connection.channels.len() >= limit {
            return Err(Refusal::TooManyChannels { limit });
        }
        let rule = self.rules.of(name);
        let wildcard = is_wildcard(name);
        let history = recover.is_some() || rule.history.last_on_subscribe;
        let asks = !wildcard && (history || rule.subscribers.is_some());
        let presence = rule.presence.enabled && !wildcard;
        if wildcard && known.is_none() {
            self.may_add_wildcard()?;
        }
        // A home that wants to know who subscribes is told each time.
        if (asks || presence || known.is_none())
            && let Some(pending_bytes) = self.mesh.backlog(self.local.home_of(name))
        {
            return Err(Refusal::Busy { pending_bytes });
        }
        if asks {
            let limit = self.settings.channels + SPARE_RECOVERIES;
            let unanswered = self.unanswered.entry(id.key).or_default();
            if unanswered.recoveries >= limit {
                return Err(Refusal::Unanswered { limit });
            }
            unanswered.recoveries += 1;
        }
        let (channel, interest) = self.local.enter(name);
        if let Some((home, interest)) = interest {
            self.announce_interest(name, home, interest);
        }
        let connection = self.get(id).ok_or(Refusal::Closed)?;
        if let Err(at) = connection.channels.binary_search(&channel) {
            connection.channels.insert(at, channel);
        }
        if !asks {
            if let Some(position) = self.local.join(channel, id.key, shape, tag.clone()) {
                self.member(channel, id.key, true);
                self.confirm(id, channel, position, tag, None);
            }
        } else if let Some((home, channel, interest, question)) =
            self.local.ask(channel, id.key, shape, tag)
        {
            let question = Message::Recover {
                channel,
                interest,
                question,
                asker: (id.key, id.generation),
                since: recover,
            };
            self.mesh.post(home, question);
        }
        Ok(())
    }

    /// Whether one more wildcard may be subscribed to here: every shard has to hear of it.
    fn may_add_wildcard(&self) -> Result<(), Refusal> {
        let limit = MAX_WILDCARDS_PER_SHARD;
        if self.local.wildcards() >= limit {
            return Err(Refusal::TooManyWildcards { limit });
        }
        let mut shards = 0..self.mesh.links().shards() as u16;
        match shards.find_map(|shard| self.mesh.backlog(shard)) {
            Some(pending_bytes) => Err(Refusal::Busy { pending_bytes }),
            None => Ok(()),
        }
    }

    /// Tells a channel's home, or all shards of a wildcard, that somebody here wants to hear it.
    fn announce_interest(&mut self, name: &str, home: Option<u16>, interest: Interest) {
        if let Some(home) = home {
            let name = name.into();
            return self.mesh.post(home, Message::Interest { name, interest });
        }
        for shard in 0..self.mesh.links().shards() as u16 {
            let wildcard = name.into();
            let message = Message::WildcardInterest { wildcard, interest };
            self.mesh.post(shard, message);
        }
    }

    pub(super) fn read_history(
        &mut self,
        id: ConnectionId,
        name: &str,
        options: HistoryOptions,
    ) -> Result<(), Refusal> {
        let (home, channel, receipt) = self.question(id, name, options.tag)?;
        self.counters.history_reads.add(1);
        let query = Query {
            limit: options.limit.min(HISTORY_PAGE_MESSAGES),
            since: options.since,
            reverse: options.reverse,
            bytes: self.settings.outbox_bytes / 2,
            envelope_bytes: MESSAGE_ENVELOPE_BYTES,
        };
        let read = Message::Read {
            channel,
            query,
            receipt,
        };
        self.mesh.post(home, read);
        Ok(())
    }

    /// Where a question of a connection about a channel goes, and how the answer finds back.
    fn question(
        &mut self,
        id: ConnectionId,
        name: &str,
        tag: Bytes,
    ) -> Result<(u16, ChannelRef, Receipt), Refusal> {
        if !self.is_open(id) {
            return Err(Refusal::Closed);
        }
        let (home, channel) = self.local.route(name);
        if let Some(pending_bytes) = self.mesh.backlog(home) {
            return Err(Refusal::Busy { pending_bytes });
        }
        let unanswered = self.unanswered.entry(id.key).or_default();
        if unanswered.reads >= MAX_WAITING {
            return Err(Refusal::Unanswered { limit: MAX_WAITING });
        }
        unanswered.reads += 1;
        Ok((home, channel, Receipt::new(id, Some(tag), false)))
    }

    /// A question of a connection, of those that `which` counts, has its answer.
    pub(super) fn is_answered(
        &mut self,
        connection: ConnectionId,
        which: impl FnOnce(&mut Unanswered) -> &mut usize,
    ) {
        // Another connection that has its key by now has questions of its own.
        if !self.is_open(connection) {
            return;
        }
        if let Some(unanswered) = self.unanswered.get_mut(&connection.key) {
            *which(unanswered) -= 1;
            if unanswered.reads + unanswered.recoveries == 0 {
                self.unanswered.remove(&connection.key);
            }
        }
    }

    /// A question has its answer.
    pub(super) fn has_read(&mut self, receipt: Receipt, answer: Answer) {
        let connection = receipt.publisher();
        if !self.is_open(connection) {
            return;
        }
        self.is_answered(connection, |unanswered| &mut unanswered.reads);
        self.events.push_back(Event::Answer {
            connection,
            answer,
            tag: receipt.tag.unwrap_or_default(),
        });
    }

    pub(super) fn confirm(
        &mut self,
        connection: ConnectionId,
        channel: u32,
        position: Position,
        tag: Bytes,
        catch_up: Option<Box<CatchUp>>,
    ) {
        self.events.push_back(Event::Subscribed {
            connection,
            channel,
            position,
            tag,
            catch_up,
        });
    }

    pub(super) fn unsubscribe(&mut self, id: ConnectionId, name: &str) -> bool {
        let Some(channel) = self.local.find(name) else {
            return false;
        };
        // What was published before still arrives. It may be too much for this connection, which
        // has left its channels then.
        self.deliver_channel(channel);
        let Some(connection) = self.get(id) else {
            return false;
        };
        let Ok(at) = connection.channels.binary_search(&channel) else {
            return false;
        };
        connection.channels.remove(at);
        // Confirmed, but the handler has not heard of it yet.
        for event in &mut self.events {
            if let Event::Subscribed {
                connection,
                channel: confirmed,
                tag,
                ..
            } = event
                && (*connection, *confirmed) == (id, channel)
            {
                *event = Event::Abandoned {
                    connection: id,
                    channel: name.into(),
                    tag: std::mem::take(tag),
                };
            }
        }
        for tag in self.local.abandon(channel, id.key) {
            self.events.push_back(Event::Abandoned {
                connection: id,
                channel: name.into(),
                tag,
            });
        }
        self.end_subscription(channel, id.key);
        true
    }

    /// Ends a subscription, in force or not.
    pub(super) fn end_subscription(&mut self, channel: u32, key: u32) {
        self.forget_waiting(Some(channel), key);
        if self.local.is_subscriber(channel, key) {
            self.member(channel, key, false);
            if let Some((home, channel)) = self.local.admission(channel) {
                self.mesh.post(home, Message::Release { channel });
            }
        }
        let given_up = self.local.unsubscribe(channel, key);
        self.give_up(given_up);
    }

    /// Tells a home that wants to know: a connection has become a subscriber, or is one no longer.
    pub(super) fn member(&mut self, channel: u32, key: u32, joined: bool) {
        let Some((home, channel)) = self.local.presence(channel) else {
            return;
        };
        let connection = self.connections.get(key as usize);
        let user = connection.and_then(|connection| self.users.name(connection.user));
        let member = Message::Member {
            channel,
            user: user.map(Into::into),
            joined,
        };
        self.mesh.post(home, member);
    }

    pub(super) fn read_members(
        &mut self,
        id: ConnectionId,
        name: &str,
        options: MembersOptions,
    ) -> Result<(), Refusal> {
        let (home, channel, receipt) = self.question(id, name, options.tag)?;
        self.counters.presence_reads.add(1);
        let read = Message::ReadMembers {
            channel,
            from: options.from,
            limit: options.limit.min(PRESENCE_PAGE_MEMBERS),
            receipt,
        };
        self.mesh.post(home, read);
        Ok(())
    }

    fn give_up(&mut self, given_up: Option<GivenUp>) {
        let Some(GivenUp { home, name, serial }) = given_up else {
            return;
        };
        let shard = self.shard;
        if let Some(home) = home {
            let gone = Message::Disinterest {
                name,
                shard,
                serial,
            };
            return self.mesh.post(home, gone);
        }
        for to in 0..self.mesh.links().shards() as u16 {
            let gone = Message::WildcardDisinterest {
                wildcard: name.clone(),
                shard,
                serial,
            };
            self.mesh.post(to, gone);
        }
    }

    pub(super) fn publish(
        &mut self,
        from: ConnectionId,
        channel: &str,
        publication: Publication,
        options: PublishOptions,
    ) -> Result<(), Refusal> {
        if !self.is_open(from) {
            return Err(Refusal::Closed);
        }
        let receipt = Receipt::new(from, options.tag, !options.exclude_self);
        self.post_publication(channel, publication, receipt)
    }

    /// Publishes on behalf of no connection.
    pub(super) fn announce(
        &mut self,
        channel: &str,
        publication: Publication,
    ) -> Result<(), Refusal> {
        let receipt = Receipt::of_nobody(self.shard);
        self.post_publication(channel, publication, receipt)
    }

    fn post_publication(
        &mut self,
        channel: &str,
        publication: Publication,
        receipt: Receipt,
    ) -> Result<(), Refusal> {
        let (home, channel) = self.local.route(channel);
        if let Some(pending_bytes) = self.mesh.backlog(home) {
            self.counters.publishes_refused.add(1);
            return Err(Refusal::Busy { pending_bytes });
        }
        self.counters.publishes.add(1);
        self.mesh.post(
            home,
            Message::Publish {
                channel,
                publication,
                receipt,
            },
        );
        Ok(())
    }
}
