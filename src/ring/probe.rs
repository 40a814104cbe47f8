//! What this kernel and these limits allow, found out by trying it.
//!
//! Before the first message: every failure is one sentence that says what is wrong and what to
//! change. What can only be guessed from an errno is decided in `classify`, which is pure.

use super::buffers::BufferRing;
use super::setup::{build, step};
use super::{BufferClass, Op, Token};
use io_uring::types::{DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use rustix::process::{Resource, getrlimit};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// The oldest kernel that has everything: `DEFER_TASKRUN` came with 6.1.
pub const OLDEST_KERNEL: (u32, u32) = (6, 1);
/// Locked memory that one glommio executor needs, in bytes.
pub const MEMLOCK_PER_EXECUTOR: u64 = 512 * 1024;

/// Why a ring cannot be had, and what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The kernel lacks something that cannot be done without.
    #[error(
        "Linux {kernel} is too old: it lacks {missing}; boot Linux {}.{} or newer",
        OLDEST_KERNEL.0,
        OLDEST_KERNEL.1
    )]
    KernelTooOld {
        /// The release that is running.
        kernel: String,
        /// What it lacks.
        missing: &'static str,
    },
    /// The kernel was built without io_uring.
    #[error(
        "Linux {kernel} has no io_uring: boot a kernel that was built with CONFIG_IO_URING=y, or \
         leave the sandbox that hides it"
    )]
    NotBuilt {
        /// The release that is running.
        kernel: String,
    },
    /// `kernel.io_uring_disabled` is 1 or 2.
    #[error(
        "io_uring is switched off for this process (kernel.io_uring_disabled = {value}): run \
         `sysctl -w kernel.io_uring_disabled=0`{}",
        if *.value == 1 { ", or add the process to the group kernel.io_uring_group" } else { "" }
    )]
    Disabled {
        /// The value of the sysctl.
        value: u32,
    },
    /// A filter of system calls forbids io_uring.
    #[error(
        "a seccomp filter forbids io_uring: allow the system calls io_uring_setup, io_uring_enter \
         and io_uring_register (Docker and Podman: `--security-opt seccomp=PROFILE.json`; systemd: \
         `SystemCallFilter=@io-uring`)"
    )]
    Seccomp,
    /// RLIMIT_MEMLOCK is too small.
    #[error(
        "the limit of locked memory, {} KiB, is too small: set `LimitMEMLOCK=infinity` in the systemd \
         unit, or run `ulimit -l unlimited` before",
        .limit_bytes / 1024
    )]
    Memlock {
        /// The soft limit.
        limit_bytes: u64,
    },
    /// RLIMIT_NOFILE is too small.
    #[error(
        "the limit of open files, {limit}, is too small for {what}: set `LimitNOFILE=` in the systemd unit, \
         or run `ulimit -n` before, with a larger number"
    )]
    OpenFiles {
        /// The soft limit.
        limit: u64,
        /// For what.
        what: String,
    },
    /// A value that no ring can be made with.
    #[error("{what}")]
    Config {
        /// What is wrong, as a sentence.
        what: String,
    },
    /// Anything else.
    #[error("{what} failed: {error}; please report it with the output of `uname -r`")]
    Other {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        error: String,
    },
}

/// What was being tried when something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// `io_uring_setup`.
    Ring,
    /// Registering a table of direct descriptors.
    Table { slots: u32 },
    /// Registering receive buffers.
    Buffers,
    /// Accepting into the table.
    DirectAccept,
    /// Handing a descriptor to another ring.
    HandOver,
    /// Anything else.
    Other(&'static str),
}

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::Ring => "making an io_uring",
            Self::Table { .. } => "registering a table of direct descriptors",
            Self::Buffers => "registering receive buffers",
            Self::DirectAccept => "accepting a connection into a direct descriptor",
            Self::HandOver => "handing a direct descriptor to another ring",
            Self::Other(what) => what,
        }
    }

    /// What an old kernel lacks when this step fails.
    const fn feature(self) -> &'static str {
        match self {
            Self::Ring => "IORING_SETUP_DEFER_TASKRUN",
            Self::Table { .. } => "sparse tables of direct descriptors",
            Self::Buffers => "buffer rings",
            Self::DirectAccept => "accepting into an allocated direct descriptor",
            Self::HandOver => "handing descriptors between rings (IORING_MSG_SEND_FD)",
            Self::Other(what) => what,
        }
    }
}

/// What the classification knows of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    kernel: String,
    /// `kernel.io_uring_disabled`; `None` before Linux 6.6.
    io_uring_disabled: Option<u32>,
    /// Soft limits; `None`: unlimited.
    memlock_bytes: Option<u64>,
    open_files: Option<u64>,
}

impl Facts {
    fn read() -> Self {
        let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        Self {
            kernel: kernel_release(),
            io_uring_disabled: disabled.ok().and_then(|text| text.trim().parse().ok()),
            memlock_bytes: getrlimit(Resource::Memlock).current,
            open_files: getrlimit(Resource::Nofile).current,
        }
    }
}

fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// Whether the running kernel is older than `version`. One that does not say counts as old.
pub(super) fn kernel_is_before(version: (u32, u32)) -> bool {
    kernel_version(&kernel_release()).is_none_or(|running| running < version)
}

/// Major and minor number of a kernel release ("6.18.44-fc" is 6.18).
pub(crate) fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Why `step` failed with `errno` on a machine of these `facts`.
fn classify(step: Step, errno: i32, facts: &Facts) -> ProbeError {
    let too_old = kernel_version(&facts.kernel).is_some_and(|version| version < OLDEST_KERNEL);
    match (errno, step) {
        (libc::EPERM, Step::Ring) => match facts.io_uring_disabled {
            Some(value @ 1..) => ProbeError::Disabled { value },
            _ => ProbeError::Seccomp,
        },
        (libc::EPERM | libc::EACCES | libc::ENOSYS, _) if step != Step::Ring => ProbeError::Seccomp,
        // Since 5.1 every kernel has the call, unless it was built without. Docker's profile
        // answers ENOSYS or EPERM, depending on its age.
        (libc::ENOSYS, Step::Ring) => match (facts.io_uring_disabled, too_old) {
            (None, true) => ProbeError::KernelTooOld {
                kernel: facts.kernel.clone(),
                missing: step.feature(),
            },
            // The sysctl exists only where io_uring does.
            (Some(_), _) => ProbeError::Seccomp,
            (None, false) => ProbeError::NotBuilt {
                kernel: facts.kernel.clone(),
            },
        },
        (libc::EMFILE, _) => {
            let what = match step {
                Step::Table { slots } => format!("a table of {slots} sockets"),
                _ => "the descriptors of the process".to_owned(),
            };
            ProbeError::OpenFiles {
                limit: facts.open_files.unwrap_or(u64::MAX),
                what,
            }
        }
        (libc::ENOMEM, _) => match facts.memlock_bytes {
            Some(limit_bytes) => ProbeError::Memlock { limit_bytes },
            None => ProbeError::Other {
                what: step.name(),
                error: "the kernel is out of memory".into(),
            },
        },
        (libc::EINVAL | libc::EOPNOTSUPP | libc::EBADFD, _) if too_old => {
            ProbeError::KernelTooOld {
                kernel: facts.kernel.clone(),
                missing: step.feature(),
            }
        }
        _ => ProbeError::Other {
            what: step.name(),
            error: io::Error::from_raw_os_error(errno).to_string(),
        },
    }
}

/// Says why `step` failed on this machine.
pub(super) fn explain(step: Step, error: &io::Error) -> ProbeError {
    match error.raw_os_error() {
        Some(errno) => classify(step, errno, &Facts::read()),
        None => ProbeError::Other {
            what: step.name(),
            error: error.to_string(),
        },
    }
}

/// What this kernel has beyond the necessary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// The release that is running.
    pub kernel: String,
    /// Submission without an array of indexes (Linux 6.6).
    pub no_sqarray: bool,
    /// Waiting for more completions than the first (Linux 6.12): `ring.min_wait_us` works.
    pub min_wait: bool,
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes_no = |has| if has { "yes" } else { "no" };
        write!(
            f,
            "Linux {}, io_uring with deferred task work, buffer rings and direct descriptors; \
             no_sqarray (6.6): {}, min_wait (6.12): {}",
            self.kernel,
            yes_no(self.no_sqarray),
            yes_no(self.min_wait)
        )
    }
}

/// Tries everything that the data ring needs: a ring with its flags, a buffer ring, an accept into
/// a direct descriptor, and handing that over to another ring.
///
/// # Errors
/// The first thing that is missing, and what to do about it.
pub fn probe() -> Result<Features, ProbeError> {
    // On a thread of its own: when a ring goes, the kernel interrupts the thread that used it, and
    // a blocking call of whoever starts a server would end with EINTR some time later.
    std::thread::scope(|scope| {
        let prober = std::thread::Builder::new()
            .name("ringwire-probe".to_owned())
            .spawn_scoped(scope, try_rings);
        let prober = step(Step::Other("starting a thread"), prober)?;
        match prober.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn try_rings() -> Result<Features, ProbeError> {
    const SLOTS: u32 = 8;
    let (sender, no_sqarray) = step(Step::Ring, build(8, 16))?;
    let (receiver, _) = step(Step::Ring, build(8, 16))?;
    let table = Step::Table { slots: SLOTS };
    for ring in [&sender, &receiver] {
        step(table, ring.submitter().register_files_sparse(SLOTS))?;
    }
    let min_wait = sender.params().is_feature_min_timeout();
    let buffers = step(
        Step::Buffers,
        BufferRing::new(&sender, BufferClass::Small, 8),
    )?;
    let mut sender = sender;
    let mut receiver = receiver;
    let slot = accept_one(&mut sender)?;
    hand_over(&mut sender, slot, &mut receiver)?;
    // No receive was made, so the kernel has taken none of the buffers.
    drop(buffers);
    Ok(Features {
        kernel: kernel_release(),
        no_sqarray,
        min_wait,
    })
}

/// Accepts one connection over an abstract Unix socket into a direct descriptor.
fn accept_one(ring: &mut IoUring) -> Result<u32, ProbeError> {
    let step_of = Step::Other("making a pair of Unix sockets");
    let (listener, client) = step(step_of, unix_pair())?;
    let entry = opcode::Accept::new(
        Fd(listener.as_raw_fd()),
        std::ptr::null_mut(),
        std::ptr::null_mut(),
    )
    .file_index(Some(DestinationSlot::auto_target()))
    .build()
    .user_data(Token::new(Op::Accept, 0, 0).into_raw());
    let result = complete(ring, &entry, Step::DirectAccept)?;
    drop(client);
    Ok(result as u32)
}

/// A listener, and a client that is connected to it and waits to be accepted.
fn unix_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use socket2::{Domain, Socket, Type};
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Binding to no name gives a free one.
    rustix::net::bind(&listener, &rustix::net::SocketAddrUnix::new_unnamed())?;
    listener.listen(1)?;
    let client = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    client.connect(&listener.local_addr()?)?;
    Ok((listener.into(), client.into()))
}

fn hand_over(sender: &mut IoUring, slot: u32, receiver: &mut IoUring) -> Result<(), ProbeError> {
    let entry = opcode::MsgRingSendFd::new(
        Fd(receiver.as_raw_fd()),
        Fixed(slot),
        DestinationSlot::auto_target(),
        Token::new(Op::Arrived, 0, 0).into_raw(),
    )
    .build()
    .user_data(Token::new(Op::HandOver, 0, 0).into_raw());
    // The message is delivered by the thread of the receiver, which is this one: let both work.
    push(sender, &entry);
    let mut sent = None;
    let mut arrived = None;
    for _ in 0..100 {
        for ring in [&mut *sender, &mut *receiver] {
            let waited = wait(ring, Duration::from_millis(5));
            step(Step::HandOver, waited)?;
        }
        sent = sent.or_else(|| sender.completion().next());
        arrived = arrived.or_else(|| receiver.completion().next());
        if let Some(sent) = &sent
            && (sent.result() < 0 || arrived.is_some())
        {
            let error = sent.result().min(arrived.map_or(0, |entry| entry.result()));
            return check_result(Step::HandOver, error).map(drop);
        }
    }
    check_result(Step::HandOver, -libc::ETIME).map(drop)
}

#[allow(unsafe_code)]
fn push(ring: &mut IoUring, entry: &io_uring::squeue::Entry) {
    // SAFETY: the entries above point to no memory.
    let pushed = unsafe { ring.submission().push(entry) };
    pushed.expect("an empty submission queue has room");
}

/// Submits, and waits for a completion or the end of `time`.
fn wait(ring: &mut IoUring, time: Duration) -> io::Result<()> {
    let time = Timespec::from(time);
    match ring
        .submitter()
        .submit_with_args(1, &SubmitArgs::new().timespec(&time))
    {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR) => Ok(()),
            _ => Err(error),
        },
    }
}

/// Runs one request to its end.
fn complete(
    ring: &mut IoUring,
    entry: &io_uring::squeue::Entry,
    name: Step,
) -> Result<i32, ProbeError> {
    push(ring, entry);
    for _ in 0..20 {
        step(name, wait(ring, Duration::from_millis(50)))?;
        if let Some(completion) = ring.completion().next() {
            return check_result(name, completion.result());
        }
    }
    check_result(name, -libc::ETIME)
}

fn check_result(name: Step, result: i32) -> Result<i32, ProbeError> {
    if result < 0 {
        return Err(classify(name, -result, &Facts::read()));
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: &str = "6.12.5-cloud";

    fn facts() -> Facts {
        Facts {
            kernel: KERNEL.into(),
            io_uring_disabled: Some(0),
            memlock_bytes: Some(8 << 20),
            open_files: Some(20_000),
        }
    }

    fn old(kernel: &str) -> Facts {
        Facts {
            kernel: kernel.into(),
            io_uring_disabled: None,
            ..facts()
        }
    }

    /// The one sentence that a user reads.
    fn sentence(step: Step, errno: i32, facts: &Facts) -> String {
        let text = classify(step, errno, facts).to_string();
        assert!(!text.contains('\n') && !text.contains("  "), "{text}");
        text
    }

    #[test]
    fn kernel_releases_are_read() {
        assert_eq!(kernel_version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(kernel_version("6.1.0-30-amd64"), Some((6, 1)));
        assert_eq!(kernel_version("5.15.153.1-microsoft"), Some((5, 15)));
        assert_eq!(kernel_version("linux"), None);
        assert_eq!(kernel_version(""), None);
        assert!(kernel_version(&kernel_release()).is_some());
    }

    #[test]
    fn an_old_kernel_is_named_with_what_it_lacks() {
        for (step, errno, lacks) in [
            (Step::Ring, libc::EINVAL, "DEFER_TASKRUN"),
            (Step::Buffers, libc::EINVAL, "buffer rings"),
            (Step::Table { slots: 8 }, libc::EINVAL, "sparse tables"),
            (Step::DirectAccept, libc::EINVAL, "direct descriptor"),
            (Step::HandOver, libc::EINVAL, "IORING_MSG_SEND_FD"),
        ] {
            let text = sentence(step, errno, &old("5.15.0-91-generic"));
            assert!(
                text.contains("5.15.0-91-generic") && text.contains(lacks),
                "{text}"
            );
            assert!(text.contains("boot Linux 6.1 or newer"), "{text}");
        }
    }

    #[test]
    fn a_kernel_that_should_do_it_is_not_called_old() {
        let text = sentence(Step::HandOver, libc::EINVAL, &facts());
        assert!(text.contains("handing a direct descriptor") && text.contains("Invalid argument"));
    }

    #[test]
    fn the_sysctl_is_named_with_its_value() {
        for (value, group) in [(1, true), (2, false)] {
            let facts = Facts {
                io_uring_disabled: Some(value),
                ..facts()
            };
            let error = classify(Step::Ring, libc::EPERM, &facts);
            assert_eq!(error, ProbeError::Disabled { value });
            let text = error.to_string();
            assert!(
                text.contains(&format!("kernel.io_uring_disabled = {value}")),
                "{text}"
            );
            assert!(
                text.contains("sysctl -w kernel.io_uring_disabled=0"),
                "{text}"
            );
            assert_eq!(text.contains("io_uring_group"), group, "{text}");
        }
    }

    #[test]
    fn seccomp_is_what_remains_when_the_sysctl_allows() {
        for (facts, errno) in [
            (facts(), libc::EPERM),
            (facts(), libc::ENOSYS),
            (old(KERNEL), libc::EPERM),
        ] {
            assert_eq!(classify(Step::Ring, errno, &facts), ProbeError::Seccomp);
        }
        // A filter can let the setup through and stop what follows.
        for errno in [libc::EPERM, libc::EACCES, libc::ENOSYS] {
            assert_eq!(
                classify(Step::Buffers, errno, &facts()),
                ProbeError::Seccomp
            );
        }
        let text = ProbeError::Seccomp.to_string();
        assert!(text.contains("io_uring_setup") && text.contains("--security-opt seccomp="));
    }

    #[test]
    fn a_kernel_without_the_call_is_old_or_was_built_without() {
        let text = sentence(Step::Ring, libc::ENOSYS, &old("4.19.0-21-amd64"));
        assert!(text.contains("too old"), "{text}");
        let text = sentence(Step::Ring, libc::ENOSYS, &old(KERNEL));
        assert!(text.contains("CONFIG_IO_URING"), "{text}");
    }

    #[test]
    fn memory_is_locked_or_out() {
        let text = sentence(Step::Ring, libc::ENOMEM, &facts());
        assert!(
            ["8192 KiB", "LimitMEMLOCK=", "ulimit -l"]
                .iter()
                .all(|part| text.contains(part)),
            "{text}"
        );
        let unlimited = Facts {
            memlock_bytes: None,
            ..facts()
        };
        let text = sentence(Step::Ring, libc::ENOMEM, &unlimited);
        assert!(text.contains("out of memory"), "{text}");
    }

    #[test]
    fn a_table_above_the_limit_of_open_files_is_named_with_its_size() {
        let text = sentence(Step::Table { slots: 50_000 }, libc::EMFILE, &facts());
        assert!(
            text.contains("20000, is too small for a table of 50000 sockets"),
            "{text}"
        );
        let text = sentence(Step::Ring, libc::EMFILE, &facts());
        assert!(
            text.contains("descriptors of the process") && text.contains("LimitNOFILE="),
            "{text}"
        );
    }

    #[test]
    fn an_answer_that_nobody_expects_is_passed_on() {
        let text = sentence(Step::Other("publishing a ring"), libc::EIO, &facts());
        assert!(
            text.contains("publishing a ring failed") && text.contains("uname -r"),
            "{text}"
        );
        let error = io::Error::other("it broke");
        assert!(explain(Step::Ring, &error).to_string().contains("it broke"));
    }

    #[test]
    fn features_read_as_one_line() {
        let features = Features {
            kernel: KERNEL.into(),
            no_sqarray: true,
            min_wait: false,
        };
        let text = features.to_string();
        assert!(text.starts_with("Linux 6.12.5-cloud, io_uring"), "{text}");
        assert!(
            text.ends_with("no_sqarray (6.6): yes, min_wait (6.12): no"),
            "{text}"
        );
    }
}
