//! Whatever is allowed can be said in every source, and the right one wins.

use std::ffi::OsString;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::rule_settings::{MATCH, RULE_SETTINGS};
use super::settings::{Kind, Owner, RULES, SETTINGS, Setting};
use super::value::{self, Value};
use super::{
    Access, ChannelRule, Config, FlagValue, Loaded, Origin, Sources, TrustedPeer, access, cores,
    limits, load, pattern, read,
};

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load_text(text: &str) -> Result<Loaded, Vec<super::ConfigError>> {
    let file = file(text);
    load(&Sources {
        file: Some(file.path().to_owned()),
        ..Sources::default()
    })
}

/// A value that the setting allows.
fn allowed_value<T: Owner>(setting: &'static Setting<T>) -> BoxedStrategy<Value> {
    let port = 1..u16::MAX;
    let value = match setting.kind {
        Kind::Listen => prop::collection::btree_set(port, 1..4)
            .prop_map(|ports| {
                let address = |port: &u16| match port % 3 {
                    0 => format!("127.0.0.1:{port}"),
                    1 => format!("[::1]:{port}"),
                    _ => format!("unix:/run/{port}.sock"),
                };
                Value::Listen(
                    ports
                        .iter()
                        .map(|port| address(port).parse().unwrap())
                        .collect(),
                )
            })
            .boxed(),
        Kind::Cores => prop::collection::hash_set(0..=limits::MAX_CORE, 1..6)
            .prop_map(|cores| Value::Cores(cores.into_iter().collect()))
            .boxed(),
        Kind::Paths => prop::collection::btree_set("/[a-z0-9._~\\\\\"%/-]{0,12}", 1..4)
            .prop_map(|mut paths| {
                paths.remove("/echo");
                paths.insert("/".into());
                Value::Paths(paths.into_iter().collect())
            })
            .boxed(),
        Kind::Filter => prop::sample::select(vec!["info", "ringwire::shard=debug,warn", "off"])
            .prop_map(|filter| Value::Text(filter.into()))
            .boxed(),
        Kind::Pattern => "[a-c:#\"' \\\\ü]{0,3}[a-c#*]".prop_map(Value::Text).boxed(),
        Kind::Access { named } => {
            // What the environment can say, too: no commas, no spaces around.
            let users = prop::collection::hash_set("[a-z0-9@\"'\\\\]{1,6}", 1..4)
                .prop_map(|users| Access::Users(users.into_iter().collect()));
            let word = prop_oneof![
                Just(Access::Everyone),
                Just(Access::Authenticated),
                Just(Access::Nobody),
                Just(if named { Access::Named } else { Access::Nobody }),
            ];
            prop_oneof![word, users].prop_map(Value::Access).boxed()
        }
        Kind::Networks => {
            let v4 = (any::<u32>(), 0..=32_u8)
                .prop_map(|(address, bits)| IpNet::new(Ipv4Addr::from(address).into(), bits));
            // Not those that IPv4 addresses are mapped into.
            let v6 = (1_u128 << 64.., 0..=128_u8)
                .prop_map(|(address, bits)| IpNet::new(Ipv6Addr::from(address).into(), bits));
            let network = prop_oneof![v4, v6]
                .prop_map(|network| TrustedPeer::Network(network.unwrap().trunc()));
            prop::collection::hash_set(
                prop_oneof![9 => network, 1 => Just(TrustedPeer::Unix)],
                1..5,
            )
            .prop_map(|peers| Value::Networks(peers.into_iter().collect()))
            .boxed()
        }
        Kind::Choice(words) => prop::sample::select(words)
            .prop_map(|word| Value::Choice(word.word))
            .boxed(),
        Kind::Switch => any::<bool>().prop_map(Value::Switch).boxed(),
        Kind::Number(bound) if bound.power_of_two => (bound.min.ilog2()..=bound.max.ilog2())
            .prop_map(|exponent| Value::Number(1 << exponent))
            .boxed(),
        Kind::Number(bound) if bound.zero.is_some() => {
            prop_oneof![4 => bound.min..=bound.max, 1 => Just(0)]
                .prop_map(Value::Number)
                .boxed()
        }
        Kind::Number(bound) => (bound.min..=bound.max).prop_map(Value::Number).boxed(),
    };
    match setting.auto {
        Some(_) => prop_oneof![4 => value, 1 => Just(Value::Auto)].boxed(),
        None => value,
    }
}

/// A setting, and up to one value in each of file, environment and flags.
fn three_sources() -> impl Strategy<Value = (&'static Setting, [Option<Value>; 3])> {
    (0..SETTINGS.len()).prop_flat_map(|index| {
        let setting = &SETTINGS[index];
        let one = || prop::option::of(allowed_value(setting));
        (Just(setting), [one(), one(), one()])
    })
}

/// As one would write it in the environment or in a flag.
fn as_text(value: &Value) -> String {
    match value {
        Value::Auto => "auto".into(),
        Value::Switch(on) => on.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Choice(word) => (*word).into(),
        Value::Text(text) => text.clone(),
        Value::Paths(paths) => paths.join(","),
        Value::Listen(all) => all
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(","),
        Value::Cores(list) => cores::format(list),
        Value::Access(Access::Users(ids)) => format!("users:{}", ids.join(",")),
        Value::Access(access) => access::word(access).unwrap().into(),
        Value::Networks(all) => all
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(","),
    }
}

/// A rule, with every setting set.
fn rule() -> impl Strategy<Value = ChannelRule> {
    let values: Vec<_> = RULE_SETTINGS.iter().map(allowed_value).collect();
    values.prop_map(|values| {
        let mut rule = ChannelRule::default();
        for (setting, value) in RULE_SETTINGS.iter().zip(values) {
            setting.store(&mut rule, value);
        }
        rule
    })
}

/// Rules that contradict neither each other nor themselves. The last matches everything.
fn rules() -> impl Strategy<Value = Vec<ChannelRule>> {
    prop::collection::vec(rule(), 1..6).prop_map(|all| {
        let mut rules: Vec<ChannelRule> = Vec::new();
        let last = all.len() - 1;
        for (index, mut rule) in all.into_iter().enumerate() {
            if index == last {
                rule.pattern = "*".into();
            } else if rule.pattern == "*" {
                continue;
            }
            if rules
                .iter()
                .any(|earlier| pattern::covers(&earlier.pattern, &rule.pattern))
            {
                continue;
            }
            if !rule.pattern.ends_with('*') {
                let allow = &mut rule.allow;
                for who in [
                    &mut allow.subscribe,
                    &mut allow.publish,
                    &mut allow.history,
                    &mut allow.presence,
                ] {
                    if *who == Access::Named {
                        *who = Access::Nobody;
                    }
                }
            }
            if rule.allow.subscribe == Access::Named {
                rule.allow.wildcards = Access::Nobody;
            }
            let most = Config::default().client.message_bytes;
            rule.data_bytes = rule.data_bytes.map(|bytes| bytes.min(most));
            if rule.delivery.batch_ms == 0 {
                rule.delivery.batch_bytes = limits::DELIVERY_BATCH_BYTES.default() as usize;
            }
            rule.history.last_on_subscribe &= rule.history.size > 0;
            if rule.history.last_on_subscribe {
                rule.allow.history = rule.allow.subscribe.clone();
            }
            rule.presence.events &= rule.presence.enabled;
            if rule.presence.events {
                rule.allow.presence = rule.allow.subscribe.clone();
            }
            rules.push(rule);
        }
        rules
    })
}

/// As one would write them in a file.
fn rules_toml(rules: &[ChannelRule]) -> String {
    let mut text = String::new();
    for rule in rules {
        text += &format!("[[{RULES}]]\n");
        for setting in RULE_SETTINGS {
            let value = value::to_toml(&(setting.get)(rule));
            text += &format!("{} = {value}\n", setting.key);
        }
    }
    text
}

/// Whether a pattern matches a name, as it is explained to people.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

/// All names of at most `length` letters, which are a, b and c.
fn names(length: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut start = 0;
    for _ in 0..length {
        let end = all.len();
        for index in start..end {
            for letter in ["a", "b", "c"] {
                all.push(format!("{}{letter}", all[index]));
            }
        }
        start = end;
    }
    all
}

proptest! {
    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file((setting, values) in three_sources()) {
        let [in_file, in_environment, in_flag] = &values;
        let file = file(&in_file.as_ref().map_or(String::new(), |value| {
            format!("{} = {}\n", setting.key, value::to_toml(value))
        }));
        let name = setting.variable();
        let text = in_environment.as_ref().map(as_text);
        let mut flags = Vec::new();
        let mut last = in_environment.as_ref().or(in_file.as_ref());
        if let (Some(value), Some(_)) = (in_flag, setting.flag) {
            // A time in a flag needs its unit.
            let unit = setting.unit().filter(|unit| *unit == "ms" && *value != Value::Auto);
            flags.push(FlagValue {
                key: setting.key,
                flag: format!("--{}", setting.flag.unwrap()),
                values: vec![as_text(value) + unit.unwrap_or_default()],
            });
            last = Some(value);
        }
        let sources = Sources {
            file: Some(file.path().to_owned()),
            environment: text.iter().map(|text| (OsString::from(&name), text.into())).collect(),
            flags,
        };
        match load(&sources) {
            Ok(loaded) => {
                let expected = last.cloned().unwrap_or_else(|| (setting.get)(&Config::default()));
                if *loaded.origin(setting.key) != Origin::Raised {
                    prop_assert_eq!((setting.get)(&loaded.config), expected);
                }
                prop_assert_eq!(loaded.config.clone().check(), Ok(loaded.config));
            }
            // The only relation that one allowed value can break by itself.
            Err(errors) => {
                prop_assert!(setting.key.starts_with("ring."), "{errors:?}");
                prop_assert!(errors.iter().all(|error| error.message.contains("less than ring.entries")));
            }
        }
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same(
        values in SETTINGS.iter().map(allowed_value).collect::<Vec<_>>()
    ) {
        let mut text = String::new();
        for (setting, value) in SETTINGS.iter().zip(&values) {
            let skip = ["ring.completion_entries", "client.message_bytes"].contains(&setting.key);
            if !skip {
                text += &format!("{} = {}\n", setting.key, value::to_toml(value));
            }
        }
        text = text.replace("ring.entries", "ring.completion_entries = 65536\nring.entries");
        let first = load_text(&text).unwrap();
        let second = load_text(&first.to_toml()).unwrap();
        prop_assert_eq!(first.config, second.config);
    }

    #[test]
    fn any_file_is_read_or_refused(text in "([a-z_.]{1,12}( = |=)[\\[\"0-9a-z\\], ]{0,12}\n|\\[[a-z]{1,9}\\]\n){0,6}") {
        if let Err(errors) = load_text(&text) {
            prop_assert!(!errors.is_empty());
        }
    }

    #[test]
    fn any_text_of_a_setting_is_read_or_refused(index in 0..SETTINGS.len(), text in "\\PC{0,20}") {
        let setting = &SETTINGS[index];
        if let Ok(value) = read::parse_text(setting, &[&text], true) {
            let mut config = Config::default();
            setting.store(&mut config, value.clone());
            prop_assert_eq!((setting.get)(&config), value);
        }
    }

    #[test]
    fn rules_are_read_as_written_and_printed_as_read(rules in rules()) {
        let first = load_text(&rules_toml(&rules)).unwrap();
        prop_assert_eq!(&first.config.channels, &rules);
        let second = load_text(&first.to_toml()).unwrap();
        prop_assert_eq!(&second.config, &first.config);
        prop_assert_eq!(first.config.clone().check(), Ok(first.config));
    }

    #[test]
    fn rules_are_unreachable_when_earlier_ones_match_all_their_names(
        // No pattern has the letter c, so that earlier ones never come together to match the same.
        patterns in prop::collection::vec("[ab]{0,3}\\*|[ab]{1,4}", 0..8)
    ) {
        let channels = patterns
            .iter()
            .map(String::as_str)
            .chain(["*"])
            .map(|pattern| ChannelRule { pattern: pattern.into(), ..ChannelRule::default() })
            .collect();
        let config = Config { channels, ..Config::default() };
        let names = names(5);
        let unreachable = |rule: &usize| {
            let matches = |rule: usize, name: &str| matches(&config.channels[rule].pattern, name);
            names
                .iter()
                .filter(|name| matches(*rule, name))
                .all(|name| (0..*rule).any(|earlier| matches(earlier, name)))
        };
        let expected: Vec<String> = (0..config.channels.len())
            .filter(unreachable)
            .map(|rule| format!("{RULES}[{rule}].{MATCH}"))
            .collect();
        let errors = config.check().err().unwrap_or_default();
        let found: Vec<String> = errors.iter().filter_map(|error| error.key.clone()).collect();
        prop_assert_eq!(found, expected);
        prop_assert!(errors.iter().all(|error| error.message.contains("is unreachable")));
    }
}
