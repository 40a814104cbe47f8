//! What shards tell each other.

use crate::hub::directory::UserHash;
use crate::hub::history::{Page, Query};
use crate::hub::home::{CatchUp, ChannelRef, Interest};
use crate::hub::presence::{Member, MembersPage, PresenceEvent};
use crate::hub::{Delivery, Position, Publication};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;

/// The shard that broadcasts pass through, so that everybody gets them in one order.
pub const BROADCASTING_SHARD: u16 = 0;

/// Who wants to hear what became of a publish, or of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The publisher's shard.
    pub shard: u16,
    /// Its key there.
    pub key: u32,
    /// Its generation there.
    pub generation: u32,
    /// What the handler wants back with the position (a request's id). `None`: no acknowledgement.
    pub tag: Option<Bytes>,
    /// Whether the publisher, if subscribed, gets its own copy.
    pub echo: bool,
}

impl Receipt {
    /// Of what nobody is to be told about, and of which nobody is excluded.
    pub(crate) fn of_nobody(shard: u16) -> Self {
        Self {
            shard,
            key: NOBODY,
            generation: 0,
            tag: None,
            echo: true,
        }
    }
}

/// The key of no connection.
const NOBODY: u32 = u32::MAX;

/// One thing that a shard tells another.
#[derive(Debug)]
pub enum Message {
    /// To a home: this shard has its first subscriber.
    Interest {
        /// The channel's name.
        name: Box<str>,
        /// Who asks.
        interest: Interest,
    },
    /// To a home: this shard's last subscriber left.
    Disinterest {
        /// The channel's name.
        name: Box<str>,
        /// The shard that gives up.
        shard: u16,
        /// The interest that ends.
        serial: u32,
    },
    /// To every shard: this one has its first subscriber to a wildcard.
    WildcardInterest {
        /// The wildcard.
        wildcard: Box<str>,
        /// Who asks.
        interest: Interest,
    },
    /// To every shard: this one's last subscriber to a wildcard left.
    WildcardDisinterest {
        /// The wildcard.
        wildcard: Box<str>,
        /// The shard that gives up.
        shard: u16,
        /// The interest that ends.
        serial: u32,
    },
    /// From every shard: the answer to an interest in a wildcard.
    WildcardLive {
        /// The interest it answers.
        interest: Interest,
    },
    /// From a home: a message of a channel that wildcards match.
    DeliverWildcards {
        /// The interests of the receiving shard.
        interests: Arc<[Interest]>,
        /// The channel's name.
        name: Box<str>,
        /// The message.
        delivery: Delivery,
        /// As in [`Self::Deliver`].
        exclude: Option<(u32, u32)>,
    },
    /// To a home: number this and pass it on.
    Publish {
        /// The channel.
        channel: ChannelRef,
        /// What was published.
        publication: Publication,
        /// By whom.
        receipt: Receipt,
    },
    /// To a home: what did a new subscriber miss?
    Recover {
        /// The channel.
        channel: ChannelRef,
        /// The interest of the subscriber's shard.
        interest: Interest,
        /// The number of the question there.
        question: u32,
        /// Who asks: key and generation there.
        asker: (u32, u32),
        /// What it had. `None`: it wants the last message.
        since: Option<Position>,
    },
    /// From a home: the answer. What is published after its position follows.
    Recovered {
        /// The interest of the subscriber's shard.
        interest: Interest,
        /// The number of the question there.
        question: u32,
        /// Who asked: key and generation there.
        asker: (u32, u32),
        /// Who answers: the home, and the channel's number there.
        home: (u16, u32),
        /// The answer, and whether it counts as one of the channel's limited number of subscribers. Or how
        /// many there are, the most that may be.
        catch_up: Result<(CatchUp, bool), u32>,
    },
    /// To a home that limits the number of a channel's subscribers: one has gone.
    Release {
        /// The channel's number at its home.
        channel: u32,
    },
    /// To a home that wants to know: a subscriber has come, or has gone.
    Member {
        /// The channel's number at its home.
        channel: u32,
        /// The user that the subscriber belongs to, if any.
        user: Option<Box<str>>,
        /// Whether it has come.
        joined: bool,
    },
    /// From a home: what a channel's subscribers are told about its members.
    Presence {
        /// The interest of the receiving shard.
        interest: Interest,
        /// What happened.
        event: PresenceEvent,
    },
    /// To a home: who is in a channel?
    ReadMembers {
        /// The channel.
        channel: ChannelRef,
        /// Where the page begins.
        from: u32,
        /// Users at most.
        limit: usize,
        /// For whom.
        receipt: Receipt,
    },
    /// From a home: who is there.
    HasReadMembers {
        /// For whom.
        receipt: Receipt,
        /// Who, or, because its shard does not keep up, how many bytes wait for that.
        page: Result<MembersPage, usize>,
    },
    /// To a home: read a channel's history.
    Read {
        /// The channel.
        channel: ChannelRef,
        /// What of it.
        query: Query,
        /// For whom.
        receipt: Receipt,
    },
    /// From a home: what was read.
    HasRead {
        /// For whom.
        receipt: Receipt,
        /// What it asked for, or, because its shard does not keep up, how many bytes wait for that.
        page: Result<Page, usize>,
    },
    /// From a home: the answer to an interest.
    Live {
        /// The interest it answers.
        interest: Interest,
        /// The channel's number at its home.
        number: u32,
        /// What the next message follows.
        position: Position,
    },
    /// From a home: a message.
    Deliver {
        /// The channel's number at the receiving shard.
        channel: u32,
        /// The interest it answers.
        serial: u32,
        /// The message.
        delivery: Delivery,
        /// Key and generation of the connection of the receiving shard that published it and wants
        /// no copy.
        exclude: Option<(u32, u32)>,
    },
    /// From a home: the acknowledgement of a publish.
    Published {
        /// Whose.
        receipt: Receipt,
        /// The position it got.
        position: Position,
    },
    /// From a home: a publish was not taken, because a shard with subscribers does not keep up.
    Refused {
        /// Whose.
        receipt: Receipt,
        /// What waits for that shard.
        pending_bytes: usize,
    },
    /// To a user's home: it has one connection more on a shard.
    UserJoined {
        /// The user.
        user: UserHash,
        /// The shard.
        shard: u16,
    },
    /// To a user's home: it has one connection less on a shard.
    UserLeft {
        /// The user.
        user: UserHash,
        /// The shard.
        shard: u16,
    },
    /// To a user's home: pass this on to all its connections.
    Direct {
        /// The user's name.
        user: Box<str>,
        /// The message.
        publication: Publication,
        /// By whom.
        receipt: Receipt,
    },
    /// From a user's home: a message to the user's connections on the receiving shard.
    DeliverDirect {
        /// The user's name.
        user: Box<str>,
        /// The message.
        publication: Publication,
    },
    /// To [`BROADCASTING_SHARD`]: pass this on to everybody.
    Broadcast {
        /// The message.
        publication: Publication,
        /// By whom.
        receipt: Receipt,
    },
    /// From [`BROADCASTING_SHARD`]: a message to everybody on the receiving shard.
    DeliverBroadcast {
        /// The message.
        publication: Publication,
        /// Key and generation of the connection that sent it and wants no copy.
        exclude: Option<(u32, u32)>,
    },
    /// A direct message or a broadcast was passed on.
    Sent {
        /// Whose.
        receipt: Receipt,
        /// To how many connections.
        connections: u64,
    },
    /// A connection is about to arrive: where it comes from.
    HandOver {
        /// Sender and number of the handing over.
        from: (u16, u32),
        /// The listener that accepted it.
        listener: u8,
        /// Whether it is a Unix socket. (Listeners are numbered per shard.)
        unix: bool,
        /// The peer's address.
        peer: Option<SocketAddr>,
    },
    /// It does not arrive after all.
    HandOverFailed {
        /// Sender and number of the handing over.
        from: (u16, u32),
    },
    /// From the server: stop accepting, close every connection, and end.
    Drain,
}

impl Message {
    /// Bytes that the message keeps in memory. What shards share counts for each of them.
    pub(super) fn weight(&self) -> usize {
        let tag = |receipt: &Receipt| receipt.tag.as_ref().map_or(0, Bytes::len);
        let reference = |channel: &ChannelRef| match channel {
            ChannelRef::Number(_) => 0,
            ChannelRef::Name(name) => name.len(),
        };
        let publication =
            |publication: &Publication| publication.data.len() + publication.meta.len();
        let deliveries = |messages: &[Delivery]| -> usize {
            let one = |delivery: &Delivery| publication(&delivery.publication);
            size_of_val(messages) + messages.iter().map(one).sum::<usize>()
        };
        size_of::<Self>()
            + match self {
                Self::Interest { name, .. } | Self::Disinterest { name, .. } => name.len(),
                Self::Publish {
                    channel,
                    publication: published,
                    receipt,
                } => reference(channel) + publication(published) + tag(receipt),
                Self::Deliver { delivery, .. } => publication(&delivery.publication),
                Self::Recover { channel, .. } => reference(channel),
                Self::Recovered { catch_up, .. } => match catch_up {
                    Ok((catch_up, _)) => deliveries(&catch_up.messages),
                    Err(_) => 0,
                },
                Self::WildcardInterest { wildcard, .. }
                | Self::WildcardDisinterest { wildcard, .. } => wildcard.len(),
                Self::DeliverWildcards {
                    interests,
                    name,
                    delivery,
                    ..
                } => size_of_val(&**interests) + name.len() + publication(&delivery.publication),
                Self::Read {
                    channel, receipt, ..
                }
                | Self::ReadMembers {
                    channel, receipt, ..
                } => reference(channel) + tag(receipt),
                Self::Member { user, .. } => user.as_ref().map_or(0, |user| user.len()),
                Self::Presence { event, .. } => match event {
                    PresenceEvent::Join(user) | PresenceEvent::Leave(user) => user.len(),
                    PresenceEvent::Counts(_) => 0,
                },
                Self::HasReadMembers { receipt, page } => {
                    let member = |(user, _): &Member| size_of::<Member>() + user.len();
                    let page = page
                        .as_ref()
                        .map_or(0, |page| page.members.iter().map(member).sum());
                    page + tag(receipt)
                }
                Self::HasRead { receipt, page } => {
                    let messages = page.as_ref().map_or(0, |page| deliveries(&page.messages));
                    messages + tag(receipt)
                }
                Self::Direct {
                    user,
                    publication: published,
                    receipt,
                } => user.len() + publication(published) + tag(receipt),
                Self::DeliverDirect {
                    user,
                    publication: published,
                } => user.len() + publication(published),
                Self::Broadcast {
                    publication: published,
                    receipt,
                } => publication(published) + tag(receipt),
                Self::DeliverBroadcast {
                    publication: published,
                    ..
                } => publication(published),
                Self::Published { receipt, .. }
                | Self::Refused { receipt, .. }
                | Self::Sent { receipt, .. } => tag(receipt),
                _ => 0,
            }
    }
}
