use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

fn tcp(listener: &Listener) -> SocketAddr {
    match listener.address {
        Listen::Tcp(address) => address,
        Listen::Unix(_) => panic!("not TCP: {}", listener.address),
    }
}

fn open(address: &str, shards: usize) -> Result<Listener, ListenError> {
    listeners(&address.parse().unwrap(), shards)
}

#[test]
fn port_zero_gives_all_shards_the_same_port() {
    let listener = open("127.0.0.1:0", 4).unwrap();
    let port = tcp(&listener).port();
    assert_ne!(port, 0);
    assert_eq!(listener.sockets.len(), 4);
    for socket in &listener.sockets {
        assert_eq!(
            socket.local_addr().unwrap().as_socket().unwrap().port(),
            port
        );
        assert!(socket.is_listener().unwrap() && socket.reuse_port().unwrap());
        assert!(!socket.nonblocking().unwrap());
    }
}

#[test]
fn accepted_sockets_inherit_nodelay() {
    let listener = open("127.0.0.1:0", 1).unwrap();
    let mut client = TcpStream::connect(tcp(&listener)).unwrap();
    let (server, _) = listener.sockets[0].accept().unwrap();
    assert!(server.tcp_nodelay().unwrap());
    client.write_all(b"x").unwrap();
    let mut byte = [0];
    let mut server: TcpStream = server.into();
    server.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

#[test]
fn a_second_server_is_refused_although_ports_are_shared() {
    let first = open("127.0.0.1:0", 2).unwrap();
    let address = tcp(&first);
    let error = open(&address.to_string(), 2).unwrap_err().to_string();
    assert!(
        error.contains(&address.to_string()) && error.contains("--listen"),
        "{error}"
    );
    assert!(
        error.contains(&format!("sport = :{}", address.port())),
        "{error}"
    );
    // Of somebody who does not share it either.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    open(&other.local_addr().unwrap().to_string(), 1).unwrap_err();
    // And it is free again when the first one is gone, also right after a connection.
    let client = TcpStream::connect(address).unwrap();
    drop(first);
    drop(client);
    open(&address.to_string(), 2).unwrap();
}

#[test]
fn ipv4_and_ipv6_share_a_port() {
    let six = match open("[::1]:0", 2) {
        Ok(listener) => listener,
        // A machine without IPv6 gets a sentence about it.
        Err(error) => {
            let error = error.to_string();
            assert!(
                error.contains("IPv6") || error.contains("no interface"),
                "{error}"
            );
            return;
        }
    };
    assert!(six.sockets.iter().all(|socket| socket.only_v6().unwrap()));
    let port = tcp(&six).port();
    TcpStream::connect(tcp(&six)).unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn every_address_that_fails_is_reported() {
    let busy = [
        open("127.0.0.1:0", 1).unwrap(),
        open("127.0.0.1:0", 1).unwrap(),
    ];
    let addresses = [
        busy[0].address.clone(),
        "127.0.0.1:0".parse().unwrap(),
        busy[1].address.clone(),
    ];
    let errors = bind_all(&addresses, 1).unwrap_err();
    assert_eq!(
        errors
            .iter()
            .map(|error| error.address.clone())
            .collect::<Vec<_>>(),
        [addresses[0].clone(), addresses[2].clone()]
    );
    drop(busy);
    assert_eq!(bind_all(&addresses, 2).unwrap().len(), 3);
}

#[test]
fn a_foreign_address_is_explained() {
    let address = "192.0.2.1:9".parse().unwrap();
    let help = tcp_help(address, &Errno::ADDRNOTAVAIL.into());
    assert!(help.contains("192.0.2.1; `ip address`"), "{help}");
}

#[test]
fn privileged_ports_are_explained() {
    let address = "127.0.0.1:80".parse().unwrap();
    let help = tcp_help(address, &Errno::ACCESS.into());
    assert!(help.contains("ip_unprivileged_port_start=80"), "{help}");
    let help = tcp_help(address, &Errno::MFILE.into());
    assert!(help.contains("ulimit -Hn"), "{help}");
    let help = tcp_help(address, &Errno::AFNOSUPPORT.into());
    assert!(help.contains("IPv4"), "{help}");
}

#[test]
fn a_unix_socket_is_removed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ringwire.sock");
    let listener = listeners(&Listen::Unix(path.clone()), 4).unwrap();
    assert_eq!(listener.sockets.len(), 1);
    let mut client = UnixStream::connect(&path).unwrap();
    let (server, _) = listener.sockets[0].accept().unwrap();
    client.write_all(b"x").unwrap();
    let mut byte = [0];
    UnixStream::from(std::os::fd::OwnedFd::from(server))
        .read_exact(&mut byte)
        .unwrap();
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn the_socket_of_a_dead_server_is_replaced_but_not_that_of_a_live_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ringwire.sock");
    let live = UnixListener::bind(&path).unwrap();
    let error = listeners(&Listen::Unix(path.clone()), 1)
        .unwrap_err()
        .to_string();
    assert!(error.contains("another server listens there"), "{error}");
    assert!(UnixStream::connect(&path).is_ok());
    // The standard library leaves its file behind, as a killed server does.
    drop(live);
    assert!(path.exists());
    let listener = listeners(&Listen::Unix(path.clone()), 1).unwrap();
    UnixStream::connect(&path).unwrap();
    drop(listener);
}

#[test]
fn a_file_in_the_way_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    fs::write(&path, "important").unwrap();
    let error = listeners(&Listen::Unix(path.clone()), 1)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "important");
}

#[test]
fn the_socket_of_a_successor_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ringwire.sock");
    let old = listeners(&Listen::Unix(path.clone()), 1).unwrap();
    // The successor's file is made before the old one goes, so that it cannot get the same inode.
    let elsewhere = folder.path().join("successor.sock");
    let successor = UnixListener::bind(&elsewhere).unwrap();
    fs::rename(&elsewhere, &path).unwrap();
    drop(old);
    assert!(path.exists());
    drop(successor);
}

#[test]
fn a_missing_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing").join("ringwire.sock");
    let error = listeners(&Listen::Unix(path), 1).unwrap_err().to_string();
    assert!(
        error.contains("missing does not exist; create it"),
        "{error}"
    );
}
