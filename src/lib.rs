//! ringwire: a WebSocket messaging server for one Linux machine.
//!
//! One shard per pinned core owns its sockets, its connections and the subscribers of its
//! channels. The folders follow the way of a message:
//!
//! `ring` (kernel completions) → `wire` (frames) → `session` (commands) → `hub` (channels)
//! → `mesh` (other shards) → the shard's outbox → `ring`.

pub mod cli;
pub mod config;
pub mod doctor;
pub mod hub;
pub mod load;
pub mod mesh;
pub mod ring;
pub mod server;
pub mod session;
pub mod shard;
pub mod simd;
pub mod telemetry;
pub mod topology;
pub mod wire;

/// All that an application of its own protocol on the engine needs: implement [`Handler`], and give
/// it to [`Builder::handler`]. `examples/lobby` is one.
pub mod app {
    pub use crate::hub::{Delivery, Position, Publication};
    pub use crate::server::{PublishError, Publisher};
    pub use crate::shard::connection::ConnectionId;
    pub use crate::shard::core::CloseBy;
    pub use crate::shard::handler::{
        Accept, Audience, Batch, Closed, Context, Counts, Dropped, Endpoint, Handler,
        HistoryOptions, Kind, MAX_FORMS, MembersOptions, MembersPage, Message, Page, PresenceEvent,
        PublishOptions, Published, Refusal, Since, SubscribeOptions, Subscribed,
    };
    pub use crate::wire::close::CloseCode;
    pub use crate::wire::upgrade::{Rejection, Request, write_response};
    pub use bytes::Bytes;
}

pub use app::{ConnectionId, Context, Handler};
pub use server::{Builder, Running, Server, StartError};
