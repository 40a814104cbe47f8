//! What a server costs, read from outside: processor time and memory of its process (proc(5)).

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// A running process of this machine.
#[derive(Clone, Debug)]
pub struct Process {
    directory: PathBuf,
}

/// Processor time that a process has used since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuTime {
    /// All of it: nanoseconds, at most a scheduler tick behind. The sum of the run times (`schedstat`) of
    /// the threads that still run; where others have ended, what the kernel has accounted for the
    /// whole process (`stat`, which keeps theirs too), in steps of a clock tick.
    pub total_ns: u64,
    /// User part of the process by the kernel's accounting (`stat`), in nanoseconds. Where the
    /// kernel samples (`CONFIG_TICK_CPU_ACCOUNTING`), seconds are needed for a stable share.
    pub user_ns: u64,
    /// System part, likewise.
    pub system_ns: u64,
}

impl CpuTime {
    /// What was used after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            total_ns: self.total_ns.saturating_sub(earlier.total_ns),
            user_ns: self.user_ns.saturating_sub(earlier.user_ns),
            system_ns: self.system_ns.saturating_sub(earlier.system_ns),
        }
    }

    /// The share of user space, from 0 to 1; 0 when nothing was accounted.
    #[must_use]
    pub fn user_share(self) -> f64 {
        match self.user_ns + self.system_ns {
            0 => 0.0,
            both => self.user_ns as f64 / both as f64,
        }
    }
}

/// Processor time of one thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ThreadTime {
    /// The thread's identity.
    pub tid: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// What it has used.
    pub cpu: CpuTime,
}

impl Process {
    /// The process with this identity.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn new(pid: u32) -> io::Result<Self> {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        fs::metadata(&directory)?;
        Ok(Self { directory })
    }

    /// The processes that it has started and that run still (`CONFIG_PROC_CHILDREN`).
    ///
    /// # Errors
    /// When the process is gone or its files cannot be read.
    pub fn children(&self) -> io::Result<Vec<Self>> {
        let mut children = Vec::new();
        for task in fs::read_dir(self.directory.join("task"))? {
            let text = fs::read_to_string(task?.path().join("children"))?;
            for pid in text.split_whitespace() {
                children.push(Self::new(pid.parse().map_err(|_| malformed("children"))?)?);
            }
        }
        Ok(children)
    }

    /// Processor time of the whole process.
    ///
    /// # Errors
    /// When the process is gone or its files cannot be read.
    pub fn cpu(&self) -> io::Result<CpuTime> {
        let mut total_ns = 0;
        for task in fs::read_dir(self.directory.join("task"))? {
            // A thread may end between the listing and the reading.
            if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
                total_ns += run_time_ns(&text)?;
            }
        }
        let (user_ns, system_ns) =
            user_and_system_ns(&fs::read_to_string(self.directory.join("stat"))?)?;
        Ok(CpuTime {
            // Both are rounded down, so that they exceed the sum only by what is missing in it.
            total_ns: total_ns.max(user_ns + system_ns),
            user_ns,
            system_ns,
        })
    }

    /// Processor time of each thread, in the order of their identities.
    ///
    /// # Errors
    /// When the process is gone or its files cannot be read.
    pub fn threads(&self) -> io::Result<Vec<ThreadTime>> {
        let mut threads = Vec::new();
        for task in fs::read_dir(self.directory.join("task"))? {
            let path = task?.path();
            let read = |name: &str| fs::read_to_string(path.join(name));
            let (Ok(name), Ok(stat), Ok(schedstat)) =
                (read("comm"), read("stat"), read("schedstat"))
            else {
                continue; // it ended meanwhile
            };
            let (user_ns, system_ns) = user_and_system_ns(&stat)?;
            let tid = path
                .file_name()
                .and_then(|tid| tid.to_str()?.parse().ok())
                .ok_or_else(|| malformed("task"))?;
            threads.push(ThreadTime {
                tid,
                name: name.trim_end().to_owned(),
                cpu: CpuTime {
                    total_ns: run_time_ns(&schedstat)?,
                    user_ns,
                    system_ns,
                },
            });
        }
        threads.sort_by_key(|thread| thread.tid);
        Ok(threads)
    }

    /// Private dirty memory (`smaps_rollup`), in bytes: what only this process uses and only its
    /// end gives back.
    ///
    /// # Errors
    /// When the process is gone or belongs to somebody else.
    pub fn private_dirty_bytes(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.directory.join("smaps_rollup"))?;
        kilobytes(&text, "Private_Dirty:").ok_or_else(|| malformed("smaps_rollup"))
    }

    /// Waits until the private dirty memory has not changed for `quiet`, at most `limit`; returns
    /// it in bytes. The allocator may give pages back some time after the last connection opened.
    ///
    /// # Errors
    /// As [`Self::private_dirty_bytes`].
    pub fn settled_dirty_bytes(&self, quiet: Duration, limit: Duration) -> io::Result<u64> {
        settled_dirty_bytes(std::slice::from_ref(self), quiet, limit)
    }
}

/// The same of several processes together.
///
/// # Errors
/// As [`Process::private_dirty_bytes`].
pub fn settled_dirty_bytes(
    processes: &[Process],
    quiet: Duration,
    limit: Duration,
) -> io::Result<u64> {
    const STEP: Duration = Duration::from_millis(100);
    let read = || -> io::Result<u64> {
        let each = processes.iter().map(Process::private_dirty_bytes);
        each.sum()
    };
    let mut last = read()?;
    let (mut same, mut waited) = (Duration::ZERO, Duration::ZERO);
    while same < quiet && waited < limit {
        std::thread::sleep(STEP);
        waited += STEP;
        let now = read()?;
        same = if now == last {
            same + STEP
        } else {
            Duration::ZERO
        };
        last = now;
    }
    Ok(last)
}

/// Kernel slab memory of one cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlabCache {
    /// Its name, for example `TCP`.
    pub name: String,
    /// Memory of the objects in use, each with its part of its slab, in bytes. Slabs that are partly
    /// free count as far as they are used: the rest is there for the next connection.
    pub bytes: u64,
}

/// Kernel slab memory by cache (`/proc/slabinfo`), without the caches of file systems, which other
/// programs on the machine move.
///
/// # Errors
/// `PermissionDenied` for anyone but root.
pub fn socket_slabs() -> io::Result<Vec<SlabCache>> {
    slabs(&fs::read_to_string("/proc/slabinfo")?, page_bytes())
}

/// Prefixes of caches that hold files, mappings and processes, not sockets.
const NOT_SOCKETS: [&str; 24] = [
    "anon_vma",
    "btrfs",
    "buffer_head",
    "ext4",
    "extent",
    "fuse",
    "jbd2",
    "kernfs",
    "maple_node",
    "mm_struct",
    "names_cache",
    "overlay",
    "ovl",
    "proc_",
    "radix_tree",
    "shmem",
    "sighand",
    "signal",
    "squashfs",
    "task_struct",
    "trace_",
    "vm_area",
    "vma_lock",
    "xfs",
];

/// Inodes of procfs, whose name and label are in these caches: somebody looks at the descriptors of
/// the measured process (monitoring does), which is not what a connection costs.
const PROC_INODES: &str = "proc_inode_cache";
const WITH_INODES: [&str; 2] = ["dentry", "lsm_inode_cache"];

fn slabs(slabinfo: &str, page_bytes: u64) -> io::Result<Vec<SlabCache>> {
    let mut caches = Vec::new();
    let mut proc_inodes = 0;
    // Per object in `WITH_INODES`.
    let mut object_bytes = Vec::new();
    for line in slabinfo.lines().skip(2) {
        let mut fields = line.split_whitespace();
        let name = fields.next().ok_or_else(|| malformed("slabinfo"))?;
        // active_objs num_objs objsize objperslab pagesperslab : tunables a b c : slabdata active num …
        let numbers: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
        let &[active, _, _, per_slab, pages_per_slab] = &numbers[..] else {
            return Err(malformed("slabinfo"));
        };
        if name == PROC_INODES {
            proc_inodes = active;
        }
        if NOT_SOCKETS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let slab_bytes = pages_per_slab * page_bytes;
        if WITH_INODES.contains(&name) {
            object_bytes.push((caches.len(), slab_bytes / per_slab.max(1)));
        }
        caches.push(SlabCache {
            name: name.to_owned(),
            bytes: active * slab_bytes / per_slab.max(1),
        });
    }
    for (cache, object_bytes) in object_bytes {
        let cache = &mut caches[cache];
        cache.bytes = cache.bytes.saturating_sub(proc_inodes * object_bytes);
    }
    Ok(caches)
}

/// The sum of all caches, in bytes.
#[must_use]
pub fn slab_bytes(caches: &[SlabCache]) -> u64 {
    caches.iter().map(|cache| cache.bytes).sum()
}

fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

/// First field of `schedstat`: time on a processor, in nanoseconds.
fn run_time_ns(schedstat: &str) -> io::Result<u64> {
    schedstat
        .split_whitespace()
        .next()
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| malformed("schedstat"))
}

/// Fields 14 and 15 of `stat`. The second field is a name that may contain anything.
fn user_and_system_ns(stat: &str) -> io::Result<(u64, u64)> {
    let ns_per_tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
    let (_, after_name) = stat.rsplit_once(')').ok_or_else(|| malformed("stat"))?;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut next = || -> Option<u64> { fields.next()?.parse().ok() };
    match (next(), next()) {
        (Some(user), Some(system)) => Ok((user * ns_per_tick, system * ns_per_tick)),
        _ => Err(malformed("stat")),
    }
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kilobytes * 1024)
}

fn malformed(file: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{file} in /proc is not laid out as expected; is this a newer kernel?"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_time_and_memory() {
        let this = Process::new(std::process::id()).expect("this process runs");
        let before = this.cpu().expect("its time can be read");
        let mut sum = 0u64;
        while this
            .cpu()
            .expect("its time can be read")
            .since(before)
            .total_ns
            < 20_000_000
        {
            sum = (0..100_000u64).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        assert!(this.private_dirty_bytes().expect("its memory can be read") > 0);
        let threads = this.threads().expect("its threads can be read");
        assert!(threads.iter().any(|thread| thread.cpu.total_ns > 0));
        assert_eq!(before.since(before), CpuTime::default());
    }

    #[test]
    fn time_of_threads_that_have_ended_is_kept() {
        let this = Process::new(std::process::id()).expect("this process runs");
        let cpu = || this.cpu().expect("its time can be read").total_ns;
        let before = cpu();
        // It ends when it has used 60 ms, whatever else runs.
        let worker = std::thread::spawn(move || {
            let own = std::fs::read_link("/proc/thread-self").expect("procfs");
            let path = std::path::Path::new("/proc").join(own).join("schedstat");
            let mut sum = 0u64;
            let used = || run_time_ns(&fs::read_to_string(&path).unwrap_or_default());
            while used().expect("its own run time") < 60_000_000 {
                sum = (0..100_000u64).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
            }
        });
        worker.join().expect("it ends");
        // Two values that are rounded down to 10 ms each.
        let since = cpu().saturating_sub(before);
        assert!(since >= 40_000_000, "{since}");
    }

    #[test]
    fn children_are_found() {
        let this = Process::new(std::process::id()).expect("this process runs");
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("a child");
        let children = this.children().expect("they can be read");
        let expected = Process::new(child.id()).expect("it runs");
        let found = children
            .iter()
            .any(|process| process.directory == expected.directory);
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        assert!(found, "{children:?}");
    }

    #[test]
    fn a_process_that_is_not_there() {
        let error = Process::new(u32::MAX).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_name_with_parentheses_and_blanks() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 12 34 0 0 20 0 1 0 5 0 0";
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
        assert_eq!(user_and_system_ns(stat).ok(), Some((12 * tick, 34 * tick)));
        assert!(user_and_system_ns("7 (a").is_err());
    }

    #[test]
    fn slabs_without_file_systems() {
        let text = "slabinfo - version: 2.1\n# name …\n\
            TCP 90 104 2368 13 8 : tunables 0 0 0 : slabdata 8 8 0\n\
            dentry 100 105 192 21 1 : tunables 0 0 0 : slabdata 5 5 0\n\
            proc_inode_cache 40 46 696 23 4 : tunables 0 0 0 : slabdata 2 2 0\n\
            ext4_inode 1 1 1 1 1 : tunables 0 0 0 : slabdata 1 1 0\n";
        let caches = slabs(text, 4096).expect("caches");
        let names: Vec<&str> = caches.iter().map(|cache| &*cache.name).collect();
        assert_eq!(names, ["TCP", "dentry"]);
        assert_eq!(caches[0].bytes, 90 * 8 * 4096 / 13);
        assert!(caches[1].bytes.abs_diff((100 - 40) * 192) < 1_000);
        assert!(slabs("a\nb\nTCP 1 2", 4096).is_err());
    }

    #[test]
    fn user_share_of_nothing() {
        assert_eq!(CpuTime::default().user_share(), 0.0);
        let cpu = CpuTime {
            total_ns: 100,
            user_ns: 25,
            system_ns: 75,
        };
        assert_eq!(cpu.user_share(), 0.25);
    }
}
