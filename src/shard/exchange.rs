//! What shards tell each other: publishes on their way home, messages on their way to subscribers.

use super::accept::Origin;
use super::connection::ConnectionId;
use super::core::{Answer, Core, Event, MESSAGE_ENVELOPE_BYTES};
use super::handler::{Handler, Kind, MAX_FORMS, Published, Refusal};
use super::outbox::MAX_SEND_BYTES;
use super::{Shard, run_events};
use crate::config::SlowConsumer;
use crate::hub::history::Time;
use crate::hub::home::{CatchUp, Interest, Listener};
use crate::hub::local::Waiting;
use crate::hub::presence::{MembersPage, PresenceEvent};
use crate::hub::turn::{Excluded, Mark};
use crate::hub::{Delivery, Position, Shape};
use crate::mesh::{Batch, Mesh, Message, Receipt};
use crate::ring::Ring;
use crate::wire::frame;
use std::hash::BuildHasher;
use std::sync::Arc;

/// Rounds of messages to itself that one turn takes at most; what is left waits for the next turn.
/// A publish needs three: to the home, to the subscribers, acknowledgement.
const MAX_ROUNDS: usize = 8;

/// How messages of a channel gather.
struct Gathering {
    /// Bytes from which on they are sent without waiting for the end of their time, or of the turn.
    limit: usize,
    /// Whether newer ones replace older ones for slow consumers.
    conflates: bool,
}

impl<R: Ring, H: Handler> Shard<R, H> {
    /// Takes what other shards and this one itself have said. Returns whether there was anything.
    pub(super) fn exchange(&mut self) -> bool {
        let mut busy = false;
        // What comes meanwhile waits for the next turn, so that others who never pause cannot keep this
        // shard from sending.
        for _ in 0..self.core.mesh.waiting() {
            let Some(batch) = self.core.mesh.receive() else {
                break;
            };
            busy = true;
            self.take(batch);
        }
        for _ in 0..MAX_ROUNDS {
            let own = self.core.mesh.take_own();
            if own.is_empty() {
                break;
            }
            busy = true;
            self.take(own);
        }
        busy
    }

    fn take(&mut self, batch: Batch) {
        for message in batch.messages {
            match message {
                Message::Deliver {
                    channel,
                    serial,
                    delivery,
                    exclude,
                } => self.deliver(channel, serial, None, &delivery, exclude),
                Message::DeliverWildcards {
                    interests,
                    name,
                    delivery,
                    exclude,
                } => {
                    for &Interest {
                        channel, serial, ..
                    } in &*interests
                    {
                        self.deliver(channel, serial, Some(&name), &delivery, exclude);
                    }
                }
                Message::HandOver {
                    from,
                    listener,
                    unix,
                    peer,
                } => self.announce(
                    from,
                    Origin {
                        listener,
                        unix,
                        peer,
                    },
                ),
                Message::HandOverFailed { from } => self.retract(from),
                Message::Drain => self.begin_drain(),
                Message::Live {
                    interest,
                    number,
                    position,
                } => {
                    let Interest {
                        channel, serial, ..
                    } = interest;
                    let waiting = self.core.local.live(channel, serial, number, position);
                    self.confirm_all(channel, position, waiting, None);
                }
                Message::WildcardLive { interest } => {
                    let Interest {
                        channel, serial, ..
                    } = interest;
                    let waiting = self.core.local.wildcard_live(channel, serial);
                    self.confirm_all(channel, Position::default(), waiting, None);
                }
                Message::Recovered {
                    interest,
                    question,
                    asker,
                    home: (home, number),
                    catch_up,
                } => match catch_up {
                    Ok((catch_up, admitted)) => {
                        let joined = self.recovered(interest, question, asker, catch_up);
                        if admitted && !joined {
                            // It has given up meanwhile, and its place is free again.
                            let release = Message::Release { channel: number };
                            self.core.mesh.post(home, release);
                        }
                    }
                    Err(limit) => self.denied(interest, question, asker, limit),
                },
                Message::HasReadMembers { receipt, page } => {
                    self.core.has_read(receipt, Answer::Members(page));
                    run_events(&mut self.handler, &mut self.core);
                }
                Message::Presence { interest, event } => self.tell_members(interest, &event),
                Message::DeliverDirect { user, publication } => {
                    self.deliver_direct(&user, &publication);
                }
                Message::DeliverBroadcast {
                    publication,
                    exclude,
                } => self.deliver_broadcast(&publication, exclude),
                Message::Sent {
                    receipt,
                    connections,
                } => {
                    let connection = receipt.publisher();
                    if let Some(tag) = receipt.tag {
                        self.core.events.push_back(Event::Sent {
                            connection,
                            connections,
                            tag,
                        });
                        run_events(&mut self.handler, &mut self.core);
                    }
                }
                Message::HasRead { receipt, page } => {
                    self.core.has_read(receipt, Answer::History(page));
                    run_events(&mut self.handler, &mut self.core);
                }
                Message::Published { receipt, position } => {
                    let connection = receipt.publisher();
                    if let Some(tag) = receipt.tag {
                        self.core.events.push_back(Event::Published {
                            connection,
                            position,
                            tag,
                        });
                        run_events(&mut self.handler, &mut self.core);
                    }
                }
                Message::Refused {
                    receipt,
                    pending_bytes,
                } => {
                    let connection = receipt.publisher();
                    if self.core.is_open(connection) {
                        self.core.events.push_back(Event::Refused {
                            connection,
                            refusal: Refusal::Busy { pending_bytes },
                            tag: receipt.tag,
                        });
                        run_events(&mut self.handler, &mut self.core);
                    }
                }
                other => self.core.at_home(other),
            }
        }
    }

    /// Subscriptions have come into force: tells the home, where it wants to know, and those who asked.
    fn confirm_all(
        &mut self,
        channel: u32,
        position: Position,
        confirmed: Vec<Waiting>,
        mut catch_up: Option<Box<CatchUp>>,
    ) {
        let core = &mut self.core;
        for waiting in confirmed {
            if let Some(connection) = core.connections.get(waiting.key as usize) {
                let id = core.id(waiting.key, connection);
                if waiting.joined {
                    core.member(channel, waiting.key, true);
                }
                core.confirm(id, channel, position, waiting.tag, catch_up.take());
            }
        }
        run_events(&mut self.handler, core);
    }

    /// A connection may not subscribe: the channel has as many subscribers as it may have.
    fn denied(
        &mut self,
        interest: Interest,
        question: u32,
        (key, generation): (u32, u32),
        limit: u32,
    ) {
        let core = &mut self.core;
        let asker = ConnectionId {
            shard: core.shard,
            key,
            generation,
        };
        core.is_answered(asker, |unanswered| &mut unanswered.recoveries);
        let Interest {
            channel, serial, ..
        } = interest;
        let tags = core.local.denied(channel, serial, question, key);
        if tags.is_empty() {
            return;
        }
        if let Some(connection) = core.get(asker)
            && let Ok(at) = connection.channels.binary_search(&channel)
        {
            connection.channels.remove(at);
        }
        core.end_subscription(channel, key);
        for tag in tags {
            core.events.push_back(Event::Refused {
                connection: asker,
                refusal: Refusal::TooManySubscribers {
                    limit: limit as usize,
                },
                tag: Some(tag),
            });
        }
        run_events(&mut self.handler, core);
    }

    /// A subscriber that asked its home joins: after what came before the answer, before what follows.
    /// Whether it has not given up meanwhile.
    fn recovered(
        &mut self,
        interest: Interest,
        question: u32,
        (key, generation): (u32, u32),
        catch_up: CatchUp,
    ) -> bool {
        let asker = ConnectionId {
            shard: self.core.shard,
            key,
            generation,
        };
        self.core
            .is_answered(asker, |unanswered| &mut unanswered.recoveries);
        let Interest {
            channel, serial, ..
        } = interest;
        self.core.deliver_channel(channel);
        let position = catch_up.position;
        let waiting = self.core.local.answered(channel, serial, question, key);
        let joined = !waiting.is_empty();
        self.confirm_all(channel, position, waiting, Some(Box::new(catch_up)));
        joined
    }

    /// Tells a channel's subscribers here who has come or gone.
    fn tell_members(&mut self, interest: Interest, event: &PresenceEvent) {
        let Interest {
            channel, serial, ..
        } = interest;
        let core = &mut self.core;
        // In the order in which it happened: after the messages so far. Where messages can be replaced,
        // it stays by itself, because it cannot.
        let conflates = core.gathering(channel).conflates;
        if conflates || core.local.has_entries(channel) {
            core.deliver_channel(channel);
        }
        let now_ms = core.clock.elapsed_ms;
        let Some((name, state)) = core.local.touch(channel, serial, now_ms) else {
            return;
        };
        let mut payload = std::mem::take(&mut core.scratch);
        let (turn, subscribers) = state.turn();
        for form in 0..MAX_FORMS {
            let shapes = [false, true].map(|batched| Shape::new(form, batched));
            if shapes.iter().all(|shape| subscribers.of(*shape).is_none()) {
                continue;
            }
            payload.clear();
            let handler = &mut self.handler;
            let kind: Kind = handler.encode_presence(form, name, event, &mut payload);
            core.counters.presence_events.add(1);
            for shape in shapes {
                if subscribers.of(shape).is_some() {
                    frame::encode(&mut turn.part(shape).frames, kind.into(), &payload);
                }
            }
        }
        core.scratch = payload;
        if conflates || core.local.pending_bytes(channel) > MAX_SEND_BYTES {
            core.deliver_channel(channel);
        }
    }

    /// A message arrived from its home: in each shape that somebody here gets it is written once, whatever
    /// the number of subscribers. `matched` is the name of its channel where that is a wildcard's.
    fn deliver(
        &mut self,
        channel: u32,
        serial: u32,
        matched: Option<&str>,
        delivery: &Delivery,
        exclude: Option<(u32, u32)>,
    ) {
        let Delivery {
            offset,
            timestamp_ms,
            ref publication,
        } = *delivery;
        let core = &mut self.core;
        // A large message goes by itself: with what came before it, it could be more than an outbox holds.
        let pending = core.local.pending_bytes(channel);
        let Gathering { limit, conflates } = core.gathering(channel);
        if pending > 0 && pending + publication.data.len() > limit {
            core.deliver_channel(channel);
        }
        let now_ms = core.clock.elapsed_ms;
        let Some((name, state)) = core.local.receive(channel, serial, offset, now_ms) else {
            return;
        };
        let (turn, subscribers) = state.turn();
        // The publisher may have left, and another got its key.
        let exclude = exclude.filter(|(key, generation)| {
            let publisher = core.connections.get(*key as usize);
            publisher.is_some_and(|publisher| publisher.generation == *generation)
        });
        let excluded = exclude.and_then(|(key, _)| Some((key, subscribers.shape_of(key)?)));
        let mut payload = std::mem::take(&mut core.scratch);
        for shape in subscribers.shapes() {
            let published = Published {
                form: shape.form(),
                channel: matched.unwrap_or(name),
                wildcard: matched.map(|_| name),
                offset,
                timestamp_ms,
                publication,
            };
            let part = turn.part(shape);
            let (start, end) = if shape.is_batched() {
                let start = part.entries.len();
                self.handler.encode_entry(&published, &mut part.entries);
                part.count += 1;
                (start, part.entries.len())
            } else {
                payload.clear();
                let kind: Kind = self.handler.encode(&published, &mut payload);
                let start = part.frames.len();
                frame::encode(&mut part.frames, kind.into(), &payload);
                (start, part.frames.len())
            };
            let (start, end) = (start as u32, end as u32);
            if let Some((key, _)) = excluded.filter(|(_, own)| *own == shape) {
                part.excluded.push(Excluded { key, start, end });
            }
            if conflates {
                part.marks.push(Mark {
                    start,
                    end,
                    key: match matched {
                        None => publication.key,
                        // Each channel's messages are a stream of their own.
                        Some(name) => {
                            foldhash::fast::FixedState::with_seed(publication.key).hash_one(name)
                        }
                    },
                    offset,
                });
            }
            core.counters.encodes.add(1);
        }
        let gathered = turn.bytes();
        core.scratch = payload;
        if gathered > limit {
            core.deliver_channel(channel);
        }
    }
}

impl Core {
    /// How messages of a channel gather.
    fn gathering(&self, channel: u32) -> Gathering {
        let rule = self.local.channel(channel).map(|channel| channel.rule());
        let rule = rule.map(|rule| self.rules.get(rule));
        let gathers = rule.filter(|rule| rule.delivery.batch_ms > 0);
        Gathering {
            limit: gathers.map_or(MAX_SEND_BYTES, |rule| rule.delivery.batch_bytes),
            conflates: rule.is_some_and(|rule| rule.slow_consumer == SlowConsumer::Conflate),
        }
    }

    /// The part of a home shard: numbering messages and passing them on.
    fn at_home(&mut self, message: Message) {
        match message {
            Message::Interest { name, interest } => {
                let (number, position) = self.home.interest(&name, interest);
                let answer = Message::Live {
                    interest,
                    number,
                    position,
                };
                self.mesh.post(interest.shard, answer);
            }
            Message::Disinterest {
                name,
                shard,
                serial,
            } => {
                self.home
                    .disinterest(&name, shard, serial, self.clock.elapsed_ms);
            }
            Message::WildcardInterest { wildcard, interest } => {
                self.home.wildcard_interest(&wildcard, interest);
                let answer = Message::WildcardLive { interest };
                self.mesh.post(interest.shard, answer);
            }
            Message::WildcardDisinterest {
                wildcard,
                shard,
                serial,
            } => self.home.wildcard_disinterest(&wildcard, shard, serial),
            Message::Release { channel } => {
                self.home.release(channel, self.clock.elapsed_ms);
            }
            Message::Publish {
                channel,
                publication,
                receipt,
            } => {
                let Self {
                    home,
                    mesh,
                    clock,
                    counters,
                    ..
                } = self;
                let channel = home.resolve(&channel);
                // Before it has a number: afterwards it could not be left out.
                let mut shards = home.listening(channel);
                if let Some(pending_bytes) = shards.find_map(|shard| mesh.backlog(shard)) {
                    counters.publishes_refused.add(1);
                    mesh.post(
                        receipt.shard,
                        Message::Refused {
                            receipt,
                            pending_bytes,
                        },
                    );
                    return;
                }
                drop(shards);
                let Receipt {
                    shard,
                    key,
                    generation,
                    echo,
                    ..
                } = receipt;
                let now = Time {
                    elapsed_ms: clock.elapsed_ms,
                    unix_ms: clock.unix_ms,
                };
                let position = home.publish(channel, publication, now, |to, delivery| {
                    let exclude = (!echo && to.shard() == shard).then_some((key, generation));
                    let message = match to {
                        Listener::Channel(to) => Message::Deliver {
                            channel: to.channel,
                            serial: to.serial,
                            delivery,
                            exclude,
                        },
                        Listener::Wildcards(_, interests, name) => Message::DeliverWildcards {
                            interests: Arc::clone(interests),
                            name: name.into(),
                            delivery,
                            exclude,
                        },
                    };
                    mesh.post(to.shard(), message);
                });
                if receipt.tag.is_some()
                    && let Some(position) = position
                {
                    mesh.post(shard, Message::Published { receipt, position });
                }
            }
            Message::Recover {
                channel,
                interest,
                question,
                asker,
                since,
            } => {
                let channel = self.home.resolve(&channel);
                let now_ms = self.clock.elapsed_ms;
                let bytes = self.settings.outbox_bytes / 2;
                let answer = |catch_up| Message::Recovered {
                    interest,
                    question,
                    asker,
                    home: (self.shard, channel),
                    catch_up,
                };
                let admitted = match self.home.admit(channel) {
                    Ok(admitted) => admitted,
                    Err(limit) => return self.mesh.post(interest.shard, answer(Err(limit))),
                };
                let catch_up = match self.mesh.backlog(interest.shard) {
                    None => {
                        self.home
                            .catch_up(channel, since, bytes, MESSAGE_ENVELOPE_BYTES, now_ms)
                    }
                    // A shard that is behind gets nothing that can be left out.
                    Some(_) => self.home.no_catch_up(channel, since),
                };
                if let Some(catch_up) = catch_up {
                    let answer = answer(Ok((catch_up, admitted)));
                    self.mesh.post(interest.shard, answer);
                }
            }
            Message::Read {
                channel,
                query,
                receipt,
            } => {
                let to = receipt.shard;
                let page = match self.mesh.backlog(to) {
                    Some(pending_bytes) => Err(pending_bytes),
                    None => Ok(self.home.read(&channel, &query, self.clock.elapsed_ms)),
                };
                self.mesh.post(to, Message::HasRead { receipt, page });
            }
            Message::Member {
                channel,
                user,
                joined,
            } => {
                if let Some(event) = self.home.member(channel, user.as_deref(), joined) {
                    let Self { home, mesh, .. } = self;
                    tell_of_members(mesh, home.interested(channel), &event);
                }
            }
            Message::ReadMembers {
                channel,
                from,
                limit,
                receipt,
            } => {
                let to = receipt.shard;
                let page = match self.mesh.backlog(to) {
                    Some(pending_bytes) => Err(pending_bytes),
                    None => Ok(self
                        .home
                        .find(&channel)
                        .and_then(|channel| self.home.members(channel, from, limit))
                        .unwrap_or_else(|| MembersPage {
                            limit,
                            ..MembersPage::default()
                        })),
                };
                self.mesh
                    .post(to, Message::HasReadMembers { receipt, page });
            }
            Message::UserJoined { user, shard } => self.directory.joined(user, shard),
            Message::UserLeft { user, shard } => self.directory.left(user, shard),
            Message::Direct {
                user,
                publication,
                receipt,
            } => self.pass_on(user, publication, receipt),
            Message::Broadcast {
                publication,
                receipt,
            } => self.pass_on_to_all(publication, receipt),
            // The others are taken by the shard.
            _ => debug_assert!(false, "not for a home"),
        }
    }

    /// Tells subscribers of large channels how many they are by now.
    pub(super) fn recount_members(&mut self) {
        let Self {
            home, mesh, clock, ..
        } = self;
        home.recount(clock.elapsed_ms, |interested, counts| {
            tell_of_members(mesh, interested, &PresenceEvent::Counts(counts))
        });
    }
}

/// Passes on what happened to the members of a channel. A shard that is behind is not told: the next
/// counts, or a question, will say how it is by then. Returns whether all were told.
fn tell_of_members(mesh: &mut Mesh, interested: &[Interest], event: &PresenceEvent) -> bool {
    let mut all = true;
    for interest in interested {
        if mesh.backlog(interest.shard).is_none() {
            let event = Message::Presence {
                interest: *interest,
                event: event.clone(),
            };
            mesh.post(interest.shard, event);
        } else {
            all = false;
        }
    }
    all
}
