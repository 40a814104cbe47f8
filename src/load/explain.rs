//! What an error of the client's own side means for whoever runs a load: which limit was hit, and how to
//! raise it.

use std::io;
use std::net::IpAddr;

use rustix::io::Errno;

/// Why a connection could not be given its source address.
#[derive(Debug)]
pub(super) enum NoSource {
    /// The kernel does not give this address to a socket.
    Refused(IpAddr, io::Error),
    /// Each of its ports is in use.
    NoPortLeft(IpAddr),
}

/// What that means, and what to do about it.
pub(super) fn source(reason: &NoSource) -> String {
    let (source, error) = match reason {
        NoSource::Refused(source, error) => (source, error),
        NoSource::NoPortLeft(source) => {
            return format!(
                "no port of the source address {source} is left: use more source addresses"
            );
        }
    };
    let what = format!("cannot connect from the source address {source}: {error}");
    match Errno::from_io_error(error) {
        Some(Errno::ADDRNOTAVAIL) => format!(
            "{what}; it is no address of this machine: `ip address` lists those that are, `ip address add \
             {source}/{} dev INTERFACE` adds one, and without a source address the kernel chooses",
            if source.is_ipv4() { 32 } else { 128 }
        ),
        Some(Errno::AFNOSUPPORT | Errno::INVAL) => {
            format!("{what}; it must be of the server's kind, IPv4 or IPv6")
        }
        _ => what,
    }
}

/// What to do about a connect that failed with `error`, where there is something to be done.
pub(super) fn connect(error: &io::Error) -> Option<String> {
    if error.kind() == io::ErrorKind::AddrNotAvailable {
        return Some(
            "no local port is left: one source address has about 28,000 to one server by default \
             (`sysctl net.ipv4.ip_local_port_range`); use more source addresses"
                .to_owned(),
        );
    }
    let hint = match Errno::from_io_error(error)? {
        Errno::CONNREFUSED => {
            "nothing listens there, or it has just stopped: is the server running?"
        }
        Errno::TIMEDOUT => {
            "no answer: a firewall, or the server's queue of new connections is full \
             (net.core.somaxconn, net.ipv4.tcp_max_syn_backlog on its side; \
             `nstat -az TcpExtListenOverflows` counts). Open fewer at a time"
        }
        Errno::CONNRESET => {
            "the server, or something between, closed it before it was up: look into its log, and at its limits"
        }
        Errno::MFILE => {
            "this process may not open more files (RLIMIT_NOFILE): `ulimit -n` up to the hard limit, \
             `LimitNOFILE=` in a systemd unit"
        }
        Errno::NFILE => {
            "the whole system, or the table of direct descriptors, is full: `sysctl fs.file-max`, \
             and at most RLIMIT_NOFILE connections for each client thread"
        }
        Errno::NOBUFS | Errno::NOMEM => {
            "the kernel has no memory for another socket: `free`, `sysctl net.ipv4.tcp_mem`, the cgroup's memory.max"
        }
        Errno::PERM | Errno::ACCESS => {
            "the kernel forbids it: a firewall rule, or a full table of tracked connections \
             (`sysctl net.netfilter.nf_conntrack_max`)"
        }
        Errno::NETUNREACH | Errno::HOSTUNREACH => {
            "there is no route: in a network namespace of its own, is its loopback up (`ip link set lo up`)?"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_is_not_here_is_told_from_one_without_ports() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let refused = |errno: Errno| {
            source(&NoSource::Refused(
                address,
                io::Error::from_raw_os_error(errno.raw_os_error()),
            ))
        };
        let not_here = refused(Errno::ADDRNOTAVAIL);
        assert!(not_here.contains("192.0.2.1") && not_here.contains("no address of this machine"));
        assert!(refused(Errno::INVAL).contains("IPv4 or IPv6"));
        let full = source(&NoSource::NoPortLeft(address));
        assert!(full.contains("more source addresses") && !full.contains("no address"));
    }

    #[test]
    fn what_a_limit_refuses_is_explained() {
        for (errno, word) in [
            (Errno::MFILE, "RLIMIT_NOFILE"),
            (Errno::NFILE, "file-max"),
            (Errno::ADDRNOTAVAIL, "ip_local_port_range"),
            (Errno::TIMEDOUT, "somaxconn"),
            (Errno::PERM, "nf_conntrack_max"),
            (Errno::NOBUFS, "tcp_mem"),
        ] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert!(connect(&error).unwrap().contains(word), "{errno:?}");
        }
        let none_left = io::Error::from(io::ErrorKind::AddrNotAvailable);
        assert!(connect(&none_left).unwrap().contains("source address"));
        assert_eq!(connect(&io::Error::other("something else")), None);
    }
}
