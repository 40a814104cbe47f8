//! A game lobby with a protocol of its own, on ringwire's engine: `lobby.rs` is all there is to it.
//!
//! ```text
//! cargo run --release --example lobby -- 127.0.0.1:9100
//! ```
//!
//! and then connect any number of WebSocket clients that send binary messages to
//! `ws://127.0.0.1:9100/lobby`. SIGTERM or Ctrl-C ends it as it ends ringwire.

mod lobby;

use lobby::Lobby;
use ringwire::Server;
use ringwire::config::Config;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:9100".to_owned());
    let config = Config {
        listen: vec![address.parse()?],
        ..Config::default()
    };
    // Called once per shard: each has a lobby of its own, and needs no locks.
    let server = Server::builder()
        .config(config)
        .handler(|_shard, _config| Lobby::default())
        .build()?;
    for address in server.addresses() {
        println!("the lobby is open at {address}");
    }
    server.run()?;
    Ok(())
}
