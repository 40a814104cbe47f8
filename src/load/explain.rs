//! What an error of the client's own side means for whoever runs a load: which limit was hit, and how to
//! raise it.

use std::io;

use rustix::io::Errno;

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
