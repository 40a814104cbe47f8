//! From facts to findings. Pure.

mod cores;
mod memory;
mod process;
mod system;
mod tcp;

use super::Wanted;
use super::facts::Facts;
use super::finding::Finding;
use super::need;

/// Everything that is looked at, in the order of the table.
pub(super) fn all(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    let mut findings = process::findings(facts, wanted);
    findings.extend(system::findings(facts, wanted));
    findings.extend(memory::findings(facts, wanted));
    findings.extend(tcp::findings(facts, wanted));
    findings.extend(cores::findings(facts, wanted));
    findings
}

/// Places of each shard's table, which the server allocates at start: as configured, or as many as the
/// limit of open files allows. Where that is not known, as many as are needed.
fn table_places(facts: &Facts, wanted: &Wanted) -> u64 {
    match (wanted.connections_per_shard, &facts.nofile) {
        (Some(configured), _) => configured.into(),
        (None, Ok(limit)) => need::table_places(limit.hard),
        (None, Err(_)) => need::places(wanted.connections, wanted.shards),
    }
}

/// `1234567` as `1,234,567`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A limit, where `None` is none.
fn limit(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), number)
}

/// Bytes in the largest unit that leaves at least 1, with one decimal.
fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let Some((unit, shift)) = UNITS.iter().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    match tenths % 10 {
        0 => format!("{} {unit}", number((tenths / 10) as u64)),
        decimal => format!("{}.{decimal} {unit}", number((tenths / 10) as u64)),
    }
}

/// `1 shard`, `2 shards`.
fn shards(count: u64) -> String {
    match count {
        1 => "1 shard".to_owned(),
        count => format!("{} shards", number(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(number(0), "0");
        assert_eq!(number(999), "999");
        assert_eq!(number(1000), "1,000");
        assert_eq!(number(1_048_576), "1,048,576");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1 << 20), "1 MiB");
        assert_eq!(bytes(1_600_000_000), "1.4 GiB");
        assert_eq!(bytes(u64::MAX), "16,777,215.9 TiB");
        assert_eq!(limit(None), "unlimited");
        assert_eq!(shards(1), "1 shard");
    }
}
