//! Real clients against a running server: `tungstenite` here, and scripts for Python, Node.js and a
//! browser. Every test has a server of its own, so that they run side by side.

#[path = "clients/channels.rs"]
mod channels;
#[path = "clients/client.rs"]
mod client;
#[path = "clients/frames.rs"]
mod frames;
#[path = "clients/http.rs"]
mod http;
#[path = "clients/lifecycle.rs"]
mod lifecycle;
#[path = "clients/msgpack.rs"]
mod msgpack;
#[path = "clients/scripts.rs"]
mod scripts;
mod support;
#[path = "support/tools.rs"]
mod tools;
