use super::*;
use crate::config::ChannelRule;
use bytes::Bytes;

fn publication(text: &'static str) -> Publication {
    Publication {
        key: 0,
        meta: Bytes::from_static(b"null"),
        data: Bytes::from_static(text.as_bytes()),
    }
}

fn interest(shard: u16, serial: u32) -> Interest {
    Interest {
        shard,
        channel: 7,
        serial,
    }
}

fn home(pattern: &str, size: u32) -> Home {
    let mut rule = ChannelRule {
        pattern: pattern.into(),
        ..ChannelRule::default()
    };
    rule.history.size = size;
    rule.history.ttl_ms = 1000;
    Home::new(1, 2, ChannelRules::new(&[rule]), 1 << 20)
}

fn at(elapsed_ms: u64) -> Time {
    Time {
        elapsed_ms,
        unix_ms: 5000 + elapsed_ms,
    }
}

fn publish(home: &mut Home, name: &str, now_ms: u64) -> (Position, Vec<(u16, u64)>) {
    let mut sent = Vec::new();
    let channel = home.resolve(&ChannelRef::Name(name.into()));
    let position = home
        .publish(channel, publication("1"), at(now_ms), |to, delivery| {
            sent.push((to.shard(), delivery.offset));
        })
        .unwrap();
    (position, sent)
}

#[test]
fn offsets_have_no_gaps_and_reach_interested_shards() {
    let mut home = home("*", 0);
    let (key, position) = home.interest("c", interest(0, 1));
    assert_eq!(position.offset, 0);
    home.interest("c", interest(3, 9));
    let (first, sent) = publish(&mut home, "c", 5);
    assert_eq!((first.offset, first.epoch), (1, position.epoch));
    assert_eq!(sent, [(0, 1), (3, 1)]);
    home.disinterest("c", 0, 1, 6);
    let mut sent = Vec::new();
    let second = home
        .publish(key, publication("2"), at(7), |to, delivery| {
            sent.push((to.shard(), delivery.offset, delivery.timestamp_ms));
        })
        .unwrap();
    assert_eq!(second.offset, 2);
    assert_eq!(sent, [(3, 2, 5007)]);
}

#[test]
fn an_old_disinterest_does_not_end_a_new_interest() {
    let mut home = home("*", 0);
    home.interest("c", interest(0, 1));
    home.interest("c", interest(0, 2));
    home.disinterest("c", 0, 1, 0);
    assert_eq!(publish(&mut home, "c", 1).1, [(0, 1)]);
}

#[test]
fn an_idle_channel_keeps_its_epoch_for_a_while_and_then_begins_anew() {
    let mut home = home("*", 0);
    let (first, _) = publish(&mut home, "c", 0);
    assert_eq!(home.expire(IDLE_CHANNEL_MS - 1), 0);
    let (second, _) = publish(&mut home, "c", IDLE_CHANNEL_MS - 1);
    assert_eq!((second.offset, second.epoch), (2, first.epoch));
    assert_eq!(home.expire(IDLE_CHANNEL_MS), 0, "it was used again");
    assert_eq!(home.expire(2 * IDLE_CHANNEL_MS), 1);
    let (third, _) = publish(&mut home, "c", 2 * IDLE_CHANNEL_MS);
    assert_eq!(third.offset, 1);
    assert_ne!(third.epoch, first.epoch);
}

#[test]
fn a_channel_in_use_is_never_forgotten() {
    let mut home = home("*", 0);
    publish(&mut home, "c", 0);
    home.interest("c", interest(0, 1));
    assert_eq!(home.expire(10 * IDLE_CHANNEL_MS), 0);
    assert_eq!(home.len(), 1);
    home.disinterest("c", 0, 1, 10 * IDLE_CHANNEL_MS);
    assert_eq!(home.expire(11 * IDLE_CHANNEL_MS), 1);
    assert!(home.is_empty());
}

#[test]
fn idle_channels_are_bounded() {
    let mut home = home("*", 0);
    for i in 0..MAX_IDLE_CHANNELS + 100 {
        publish(&mut home, &format!("c{i}"), 1);
    }
    assert!(home.len() <= MAX_IDLE_CHANNELS + 1, "{}", home.len());
    let (position, _) = publish(&mut home, &format!("c{}", MAX_IDLE_CHANNELS + 99), 1);
    assert_eq!(position.offset, 2, "the youngest are kept");
}

fn missed(home: &mut Home, name: &str, since: Position, now_ms: u64) -> Option<Vec<u64>> {
    let channel = home.resolve(&ChannelRef::Name(name.into()));
    let missed = home.catch_up(channel, Some(since), 1 << 20, 10, now_ms);
    let CatchUp {
        recovered,
        messages,
        ..
    } = missed.unwrap();
    let offsets = messages.iter().map(|one| one.offset).collect();
    (recovered == Some(true)).then_some(offsets)
}

#[test]
fn what_was_missed_is_given_whole_or_not_at_all() {
    let mut home = home("kept:*", 3);
    let (first, _) = publish(&mut home, "kept:a", 0);
    for now_ms in 1..=4 {
        publish(&mut home, "kept:a", now_ms);
    }
    let since = |offset| Position { offset, ..first };
    assert_eq!(missed(&mut home, "kept:a", since(5), 5), Some(vec![]));
    assert_eq!(
        missed(&mut home, "kept:a", since(2), 5),
        Some(vec![3, 4, 5])
    );
    assert_eq!(missed(&mut home, "kept:a", since(1), 5), None, "2 is gone");
    assert_eq!(
        missed(&mut home, "kept:a", since(6), 5),
        None,
        "not there yet"
    );
    let other = Position {
        offset: 5,
        epoch: 1,
    };
    assert_eq!(missed(&mut home, "kept:a", other, 5), None, "another life");
    assert_eq!(missed(&mut home, "kept:a", since(4), 1003), Some(vec![5]));
    assert_eq!(missed(&mut home, "kept:a", since(4), 1004), None, "too old");
    let channel = home.resolve(&ChannelRef::Name("kept:a".into()));
    publish(&mut home, "kept:a", 1005);
    let missed = home
        .catch_up(channel, Some(since(5)), 10, 10, 1005)
        .unwrap();
    assert_eq!(missed.recovered, Some(true), "one message is always given");
    publish(&mut home, "kept:a", 1005);
    let missed = home
        .catch_up(channel, Some(since(5)), 10, 10, 1005)
        .unwrap();
    assert_eq!(missed.recovered, Some(false), "too much");
    assert!(missed.messages.is_empty());
}

#[test]
fn without_a_history_only_who_missed_nothing_recovers() {
    let mut home = home("kept:*", 3);
    let (first, _) = publish(&mut home, "other", 0);
    assert_eq!(missed(&mut home, "other", first, 0), Some(vec![]));
    publish(&mut home, "other", 0);
    assert_eq!(missed(&mut home, "other", first, 0), None);
    assert_eq!(home.history_bytes(), 0);
}

#[test]
fn a_channel_lives_as_long_as_its_history() {
    let mut home = home("*", 3);
    home.rules = {
        let mut rule = ChannelRule::default();
        rule.history.size = 3;
        rule.history.ttl_ms = 10 * IDLE_CHANNEL_MS as u32;
        ChannelRules::new(&[rule])
    };
    let (first, _) = publish(&mut home, "c", 0);
    assert_eq!(home.expire(9 * IDLE_CHANNEL_MS), 0);
    assert_eq!(
        missed(
            &mut home,
            "c",
            Position { offset: 0, ..first },
            9 * IDLE_CHANNEL_MS
        ),
        Some(vec![1])
    );
    // Its history ends; it is idle from then on.
    assert_eq!(home.expire(10 * IDLE_CHANNEL_MS), 0);
    assert_eq!(home.history_bytes(), 0);
    assert_eq!(home.expire(11 * IDLE_CHANNEL_MS), 1);
    let (again, _) = publish(&mut home, "c", 11 * IDLE_CHANNEL_MS);
    assert_ne!(again.epoch, first.epoch);
}

#[test]
fn the_last_message_may_be_given_to_everybody() {
    let mut home = home("*", 3);
    home.rules = {
        let mut rule = ChannelRule::default();
        rule.history.size = 3;
        rule.history.last_on_subscribe = true;
        ChannelRules::new(&[rule])
    };
    let channel = home.resolve(&ChannelRef::Name("c".into()));
    let given = |home: &mut Home, since: Option<Position>| {
        let given = home.catch_up(channel, since, 1 << 20, 10, 0).unwrap();
        let offsets: Vec<u64> = given.messages.iter().map(|one| one.offset).collect();
        (given.recovered, offsets)
    };
    assert_eq!(given(&mut home, None), (None, vec![]));
    let (first, _) = publish(&mut home, "c", 0);
    publish(&mut home, "c", 0);
    assert_eq!(given(&mut home, None), (None, vec![2]));
    assert_eq!(given(&mut home, Some(first)), (Some(true), vec![2]));
    let other = Position {
        offset: 1,
        epoch: 1,
    };
    assert_eq!(given(&mut home, Some(other)), (Some(false), vec![2]));
}

#[test]
fn who_only_reads_leaves_nothing_behind() {
    let mut home = home("*", 3);
    let channel = ChannelRef::Name("c".into());
    let query = Query {
        limit: 10,
        since: None,
        reverse: false,
        bytes: 1000,
        envelope_bytes: 0,
    };
    let page = home.read(&channel, &query, 0);
    assert_eq!((page.position.offset, page.messages.len()), (0, 0));
    assert_eq!(home.expire(IDLE_CHANNEL_MS), 1);
}

#[test]
fn wildcards_hear_the_channels_that_they_match() {
    let mut home = home("*", 0);
    let wildcards = |shard| interest(shard, 1);
    publish(&mut home, "prices.eur", 0);
    home.wildcard_interest("prices.*", wildcards(4));
    home.wildcard_interest("prices.>", wildcards(5));
    home.interest("prices.eur", interest(6, 1));
    assert_eq!(home.wildcards(), 2);
    let heard = |home: &mut Home, name: &str| {
        let channel = home.resolve(&ChannelRef::Name(name.into()));
        let mut listening: Vec<u16> = home.listening(channel).collect();
        let (_, sent) = publish(home, name, 1);
        let mut shards: Vec<u16> = sent.into_iter().map(|(shard, _)| shard).collect();
        listening.sort_unstable();
        shards.sort_unstable();
        assert_eq!(listening, shards);
        shards
    };
    assert_eq!(heard(&mut home, "prices.eur"), [4, 5, 6]);
    assert_eq!(heard(&mut home, "prices.eur.usd"), [5]);
    assert!(heard(&mut home, "prices").is_empty());
    // Once more from the same shard: the later interest counts.
    home.wildcard_interest("prices.*", interest(4, 2));
    home.wildcard_disinterest("prices.*", 4, 1);
    assert_eq!(heard(&mut home, "prices.eur"), [4, 5, 6]);
    home.wildcard_disinterest("prices.*", 4, 2);
    assert_eq!(heard(&mut home, "prices.eur"), [5, 6]);
    home.wildcard_disinterest("prices.>", 5, 1);
    assert_eq!(
        (home.wildcards(), heard(&mut home, "prices.eur")),
        (0, vec![6])
    );
    // Where many match, a shard is told once, and what matched is not kept with the channel.
    for number in 0..40 {
        home.wildcard_interest(&format!("prices.*.{number}"), interest(4, 3));
        home.wildcard_interest("prices.eur.>", interest(number, 3));
    }
    assert_eq!(heard(&mut home, "prices.eur.7").len(), 40);
    assert!(home.many_matched.is_some());
    for number in 0..40 {
        home.wildcard_disinterest(&format!("prices.*.{number}"), 4, 3);
        home.wildcard_disinterest("prices.eur.>", number, 3);
    }
    assert_eq!(heard(&mut home, "prices.eur"), [6]);
    assert!(home.many_matched.is_none());
    // A wildcard does not keep a channel alive.
    assert_eq!(home.expire(2 * IDLE_CHANNEL_MS), 3);
}

#[test]
fn a_limit_is_reached_released_and_reached_again() {
    let mut home = home("*", 0);
    home.rules = ChannelRules::new(&[ChannelRule {
        subscribers: Some(3),
        ..ChannelRule::default()
    }]);
    let channel = home.resolve(&ChannelRef::Name("c".into()));
    for round in 0..1000 {
        for _ in 0..3 {
            assert_eq!(home.admit(channel), Ok(true), "round {round}");
        }
        assert_eq!(home.admit(channel), Err(3), "round {round}");
        for _ in 0..3 {
            home.release(channel, 0);
        }
    }
    // Somebody whose shard has not said so yet keeps the channel's number.
    assert_eq!(home.admit(channel), Ok(true));
    assert_eq!(home.expire(9 * IDLE_CHANNEL_MS), 0);
    home.release(channel, 9 * IDLE_CHANNEL_MS);
    assert_eq!(home.expire(10 * IDLE_CHANNEL_MS), 1);
}

/// What a forgotten channel's name matched is nothing to the channel that gets its number.
#[test]
fn another_channel_of_the_same_number_matches_by_its_own_name() {
    let mut home = home("*", 0);
    for number in 0..40 {
        home.wildcard_interest("prices.*", interest(number, 1));
    }
    let (_, heard) = publish(&mut home, "prices.eur", 0);
    assert_eq!(heard.len(), 40);
    assert_eq!(home.expire(IDLE_CHANNEL_MS), 1);
    let (_, heard) = publish(&mut home, "secret", IDLE_CHANNEL_MS);
    assert!(heard.is_empty(), "{heard:?}");
    assert_eq!(home.find(&ChannelRef::Name("secret".into())), Some(0));
}
