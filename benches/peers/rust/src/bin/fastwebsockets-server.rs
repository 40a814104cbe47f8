//! `fastwebsockets` as a peer of `scripts/compare`: `/echo` as in its `echo_server`, and channels on `/ws`
//! with its split halves, a sender and a writing task for each connection.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use fastwebsockets::{
    FragmentCollector, FragmentCollectorRead, Frame, OpCode, Payload, WebSocketError,
};
use futures_channel::mpsc::{UnboundedReceiver, unbounded};
use futures_util::StreamExt as _;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ringwire_peers::{Hub, Route, route, run};
use tokio::net::TcpStream;
use tokio::task::{spawn, unconstrained};

/// A frame that waits for a connection.
#[derive(Clone)]
struct Outgoing {
    opcode: OpCode,
    payload: Bytes,
}

impl From<String> for Outgoing {
    fn from(text: String) -> Self {
        Self {
            opcode: OpCode::Text,
            payload: text.into(),
        }
    }
}

fn main() {
    let hub = Arc::new(Hub::default());
    run("fastwebsockets", |stream| {
        connection(stream, Arc::clone(&hub))
    });
}

async fn connection(stream: TcpStream, hub: Arc<Hub<Outgoing>>) {
    let service = service_fn(|request| {
        let response = answer(request, &hub);
        async { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // A client that ends before its upgrade.
    let _ = served.await;
}

fn answer(mut request: Request<Incoming>, hub: &Arc<Hub<Outgoing>>) -> Response<Empty<Bytes>> {
    let Some(route) = route(request.uri().path()) else {
        return refusal(StatusCode::NOT_FOUND);
    };
    let Ok((response, upgraded)) = upgrade(&mut request) else {
        return refusal(StatusCode::BAD_REQUEST);
    };
    // Both end with an error when the client ends without a close frame.
    match route {
        Route::Echo => drop(spawn(unconstrained(echo(upgraded)))),
        Route::Channels => drop(spawn(unconstrained(channels(upgraded, Arc::clone(hub))))),
    }
    response
}

fn refusal(status: StatusCode) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    response
}

async fn echo(upgraded: UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(upgraded.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}

async fn channels(upgraded: UpgradeFut, hub: Arc<Hub<Outgoing>>) -> Result<(), WebSocketError> {
    let (reader, mut writer) = upgraded.await?.split(tokio::io::split);
    let mut reader = FragmentCollectorRead::new(reader);
    let (sender, mut receiver) = unbounded::<Outgoing>();
    spawn(unconstrained(async move {
        write_all(&mut receiver, &mut writer).await
    }));
    // Pongs and the answer to a close leave with everything else.
    let mut send = |frame: Frame<'_>| {
        let payload = Bytes::copy_from_slice(&frame.payload);
        let opcode = frame.opcode;
        let _ = sender.unbounded_send(Outgoing { opcode, payload });
        std::future::ready(Ok::<_, WebSocketError>(()))
    };
    loop {
        let frame = reader.read_frame(&mut send).await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text => {
                let text = std::str::from_utf8(&frame.payload);
                let text = text.map_err(|_| WebSocketError::InvalidUTF8)?;
                if let Err(error) = hub.command(text, &sender) {
                    let frame = Frame::close(1_008, error.to_string().as_bytes());
                    let payload = Bytes::copy_from_slice(&frame.payload);
                    let opcode = OpCode::Close;
                    let _ = sender.unbounded_send(Outgoing { opcode, payload });
                    return Ok(());
                }
            }
            _ => {}
        }
    }
}

/// Writes what waits for a connection until nobody sends to it any more.
async fn write_all<W>(
    receiver: &mut UnboundedReceiver<Outgoing>,
    writer: &mut fastwebsockets::WebSocketWrite<W>,
) -> Result<(), WebSocketError>
where
    W: tokio::io::AsyncWrite + Unpin,
{
    while let Some(Outgoing { opcode, payload }) = receiver.next().await {
        let frame = Frame::new(true, opcode, None, Payload::Borrowed(&payload));
        writer.write_frame(frame).await?;
        if opcode == OpCode::Close {
            return Ok(());
        }
    }
    Ok(())
}
