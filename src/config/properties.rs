//! Whatever is allowed can be said in every source, and the right one wins.

use std::ffi::OsString;
use std::io::Write;

use proptest::prelude::*;

use super::settings::{Kind, SETTINGS, Setting};
use super::value::{self, Value};
use super::{Config, FlagValue, Loaded, Origin, Sources, cores, limits, load, read};

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
fn allowed_value(setting: &'static Setting) -> BoxedStrategy<Value> {
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
        Kind::Switch => any::<bool>().prop_map(Value::Switch).boxed(),
        Kind::Number(bound) if bound.power_of_two => (bound.min.ilog2()..=bound.max.ilog2())
            .prop_map(|exponent| Value::Number(1 << exponent))
            .boxed(),
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
        Value::Text(text) => text.clone(),
        Value::Paths(paths) => paths.join(","),
        Value::Listen(all) => all
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(","),
        Value::Cores(list) => cores::format(list),
    }
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
}
