//! Listening sockets: one per shard and TCP address, one per Unix socket.
//!
//! Accepted sockets inherit their options from here, which is the only place to set them: a direct
//! descriptor has no number for setsockopt(2). Keepalive is left off, because heartbeats notice a
//! dead peer in half a minute and TCP's two hours would only cost a timer per connection.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::config::Listen;
use crate::config::limits::LISTEN_BACKLOG;

/// How long an address may be in use before that is an error. A server that was killed holds its
/// sockets until the kernel has taken down its rings, which goes on when the process is gone already;
/// its successor, started at once, would find them in use.
const DYING: Duration = Duration::from_secs(1);

/// The sockets of one address.
///
/// They are in blocking mode: io_uring waits for a connection on such a socket, where a non-blocking
/// one answers `EAGAIN`. Clients can connect from now on, and wait for the first accept.
#[derive(Debug)]
pub struct Listener {
    /// The address as it is now: with the port that the system chose for port 0.
    pub address: Listen,
    /// One socket per shard (SO_REUSEPORT), or a single one, for shard 0, of a Unix socket.
    pub sockets: Vec<Socket>,
    /// Removes the file of a Unix socket when it is dropped.
    pub file: Option<SocketFile>,
}

/// Why an address cannot be listened on, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {problem}")]
pub struct ListenError {
    /// The address.
    pub address: Listen,
    /// What is wrong and what to do about it.
    pub problem: String,
    /// What the system said.
    #[source]
    pub source: Option<io::Error>,
}

/// Opens the sockets of all addresses.
///
/// # Errors
/// Every address that cannot be listened on; none is open then.
pub fn bind_all(addresses: &[Listen], shards: usize) -> Result<Vec<Listener>, Vec<ListenError>> {
    let mut open = Vec::new();
    let mut errors = Vec::new();
    for address in addresses {
        match listeners(address, shards) {
            Ok(listener) => open.push(listener),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        Ok(open)
    } else {
        Err(errors)
    }
}

/// Opens the sockets of one address for `shards` shards.
///
/// # Errors
/// When the address is in use, not on this machine, or not ours to use.
pub fn listeners(address: &Listen, shards: usize) -> Result<Listener, ListenError> {
    match address {
        Listen::Tcp(tcp) => bind_tcp(*tcp, shards).map_err(|source| ListenError {
            address: address.clone(),
            problem: tcp_help(*tcp, &source),
            source: Some(source),
        }),
        Listen::Unix(path) => bind_unix(path).map_err(|(problem, source)| ListenError {
            address: address.clone(),
            problem,
            source,
        }),
    }
}

fn bind_tcp(address: SocketAddr, shards: usize) -> io::Result<Listener> {
    // SO_REUSEPORT also lets a second server of the same user in, which would then get half of the
    // connections. A socket without it finds out whether anybody listens.
    if address.port() != 0 {
        let deadline = Instant::now() + DYING;
        while let Err(error) = tcp_socket(address, false) {
            if error.kind() != io::ErrorKind::AddrInUse || Instant::now() >= deadline {
                return Err(error);
            }
            thread::sleep(DYING / 50);
        }
    }
    let mut actual = address;
    let mut sockets = Vec::with_capacity(shards);
    for _ in 0..shards.max(1) {
        let socket = tcp_socket(actual, true)?;
        // The first may have asked for any port; the others join it.
        if let Some(bound) = socket.local_addr()?.as_socket() {
            actual.set_port(bound.port());
        }
        sockets.push(socket);
    }
    // Only when all are bound: a connection to a socket that is then closed would be reset.
    for socket in &sockets {
        socket.listen(LISTEN_BACKLOG)?;
    }
    Ok(Listener {
        address: Listen::Tcp(actual),
        sockets,
        file: None,
    })
}

/// A socket bound to `address` that does not listen yet.
fn tcp_socket(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restart need not wait for the last connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Every turn sends one piece per socket, so there is nothing for Nagle to gather.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn tcp_help(address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    let code = error.raw_os_error();
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "something else listens there; `ss -ltnp 'sport = :{port}'` shows what. Stop it, or choose \
             another address with --listen"
        ),
        io::ErrorKind::PermissionDenied if port < 1024 => format!(
            "ports below 1024 are reserved. Choose another with --listen, or allow this one: `setcap \
             cap_net_bind_service+ep` on the program, AmbientCapabilities=CAP_NET_BIND_SERVICE in its \
             service, or `sysctl net.ipv4.ip_unprivileged_port_start={port}`"
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "no interface of this machine has the address {}; `ip address` lists them",
            address.ip()
        ),
        _ if code == Some(Errno::AFNOSUPPORT.raw_os_error()) => {
            "this kernel has no IPv6 (ipv6.disable=1?); listen on an IPv4 address".into()
        }
        _ if [Errno::MFILE, Errno::NFILE]
            .map(|errno| Some(errno.raw_os_error()))
            .contains(&code) =>
        {
            "too many open files; raise LimitNOFILE= or `ulimit -Hn`, or run fewer shards".into()
        }
        _ => error.to_string(),
    }
}

// ---- Unix sockets ----------------------------------------------------------------------------

/// The file of a Unix socket; removed when this is dropped, unless another server has put its own
/// there by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == (self.device, self.inode));
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket's file could not be removed");
        }
    }
}

type UnixError = (String, Option<io::Error>);

fn bind_unix(path: &Path) -> Result<Listener, UnixError> {
    let plain = |error: io::Error| (unix_help(path, &error), Some(error));
    let address = SockAddr::unix(path).map_err(plain)?;
    let socket = unix_socket().map_err(plain)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path, &address)?;
            socket.bind(&address).map_err(plain)?;
        }
        result => result.map_err(plain)?,
    }
    let file = fs::symlink_metadata(path).map_err(plain)?;
    let file = SocketFile {
        path: path.to_owned(),
        device: file.dev(),
        inode: file.ino(),
    };
    socket.listen(LISTEN_BACKLOG).map_err(plain)?;
    Ok(Listener {
        address: Listen::Unix(path.to_owned()),
        sockets: vec![socket],
        file: Some(file),
    })
}

fn unix_socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM, None)
}

/// Removes the socket that a dead server left behind. Only when it is a socket, and nobody listens.
fn remove_stale(path: &Path, address: &SockAddr) -> Result<(), UnixError> {
    let plain = |error: io::Error| (unix_help(path, &error), Some(error));
    let file = fs::symlink_metadata(path).map_err(plain)?;
    if !file.file_type().is_socket() {
        return Err((
            "a file that is no socket is in the way; move it, or choose another path".into(),
            None,
        ));
    }
    let deadline = Instant::now() + DYING;
    let answer = loop {
        let probe = unix_socket().map_err(plain)?;
        // A server that is alive but busy (its backlog is full) must not hold us up.
        probe.set_nonblocking(true).map_err(plain)?;
        match probe.connect(address) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => break Err(error),
            answer if Instant::now() >= deadline => break answer,
            _ => thread::sleep(DYING / 50),
        }
    };
    match answer {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(plain)?;
            tracing::info!(path = %path.display(), "removed the socket of a server that is gone");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(plain(error)),
        _ => Err((
            format!(
                "another server listens there; `ss -lxp src {}` shows which. Stop it, or choose another path",
                path.display()
            ),
            None,
        )),
    }
}

fn unix_help(path: &Path, error: &io::Error) -> String {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("the folder {} does not exist; create it", folder.display())
        }
        io::ErrorKind::PermissionDenied => format!(
            "permission denied; this user must be allowed to write to {} and to a socket that is there",
            folder.display()
        ),
        io::ErrorKind::ReadOnlyFilesystem => {
            format!("{} is read-only; choose another path", folder.display())
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
#[path = "listeners_tests.rs"]
mod tests;
