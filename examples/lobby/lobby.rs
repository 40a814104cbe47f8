//! The lobby's protocol and its rules, as a handler on ringwire's engine.
//!
//! Every message is binary and begins with one byte that says what it is; numbers are big-endian.
//!
//! | a player sends | | everybody in the lobby gets | |
//! |---|---|---|---|
//! | 1 enter | lobby `u32`, name (1 to 32 bytes of UTF-8) | 17 entered | number `u64`, player `u64`, name |
//! | 2 say | up to 500 bytes | 18 said | number `u64`, player `u64`, what was said |
//! | 3 leave | | 19 left | number `u64`, player `u64` |
//!
//! The one who entered gets `32 welcome` first: player `u64`, number `u64` of the lobby's last message. The
//! one who said something also gets `33 numbered`: number `u64`; or `34 busy`, and may try again.
//!
//! Numbers count the messages of a lobby from 1, without gaps and in the same order for everybody:
//! they are the engine's offsets. Who sends anything else is disconnected: with 1003 for a text
//! message, with 1008 for a binary one.

use ringwire::app::{
    Accept, Bytes, CloseCode, Closed, ConnectionId, Context, Endpoint, Handler, Kind, Message,
    Position, Publication, PublishOptions, Published, Rejection, Request, SubscribeOptions,
    Subscribed,
};
use std::collections::HashMap;
use std::net::SocketAddr;

const ENTER: u8 = 1;
const SAY: u8 = 2;
const LEAVE: u8 = 3;
const ENTERED: u8 = 17;
const SAID: u8 = 18;
const LEFT: u8 = 19;
const WELCOME: u8 = 32;
const NUMBERED: u8 = 33;
const BUSY: u8 = 34;

const MAX_NAME_BYTES: usize = 32;
const MAX_SAY_BYTES: usize = 500;

/// Someone who is in a lobby, or about to be.
struct Player {
    /// The engine's channel: one per lobby.
    channel: String,
    name: Bytes,
}

/// One shard's part of the game: the players whose connections it has. Shards share nothing; what
/// goes through a channel reaches players on all of them.
#[derive(Default)]
pub(crate) struct Lobby {
    players: HashMap<ConnectionId, Player>,
}

/// A player's number: unique in the server, because generations are within a shard.
fn player(connection: ConnectionId) -> u64 {
    u64::from(connection.shard) << 32 | u64::from(connection.generation)
}

/// What is published: `meta` says what happened and to whom, `data` is the rest.
fn event(what: u8, connection: ConnectionId, data: impl Into<Bytes>) -> Publication {
    let meta = [&[what][..], &player(connection).to_be_bytes()].concat();
    Publication {
        key: 0,
        meta: meta.into(),
        data: data.into(),
    }
}

impl Lobby {
    /// Does what a message asks for. `None`: it makes no sense (now).
    fn obey(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        message: &[u8],
    ) -> Option<()> {
        let (what, rest) = message.split_first()?;
        match *what {
            ENTER => {
                let (lobby, name) = rest.split_first_chunk::<4>()?;
                let named = (1..=MAX_NAME_BYTES).contains(&name.len());
                if !named || std::str::from_utf8(name).is_err() {
                    return None;
                }
                if self.players.contains_key(&connection) {
                    return None;
                }
                let channel = format!("lobby {}", u32::from_be_bytes(*lobby));
                context
                    .subscribe(connection, &channel, SubscribeOptions::default())
                    .ok()?;
                let name = Bytes::copy_from_slice(name);
                self.players.insert(connection, Player { channel, name });
            }
            SAY => {
                let player = self.players.get(&connection)?;
                if rest.len() > MAX_SAY_BYTES {
                    return None;
                }
                let said = event(SAID, connection, Bytes::copy_from_slice(rest));
                // With a tag, `published` will be told the message's number.
                let options = PublishOptions {
                    tag: Some(Bytes::new()),
                    ..PublishOptions::default()
                };
                if context
                    .publish(connection, &player.channel, said, options)
                    .is_err()
                {
                    context.send(connection, Kind::Binary, &[BUSY]);
                }
            }
            LEAVE => {
                let player = self.players.remove(&connection)?;
                context.unsubscribe(connection, &player.channel);
                let left = event(LEFT, connection, Bytes::new());
                // Refused only while megabytes wait for another shard. Then a game whose players must
                // know would keep the event and try again; here a name stays on a list too long.
                let _ = context.announce(&player.channel, left);
            }
            _ => return None,
        }
        Some(())
    }
}

impl Handler for Lobby {
    fn endpoints(&self) -> Vec<Endpoint> {
        // The largest message is a name or a say, with what stands before it. A client that sends
        // more is disconnected (1009) before its message is read.
        let message_bytes = 1 + MAX_SAY_BYTES;
        vec![Endpoint {
            message_bytes,
            fragments: 16,
            hears_broadcasts: false,
            form: 0,
        }]
    }

    fn upgrade(
        &mut self,
        request: &Request<'_>,
        _peer: Option<SocketAddr>,
    ) -> Result<Accept, Rejection> {
        if request.path != "/lobby" {
            return Err(Rejection::new(404, "The lobby is at /lobby."));
        }
        Ok(Accept::default())
    }

    fn message(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        message: Message<'_>,
    ) {
        if message.kind == Kind::Text {
            let code = CloseCode::UNSUPPORTED_DATA;
            context.close(connection, code, "send binary messages");
        } else if self.obey(context, connection, message.payload).is_none() {
            let code = CloseCode::POLICY_VIOLATION;
            context.close(connection, code, "not in this game");
        }
    }

    /// The player hears the lobby from here on: welcome it, then tell everybody, itself included.
    fn subscribed(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        subscribed: &Subscribed<'_>,
    ) {
        let Some(entered) = self.players.get(&connection) else {
            return;
        };
        let mut welcome = vec![WELCOME];
        welcome.extend(player(connection).to_be_bytes());
        let offset = subscribed.position.map_or(0, |position| position.offset);
        welcome.extend(offset.to_be_bytes());
        context.send(connection, Kind::Binary, &welcome);
        let entered = event(ENTERED, connection, entered.name.clone());
        let _ = context.announce(subscribed.channel, entered);
    }

    fn published(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        position: Position,
        _tag: &Bytes,
    ) {
        let number = position.offset.to_be_bytes();
        context.send(
            connection,
            Kind::Binary,
            &[&[NUMBERED][..], &number].concat(),
        );
    }

    /// Called once per message and shard, however many players are in the lobby there.
    fn encode(&mut self, message: &Published<'_>, payload: &mut Vec<u8>) -> Kind {
        let Publication { meta, data, .. } = message.publication;
        payload.push(meta[0]);
        payload.extend(message.offset.to_be_bytes());
        payload.extend(&meta[1..]);
        payload.extend(data);
        Kind::Binary
    }

    /// However a connection ended, the others hear that its player left.
    fn close(&mut self, context: &mut Context<'_>, connection: ConnectionId, _closed: &Closed) {
        if let Some(player) = self.players.remove(&connection) {
            let left = event(LEFT, connection, Bytes::new());
            let _ = context.announce(&player.channel, left);
        }
    }
}
