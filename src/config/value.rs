//! Values of settings between their text and their field: writing and checking. Reading them is in
//! [`super::read`].

use super::limits::{Bound, MAX_LISTENERS, MAX_WEBSOCKET_PATH_BYTES, MAX_WEBSOCKET_PATHS, Unit};
use super::settings::{Kind, Owner, Setting};
use super::{Access, Listen, TrustedPeer, access, cores, filter, listen, pattern, peers};

/// A value of any setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Worked out at start.
    Auto,
    /// True or false.
    Switch(bool),
    /// A number in the setting's unit.
    Number(u64),
    /// One of a few words.
    Choice(&'static str),
    /// Text.
    Text(String),
    /// Paths.
    Paths(Vec<String>),
    /// Addresses.
    Listen(Vec<Listen>),
    /// Cores.
    Cores(Vec<usize>),
    /// Who may do something.
    Access(Access),
    /// Networks.
    Networks(Vec<TrustedPeer>),
}

/// What is wrong with a value, and with which item of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The item of a list; `None`: the whole value.
    pub(super) item: Option<usize>,
    /// What is wrong and what is allowed.
    pub(super) message: String,
}

impl Fault {
    pub(super) fn whole(message: impl Into<String>) -> Fault {
        Fault {
            item: None,
            message: message.into(),
        }
    }

    pub(super) fn item(item: usize, message: impl Into<String>) -> Fault {
        Fault {
            item: Some(item),
            message: message.into(),
        }
    }
}

/// A type that fields of [`super::Config`] and of its parts have.
pub(super) trait Field: Sized {
    /// The field as a value.
    fn value(&self) -> Value;
    /// The value as a field; `None`: of another type, or too large for it.
    fn field(value: Value) -> Option<Self>;
    /// Replaces the field. False: the value is none of this type, and the field is unchanged.
    fn replace(&mut self, value: Value) -> bool {
        match Self::field(value) {
            Some(field) => {
                *self = field;
                true
            }
            None => false,
        }
    }
}

macro_rules! number_field {
    ($($number:ty),+) => {$(
        impl Field for $number {
            fn value(&self) -> Value {
                Value::Number(*self as u64)
            }
            fn field(value: Value) -> Option<$number> {
                match value {
                    Value::Number(number) => number.try_into().ok(),
                    _ => None,
                }
            }
        }
    )+};
}
number_field!(u16, u32, usize);

macro_rules! plain_field {
    ($($field:ty => $variant:ident),+ $(,)?) => {$(
        impl Field for $field {
            fn value(&self) -> Value {
                Value::$variant(self.clone())
            }
            fn field(value: Value) -> Option<$field> {
                match value {
                    Value::$variant(field) => Some(field),
                    _ => None,
                }
            }
        }
    )+};
}
plain_field! {
    bool => Switch,
    String => Text,
    Vec<String> => Paths,
    Vec<Listen> => Listen,
    Vec<usize> => Cores,
    Access => Access,
    Vec<TrustedPeer> => Networks,
}

impl<T: Field> Field for Option<T> {
    fn value(&self) -> Value {
        self.as_ref().map_or(Value::Auto, Field::value)
    }
    fn field(value: Value) -> Option<Option<T>> {
        match value {
            Value::Auto => Some(None),
            value => T::field(value).map(Some),
        }
    }
}

// ---- Writing ---------------------------------------------------------------------------------

/// A value as it stands in a file.
pub(super) fn to_toml(value: &Value) -> String {
    let text = |text: &str| toml::Value::String(text.into()).to_string();
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    match value {
        Value::Auto => text("auto"),
        Value::Switch(on) => on.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Choice(word) => text(word),
        Value::Text(value) => text(value),
        Value::Paths(paths) => list(paths.iter().map(|path| text(path)).collect()),
        Value::Listen(all) => list(all.iter().map(|one| text(&one.to_string())).collect()),
        Value::Cores(list) => text(&cores::format(list)),
        Value::Access(Access::Users(ids)) => list(ids.iter().map(|id| text(id)).collect()),
        Value::Access(access) => text(access::word(access).unwrap_or_default()),
        Value::Networks(all) => list(all.iter().map(|one| text(&one.to_string())).collect()),
    }
}

/// A value as it stands in `config print --json`; `auto` is null.
pub(super) fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Auto => serde_json::Value::Null,
        Value::Switch(on) => (*on).into(),
        Value::Number(number) => (*number).into(),
        Value::Choice(word) => (*word).into(),
        Value::Text(text) => text.as_str().into(),
        Value::Paths(paths) => paths.clone().into(),
        Value::Listen(all) => all.iter().map(Listen::to_string).collect::<Vec<_>>().into(),
        Value::Cores(cores) => cores.clone().into(),
        Value::Access(Access::Users(ids)) => ids.clone().into(),
        Value::Access(access) => access::word(access).into(),
        Value::Networks(all) => all
            .iter()
            .map(TrustedPeer::to_string)
            .collect::<Vec<_>>()
            .into(),
    }
}

/// The unit of a bare number; `None`: it counts things.
pub(super) fn unit_name(unit: Unit) -> Option<&'static str> {
    match unit {
        Unit::Count => None,
        Unit::Bytes => Some("bytes"),
        Unit::Milliseconds => Some("ms"),
        Unit::Microseconds => Some("µs"),
    }
}

/// A number with its unit, as people say it: `1 MiB`, `25 s`.
pub fn human(number: u64, unit: Unit) -> String {
    let scales: &[(u64, &str)] = match unit {
        Unit::Count => &[],
        Unit::Bytes => &[
            (1 << 30, "GiB"),
            (1 << 20, "MiB"),
            (1 << 10, "KiB"),
            (1, "bytes"),
        ],
        Unit::Milliseconds => &[
            (86_400_000, "d"),
            (3_600_000, "h"),
            (60_000, "min"),
            (1_000, "s"),
            (1, "ms"),
        ],
        Unit::Microseconds => &[(1_000_000, "s"), (1_000, "ms"), (1, "µs")],
    };
    match scales
        .iter()
        .find(|(size, _)| number >= *size && number.is_multiple_of(*size))
    {
        Some((1, "bytes")) if number == 1 => "1 byte".into(),
        Some((size, name)) => format!("{} {name}", number / size),
        None => number.to_string(),
    }
}

/// The values that a bound allows, in words.
pub(super) fn allowed_numbers(bound: &Bound) -> String {
    let mut text = String::new();
    if let Some(meaning) = bound.zero {
        text += &format!("0 ({meaning}) or ");
    }
    if bound.power_of_two {
        text += "a power of two from ";
    }
    text += &format!(
        "{} to {}",
        human(bound.min, bound.unit),
        human(bound.max, bound.unit)
    );
    text
}

// ---- Checking --------------------------------------------------------------------------------

/// Checks a value alone: bounds, duplicates, syntax. What two settings must agree on is checked in
/// [`super::check`].
pub(super) fn check<T: Owner>(setting: &Setting<T>, value: &Value) -> Result<(), Vec<Fault>> {
    let whole = |result: Result<(), String>| result.err().map(Fault::whole).into_iter().collect();
    let faults = match (setting.kind, value) {
        (Kind::Number(bound), Value::Number(number)) if !bound.allows(*number) => {
            vec![Fault::whole(format!(
                "{} is not allowed; allowed: {}",
                human(*number, bound.unit),
                setting.allowed()
            ))]
        }
        (Kind::Listen, Value::Listen(addresses)) => check_listen(addresses),
        (Kind::Paths, Value::Paths(paths)) => check_paths(paths),
        (Kind::Cores, Value::Cores(list)) => whole(cores::check(list)),
        (Kind::Filter, Value::Text(text)) => whole(filter::check(text)),
        (Kind::Pattern, Value::Text(text)) => whole(pattern::check(text)),
        (Kind::Access { named }, Value::Access(access)) => access::check(access, named),
        (Kind::Networks, Value::Networks(all)) => peers::check(all),
        _ => Vec::new(),
    };
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults)
    }
}

fn check_listen(addresses: &[Listen]) -> Vec<Fault> {
    if addresses.is_empty() {
        return vec![Fault::whole(
            "is empty; at least one address is needed, for example 127.0.0.1:9000",
        )];
    }
    let mut faults = Vec::new();
    if addresses.len() > MAX_LISTENERS {
        faults.push(Fault::whole(format!(
            "has {} addresses; at most {MAX_LISTENERS} are allowed",
            addresses.len()
        )));
    }
    for (index, address) in addresses.iter().enumerate() {
        if let Listen::Unix(path) = address
            && let Err(message) = listen::unix(&path.to_string_lossy())
        {
            faults.push(Fault::item(index, message));
        }
        // Port 0 asks for a new port every time.
        let any_port = matches!(address, Listen::Tcp(address) if address.port() == 0);
        if !any_port && addresses[..index].contains(address) {
            faults.push(Fault::item(index, format!("{address} is listed twice")));
        }
    }
    faults
}

fn check_paths(paths: &[String]) -> Vec<Fault> {
    if paths.is_empty() {
        return vec![Fault::whole(
            "is empty; without a path nobody can connect, for example [\"/ws\"]",
        )];
    }
    let mut faults = Vec::new();
    if paths.len() > MAX_WEBSOCKET_PATHS {
        faults.push(Fault::whole(format!(
            "has {} paths; at most {MAX_WEBSOCKET_PATHS} are allowed",
            paths.len()
        )));
    }
    for (index, path) in paths.iter().enumerate() {
        let wrong = if !path.starts_with('/') {
            Some(format!(
                "{path:?} does not begin with a slash; write \"/{path}\""
            ))
        } else if path.len() > MAX_WEBSOCKET_PATH_BYTES {
            Some(format!(
                "has {} bytes; at most {MAX_WEBSOCKET_PATH_BYTES} are allowed",
                path.len()
            ))
        } else if let Some(bad) = path
            .chars()
            .find(|&c| !c.is_ascii_graphic() || "?#".contains(c))
        {
            Some(format!(
                "{path:?} contains {bad:?}; a path has no query, no spaces and only ASCII (%-encode the rest)"
            ))
        } else if ["/echo", "/healthz"].contains(&path.as_str()) {
            Some(format!("{path:?} is taken by the server itself"))
        } else if paths[..index].contains(path) {
            Some(format!("{path:?} is listed twice"))
        } else {
            None
        };
        faults.extend(wrong.map(|message| Fault::item(index, message)));
    }
    faults
}
