//! A client that does what a test tells it.

use super::super::handler::Kind;
use super::server::Server;
use crate::config::Config;
use crate::ring::sim::{End, Kind as SocketKind, RingSetup, SocketId};
use crate::wire::Role;
use crate::wire::client::{parse_response, write_request};
use crate::wire::frame::{Opcode, encode_masked};
use crate::wire::message::{Event, Flow, Rules, decode};

pub(super) const WINDOW: usize = 64 << 10;

pub(super) fn server(shards: usize, slots: u32, change: impl FnOnce(&mut Config)) -> Server {
    let mut config = Config::default();
    change(&mut config);
    let setup = RingSetup {
        slots,
        listeners: vec![SocketKind::Tcp],
        buffers: config.ring.buffers,
        buffer_bytes: 2048,
        large_buffers: config.ring.large_buffers,
        large_buffer_bytes: 64 << 10,
    };
    let mut server = Server::new(1, shards, &setup, &config);
    server.rest();
    server
}

/// What a peer got, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Got {
    Text(String),
    Binary(usize),
    Ping,
    Pong,
    Close(Option<u16>, String),
}

fn decode_all(bytes: &mut [u8]) -> Vec<Got> {
    let rules = Rules {
        role: Role::Client,
        message_bytes: 64 << 20,
        fragments: 1,
    };
    let mut carry = None;
    let mut got = Vec::new();
    let mut take = |event: Event<'_>| {
        got.push(match event {
            Event::Message {
                kind: Kind::Text,
                payload,
            } => Got::Text(String::from_utf8(payload.to_vec()).expect("UTF-8")),
            Event::Message { payload, .. } => Got::Binary(payload.len()),
            Event::Ping(_) => Got::Ping,
            Event::Pong(_) => Got::Pong,
            Event::Close { code, reason } => Got::Close(code, reason.to_owned()),
        });
        Flow::Continue
    };
    decode(&mut carry, bytes, &rules, &mut take).expect("valid frames");
    assert!(carry.is_none(), "a frame came in part");
    got
}

/// A client that is told what to do.
pub(super) struct Peer {
    pub(super) socket: SocketId,
}

impl Peer {
    pub(super) fn connect(server: &mut Server, ring: usize, window: usize) -> Self {
        let socket = server
            .world
            .borrow_mut()
            .connect(ring, 0, window)
            .expect("a listener");
        Self { socket }
    }

    pub(super) fn upgrade(server: &mut Server, ring: usize, path: &str, window: usize) -> Self {
        let peer = Self::connect(server, ring, window);
        let mut request = Vec::new();
        let key = write_request(&mut request, "localhost", path, &[7; 16], None, &[]);
        peer.write(server, &request);
        server.rest();
        let response = server.world.borrow_mut().read(peer.socket, usize::MAX);
        let accepted = parse_response(&response, &key)
            .expect("accepted")
            .expect("complete");
        assert_eq!(accepted.consumed, response.len());
        peer
    }

    pub(super) fn write(&self, server: &Server, bytes: &[u8]) {
        assert_eq!(
            server.world.borrow_mut().write(self.socket, bytes),
            bytes.len()
        );
    }

    pub(super) fn say(&self, server: &Server, opcode: Opcode, payload: &[u8]) {
        let mut frame = Vec::new();
        encode_masked(&mut frame, opcode, true, payload, [1, 2, 3, 4]);
        self.write(server, &frame);
    }

    pub(super) fn text(&self, server: &Server, text: &str) {
        self.say(server, Opcode::Text, text.as_bytes());
    }

    /// Everything that has come.
    pub(super) fn hear(&self, server: &Server) -> Vec<Got> {
        let mut bytes = Vec::new();
        loop {
            let more = server.world.borrow_mut().read(self.socket, usize::MAX);
            if more.is_empty() {
                break;
            }
            bytes.extend(more);
        }
        decode_all(&mut bytes)
    }

    pub(super) fn texts(&self, server: &Server) -> Vec<String> {
        let texts = self.hear(server).into_iter();
        texts
            .map(|got| match got {
                Got::Text(text) => text,
                other => panic!("{other:?} among texts"),
            })
            .collect()
    }

    /// The texts in bytes that may have come in several parts.
    pub(super) fn frames(bytes: &mut [u8]) -> Vec<String> {
        let mut texts = Vec::new();
        for got in decode_all(bytes) {
            match got {
                Got::Text(text) => texts.push(text),
                other => panic!("{other:?} among texts"),
            }
        }
        texts
    }

    pub(super) fn ended(&self, server: &Server) -> Option<End> {
        server.world.borrow().ended(self.socket)
    }
}

pub(super) fn text(text: &str) -> Got {
    Got::Text(text.to_owned())
}
