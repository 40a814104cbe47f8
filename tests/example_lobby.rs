//! `examples/lobby` does what its protocol promises.

#[path = "../examples/lobby/lobby.rs"]
mod lobby;

use lobby::Lobby;
use ringwire::config::{Config, Listen};
use ringwire::{Running, Server};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tungstenite::{Error, Message, WebSocket};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

fn start() -> (Running, SocketAddr) {
    let config = Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        // Two, so that players meet across shards.
        shards: Some(2),
        ..Config::default()
    };
    let server = Server::builder()
        .config(config)
        .handler(|_, _| Lobby::default());
    let running = server.build().unwrap().start().unwrap();
    let Listen::Tcp(address) = running.addresses()[0] else {
        panic!("a TCP listener")
    };
    (running, address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

struct Player(WebSocket<TcpStream>);

impl Player {
    fn connect(address: SocketAddr) -> Self {
        let url = format!("ws://{address}/lobby");
        Self(tungstenite::client(url, connect(address)).unwrap().0)
    }

    fn send(&mut self, what: u8, rest: &[u8]) {
        let message = [&[what], rest].concat();
        self.0.send(Message::binary(message)).unwrap();
    }

    /// The next message: what it is, the numbers in it, and the rest.
    fn hear(&mut self) -> (u8, Vec<u64>, Vec<u8>) {
        let message = match self.0.read().unwrap() {
            Message::Binary(message) => message,
            other => panic!("{other:?}"),
        };
        let (what, rest) = message.split_first().unwrap();
        let count = match what {
            17..=19 | 32 => 2,
            33 => 1,
            _ => 0,
        };
        let (numbers, rest) = rest.split_at(8 * count);
        let numbers = numbers.chunks(8);
        let numbers = numbers.map(|number| u64::from_be_bytes(number.try_into().unwrap()));
        (*what, numbers.collect(), rest.to_vec())
    }

    /// Enters and returns the player's number and that of the lobby's last message before.
    fn enter(&mut self, lobby: u32, name: &str) -> (u64, u64) {
        self.send(1, &[&lobby.to_be_bytes(), name.as_bytes()].concat());
        let (what, numbers, rest) = self.hear();
        assert_eq!((what, rest.len()), (32, 0));
        let [player, last] = numbers[..] else {
            panic!("{numbers:?}")
        };
        assert_eq!(self.hear(), (17, vec![last + 1, player], name.into()));
        (player, last)
    }

    fn closed(&mut self) -> u16 {
        loop {
            match self.0.read() {
                Ok(Message::Close(Some(close))) => return close.code.into(),
                Ok(_) => {}
                Err(error) => panic!("no close frame: {error}"),
            }
        }
    }
}

#[test]
fn players_meet_talk_and_leave() {
    let (running, address) = start();
    let mut players: Vec<Player> = (0..6).map(|_| Player::connect(address)).collect();
    let mut numbers = Vec::new();
    for at in 0..players.len() {
        let (number, last) = players[at].enter(7, &format!("player {at}"));
        assert_eq!(last, at as u64);
        for other in &mut players[..at] {
            let name = format!("player {at}").into_bytes();
            assert_eq!(other.hear(), (17, vec![last + 1, number], name));
        }
        numbers.push(number);
    }
    let shards: std::collections::HashSet<u64> =
        numbers.iter().map(|number| number >> 32).collect();
    assert_eq!(shards.len(), 2, "the players are on both shards");

    // Everybody talks at once, and all hear the same.
    for (at, player) in players.iter_mut().enumerate() {
        for word in 0..10 {
            player.send(2, format!("{at}: {word}").as_bytes());
        }
    }
    let mut heard = Vec::new();
    for player in &mut players {
        let (mut said, mut acknowledged) = (Vec::new(), Vec::new());
        while said.len() < 60 || acknowledged.len() < 10 {
            match player.hear() {
                (18, numbers, text) => said.push((numbers, String::from_utf8(text).unwrap())),
                (33, numbers, _) => acknowledged.push(numbers[0]),
                other => panic!("{other:?}"),
            }
        }
        assert!(
            said.iter().map(|(numbers, _)| numbers[0]).eq(7..67),
            "no gaps"
        );
        let own = said
            .iter()
            .filter(|(numbers_of, _)| numbers_of[1] == numbers[heard.len()])
            .map(|(numbers, _)| numbers[0]);
        assert!(own.eq(acknowledged), "each is told its numbers");
        heard.push(said);
    }
    assert!(heard.iter().all(|said| *said == heard[0]));

    // One leaves and comes back, one closes, one breaks off: the others are told.
    let mut stays = players.remove(0);
    let mut goes = players.remove(0);
    goes.send(3, b"");
    assert_eq!(stays.hear(), (19, vec![67, numbers[1]], vec![]));
    assert_eq!(goes.enter(7, "again"), (numbers[1], 67));
    assert_eq!(stays.hear().0, 17);
    goes.0.close(None).unwrap();
    assert_eq!(stays.hear(), (19, vec![69, numbers[1]], vec![]));
    drop(players);
    let mut left: Vec<u64> = (0..4)
        .map(|number| {
            let (what, numbers, _) = stays.hear();
            assert_eq!((what, numbers[0]), (19, 70 + number));
            numbers[1]
        })
        .collect();
    left.sort_unstable();
    let mut expected = numbers[2..].to_vec();
    expected.sort_unstable();
    assert_eq!(left, expected);

    // Another lobby is another world.
    let mut elsewhere = Player::connect(address);
    assert_eq!(elsewhere.enter(8, "alone").1, 0);
    stays.send(2, b"anybody?");
    let answers = [stays.hear().0, stays.hear().0];
    assert!(answers.contains(&18) && answers.contains(&33));
    elsewhere.send(2, b"nobody");
    let answers = [elsewhere.hear(), elsewhere.hear()];
    assert!(
        answers
            .iter()
            .any(|answer| answer.0 == 18 && answer.2 == b"nobody")
    );
    drop((stays, goes, elsewhere));
    running.stop(PATIENCE.as_millis() as u32).unwrap();
}

#[test]
fn who_breaks_the_rules_is_disconnected() {
    let (running, address) = start();
    let enter = [&[1, 0, 0, 0, 7][..], b"name"].concat();
    let cases: [(&str, Vec<Message>, u16); 8] = [
        ("text", vec![Message::text("hello")], 1003),
        ("nothing", vec![Message::binary(vec![])], 1008),
        ("an unknown kind", vec![Message::binary(vec![99])], 1008),
        ("a say outside", vec![Message::binary(vec![2, b'x'])], 1008),
        ("no name", vec![Message::binary(vec![1, 0, 0, 0, 7])], 1008),
        ("half a lobby", vec![Message::binary(vec![1, 0, 0])], 1008),
        (
            "entering twice",
            vec![Message::binary(enter.clone()), Message::binary(enter)],
            1008,
        ),
        ("too much", vec![Message::binary(vec![2; 502])], 1009),
    ];
    for (what, messages, code) in cases {
        let mut player = Player::connect(address);
        for message in messages {
            player.0.send(message).unwrap();
        }
        assert_eq!(player.closed(), code, "{what}");
    }
    // What is not the game's WebSocket is answered in HTTP.
    let elsewhere = tungstenite::client(format!("ws://{address}/"), connect(address));
    match elsewhere {
        Err(tungstenite::HandshakeError::Failure(Error::Http(answer))) => {
            assert_eq!(answer.status(), 404);
        }
        other => panic!("{other:?}"),
    }
    let mut plain = connect(address);
    plain
        .write_all(b"GET /lobby HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    drop(plain);
    let started = Instant::now();
    while running.totals().connections > 0 {
        assert!(started.elapsed() < PATIENCE, "connections are left");
        std::thread::sleep(Duration::from_millis(5));
    }
    running.stop(PATIENCE.as_millis() as u32).unwrap();
}
