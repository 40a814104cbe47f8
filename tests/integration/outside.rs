//! Publishing from threads that are no shards.

use crate::engine::{Engine, config, connect};
use crate::support::PATIENCE;
use crossbeam_channel::{Receiver, Sender, bounded};
use ringwire::app::{
    Accept, Bytes, ConnectionId, Context, Endpoint, Handler, Message, Publication, PublishError,
    Rejection, Request, SubscribeOptions,
};
use ringwire::config::Listen;
use ringwire::{Server, session};
use serde_json::json;
use std::net::SocketAddr;
use std::thread;

#[test]
fn backends_publish_in_the_same_order_as_clients() {
    let engine = Engine::configured(|config| config.channels[0].history.size = 100);
    let mut listeners: Vec<_> = (0..4).map(|_| engine.open()).collect();
    for listener in &mut listeners {
        listener.subscribe("news");
    }
    let publisher = engine.running().publisher();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let publisher = publisher.clone();
            thread::spawn(move || {
                for number in 0..50 {
                    let data = json!([thread, number]).to_string();
                    let publication = session::publication(&data, Some("backend"), None);
                    publisher
                        .publish("news", publication.expect("JSON"))
                        .expect("there is room");
                }
            })
        })
        .collect();
    let mut speaker = engine.open();
    for number in 0..50 {
        speaker.publish("news", json!([4, number]));
    }
    threads.into_iter().for_each(|one| one.join().unwrap());
    let heard: Vec<Vec<_>> = listeners
        .iter_mut()
        .map(|listener| (0..250).map(|_| listener.message("news")).collect())
        .collect();
    for other in &heard[1..] {
        assert_eq!(*other, heard[0]);
    }
    let mut next = [0; 5];
    for (offset, (number, data)) in (1..).zip(&heard[0]) {
        let thread = data[0].as_u64().expect("a number") as usize;
        assert_eq!((*number, &data[1]), (offset, &json!(next[thread])));
        next[thread] += 1;
    }
    assert_eq!(next, [50; 5]);
    for data in ["", "{", "1 2"] {
        assert!(session::publication(data, None, None).is_err(), "{data:?}");
    }
    assert!(session::publication("1", Some(""), None).is_err());
    assert!(session::publication("1", None, Some("\n")).is_err());
    listeners.iter_mut().for_each(|listener| listener.bye());
    speaker.bye();
    engine.finish();
    let ended = publisher.publish("news", Publication::default());
    assert_eq!(ended, Err(PublishError::Ended));
}

/// Its shard does nothing until it is told to go on.
struct Blocking {
    blocked: Sender<()>,
    go_on: Receiver<()>,
}

impl Handler for Blocking {
    fn endpoints(&self) -> Vec<Endpoint> {
        vec![Endpoint {
            message_bytes: 1000,
            fragments: 1,
            hears_broadcasts: false,
            form: 0,
        }]
    }

    fn upgrade(
        &mut self,
        _request: &Request<'_>,
        _peer: Option<SocketAddr>,
    ) -> Result<Accept, Rejection> {
        Ok(Accept::default())
    }

    fn open(&mut self, context: &mut Context<'_>, connection: ConnectionId, _: &Request<'_>) {
        let options = SubscribeOptions::default();
        context
            .subscribe(connection, "news", options)
            .expect("there is room");
    }

    fn message(&mut self, _: &mut Context<'_>, _: ConnectionId, _: Message<'_>) {
        self.blocked.send(()).expect("the test waits");
        self.go_on.recv().expect("the test goes on");
    }
}

#[test]
fn who_publishes_waits_for_no_shard() {
    let (blocked, is_blocked) = bounded(1);
    let (go, go_on) = bounded::<()>(0);
    let server = Server::builder()
        .config(config(|config| {
            config.shards = Some(1);
            config.client.mesh_pending_bytes = 2 << 20;
        }))
        .handler(move |_, _| Blocking {
            blocked: blocked.clone(),
            go_on: go_on.clone(),
        })
        .build()
        .expect("a plan");
    let running = server.start().expect("it starts");
    let [Listen::Tcp(address)] = running.addresses() else {
        panic!("one address, not {:?}", running.addresses());
    };
    let url = format!("ws://{address}/");
    let (mut client, _) = tungstenite::client(url, connect(*address)).expect("an upgrade");
    client.send("stop".into()).expect("it is sent");
    is_blocked.recv_timeout(PATIENCE).expect("it stops");
    // Were there anything to wait for, this would not end.
    let publisher = running.publisher();
    let mut taken = 0_u32;
    let refused = loop {
        let publication = Publication {
            data: Bytes::from(taken.to_string().into_bytes()),
            ..Publication::default()
        };
        match publisher.publish("news", publication) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    let PublishError::Busy { pending_bytes } = refused else {
        panic!("{refused}");
    };
    assert!((1..=2 << 20).contains(&pending_bytes), "{pending_bytes}");
    assert!(taken > 100, "{taken}");
    go.send(()).expect("it waits");
    for number in 0..taken {
        let message = client.read().expect("a message").into_data();
        assert_eq!(message, number.to_string().into_bytes());
    }
    let publication = Publication {
        data: Bytes::from_static(b"last"),
        ..Publication::default()
    };
    publisher
        .publish("news", publication)
        .expect("there is room");
    assert_eq!(&*client.read().expect("a message").into_data(), b"last");
    drop(client);
    running.stop(PATIENCE.as_millis() as u32).expect("it ends");
}
