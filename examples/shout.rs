//! The example of the README: a server with a protocol of its own, as small as it gets.

use ringwire::app::{
    Accept, ConnectionId, Context, Endpoint, Handler, Message, Rejection, Request,
};
use ringwire::config::Config;
use ringwire::{Server, StartError};
use std::net::SocketAddr;

/// Sends every message back in capitals.
struct Shout;

impl Handler for Shout {
    fn endpoints(&self) -> Vec<Endpoint> {
        vec![Endpoint {
            message_bytes: 64 * 1024,
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
        match request.path {
            "/shout" => Ok(Accept::default()),
            _ => Err(Rejection::new(404, "try /shout")),
        }
    }

    fn message(&mut self, context: &mut Context<'_>, from: ConnectionId, message: Message<'_>) {
        context.send(from, message.kind, &message.payload.to_ascii_uppercase());
    }
}

fn main() -> Result<(), StartError> {
    let server = Server::builder()
        .config(Config::default())
        .handler(|_shard, _config| Shout)
        .build()?;
    println!("{}", server.plan());
    server.run() // until SIGTERM, SIGINT or SIGHUP
}
