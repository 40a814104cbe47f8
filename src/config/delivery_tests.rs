//! How messages leave: slow consumers, subscribers and gathering, in rules for channels.

use proptest::prelude::*;

use super::rule_tests::{LAST, expect, load_text};
use super::settings::{Setting, find};
use super::{ChannelRule, Config, Origin, SlowConsumer, Value, read, reference};

/// A file with one rule for `a*`, whose settings begin in line 3.
fn rule(settings: &str) -> String {
    format!("[[channels]]\nmatch = \"a*\"\n{settings}{LAST}")
}

fn setting(key: &str) -> &'static Setting<ChannelRule> {
    find(key).unwrap()
}

#[test]
fn they_are_read_printed_and_read_back() {
    let text = "[[channels]]\n\
         match = \"prices.*\"\n\
         slow_consumer = \"conflate\"\n\
         subscribers = 100_000_000\n\
         delivery = { batch_ms = \"50ms\", batch_bytes = \"16KiB\" }\n\
         [[channels]]\n\
         match = \"*\"\n\
         slow_consumer = \"drop-oldest\"\n\
         subscribers = \"auto\"\n\
         [channels.delivery]\n\
         batch_ms = 1000\n";
    let loaded = load_text(text).unwrap();
    let mut prices = ChannelRule {
        pattern: "prices.*".into(),
        slow_consumer: SlowConsumer::Conflate,
        subscribers: Some(100_000_000),
        ..ChannelRule::default()
    };
    prices.delivery.batch_ms = 50;
    prices.delivery.batch_bytes = 16_384;
    let mut last = ChannelRule {
        slow_consumer: SlowConsumer::DropOldest,
        ..ChannelRule::default()
    };
    last.delivery.batch_ms = 1000;
    assert_eq!(loaded.config.channels, [prices, last]);
    let place = |rule, key| match loaded.rule_origin(rule, key) {
        Origin::File { line, column, .. } => (*line, *column),
        _ => (0, 0),
    };
    assert_eq!(place(0, "slow_consumer"), (3, 17));
    assert_eq!(place(0, "delivery.batch_bytes"), (5, 47));
    assert_eq!(place(1, "delivery.batch_bytes"), (0, 0));

    let printed = loaded.to_toml();
    for line in [
        "\nslow_consumer = \"conflate\" # from ",
        "\nsubscribers = 100000000 # from ",
        "\ndelivery.batch_ms = 50 # 50 ms; from ",
        "\ndelivery.batch_bytes = 16384 # 16 KiB; from ",
        "\nslow_consumer = \"drop-oldest\" # from ",
        "\nsubscribers = \"auto\" # any number; from ",
    ] {
        assert!(printed.contains(line), "{line}\nis not in\n{printed}");
    }
    assert_eq!(load_text(&printed).unwrap().config, loaded.config);

    let json = &loaded.to_json()["channels"];
    assert_eq!(json[0]["slow_consumer"]["value"], "conflate");
    assert_eq!(json[0]["slow_consumer"]["source"]["line"], 3);
    assert_eq!(json[1]["subscribers"]["value"], serde_json::Value::Null);
    assert_eq!(json[1]["delivery.batch_ms"]["value"], 1000);
}

#[test]
fn each_word_is_explained_where_people_look() {
    let printed = load_text(&rule("")).unwrap().to_toml();
    let page = reference();
    let allowed = "llowed: disconnect, drop-oldest or conflate";
    assert_eq!(printed.matches(allowed).count(), 1, "{printed}");
    assert_eq!(page.matches(allowed).count(), 1);
    for word in SlowConsumer::WORDS {
        let (word, meaning) = (word.word, word.meaning);
        assert!(page.contains(&format!("\n  - `{word}`: {meaning}\n")));
        let beginning: String = meaning.chars().take(40).collect();
        let comment = format!("\n# - {word}: {beginning}");
        assert!(
            printed.contains(&comment),
            "{comment}\nis not in\n{printed}"
        );
    }
    // A longer meaning goes on below itself, in a comment that is no wider than the others.
    assert!(printed.contains("\n#   publish may carry "), "{printed}");
    assert!(
        printed
            .lines()
            .filter(|line| line.starts_with("#   "))
            .all(|line| line.chars().count() <= 100)
    );
}

#[test]
fn a_word_can_stand_in_the_environment_too() {
    // No setting of the server is a choice of words yet.
    let parse = |text| read::parse_text(setting("slow_consumer"), &[text], true);
    assert_eq!(parse(" drop-oldest "), Ok(Value::Choice("drop-oldest")));
    let message = |text| parse(text).unwrap_err()[0].message.clone();
    assert_eq!(
        message(""),
        "is empty; allowed: disconnect, drop-oldest or conflate"
    );
    assert_eq!(
        message("drop oldest"),
        "\"drop oldest\" is not allowed; did you mean drop-oldest?"
    );
    // The word of what has no `auto` is not understood because others have it.
    assert!(message("auto").contains("is not allowed"));
}

#[test]
fn mistakes_are_found_with_their_places() {
    let errors = load_text(
        "[[channels]]\n\
         match = \"a\"\n\
         slow_consumer = \"drop_oldest\"\n\
         subscribers = 0\n\
         delivery.batch_ms = 1001\n\
         delivery.batch_bytes = \"1000B\"\n\
         [[channels]]\n\
         match = \"b\"\n\
         slow_consumer = true\n\
         subscribers = \"many\"\n\
         delivery.batch_ms = \"5us\"\n\
         delivery.batch_bytes = [65536]\n\
         delivery.batch_size = 1\n\
         [[channels]]\n\
         match = \"c\"\n\
         slow_consumer = [\"conflate\"]\n\
         subscribers = -1\n\
         delivery = 5\n\
         batch_ms = 5\n\
         delivry.batch_ms = 5\n\
         [[channels]]\n\
         match = \"*\"\n\
         slow_consumer = \"auto\"\n\
         subscribers = 100000001\n\
         delivery.batch_ms = 0.5\n\
         delivery.batch_bytes = \"1MiB\"\n\
         slow_consumers = \"conflate\"\n",
    )
    .unwrap_err();
    expect(
        &errors,
        &[
            (
                "3:17: channels[0].slow_consumer: ",
                "\"drop_oldest\" is not allowed; did you mean drop-oldest?",
            ),
            (
                "4:15: channels[0].subscribers: ",
                "0 is not allowed; allowed: 1 to 100000000, or auto",
            ),
            (
                "5:21: channels[0].delivery.batch_ms: ",
                "allowed: 0 (messages are sent at once) or 1 ms to 1 s",
            ),
            (
                "6:24: channels[0].delivery.batch_bytes: ",
                "1000 bytes is not allowed; allowed: 1 KiB to 256 KiB",
            ),
            (
                "9:17: channels[1].slow_consumer: ",
                "true is not what this setting takes; allowed: disconnect, drop-oldest or conflate",
            ),
            (
                "10:15: channels[1].subscribers: ",
                "\"many\" is not a whole number",
            ),
            (
                "11:21: channels[1].delivery.batch_ms: ",
                "not a whole number of milliseconds",
            ),
            (
                "12:24: channels[1].delivery.batch_bytes: ",
                "a list is not what this setting takes",
            ),
            (
                "13:10: channels[1].delivery.batch_size: ",
                "did you mean batch_",
            ),
            (
                "16:17: channels[2].slow_consumer: ",
                "a list is not what this setting takes; allowed: disconnect, drop-oldest or conflate",
            ),
            ("17:15: channels[2].subscribers: ", "-1 is negative"),
            (
                "18:1: channels[2].delivery: ",
                "write [channels.delivery] above its settings",
            ),
            (
                "19:1: channels[2].batch_ms: ",
                "batch_ms belongs under [[channels]], as delivery.batch_ms",
            ),
            (
                "20:1: channels[2].delivry: ",
                "did you mean [channels.delivery]?",
            ),
            (
                "23:17: channels[3].slow_consumer: ",
                "\"auto\" is not allowed; allowed: disconnect, drop-oldest or conflate",
            ),
            (
                "24:15: channels[3].subscribers: ",
                "100000001 is not allowed",
            ),
            (
                "25:21: channels[3].delivery.batch_ms: ",
                "the float 0.5 is not what this setting takes",
            ),
            (
                "26:24: channels[3].delivery.batch_bytes: ",
                "1 MiB is not allowed",
            ),
            (
                "27:1: channels[3].slow_consumers: ",
                "did you mean slow_consumer?",
            ),
        ],
    );
}

#[test]
fn how_much_is_gathered_takes_a_time() {
    let wrong = "set delivery.batch_ms to at least 1";
    for settings in [
        "delivery.batch_bytes = \"16KiB\"\n",
        // The default too, when it was written without a time.
        "delivery.batch_bytes = 65536\n",
        "delivery.batch_bytes = 1024\ndelivery.batch_ms = 0\n",
    ] {
        let place = "3:24: channels[0].delivery.batch_bytes: ";
        expect(&load_text(&rule(settings)).unwrap_err(), &[(place, wrong)]);
    }
    for good in [
        "delivery.batch_ms = 1\n",
        "delivery.batch_ms = 1\ndelivery.batch_bytes = 1024\n",
        "delivery.batch_ms = 0\n",
        // As `config print` writes it.
        "delivery.batch_ms = 0\ndelivery.batch_bytes = 65536\n",
    ] {
        assert!(load_text(&rule(good)).is_ok(), "{good}");
    }
    // A time that is wrong may have been meant to be one.
    let errors = load_text(&rule(
        "delivery.batch_ms = \"fast\"\ndelivery.batch_bytes = 1024\n",
    ))
    .unwrap_err();
    expect(
        &errors,
        &[(
            "3:21: channels[0].delivery.batch_ms: ",
            "\"fast\" is not a time",
        )],
    );
    // And a size that is wrong has its error.
    let errors = load_text(&rule("delivery.batch_bytes = 1\n")).unwrap_err();
    expect(&errors, &[("3:24: ", "1 byte is not allowed")]);
}

#[test]
fn what_is_gathered_fits_into_an_outbox() {
    let client = "client.message_bytes = 65536\nclient.outbox_bytes = \"128KiB\"\n";
    let gathers = |bytes: usize| {
        rule(&format!(
            "delivery.batch_ms = 50\ndelivery.batch_bytes = {bytes}\n"
        ))
    };
    let errors = load_text(&format!("{client}{}", gathers(131_073))).unwrap_err();
    expect(
        &errors,
        &[(
            "6:24: channels[0].delivery.batch_bytes: ",
            "131073 bytes is more than may wait for a client (client.outbox_bytes, 128 KiB); lower it, or \
             raise client.outbox_bytes",
        )],
    );
    assert!(load_text(&format!("{client}{}", gathers(131_072))).is_ok());
    assert!(load_text(&gathers(256 << 10)).is_ok());
    // What was raised to hold a message holds as much.
    let raised = format!("client.outbox_bytes = \"128KiB\"\n{}", gathers(256 << 10));
    assert_eq!(load_text(&raised).unwrap().notes.len(), 1);
}

#[test]
fn a_program_gets_every_problem_of_how_messages_leave() {
    let check = |change: fn(&mut Config)| -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        let errors = config.check().err().unwrap_or_default();
        errors.iter().map(ToString::to_string).collect()
    };
    let errors = check(|config| {
        config.channels[0].subscribers = Some(0);
        config.channels[0].delivery.batch_ms = 1001;
        config.channels[0].delivery.batch_bytes = 1023;
    });
    expect(
        &errors,
        &[
            ("channels[0].subscribers: ", "1 to 100000000"),
            ("channels[0].delivery.batch_ms: ", "1 ms to 1 s"),
            ("channels[0].delivery.batch_bytes: ", "1 KiB to 256 KiB"),
        ],
    );
    let errors = check(|config| config.channels[0].delivery.batch_bytes = 1024);
    let place = "channels[0].delivery.batch_bytes: ";
    expect(&errors, &[(place, "set delivery.batch_ms to at least 1")]);
    let errors = check(|config| {
        config.client.message_bytes = 1024;
        config.client.outbox_bytes = 70_000;
        config.channels[0].delivery.batch_ms = 1;
        config.channels[0].delivery.batch_bytes = 70_001;
    });
    expect(
        &errors,
        &[(
            place,
            "more than may wait for a client (client.outbox_bytes",
        )],
    );
    // What is wrong by itself is not compared with anything.
    let errors = check(|config| config.channels[0].delivery.batch_bytes = 2 << 20);
    expect(&errors, &[(place, "2 MiB is not allowed")]);
    let errors = check(|config| {
        config.client.outbox_bytes = 1;
        config.channels[0].delivery.batch_ms = 1;
    });
    expect(
        &errors,
        &[("client.outbox_bytes: ", "1 byte is not allowed")],
    );
    let errors = check(|config| config.channels[0].delivery.batch_ms = 1);
    assert_eq!(errors, [""; 0]);
}

proptest! {
    #[test]
    fn any_word_is_one_of_the_choice_or_refused(text in "\\PC{0,12}|(dis|drop|con)[a-z-]{0,8}") {
        let known = SlowConsumer::WORDS.iter().find(|known| known.word == text);
        let settings = format!("slow_consumer = {}\n", toml::Value::String(text));
        match (load_text(&rule(&settings)), known) {
            (Ok(loaded), Some(known)) => {
                let value = (setting("slow_consumer").get)(&loaded.config.channels[0]);
                prop_assert_eq!(value, Value::Choice(known.word));
            }
            (Err(errors), None) => {
                prop_assert_eq!(errors.len(), 1);
                prop_assert!(errors[0].starts_with("3:17: channels[0].slow_consumer: "), "{errors:?}");
            }
            (result, _) => prop_assert!(false, "{settings}: {result:?}"),
        }
    }

    #[test]
    fn sizes_are_refused_without_a_time_and_beyond_the_outbox(
        time in prop::option::of(0..3_u32),
        size in prop::option::of(prop_oneof![1024..=262_144_usize, Just(65_536)]),
        outbox in 66_560..300_000_usize,
    ) {
        let mut settings = String::new();
        if let Some(time) = time {
            settings += &format!("delivery.batch_ms = {time}\n");
        }
        if let Some(size) = size {
            settings += &format!("delivery.batch_bytes = {size}\n");
        }
        let client = format!("client.message_bytes = 1024\nclient.outbox_bytes = {outbox}\n");
        let is_good = match (time, size) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(0), Some(size)) => size == 65_536,
            (Some(_), Some(size)) => size <= outbox,
        };
        let result = load_text(&format!("{client}{}", rule(&settings)));
        prop_assert_eq!(result.is_ok(), is_good, "{}: {:?}", settings, result);
        prop_assert!(result.is_ok() || result.is_err_and(|errors| errors.len() == 1));
    }
}
