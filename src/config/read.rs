//! Text and TOML → values of settings.

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::limits::Unit;
use super::settings::{Kind, Owner, Setting};
use super::value::{Fault, Value, check};
use super::{Access, access, choice, cores};

/// Reads a value from the environment or from a flag. A flag that was given several times has
/// several texts.
///
/// `bare_unit` says whether a number without a unit is clear because the name carries the unit
/// (`…_ms`, `…-us`); sizes are always in bytes.
pub(super) fn parse_text<T: Owner>(
    setting: &Setting<T>,
    texts: &[&str],
    bare_unit: bool,
) -> Result<Value, Vec<Fault>> {
    let texts: Vec<&str> = if setting.kind.is_list() {
        texts
            .iter()
            .flat_map(|text| text.split(','))
            .map(str::trim)
            .collect()
    } else {
        texts.iter().map(|text| text.trim()).collect()
    };
    if texts.iter().all(|text| text.is_empty()) {
        return Err(vec![Fault::whole(format!(
            "is empty; allowed: {}",
            setting.allowed()
        ))]);
    }
    let value = if setting.kind.is_list() {
        items(setting, texts.into_iter().map(Ok))?
    } else {
        // Of a flag that is no list, the last one counts: a script's can be overridden by hand.
        one(setting, texts[texts.len() - 1], bare_unit)
            .map_err(|message| vec![Fault::whole(message)])?
    };
    check(setting, &value)?;
    Ok(value)
}

/// Reads a value from a file. Numbers are in the setting's unit; with a unit they are strings.
pub(super) fn parse_toml<T: Owner>(
    setting: &Setting<T>,
    raw: &DeValue<'_>,
) -> Result<Value, Vec<Fault>> {
    let whole = |message| vec![Fault::whole(message)];
    let value = match (setting.kind, raw) {
        (Kind::Switch, DeValue::Boolean(on)) => Value::Switch(*on),
        (Kind::Number(_), DeValue::Integer(number)) => {
            let wrong = |what: &str| {
                let allowed = setting.allowed();
                whole(format!("{number} is {what}; allowed: {allowed}"))
            };
            if number.as_str().starts_with('-') {
                return Err(wrong("negative"));
            }
            u64::from_str_radix(number.as_str(), number.radix())
                .map(Value::Number)
                .map_err(|_| wrong("too large"))?
        }
        (kind, DeValue::Array(array)) if kind.is_list() => {
            items(setting, array.iter().map(|item| toml_text(item)))?
        }
        (Kind::Cores, DeValue::Array(array)) => Value::Cores(toml_cores(array.iter())?),
        (Kind::Cores, DeValue::Integer(number)) => {
            Value::Cores(cores::parse(number.as_str()).map_err(whole)?)
        }
        (kind, DeValue::String(text)) if kind.is_list() => {
            items(setting, [Ok(text.as_ref())].into_iter())?
        }
        (Kind::Access { .. }, DeValue::Array(array)) => {
            Value::Access(Access::Users(toml_ids(array.iter())?))
        }
        // The environment has another way to write user ids.
        (Kind::Access { named }, DeValue::String(text)) => {
            Value::Access(access::parse_word(text, named).map_err(whole)?)
        }
        (
            Kind::Choice(_) | Kind::Cores | Kind::Filter | Kind::Pattern | Kind::Number(_),
            DeValue::String(text),
        ) => one(setting, text, true).map_err(whole)?,
        (_, DeValue::String(text)) if setting.auto.is_some() && text == "auto" => Value::Auto,
        (_, other) => {
            return Err(whole(format!(
                "{} is not what this setting takes; allowed: {}",
                describe(other),
                setting.allowed()
            )));
        }
    };
    check(setting, &value)?;
    Ok(value)
}

/// What a TOML value is, with its article.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {text:?}"),
        DeValue::Integer(number) => format!("the integer {number}"),
        DeValue::Float(number) => format!("the float {number}"),
        DeValue::Boolean(on) => format!("{on}"),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a section".into(),
    }
}

fn toml_text<'a>(item: &'a Spanned<DeValue<'_>>) -> Result<&'a str, String> {
    match item.get_ref() {
        DeValue::String(text) => Ok(text),
        other => Err(format!("{} is not a string", describe(other))),
    }
}

/// The user ids of a list.
fn toml_ids<'a, 'i: 'a>(
    array: impl Iterator<Item = &'a Spanned<DeValue<'i>>>,
) -> Result<Vec<String>, Vec<Fault>> {
    let mut all = Vec::new();
    let mut faults = Vec::new();
    for (index, item) in array.enumerate() {
        match toml_text(item) {
            Ok(text) => all.push(text.to_owned()),
            Err(message) => {
                let message = format!("{message}; user ids are written in quotes");
                faults.push(Fault::item(index, message));
            }
        }
    }
    if faults.is_empty() {
        Ok(all)
    } else {
        Err(faults)
    }
}

fn toml_cores<'a, 'i: 'a>(
    array: impl Iterator<Item = &'a Spanned<DeValue<'i>>>,
) -> Result<Vec<usize>, Vec<Fault>> {
    let mut all = Vec::new();
    let mut faults = Vec::new();
    for (index, item) in array.enumerate() {
        let parsed = match item.get_ref() {
            DeValue::Integer(number) => cores::parse(number.as_str()),
            DeValue::String(text) => cores::parse(text),
            other => Err(format!("{} is neither a core nor a range", describe(other))),
        };
        match parsed {
            Ok(cores) => all.extend(cores),
            Err(message) => faults.push(Fault::item(index, message)),
        }
    }
    if faults.is_empty() {
        Ok(all)
    } else {
        Err(faults)
    }
}

/// Reads the items of a list.
fn items<'a, T: Owner>(
    setting: &Setting<T>,
    texts: impl Iterator<Item = Result<&'a str, String>>,
) -> Result<Value, Vec<Fault>> {
    let mut paths = Vec::new();
    let mut addresses = Vec::new();
    let mut peers = Vec::new();
    let mut faults = Vec::new();
    for (index, text) in texts.enumerate() {
        let parsed = match (setting.kind, text) {
            (_, Err(message)) => Err(format!("{message}; allowed: {}", setting.allowed())),
            (Kind::Listen, Ok(text)) => match text.parse() {
                Ok(address) => {
                    addresses.push(address);
                    Ok(())
                }
                Err(error) => Err(format!("{error}")),
            },
            (Kind::Networks, Ok(text)) => match text.parse() {
                Ok(peer) => {
                    peers.push(peer);
                    Ok(())
                }
                Err(error) => Err(format!("{error}")),
            },
            (_, Ok(text)) => {
                paths.push(text.to_owned());
                Ok(())
            }
        };
        if let Err(message) = parsed {
            faults.push(Fault::item(index, message));
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(match setting.kind {
        Kind::Listen => Value::Listen(addresses),
        Kind::Networks => Value::Networks(peers),
        _ => Value::Paths(paths),
    })
}

/// Reads one text of a setting that is no list.
fn one<T: Owner>(setting: &Setting<T>, text: &str, bare_unit: bool) -> Result<Value, String> {
    if setting.auto.is_some() && text == "auto" {
        return Ok(Value::Auto);
    }
    match setting.kind {
        Kind::Number(bound) => number(text, bound.unit, bare_unit)
            .map(Value::Number)
            .map_err(|message| format!("{message}; allowed: {}", setting.allowed())),
        Kind::Switch => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(Value::Switch(true)),
            "false" | "0" | "no" | "off" => Ok(Value::Switch(false)),
            _ => Err(format!(
                "{text:?} is not allowed; allowed: true, yes, on or 1; false, no, off or 0{}",
                if setting.auto.is_some() { "; auto" } else { "" }
            )),
        },
        Kind::Choice(words) => choice::parse(text, words),
        Kind::Cores => cores::parse(text).map(Value::Cores),
        Kind::Filter | Kind::Pattern => Ok(Value::Text(text.to_owned())),
        Kind::Access { named } => access::parse_text(text, named).map(Value::Access),
        Kind::Listen | Kind::Paths | Kind::Networks => unreachable!("lists are read by items()"),
    }
}

fn too_large(text: &str) -> String {
    format!("{text:?} is too large")
}

/// Reads a number: bare, or with the units of its kind (`1MiB`, `25s`, `1m 30s`).
fn number(text: &str, unit: Unit, bare_unit: bool) -> Result<u64, String> {
    if text.starts_with('-') {
        return Err(format!("{text:?} is negative"));
    }
    let plain = text.replace('_', "");
    if !plain.is_empty() && plain.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = plain.parse().map_err(|_| too_large(text))?;
        let is_time = matches!(unit, Unit::Milliseconds | Unit::Microseconds);
        if is_time && !bare_unit && number != 0 {
            return Err(format!("{text:?} has no unit: write {text}s or {text}ms"));
        }
        return Ok(number);
    }
    let whole = |duration: Duration, nanoseconds: u128, name: &str| {
        let all = duration.as_nanos();
        if all.is_multiple_of(nanoseconds) {
            u64::try_from(all / nanoseconds).map_err(|_| too_large(text))
        } else {
            Err(format!("{text:?} is not a whole number of {name}"))
        }
    };
    let duration = || {
        humantime::parse_duration(text)
            .map_err(|_| format!("{text:?} is not a time; write it like 25s, 500ms or 1m 30s"))
    };
    match unit {
        Unit::Count => Err(format!("{text:?} is not a whole number")),
        Unit::Bytes => text
            .parse::<bytesize::ByteSize>()
            .map(|size| size.as_u64())
            .map_err(|_| format!("{text:?} is not a size; write it like 65536, 64KiB or 1MiB"))
            // It is read as a float, which ends there whatever was written.
            .and_then(|bytes| {
                if bytes == u64::MAX {
                    Err(too_large(text))
                } else {
                    Ok(bytes)
                }
            }),
        Unit::Milliseconds => whole(duration()?, 1_000_000, "milliseconds"),
        Unit::Microseconds => whole(duration()?, 1_000, "microseconds"),
    }
}
