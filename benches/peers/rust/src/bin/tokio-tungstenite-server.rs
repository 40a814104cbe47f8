//! `tokio-tungstenite` as a peer of `scripts/compare`: `/echo` as in its `echo-server`, and channels on
//! `/ws` as in its `server`, a sender for each connection.

use std::sync::Arc;

use futures_channel::mpsc::unbounded;
use futures_util::future::{ready, select};
use futures_util::{StreamExt as _, TryStreamExt as _, pin_mut};
use ringwire_peers::{Hub, Route, route, run};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

/// The documentation's advice for many connections; the default is 128 KiB for each.
const READ_BUFFER_BYTES: usize = 4 * 1024;

fn main() {
    let hub = Arc::new(Hub::default());
    run("tokio-tungstenite", |stream| {
        let hub = Arc::clone(&hub);
        async move {
            // An error is a client that ended without a close frame, or before its upgrade.
            let _ = connection(stream, hub).await;
        }
    });
}

async fn connection(stream: TcpStream, hub: Arc<Hub<Message>>) -> Result<(), Error> {
    let mut wanted = None;
    // The type of the error is the library's.
    #[expect(clippy::result_large_err)]
    let look = |request: &Request, response: Response| {
        wanted = route(request.uri().path());
        match wanted {
            Some(_) => Ok(response),
            None => {
                let mut refusal = ErrorResponse::new(None);
                *refusal.status_mut() = StatusCode::NOT_FOUND;
                Err(refusal)
            }
        }
    };
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
    let socket = accept_hdr_async_with_config(stream, look, Some(config)).await?;
    match wanted {
        Some(Route::Echo) => echo(socket).await,
        Some(Route::Channels) => channels(socket, &hub).await,
        None => Ok(()),
    }
}

async fn echo(socket: WebSocketStream<TcpStream>) -> Result<(), Error> {
    let (sink, stream) = socket.split();
    stream
        .try_filter(|message| ready(message.is_text() || message.is_binary()))
        .forward(sink)
        .await
}

async fn channels(socket: WebSocketStream<TcpStream>, hub: &Hub<Message>) -> Result<(), Error> {
    let (sender, receiver) = unbounded();
    let (sink, stream) = socket.split();
    let commands = stream.try_for_each(|message| {
        if let Message::Text(text) = message
            && hub.command(&text, &sender).is_err()
        {
            let _ = sender.unbounded_send(Message::Close(None));
        }
        ready(Ok(()))
    });
    let deliveries = receiver.map(Ok).forward(sink);
    pin_mut!(commands, deliveries);
    select(commands, deliveries).await.factor_first().0
}
