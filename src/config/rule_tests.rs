//! Rules for channels and users, from files, the environment and programs.

use std::io::Write;

use super::limits::{MAX_CHANNEL_RULES, MAX_LISTED_USERS, MAX_TRUSTED_PEERS};
use super::rule_settings::EXAMPLE;
use super::{
    Access, ChannelRule, Config, Loaded, Origin, SlowConsumer, Sources, TrustedPeer, load,
};

pub(super) fn load_text(text: &str) -> Result<Loaded, Vec<String>> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let sources = Sources {
        file: Some(file.path().to_owned()),
        ..Sources::default()
    };
    let name = format!("{}:", file.path().display());
    load(&sources).map_err(|errors| {
        errors
            .iter()
            .map(|error| error.to_string().replace(&name, ""))
            .collect()
    })
}

fn load_environment(variables: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    load(&Sources {
        environment: variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        ..Sources::default()
    })
    .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

/// Compares errors with where they begin and some words of each.
#[track_caller]
pub(super) fn expect(errors: &[String], expected: &[(&str, &str)]) {
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, (place, words)) in errors.iter().zip(expected) {
        assert!(
            error.starts_with(place) && error.contains(words),
            "{error}\nis not\n{place} … {words}"
        );
    }
}

fn users(ids: &[&str]) -> Access {
    Access::Users(ids.iter().map(ToString::to_string).collect())
}

/// The last rule that every file needs.
pub(super) const LAST: &str = "[[channels]]\nmatch = \"*\"\n";

// ---- Rules that are right ----------------------------------------------------------------------

#[test]
fn a_rule_is_read_in_every_way_that_toml_has() {
    let loaded = load_text(
        "[[channels]]\n\
         match = \"chat:*\"\n\
         allow.subscribe = [\"42\", \"43\"]\n\
         allow.publish = \"authenticated\"\n\
         allow.wildcards = [\"42\"]\n\
         publish_needs_subscription = true\n\
         echo = false\n\
         data_bytes = \"64KiB\"\n\
         history = { size = 100, ttl_ms = \"5min\", last_on_subscribe = true }\n\
         [[channels]]\n\
         match = \"dialog#*\"\n\
         [channels.allow]\n\
         subscribe = \"named\"\n\
         [channels.history]\n\
         size = 7\n\
         ttl_ms = 1000\n\
         [[channels]]\n\
         match = \"*\"\n\
         allow = { history = \"nobody\" }\n\
         data_bytes = \"auto\"\n",
    )
    .unwrap();
    let mut chat = ChannelRule {
        pattern: "chat:*".into(),
        publish_needs_subscription: true,
        echo: false,
        data_bytes: Some(65_536),
        ..ChannelRule::default()
    };
    chat.allow.subscribe = users(&["42", "43"]);
    chat.allow.publish = Access::Authenticated;
    chat.allow.wildcards = users(&["42"]);
    chat.history.size = 100;
    chat.history.last_on_subscribe = true;
    let mut dialog = ChannelRule {
        pattern: "dialog#*".into(),
        ..ChannelRule::default()
    };
    dialog.allow.subscribe = Access::Named;
    dialog.history.size = 7;
    dialog.history.ttl_ms = 1000;
    let mut last = ChannelRule::default();
    last.allow.history = Access::Nobody;
    assert_eq!(loaded.config.channels, [chat, dialog, last]);

    let place = |rule, key| match loaded.rule_origin(rule, key) {
        Origin::File { line, column, .. } => (*line, *column),
        _ => (0, 0),
    };
    assert_eq!(place(0, "match"), (2, 9));
    assert_eq!(place(0, "history.ttl_ms"), (9, 34));
    assert_eq!(place(0, "allow.history"), (0, 0));
    assert_eq!(place(1, "history.size"), (15, 8));
    assert_eq!(place(2, "allow.history"), (19, 21));
}

#[test]
fn rules_may_be_one_list_and_defaults_are_for_every_channel() {
    let loaded =
        load_text("channels = [{ match = \"a\", echo = false }, { match = \"*\" }]").unwrap();
    assert_eq!(loaded.config.channels.len(), 2);
    assert!(!loaded.config.channels[0].echo);
    let loaded = load_text("shards = 1").unwrap();
    assert_eq!(loaded.config.channels, [ChannelRule::default()]);
    assert_eq!(*loaded.rule_origin(0, "match"), Origin::Default);
    assert_eq!(loaded.config.channels[0].history.ttl_ms, 300_000);
}

#[test]
fn the_example_of_the_documentation_is_good() {
    let loaded = load_text(EXAMPLE).unwrap();
    let rules = &loaded.config.channels;
    assert_eq!(rules.len(), 5);
    assert_eq!(rules[0].allow.wildcards, Access::Nobody);
    assert_eq!(rules[1].history.ttl_ms, 3_600_000);
    assert_eq!(rules[3].allow.wildcards, Access::Everyone);
    assert_eq!(rules[3].slow_consumer, SlowConsumer::Conflate);
    assert_eq!(rules[3].delivery.batch_ms, 50);
}

#[test]
fn the_default_is_printed_as_one_rule_that_reads_back() {
    let printed = load_text("").unwrap().to_toml();
    assert_eq!(printed.matches("[[channels]]").count(), 1);
    for line in [
        "match = \"*\" # default",
        "allow.subscribe = \"everyone\" # default",
        "allow.wildcards = \"nobody\" # default",
        "slow_consumer = \"disconnect\" # default",
        "subscribers = \"auto\" # any number; default",
        "data_bytes = \"auto\" # what client.message_bytes allows; default",
        "delivery.batch_ms = 0 # messages are sent at once; default",
        "delivery.batch_bytes = 65536 # 64 KiB; default",
        "history.size = 0 # no history; default",
        "history.ttl_ms = 300000 # 5 min; default",
        "trusted_peers = [] # default",
        "direct = \"authenticated\" # default",
        "broadcast = \"nobody\" # default",
        "shard_bytes = 67108864 # 64 MiB; default",
    ] {
        assert!(printed.contains(line), "{line}\nis not in\n{printed}");
    }
    assert_eq!(load_text(&printed).unwrap().config, Config::default());
}

#[test]
fn print_says_once_what_settings_are_and_for_each_rule_where_it_came_from() {
    let text = format!("[[channels]]\nmatch = \"a\"\nallow.publish = [\"x, \\\"y\\\"\"]\n{LAST}");
    let loaded = load_text(&text).unwrap();
    let printed = loaded.to_toml();
    assert_eq!(printed.matches("# Who may publish").count(), 1);
    assert_eq!(printed.matches("allow.publish = ").count(), 2);
    assert!(printed.contains(":3:17\n"), "{printed}");
    assert!(printed.contains(":5:9\n"), "{printed}");
    assert_eq!(load_text(&printed).unwrap().config, loaded.config);

    let json = loaded.to_json();
    let rules = json["channels"].as_array().unwrap();
    assert_eq!(rules.len(), 2);
    assert_eq!(rules[0]["match"]["value"], "a");
    assert_eq!(rules[0]["match"]["source"]["line"], 2);
    assert_eq!(rules[0]["allow.publish"]["value"][0], "x, \"y\"");
    assert_eq!(rules[0]["allow.subscribe"]["value"], "everyone");
    assert_eq!(rules[1]["data_bytes"]["value"], serde_json::Value::Null);
    assert_eq!(rules[1]["history.size"]["source"]["kind"], "default");
}

// ---- Mistakes ----------------------------------------------------------------------------------

#[test]
fn all_mistakes_of_rules_are_found_with_their_places() {
    let errors = load_text(
        "[[channels]]\n\
         match = \"a*b\"\n\
         allow.subscribe = \"everbody\"\n\
         allow.publish = [\"42\", \"\", \"42\", 43]\n\
         allow.hsitory = \"nobody\"\n\
         echo = 1\n\
         [[channels]]\n\
         match = \"chat:*\"\n\
         data_bytes = 0\n\
         history.size = 200000\n\
         history.ttl_ms = \"31days\"\n\
         histroy.size = 1\n\
         history.last_on_subscribe = \"yes\"\n\
         allow = \"everyone\"\n\
         size = 1\n\
         shards = 4\n\
         pubish_needs_subscription = true\n\
         nonsense = 1\n\
         [[channels]]\n\
         match = 5\n\
         allow.history = true\n\
         allow.subscribe = []\n\
         [channels.history]\n\
         echo = true\n\
         [[channels]]\n\
         echo = true\n\
         [[channels]]\n\
         match = \"*\"\n",
    )
    .unwrap_err();
    expect(
        &errors,
        &[
            ("2:9: channels[0].match: ", "a * before its end"),
            (
                "3:19: channels[0].allow.subscribe: ",
                "did you mean everyone? (user ids are written as a list",
            ),
            (
                "4:34: channels[0].allow.publish: ",
                "the integer 43 is not a string; user ids are written in quotes",
            ),
            ("5:7: channels[0].allow.hsitory: ", "did you mean history?"),
            (
                "6:8: channels[0].echo: ",
                "the integer 1 is not what this setting takes; allowed: true or false",
            ),
            (
                "9:14: channels[1].data_bytes: ",
                "0 is not allowed; allowed: 1 byte to 256 MiB, or auto",
            ),
            (
                "10:16: channels[1].history.size: ",
                "200000 is not allowed; allowed: 0 (no history) or 1 to 100000",
            ),
            (
                "11:18: channels[1].history.ttl_ms: ",
                "31 d is not allowed; allowed: 1 s to 30 d",
            ),
            (
                "12:1: channels[1].histroy: ",
                "did you mean [channels.history]?",
            ),
            (
                "13:29: channels[1].history.last_on_subscribe: ",
                "allowed: true or false",
            ),
            (
                "14:1: channels[1].allow: ",
                "write [channels.allow] above its settings",
            ),
            (
                "15:1: channels[1].size: ",
                "size belongs under [[channels]], as history.size",
            ),
            (
                "16:1: channels[1].shards: ",
                "shards belongs at the top, before any section",
            ),
            (
                "17:1: channels[1].pubish_needs_subscription: ",
                "did you mean publish_needs_subscription?",
            ),
            ("18:1: channels[1].nonsense: ", "config reference"),
            ("20:9: channels[2].match: ", "such as chat:*"),
            ("21:17: channels[2].allow.history: ", "true is not what"),
            ("22:19: channels[2].allow.subscribe: ", "write nobody"),
            (
                "24:1: channels[2].history.echo: ",
                "echo belongs directly under [[channels]]",
            ),
            ("25:1: channels[3]: ", "match is missing"),
        ],
    );
}

#[test]
fn items_of_a_list_have_their_own_place() {
    let errors = load_text(&format!(
        "[[channels]]\nmatch = \"a\"\nallow.publish = [\n  \"42\",\n  \"\",\n  \"42\",\n]\n{LAST}"
    ))
    .unwrap_err();
    expect(
        &errors,
        &[
            ("5:3: channels[0].allow.publish: ", "no user id"),
            ("6:3: channels[0].allow.publish: ", "\"42\" is listed twice"),
        ],
    );
    let ids: Vec<String> = (0..=MAX_LISTED_USERS)
        .map(|id| format!("\"{id}\""))
        .collect();
    let errors = load_text(&format!(
        "[[channels]]\nmatch = \"*\"\nallow.publish = [{}]\n",
        ids.join(",")
    ))
    .unwrap_err();
    expect(&errors, &[("3:17: ", "has 1001 user ids; at most 1000")]);
}

#[test]
fn the_last_rule_matches_every_name() {
    let errors = load_text("[[channels]]\nmatch = \"chat:*\"\n\n[[channels]]\n match = \"news\"\n")
        .unwrap_err();
    expect(
        &errors,
        &[(
            "5:10: channels[1].match: ",
            "add a last rule with match = \"*\" (allow.subscribe = \"nobody\" there closes all other channels)",
        )],
    );
    let errors = load_text("channels = []").unwrap_err();
    expect(&errors, &[("1:12: channels: ", "there is no rule")]);
    // A last rule whose pattern is wrong may have been meant to match everything.
    let errors =
        load_text("[[channels]]\nmatch = \"a\"\n[[channels]]\nmatch = \"**\"").unwrap_err();
    expect(&errors, &[("4:9: ", "before its end")]);
    // And one that is missing is not there to stand before the others.
    let errors = load_text("[[channels]]\n[[channels]]\nmatch = \"a\"").unwrap_err();
    expect(
        &errors,
        &[("1:1: ", "match is missing"), ("3:9: ", "add a last rule")],
    );
}

#[test]
fn unreachable_rules_name_what_comes_first() {
    let errors = load_text(
        "[[channels]]\n\
         match = \"chat:*\"\n\
         [[channels]]\n\
         match = \"chat:vip:*\"\n\
         [[channels]]\n\
         match = \"chat:1\"\n\
         [[channels]]\n\
         match = \"chat:*\"\n\
         [[channels]]\n\
         match = \"*\"\n\
         [[channels]]\n\
         match = \"news\"\n",
    )
    .unwrap_err();
    assert_eq!(
        errors,
        [
            "4:9: channels[1].match: `chat:vip:*` is unreachable: `chat:*` in line 2 comes first and \
             matches all of it; put this rule before it",
            "6:9: channels[2].match: `chat:1` is unreachable: `chat:*` in line 2 comes first and matches \
             all of it; put this rule before it",
            "8:9: channels[3].match: `chat:*` is unreachable: there is a rule for `chat:*` in line 2 \
             already; remove one of them",
            "12:9: channels[5].match: `news` is unreachable: `*` in line 10 comes first and matches all of \
             it; put this rule before it",
        ]
    );
}

#[test]
fn events_tell_nobody_more_than_may_be_asked() {
    let rule = |settings: &str| format!("[[channels]]\nmatch = \"a*\"\n{settings}{LAST}");
    let wrong = "presence.events = true\nallow.presence = [\"42\"]\n";
    expect(
        &load_text(&rule(wrong)).unwrap_err(),
        &[
            (
                "3:19: channels[0].presence.events: ",
                "set presence.enabled to true",
            ),
            (
                "3:19: channels[0].presence.events: ",
                "all subscribers would be told who comes and goes",
            ),
        ],
    );
    for good in [
        "presence.enabled = true\npresence.events = true\n",
        "presence = { enabled = true, events = true }\nallow.presence = \"authenticated\"\nallow.subscribe = \"authenticated\"\n",
        "presence.enabled = true\nallow.presence = \"nobody\"\n",
    ] {
        assert!(load_text(&rule(good)).is_ok(), "{good}");
    }
}

#[test]
fn who_hears_a_wildcard_is_not_named_by_a_channel() {
    let rule = |settings: &str| format!("[[channels]]\nmatch = \"a#*\"\n{settings}{LAST}");
    expect(
        &load_text(&rule("allow.wildcards = \"named\"\n")).unwrap_err(),
        &[(
            "3:19: channels[0].allow.wildcards: ",
            "named is not allowed here: there is no channel's name for users to stand in",
        )],
    );
    let wrong = "allow.subscribe = \"named\"\nallow.wildcards = \"everyone\"\n";
    expect(
        &load_text(&rule(wrong)).unwrap_err(),
        &[(
            "4:19: channels[0].allow.wildcards: ",
            "set allow.wildcards to nobody, or allow.subscribe to something else",
        )],
    );
    for good in [
        "allow.subscribe = \"named\"\n",
        "allow.subscribe = \"named\"\nallow.wildcards = \"nobody\"\n",
        "allow.subscribe = \"nobody\"\nallow.wildcards = \"everyone\"\n",
        "allow.publish = \"named\"\nallow.wildcards = [\"42\"]\n",
    ] {
        assert!(load_text(&rule(good)).is_ok(), "{good}");
    }
    let mut program = ChannelRule::default();
    program.allow.wildcards = Access::Named;
    let config = Config {
        channels: vec![program],
        ..Config::default()
    };
    let errors: Vec<String> = config
        .check()
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    expect(
        &errors,
        &[("channels[0].allow.wildcards: ", "named is not allowed here")],
    );
}

#[test]
fn settings_of_one_rule_agree() {
    let text = format!(
        "[[channels]]\n\
         match = \"news\"\n\
         allow.subscribe = \"named\"\n\
         history.last_on_subscribe = true\n\
         [[channels]]\n\
         match = \"big:*\"\n\
         allow.publish = \"named\"\n\
         data_bytes = \"2MiB\"\n\
         [[channels]]\n\
         match = \"dialog#42,43\"\n\
         allow.publish = \"named\"\n\
         [[channels]]\n\
         match = \"dialog#\"\n\
         allow.history = \"named\"\n\
         {LAST}"
    );
    let errors = load_text(&text).unwrap_err();
    expect(
        &errors,
        &[
            (
                "3:19: channels[0].allow.subscribe: ",
                "named allows nobody here: users are named after a # in a channel's name, and `news` has none",
            ),
            (
                "4:29: channels[0].history.last_on_subscribe: ",
                "set history.size to at least 1",
            ),
            (
                "8:14: channels[1].data_bytes: ",
                "2 MiB is more than the largest message (client.message_bytes, 1 MiB)",
            ),
            ("14:17: channels[3].allow.history: ", "`dialog#` has none"),
        ],
    );
    // What the environment says counts.
    let good = format!("[[channels]]\nmatch = \"big:*\"\ndata_bytes = \"2MiB\"\n{LAST}");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(good.as_bytes()).unwrap();
    let sources = Sources {
        file: Some(file.path().to_owned()),
        environment: vec![("RINGWIRE_CLIENT_MESSAGE_BYTES".into(), "2MiB".into())],
        ..Sources::default()
    };
    assert_eq!(
        load(&sources).unwrap().config.channels[0].data_bytes,
        Some(2 << 20)
    );
}

#[test]
fn there_are_not_more_rules_than_can_be_compared() {
    let many = |rules: usize| -> String {
        (1..rules)
            .map(|rule| format!("[[channels]]\nmatch = \"{rule}\"\n"))
            .collect()
    };
    let loaded = load_text(&format!("{}{LAST}", many(MAX_CHANNEL_RULES))).unwrap();
    assert_eq!(loaded.config.channels.len(), 256);
    let errors = load_text(&format!("{}{LAST}", many(MAX_CHANNEL_RULES + 40))).unwrap_err();
    expect(
        &errors,
        &[(
            "513:1: channels: ",
            "there are 296 rules; at most 256 are allowed: a channel's name is compared",
        )],
    );
}

#[test]
fn rules_need_two_brackets() {
    for (text, place, words) in [
        (
            "[channels]\nmatch = \"*\"",
            "1:2: channels: ",
            "write [[channels]] with two brackets",
        ),
        (
            "channels.match = \"*\"",
            "1:1: channels: ",
            "write [[channels]] with two brackets",
        ),
        (
            "channels = 128",
            "1:1: channels: ",
            "one connection may be subscribed to is client.channels",
        ),
        (
            "channels = \"*\"",
            "1:1: channels: ",
            "write [[channels]] above each",
        ),
        (
            "channels = [\"chat:*\", { match = \"*\" }]",
            "1:13: channels[0]: ",
            "write [[channels]] above each",
        ),
        (
            "[[channel]]\nmatch = \"*\"",
            "1:3: channel: ",
            "did you mean [[channels]]?",
        ),
        (
            "[chanels]\nmatch = \"*\"",
            "1:2: chanels: ",
            "did you mean [[channels]]?",
        ),
        (
            "match = \"*\"",
            "1:1: match: ",
            "match belongs directly under [[channels]]",
        ),
        (
            "[history]\nttl_ms = 5",
            "2:1: history.ttl_ms: ",
            "ttl_ms belongs under [[channels]], as history.ttl_ms",
        ),
    ] {
        expect(&load_text(text).unwrap_err(), &[(place, words)]);
    }
}

#[test]
fn a_program_gets_every_problem_of_its_rules() {
    let rule = |pattern: &str| ChannelRule {
        pattern: pattern.into(),
        ..ChannelRule::default()
    };
    let check = |channels: Vec<ChannelRule>| -> Vec<String> {
        let config = Config {
            channels,
            ..Config::default()
        };
        config
            .check()
            .err()
            .unwrap_or_default()
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(check(vec![rule("a"), rule("*")]), [""; 0]);
    expect(&check(vec![]), &[("channels: ", "there is no rule")]);

    let mut wrong = rule("news");
    wrong.allow.subscribe = Access::Named;
    wrong.allow.publish = users(&["1", "1"]);
    wrong.history.last_on_subscribe = true;
    let mut broken = rule("a*b");
    broken.allow.subscribe = Access::Named;
    broken.history.size = 100_001;
    broken.history.last_on_subscribe = true;
    broken.data_bytes = Some(usize::MAX);
    let errors = check(vec![wrong, broken, rule("news")]);
    expect(
        &errors,
        &[
            ("channels[0].allow.publish: ", "twice"),
            ("channels[1].match: ", "before its end"),
            ("channels[1].data_bytes: ", "256 MiB"),
            ("channels[1].history.size: ", "100000"),
            (
                "channels[2].match: ",
                "there is a rule for `news` in channels[0] already",
            ),
            ("channels[2].match: ", "is the last rule"),
            ("channels[0].allow.subscribe: ", "named allows nobody"),
            ("channels[0].history.last_on_subscribe: ", "at least 1"),
        ],
    );
    let many = vec![rule("*"); 2];
    expect(
        &check(many),
        &[("channels[1].match: ", "`*` is unreachable: there is a rule")],
    );
    let many = (0..300).map(|name| rule(&name.to_string())).collect();
    expect(&check(many), &[("channels: ", "there are 300 rules")]);
}

// ---- Users and history -------------------------------------------------------------------------

#[test]
fn users_and_history_are_read_from_file_and_environment() {
    let loaded = load_text(
        "[users]\n\
         trusted_peers = [\"10.0.0.0/8\", \"127.0.0.1\", \"unix\"]\n\
         direct = [\"42\"]\n\
         broadcast = \"everyone\"\n\
         [history]\n\
         shard_bytes = \"1GiB\"\n",
    )
    .unwrap();
    let config = &loaded.config;
    assert_eq!(
        config.users.trusted_peers,
        [
            "10.0.0.0/8".parse().unwrap(),
            "127.0.0.1/32".parse().unwrap(),
            TrustedPeer::Unix
        ]
    );
    assert_eq!(config.users.direct, users(&["42"]));
    assert_eq!(config.users.broadcast, Access::Everyone);
    assert_eq!(config.history.shard_bytes, 1 << 30);
    let printed = loaded.to_toml();
    let trusted = "trusted_peers = [\"10.0.0.0/8\", \"127.0.0.1/32\", \"unix\"] # from ";
    assert!(printed.contains(trusted), "{printed}");
    let one = load_text("users.trusted_peers = \"::1\"").unwrap();
    assert_eq!(one.config.users.trusted_peers.len(), 1);
    let none = load_text("users.trusted_peers = []").unwrap();
    assert_eq!(none.config.users.trusted_peers, []);

    let loaded = load_environment(&[
        ("RINGWIRE_USERS_TRUSTED_PEERS", "10.0.0.0/8, unix"),
        ("RINGWIRE_USERS_DIRECT", "everyone"),
        ("RINGWIRE_USERS_BROADCAST", "users:42,43"),
        ("RINGWIRE_HISTORY_SHARD_BYTES", "2MiB"),
    ])
    .unwrap();
    let config = &loaded.config;
    assert_eq!(config.users.trusted_peers.len(), 2);
    assert_eq!(config.users.direct, Access::Everyone);
    assert_eq!(config.users.broadcast, users(&["42", "43"]));
    assert_eq!(config.history.shard_bytes, 2 << 20);
    assert_eq!(
        loaded.origin("users.broadcast").to_string(),
        "RINGWIRE_USERS_BROADCAST"
    );
    assert_eq!(config.clone().check().as_ref(), Ok(config));
}

#[test]
fn mistakes_with_users_and_history_are_found_with_their_places() {
    let errors = load_text(
        "[users]\n\
         trusted_peers = [\"10.1.2.3/8\", \"unix\", \"unix\", 5]\n\
         direct = \"named\"\n\
         broadcast = \"users:42\"\n\
         [history]\n\
         shard_bytes = 0\n",
    )
    .unwrap_err();
    expect(
        &errors,
        &[
            (
                "2:18: users.trusted_peers: ",
                "write 10.0.0.0/8, or 10.1.2.3",
            ),
            (
                "2:48: users.trusted_peers: ",
                "the integer 5 is not a string",
            ),
            ("3:10: users.direct: ", "named is not allowed here"),
            (
                "4:13: users.broadcast: ",
                "allowed: everyone, authenticated, nobody (user ids are written as a list",
            ),
            ("6:15: history.shard_bytes: ", "allowed: 1 MiB to 64 GiB"),
        ],
    );
    let errors = load_text("users.trusted_peers = [\"unix\", \"unix\"]").unwrap_err();
    expect(
        &errors,
        &[("1:32: users.trusted_peers: ", "unix is listed twice")],
    );
    let many: Vec<String> = (0..=MAX_TRUSTED_PEERS)
        .map(|host| format!("\"10.0.0.{host}\""))
        .collect();
    let errors = load_text(&format!("users.trusted_peers = [{}]", many.join(","))).unwrap_err();
    expect(&errors, &[("1:23: ", "has 65 entries; at most 64")]);

    let errors = load_environment(&[
        ("RINGWIRE_USERS_TRUSTED_PEERS", ""),
        ("RINGWIRE_USERS_DIRECT", "users:"),
        ("RINGWIRE_USERS_BROADCAST", "named"),
        ("RINGWIRE_CHANNELS", "*"),
    ])
    .unwrap_err();
    expect(
        &errors,
        &[
            (
                "RINGWIRE_CHANNELS: there is no such variable; ",
                "only stand in a file",
            ),
            (
                "RINGWIRE_USERS_BROADCAST: users.broadcast: ",
                "no channel's name",
            ),
            ("RINGWIRE_USERS_DIRECT: users.direct: ", "no user id"),
            (
                "RINGWIRE_USERS_TRUSTED_PEERS: users.trusted_peers: ",
                "is empty",
            ),
        ],
    );
}

#[test]
fn a_program_gets_every_problem_of_its_users() {
    let mut config = Config::default();
    config.users.trusted_peers = vec![TrustedPeer::Network("10.1.2.3/8".parse().unwrap())];
    config.users.direct = Access::Named;
    config.users.broadcast = users(&[]);
    config.history.shard_bytes = 0;
    let errors: Vec<String> = config
        .check()
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    expect(
        &errors,
        &[
            ("users.trusted_peers: ", "write 10.0.0.0/8"),
            ("users.direct: ", "named is not allowed here"),
            ("users.broadcast: ", "empty list"),
            ("history.shard_bytes: ", "1 MiB to 64 GiB"),
        ],
    );
}
