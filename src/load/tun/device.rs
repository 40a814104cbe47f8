//! The TUN device: what the kernel sends to its network is read here, and what is written here comes to the
//! kernel as from a network.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::addresses::{PREFIX_BITS, SERVER};
use super::segment::MTU;

/// A device with a network of its own behind it, as long as this value lives.
pub struct Device {
    device: SyncDevice,
    name: String,
}

impl Device {
    /// Packets for the clients that the device holds if nothing else is said.
    pub const QUEUE: u32 = 100_000;

    /// Makes a device in the network namespace of this process, with [`Device::address`] for the server, and
    /// the clients behind it. It holds `queue` packets that have not been read; more are lost.
    ///
    /// # Errors
    /// The kernel does not have it, or does not allow it; says what to do about that.
    pub fn open(queue: u32) -> anyhow::Result<Self> {
        if is_ours() {
            bail!(
                "{SERVER} belongs to this network namespace already: does another `--clients tun` run? Use a \
                 namespace of its own (`unshare --net`), as scripts/million does"
            );
        }
        let device = DeviceBuilder::new()
            .ipv4(SERVER, PREFIX_BITS, None)
            .mtu(MTU as u16)
            .tx_queue_len(queue)
            .build_sync()
            .map_err(|error| explained(&error))?;
        device
            .set_nonblocking(true)
            .context("cannot read the TUN device without waiting")?;
        let name = device.name().context("the TUN device has no name")?;
        Ok(Self { device, name })
    }

    /// The address of this machine on it, which the clients connect to.
    #[must_use]
    pub const fn address() -> Ipv4Addr {
        SERVER
    }

    /// Packets for the clients that were lost so far, because the device held as many as it can.
    #[must_use]
    pub fn lost(&self) -> Option<u64> {
        let text = std::fs::read_to_string("/proc/self/net/dev").ok()?;
        dropped(&text, &self.name)
    }

    /// Reads a packet; `None` if there is none.
    pub(super) fn receive(&self, packet: &mut [u8]) -> io::Result<Option<usize>> {
        match self.device.recv(packet) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a packet. One that the kernel has no memory for is lost, as on any network.
    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        match self.device.send(packet) {
            Ok(_) => Ok(()),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN | Errno::INTR) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Waits until there is a packet, at most for `time`.
    pub(super) fn wait(&self, time: Duration) -> io::Result<()> {
        let time = Timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&self.device, PollFlags::IN)], Some(&time)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Device").field(&self.name).finish()
    }
}

/// Whether [`SERVER`] is an address of this namespace: the kernel then sends from there to its network.
fn is_ours() -> bool {
    let from = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        // Nothing is sent.
        socket.connect((SERVER, 9))?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == SERVER)
}

/// Packets that the kernel could not send through the device `name`, from /proc/net/dev (`proc_pid_net(5)`).
fn dropped(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, numbers) = lines.find(|(device, _)| device.trim() == name)?;
    // Eight numbers of what was received; then bytes, packets, errors, drops.
    numbers.split_whitespace().nth(11)?.parse().ok()
}

/// What to do about a device that the kernel does not give.
fn explained(error: &io::Error) -> anyhow::Error {
    let hint = match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
            "there is no /dev/net/tun: load the module (`modprobe tun`), or give the device to the container \
             (`--device /dev/net/tun`)"
        }
        Some(Errno::PERM | Errno::ACCESS) => {
            "it takes the right to change this network namespace (CAP_NET_ADMIN) and to open /dev/net/tun: run \
             it as root"
        }
        _ => "without it there are the ordinary clients (`--clients sockets`)",
    };
    anyhow::anyhow!("cannot make a TUN device: {error}; {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_device_lost_is_found() {
        let text = "Inter-|   Receive                            |  Transmit\n\
            face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo\n\
            \u{20}   lo:       0       0    0    0    0     0          0         0        0       0    0    0    0\n\
            \u{20} tun0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!(dropped(text, "tun0"), Some(12));
        assert_eq!(dropped(text, "lo"), Some(0));
        assert_eq!(dropped(text, "tun"), None);
        assert_eq!(dropped("tun0: 1 2", "tun0"), None);
    }

    #[test]
    fn what_is_missing_is_explained() {
        for (errno, word) in [
            (Errno::NOENT, "modprobe tun"),
            (Errno::PERM, "root"),
            (Errno::ACCESS, "CAP_NET_ADMIN"),
            (Errno::INVAL, "--clients sockets"),
        ] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            let text = explained(&error).to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
