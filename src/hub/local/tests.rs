use super::*;
use crate::config::ChannelRule;

/// What the channel's home is told, if anything, and the subscriber's position, if it is known.
type Subscribed = (Option<Interest>, Option<Position>);

fn subscribe(local: &mut Local, key: u32) -> (u32, Subscribed) {
    let (number, ask) = local.enter("c");
    let position = local.join(number, key, Shape::PLAIN, Bytes::from_static(b"1"));
    (number, (ask.map(|(_, interest)| interest), position))
}

fn local_with(rule: ChannelRule) -> Local {
    Local::new(0, 1, 1, ChannelRules::new(&[rule]))
}

fn local() -> Local {
    local_with(ChannelRule::default())
}

fn first(local: &mut Local, key: u32) -> (u32, Interest) {
    match subscribe(local, key) {
        (number, (Some(interest), None)) => (number, interest),
        other => panic!("{other:?}"),
    }
}

fn position(offset: u64) -> Position {
    Position { offset, epoch: 9 }
}

#[test]
fn the_first_subscriber_asks_and_the_answer_confirms_all() {
    let mut local = local();
    let (number, interest) = first(&mut local, 5);
    assert_eq!(subscribe(&mut local, 3).1, (None, None));
    assert!(matches!(local.route("c").1, ChannelRef::Name(_)));
    let confirmed = local.live(number, interest.serial, 77, position(4));
    assert_eq!(
        confirmed
            .iter()
            .map(|waiting| waiting.key)
            .collect::<Vec<_>>(),
        [5, 3]
    );
    assert_eq!(local.route("c").1, ChannelRef::Number(77));
    assert_eq!(subscribe(&mut local, 4).1, (None, Some(position(4))));
    let mut order = Vec::new();
    local
        .subscribers(number, Shape::PLAIN)
        .unwrap()
        .for_each(|key| order.push(key));
    assert_eq!(order, [3, 4, 5]);
}

#[test]
fn an_answer_to_an_ended_interest_is_ignored() {
    let mut local = local();
    let (number, old) = first(&mut local, 5);
    let given_up = local.unsubscribe(number, 5).expect("the last one left");
    assert_eq!(
        (given_up.home, &*given_up.name, given_up.serial),
        (Some(0), "c", old.serial)
    );
    let (number, new) = first(&mut local, 6);
    assert!(local.live(number, old.serial, 1, position(0)).is_empty());
    assert!(local.receive(number, old.serial, 1, 0).is_none());
    assert!(
        local.receive(number, new.serial, 1, 0).is_none(),
        "not live yet"
    );
    assert_eq!(local.live(number, new.serial, 1, position(1)).len(), 1);
    assert!(local.receive(number, old.serial, 2, 0).is_none());
    assert!(local.receive(number, new.serial, 2, 0).is_some());
}

#[test]
fn what_is_given_up_early_is_named() {
    let mut local = local();
    let (number, _) = subscribe(&mut local, 5);
    subscribe(&mut local, 6);
    assert_eq!(
        local.position_for(number, 5, Shape::PLAIN, Bytes::from_static(b"2")),
        None
    );
    assert_eq!(local.abandon(number, 5), ["1", "2"]);
    assert_eq!(local.unsubscribe(number, 5), None, "6 still waits");
    local.live(number, 0, 1, position(0));
    assert!(local.abandon(number, 6).is_empty(), "confirmed already");
}

#[test]
fn a_turns_channels_are_listed_once() {
    let mut local = local();
    let (number, _) = subscribe(&mut local, 5);
    local.live(number, 0, 1, position(0));
    for offset in 1..=3 {
        let (name, channel) = local.receive(number, 0, offset, 0).unwrap();
        assert_eq!(name, "c");
        channel.turn().0.part(Shape::PLAIN).frames.push(b'x');
    }
    let mut touched = Vec::new();
    local.take_touched(&mut touched, 0);
    assert_eq!(touched, [number]);
    let mut turn = local.take_turn(number).unwrap();
    assert_eq!(turn.part(Shape::PLAIN).frames, b"xxx");
    assert_eq!((turn.messages, turn.offset), (3, 3));
    assert_eq!(subscribe(&mut local, 9).1, (None, Some(position(3))));
    local.take_touched(&mut touched, 0);
    assert!(touched.is_empty());
}

#[test]
fn who_asks_joins_with_the_answer() {
    let mut local = local();
    let (number, interest) = first(&mut local, 5);
    let (_, known, same, question) = local
        .ask(number, 6, Shape::PLAIN, Bytes::from_static(b"6"))
        .unwrap();
    assert!(matches!(known, ChannelRef::Name(_)));
    assert_eq!(same, interest);
    // Once more before the answer: confirmed with it.
    assert_eq!(
        local.join(number, 6, Shape::PLAIN, Bytes::from_static(b"again")),
        None
    );
    let live = local.live(number, interest.serial, 77, position(4));
    assert_eq!(live.len(), 1, "6 still waits");
    let (_, known, _, later) = local
        .ask(number, 7, Shape::PLAIN, Bytes::from_static(b"7"))
        .unwrap();
    assert_eq!(known, ChannelRef::Number(77));
    assert_eq!(
        local.join(number, 6, Shape::PLAIN, Bytes::from_static(b"third")),
        None
    );
    let tags =
        |waiting: Vec<Waiting>| -> Vec<Bytes> { waiting.into_iter().map(|one| one.tag).collect() };
    let serial = interest.serial;
    assert_eq!(
        tags(local.answered(number, serial, question, 6)),
        ["6", "again", "third"]
    );
    assert_eq!(
        local.join(number, 6, Shape::PLAIN, Bytes::new()),
        Some(position(4))
    );
    assert!(local.answered(number, serial, question, 6).is_empty());
    assert!(local.answered(number, serial + 9, later, 7).is_empty());
    // Gives up: the answer finds nobody.
    assert_eq!(local.abandon(number, 7), ["7"]);
    assert_eq!(local.unsubscribe(number, 7), None);
    assert!(local.answered(number, serial, later, 7).is_empty());
}

#[test]
fn what_is_gathered_is_due_once() {
    let mut rule = ChannelRule::default();
    rule.delivery.batch_ms = 50;
    let mut local = local_with(rule);
    let (number, _) = subscribe(&mut local, 5);
    local.live(number, 0, 1, position(0));
    local.receive(number, 0, 1, 1000).unwrap();
    local.receive(number, 0, 2, 1040).unwrap();
    assert_eq!(local.due_in_ms(1020), Some(30));
    assert_eq!(local.due_in_ms(900), Some(50));
    let mut due = Vec::new();
    let mut due_at = |local: &mut Local, now_ms| {
        local.take_touched(&mut due, now_ms);
        due.clone()
    };
    let nothing: [u32; 0] = [];
    assert_eq!(due_at(&mut local, 1049), nothing);
    assert_eq!(due_at(&mut local, 1050), [number]);
    local.take_turn(number).unwrap();
    // Delivered early, because somebody joins: what follows has a time of its own.
    local.receive(number, 0, 3, 1060).unwrap();
    local.take_turn(number).unwrap();
    local.receive(number, 0, 4, 1070).unwrap();
    assert_eq!(due_at(&mut local, 1110), nothing);
    assert_eq!(due_at(&mut local, 1120), [number]);
    assert_eq!(local.due_in_ms(1120), None);
    local.take_turn(number).unwrap();
    local.receive(number, 0, 5, 1200).unwrap();
    local.stop_gathering();
    assert_eq!(due_at(&mut local, 1200), [number]);
}

#[test]
fn a_subscriber_may_change_its_form() {
    let mut local = local();
    let (number, interest) = first(&mut local, 5);
    let batched = Shape::new(0, true);
    local.live(number, interest.serial, 1, position(0));
    let again = local.position_for(number, 5, batched, Bytes::new());
    assert_eq!(again, Some(position(0)));
    assert!(local.subscribers(number, Shape::PLAIN).is_none());
    assert!(local.subscribers(number, batched).unwrap().contains(5));
    assert!(local.unsubscribe(number, 5).is_some());
}

#[test]
fn a_wildcard_is_live_when_all_shards_have_answered() {
    let mut local = Local::new(1, 3, 1, ChannelRules::new(&[]));
    let (number, ask) = local.enter("a.*");
    let (home, interest) = ask.unwrap();
    assert_eq!((home, local.wildcards()), (None, 1));
    let join = |local: &mut Local, key| local.join(number, key, Shape::PLAIN, Bytes::new());
    assert_eq!(join(&mut local, 5), None);
    assert!(local.wildcard_live(number, interest.serial).is_empty());
    assert!(local.wildcard_live(number, interest.serial).is_empty());
    assert!(local.receive(number, interest.serial, 7, 0).is_none());
    let confirmed = local.wildcard_live(number, interest.serial);
    assert_eq!(confirmed.len(), 1);
    assert_eq!(join(&mut local, 6), Some(Position::default()));
    // Messages of several channels come in any order.
    for offset in [7, 3] {
        assert!(local.receive(number, interest.serial, offset, 0).is_some());
    }
    local.take_turn(number);
    // Nobody publishes to it, or asks who is there.
    assert!(matches!(local.route("a.*").1, ChannelRef::Name(_)));
    assert_eq!(
        (local.presence(number), local.admission(number)),
        (None, None)
    );
    assert_eq!(local.unsubscribe(number, 5), None);
    let given_up = local.unsubscribe(number, 6).unwrap();
    assert_eq!((given_up.home, local.wildcards()), (None, 0));
    assert!(local.wildcard_live(number, interest.serial).is_empty());
}

#[test]
fn who_is_not_admitted_is_told_about_all_it_asked_for() {
    let mut local = local_with(ChannelRule {
        subscribers: Some(1),
        ..ChannelRule::default()
    });
    let (number, interest) = {
        let (number, ask) = local.enter("c");
        (number, ask.unwrap().1)
    };
    let tag = |text: &'static str| Bytes::from_static(text.as_bytes());
    let (.., question) = local.ask(number, 5, Shape::PLAIN, tag("1")).unwrap();
    assert_eq!(local.position_for(number, 5, Shape::PLAIN, tag("2")), None);
    local.live(number, interest.serial, 77, position(0));
    assert_eq!(local.admission(number), Some((0, 77)));
    let serial = interest.serial;
    assert!(local.denied(number, serial, question + 1, 5).is_empty());
    assert_eq!(local.denied(number, serial, question, 5), ["1", "2"]);
    assert!(local.denied(number, serial, question, 5).is_empty());
    assert!(local.unsubscribe(number, 5).is_some());
}
