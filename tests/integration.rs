//! The running server against everything that clients and networks do to it, over real sockets.
//!
//! Most tests run the engine inside their own process and read its counters: after whatever
//! happened, other clients must have been served as always, and no connection may be left.

#[path = "integration/access.rs"]
mod access;
#[path = "integration/client.rs"]
mod client;
#[path = "integration/closing.rs"]
mod closing;
#[path = "integration/engine.rs"]
mod engine;
#[path = "integration/frames.rs"]
mod frames;
#[path = "integration/handshake.rs"]
mod handshake;
#[path = "integration/history.rs"]
mod history;
#[path = "integration/lagging.rs"]
mod lagging;
#[path = "integration/messages.rs"]
mod messages;
#[path = "integration/outside.rs"]
mod outside;
#[path = "integration/places.rs"]
mod places;
#[path = "integration/presence.rs"]
mod presence;
#[path = "integration/process.rs"]
mod process;
#[path = "integration/raw.rs"]
mod raw;
#[path = "integration/resets.rs"]
mod resets;
#[path = "integration/shapes.rs"]
mod shapes;
#[path = "integration/slow.rs"]
mod slow;
mod support;
