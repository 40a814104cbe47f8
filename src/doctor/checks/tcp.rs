//! TCP: tables, queues and buffers of the kernel (ip-sysctl.rst), and connection tracking.

use super::{bytes, number};
use crate::config::limits::LISTEN_BACKLOG;
use crate::doctor::Wanted;
use crate::doctor::facts::Facts;
use crate::doctor::finding::{Finding, Status};
use crate::doctor::need;
use crate::doctor::tree::Fact;

const GROUP: &str = "TCP";
/// Memory of an entry of connection tracking: `nf_conntrack` in /proc/slabinfo, with its extensions.
const CONNTRACK_ENTRY_BYTES: u64 = 320;
pub(super) fn findings(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    vec![
        conntrack(facts, wanted),
        established(facts, wanted),
        backlog(facts, wanted),
        syn_backlog(facts, wanted),
        syncookies(facts),
        buffer_pages(facts, wanted),
        buffers(facts, wanted, &Buffers::RECEIVE),
        buffers(facts, wanted, &Buffers::SEND),
        orphans(facts, wanted),
        time_wait(facts),
        ports(facts),
    ]
}

fn conntrack(facts: &Facts, wanted: &Wanted) -> Finding {
    let finding = Finding::new(
        GROUP,
        "net.netfilter.nf_conntrack_max",
        format!(
            "Once a firewall rule or NAT asks for connection tracking, every connection takes an entry (about {} \
             bytes). When the table is full, packets of new connections are dropped (\"nf_conntrack: table full\" in the \
             kernel's log).",
            CONNTRACK_ENTRY_BYTES
        ),
    );
    let tracked = facts.tcp.conntrack_count.clone().unwrap_or(0);
    let needed = need::conntrack_entries(wanted.connections, tracked);
    let advised = needed.next_power_of_two();
    let finding = finding
        .sysctl_at_least("net.netfilter.nf_conntrack_max", advised, &facts.tcp.conntrack_max)
        // An entry stands there twice, once for each direction (nf_conntrack-sysctl.rst): a bucket has two
        // with the connections that are asked for, and four when the table is full.
        .sysctl("net.netfilter.nf_conntrack_buckets", advised / 2)
        .how(
            "so that the module is there when sysctl.d is read: in /etc/modules-load.d/ringwire.conf",
            "nf_conntrack",
        )
        .how(
            "or do not track the server's port at all (nft; PORT is the one it listens on)",
            "nft 'add table inet ringwire; \
             add chain inet ringwire in { type filter hook prerouting priority raw; }; \
             add rule inet ringwire in tcp dport PORT notrack; \
             add chain inet ringwire out { type filter hook output priority raw; }; \
             add rule inet ringwire out tcp sport PORT notrack'",
        );
    let most = match &facts.tcp.conntrack_max {
        Ok(most) => *most,
        // Where the other settings of the network are there.
        Err(unknown) if unknown.is_missing() && facts.tcp.somaxconn.is_ok() => {
            return finding
                .now("not loaded, or not visible in this network namespace")
                .status(Status::Ok);
        }
        Err(unknown) => return finding.needed(number(needed)).unknown(unknown),
    };
    let finding = finding.needed(number(needed));
    match &facts.tcp.conntrack_count {
        // Loaded, but without a rule that asks for it, it tracks nothing.
        Ok(0) => finding
            .now(format!("{}; it tracks nothing now", number(most)))
            .status(match most >= needed {
                true => Status::Ok,
                false => Status::Warn,
            }),
        Ok(count) => {
            let finding = finding
                .now(format!("{}, {} in use", number(most), number(*count)))
                .holds(most.saturating_sub(*count), wanted.connections);
            match finding.status {
                Status::Ok if most < needed => finding.status(Status::Warn),
                _ => finding,
            }
        }
        Err(unknown) => finding.unknown(unknown),
    }
}

fn established(facts: &Facts, wanted: &Wanted) -> Finding {
    let needed = need::buckets(wanted.connections);
    let finding = Finding::new(
        GROUP,
        "net.ipv4.tcp_ehash_entries",
        "Buckets of the table in which the kernel looks up the socket of every packet; read-only, the sysctl came with \
         6.1. With several connections in a bucket each packet costs as many cache misses more. Made at boot from the \
         size of the memory, at most 524,288 by itself.",
    )
    .needed(format!("{} (2 connections in each)", number(needed)))
    .how(
        "in /etc/default/grub, added to GRUB_CMDLINE_LINUX; then update-grub, and reboot",
        format!("thash_entries={}", wanted.connections.next_power_of_two()),
    )
    .how(
        "or for a network namespace of its own, before it is made",
        format!(
            "sysctl -w net.ipv4.tcp_child_ehash_entries={}",
            wanted.connections.next_power_of_two()
        ),
    );
    match &facts.tcp.ehash_entries {
        Ok(entries) => {
            let buckets = entries.unsigned_abs();
            let now = match entries {
                ..0 => format!("{} (shared with the host)", number(buckets)),
                _ => number(buckets),
            };
            finding.now(now).status(match buckets >= needed {
                true => Status::Ok,
                false => Status::Warn,
            })
        }
        Err(unknown) => finding.unknown(unknown),
    }
}

fn backlog(facts: &Facts, wanted: &Wanted) -> Finding {
    let needed = need::backlog(wanted.connections, wanted.shards);
    at_least(
        Finding::new(
            GROUP,
            "net.core.somaxconn",
            format!(
                "Cuts down how many connections each shard's listener holds until they are accepted (listen(2)); the \
                 server asks for {}. It takes what arrives in a second when all clients come back within ten. Beyond it \
                 clients try again after a second, then two, then four.",
                number(LISTEN_BACKLOG as u64)
            ),
        )
        .sysctl_at_least("net.core.somaxconn", LISTEN_BACKLOG as u64, &facts.tcp.somaxconn),
        &facts.tcp.somaxconn,
        needed,
    )
}

fn syn_backlog(facts: &Facts, wanted: &Wanted) -> Finding {
    let needed = need::backlog(wanted.connections, wanted.shards);
    let finding = at_least(
        Finding::new(
            GROUP,
            "net.ipv4.tcp_max_syn_backlog",
            "Connections per listener whose handshake is not complete. It counts only while net.ipv4.tcp_syncookies is \
             0; otherwise net.core.somaxconn bounds them, and beyond it cookies are sent.",
        )
        .sysctl_at_least("net.ipv4.tcp_max_syn_backlog", LISTEN_BACKLOG as u64, &facts.tcp.max_syn_backlog),
        &facts.tcp.max_syn_backlog,
        needed,
    );
    match (finding.status, &facts.tcp.syncookies) {
        (Status::Warn, Ok(1..)) => {
            let needed = format!("{} where cookies are off", finding.needed);
            finding.needed(needed).status(Status::Ok)
        }
        _ => finding,
    }
}

fn syncookies(facts: &Facts) -> Finding {
    let finding = Finding::new(
        GROUP,
        "net.ipv4.tcp_syncookies",
        "1: a full queue of handshakes is answered with cookies, so that clients get in and a flood keeps nobody out. 0: \
         they are dropped. 2: always cookies, which lose options of TCP (window scaling, selective acknowledgement) \
         where timestamps are off.",
    )
    .needed("1")
    .sysctl("net.ipv4.tcp_syncookies", 1);
    match &facts.tcp.syncookies {
        Ok(1) => finding.now("1").status(Status::Ok),
        Ok(mode) => finding.now(number(*mode)).status(Status::Warn),
        Err(unknown) => finding.unknown(unknown),
    }
}

fn buffer_pages(facts: &Facts, wanted: &Wanted) -> Finding {
    let needed = need::buffer_pages(wanted.connections);
    let page = wanted.page_bytes;
    // What is needed is the second number: from there on the kernel saves, and the third stops it.
    let pressure = needed.next_multiple_of(6);
    let advised = match &facts.tcp.mem_pages {
        Ok(pages) if pages[2] >= needed => *pages,
        _ => [pressure / 3 * 2, pressure, pressure / 3 * 4],
    };
    let finding = Finding::new(
        GROUP,
        "net.ipv4.tcp_mem",
        format!(
            "Pages of {page} bytes that all sockets' buffers may take together (below, pressure, most); not the sockets \
             themselves. An idle connection takes none, one with data on its way at least one: a message to all {} needs \
             that many. Beyond it the kernel drops segments and resets orphans.",
            number(wanted.connections)
        ),
    )
    .needed(format!("most: {} ({})", number(needed), bytes(needed * page)))
    .sysctl(
        "net.ipv4.tcp_mem",
        advised.map(|pages| pages.to_string()).join(" "),
    );
    match &facts.tcp.mem_pages {
        Ok(pages) => finding
            .now(format!(
                "{} {} {} ({})",
                number(pages[0]),
                number(pages[1]),
                number(pages[2]),
                bytes(pages[2].saturating_mul(page))
            ))
            .status(match pages[2] >= needed {
                true => Status::Ok,
                false => Status::Warn,
            }),
        Err(unknown) => finding.unknown(unknown),
    }
}

/// One of the two directions.
struct Buffers {
    name: &'static str,
    fact: fn(&Facts) -> &Fact<[u64; 3]>,
    /// The kernel's defaults, but not more than 1 MiB to receive: nothing larger is on its way to a server of messages.
    default: &'static str,
    why: &'static str,
}

impl Buffers {
    const RECEIVE: Self = Self {
        name: "net.ipv4.tcp_rmem",
        fact: |facts| &facts.tcp.rmem,
        default: "4096 131072 1048576",
        why: "Bytes that a socket may receive before the server reads them (least, at first, most). Nothing of it is \
              taken before data arrives. The least is left to each socket even when memory is short, so raising it, as \
              guides for few fast connections advise, takes the brake off.",
    };
    const SEND: Self = Self {
        name: "net.ipv4.tcp_wmem",
        fact: |facts| &facts.tcp.wmem,
        default: "4096 16384 4194304",
        why: "Bytes that a socket may hold until the client has acknowledged them (least, at first, most). Clients that \
              stop reading may make the kernel hold the most for each; net.ipv4.tcp_mem bounds them together, \
              client.outbox_bytes what the server holds behind it.",
    };
}

fn buffers(facts: &Facts, wanted: &Wanted, buffers: &Buffers) -> Finding {
    let finding = Finding::new(GROUP, buffers.name, buffers.why)
        .needed(format!(
            "least: {} (a page) or less",
            number(wanted.page_bytes)
        ))
        .sysctl(buffers.name, buffers.default);
    match (buffers.fact)(facts) {
        Ok(sizes) => {
            finding
                .now(sizes.map(number).join(" "))
                .status(match sizes[0] <= wanted.page_bytes {
                    true => Status::Ok,
                    false => Status::Warn,
                })
        }
        Err(unknown) => finding.unknown(unknown),
    }
}

fn orphans(facts: &Facts, wanted: &Wanted) -> Finding {
    let needed = wanted.connections;
    at_least(
        Finding::new(
            GROUP,
            "net.ipv4.tcp_max_orphans",
            "Connections that the server has closed and whose clients have not acknowledged it yet. When it ends, or \
             everybody leaves at once, that is all of them; the kernel resets those above the limit, and their clients \
             don't get the close code. By ip-sysctl.rst one costs up to 64 KiB that cannot be swapped out; that is one whose \
             buffers are full, after a close frame it is the socket and a page.",
        )
        .sysctl_at_least("net.ipv4.tcp_max_orphans", needed.next_power_of_two(), &facts.tcp.max_orphans),
        &facts.tcp.max_orphans,
        needed,
    )
}

fn time_wait(facts: &Facts) -> Finding {
    let finding = Finding::new(
        GROUP,
        "net.ipv4.tcp_tw_reuse",
        "Whoever closes first keeps the connection's addresses for a minute (TIME_WAIT), in some 250 bytes and without \
         a file. Where that is the server, it takes no port of its own, so that nothing runs out; above \
         net.ipv4.tcp_max_tw_buckets the kernel forgets them early, which is harmless. 1 and 2 (loopback only) let \
         outgoing connections use such ports again: for proxies and load generators on this host.",
    )
    .sysctl("net.ipv4.tcp_tw_reuse", 1);
    match (&facts.tcp.tw_reuse, &facts.tcp.max_tw_buckets) {
        (Ok(reuse), Ok(buckets)) => finding.now(format!("{reuse}; {} buckets", number(*buckets))),
        (Ok(reuse), Err(_)) => finding.now(number(*reuse)),
        (Err(unknown), _) => finding.unknown(unknown),
    }
}

fn ports(facts: &Facts) -> Finding {
    let finding = Finding::new(
        GROUP,
        "net.ipv4.ip_local_port_range",
        "Ports of outgoing connections. Those that come in need none of this host, so it does not limit the server; but \
         a proxy or a load generator here gets no more connections from one source address to one destination.",
    )
    .sysctl("net.ipv4.ip_local_port_range", "10240 65535");
    match &facts.tcp.port_range {
        Ok([first, last]) => finding.now(format!(
            "{first} to {last}: {} ports",
            number((last + 1).saturating_sub(*first))
        )),
        Err(unknown) => finding.unknown(unknown),
    }
}

/// A value that had better be at least `needed`.
fn at_least(finding: Finding, value: &Fact<u64>, needed: u64) -> Finding {
    let finding = finding.needed(number(needed));
    match value {
        Ok(value) => finding.now(number(*value)).status(match *value >= needed {
            true => Status::Ok,
            false => Status::Warn,
        }),
        Err(unknown) => finding.unknown(unknown),
    }
}
