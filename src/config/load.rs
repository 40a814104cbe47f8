//! File, environment and flags → one checked [`Config`], and where each value came from.
//!
//! All problems of all sources are collected, so that a person mends them in one go.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::limits::{ENVELOPE_BYTES, MAX_CONFIG_FILE_BYTES, Unit};
use super::settings::{self, CONFIG_VARIABLE, SECTIONS, SETTINGS, Setting, VARIABLE_PREFIX};
use super::value::{self, Fault, Value};
use super::{Config, ConfigError, Origin, check, read};

/// What a configuration is made from. Flags > environment > file > defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file named by a flag; otherwise `RINGWIRE_CONFIG` may name one.
    pub file: Option<PathBuf>,
    /// The environment. Only names that begin with `RINGWIRE_` are looked at.
    pub environment: Vec<(OsString, OsString)>,
    /// The flags that were given.
    pub flags: Vec<FlagValue>,
}

/// A flag that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlagValue {
    /// The setting that it sets.
    pub key: &'static str,
    /// As it was written, with its dashes.
    pub flag: String,
    /// Its values, one for each time it was given. A switch has `true` or `false`.
    pub values: Vec<String>,
}

/// A checked configuration with its history.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// What was changed to make settings fit each other, for the person who starts the server.
    pub notes: Vec<String>,
    origins: Vec<Origin>,
}

impl Loaded {
    /// Where the value of a setting came from.
    ///
    /// # Panics
    /// When there is no setting with this key.
    pub fn origin(&self, key: &str) -> &Origin {
        &self.origins[index(key)]
    }
}

/// Loads the configuration.
///
/// # Errors
/// Every problem of every source, in the order file, environment, flags, and in the file's order.
pub fn load(sources: &Sources) -> Result<Loaded, Vec<ConfigError>> {
    let mut loader = Loader {
        config: Config::default(),
        origins: vec![Origin::Default; SETTINGS.len()],
        broken: vec![false; SETTINGS.len()],
        errors: Vec::new(),
    };
    let environment = variables(&sources.environment, &mut loader.errors);
    let file = sources.file.clone().or_else(|| {
        let (_, path) = environment
            .iter()
            .find(|(name, _)| name == CONFIG_VARIABLE)?;
        Some(PathBuf::from(path))
    });
    if let Some(path) = &file {
        loader.file(path);
    }
    loader.environment(&environment);
    loader.flags(&sources.flags);
    let notes = loader.raise();
    loader.cross_check();
    if loader.errors.is_empty() {
        Ok(Loaded {
            config: loader.config,
            file,
            notes,
            origins: loader.origins,
        })
    } else {
        Err(loader.errors)
    }
}

fn index(key: &str) -> usize {
    SETTINGS
        .iter()
        .position(|setting| setting.key == key)
        .expect("a key of the table")
}

/// Our variables as text; the others are none of our business.
fn variables(all: &[(OsString, OsString)], errors: &mut Vec<ConfigError>) -> Vec<(String, String)> {
    let mut ours = Vec::new();
    for (name, value) in all {
        let Some(name) = name
            .to_str()
            .filter(|name| name.starts_with(VARIABLE_PREFIX))
        else {
            continue;
        };
        match value.to_str() {
            Some(value) => ours.push((name.to_owned(), value.to_owned())),
            None => errors.push(ConfigError {
                origin: Origin::Environment {
                    variable: name.to_owned(),
                },
                key: None,
                message: "its value is not UTF-8".into(),
            }),
        }
    }
    ours.sort();
    ours
}

struct Loader {
    config: Config,
    /// By index in [`SETTINGS`].
    origins: Vec<Origin>,
    /// Settings with an error, whose default must not be judged in their place.
    broken: Vec<bool>,
    errors: Vec<ConfigError>,
}

impl Loader {
    fn apply(
        &mut self,
        setting: &'static Setting,
        value: Result<Value, Vec<Fault>>,
        origin: impl Fn(Option<usize>) -> Origin,
    ) {
        let index = index(setting.key);
        match value {
            Ok(value) => {
                setting.store(&mut self.config, value);
                self.origins[index] = origin(None);
                self.broken[index] = false;
            }
            Err(faults) => {
                self.broken[index] = true;
                self.errors
                    .extend(faults.into_iter().map(|fault| ConfigError {
                        origin: origin(fault.item),
                        key: Some(setting.key.to_owned()),
                        message: fault.message,
                    }));
            }
        }
    }

    // ---- File --------------------------------------------------------------------------------

    fn file(&mut self, path: &Path) {
        let whole = |message: String| ConfigError {
            origin: Origin::File {
                path: path.to_owned(),
                line: 0,
                column: 0,
            },
            key: None,
            message,
        };
        let mut bytes = Vec::new();
        let read = File::open(path)
            .and_then(|file| file.take(MAX_CONFIG_FILE_BYTES + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            self.errors.push(whole(format!("cannot be read: {error}")));
            return;
        }
        if bytes.len() as u64 > MAX_CONFIG_FILE_BYTES {
            self.errors.push(whole(format!(
                "is larger than {}; is this a configuration file?",
                value::human(MAX_CONFIG_FILE_BYTES, Unit::Bytes)
            )));
            return;
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => self.text(path, text),
            Err(error) => {
                let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                let (line, column) = position(&good, good.len());
                self.errors.push(ConfigError {
                    origin: Origin::File {
                        path: path.to_owned(),
                        line,
                        column,
                    },
                    key: None,
                    message: "is not UTF-8 from here on".into(),
                });
            }
        }
    }

    fn text(&mut self, path: &Path, text: &str) {
        let first = self.errors.len();
        let (table, syntax) = DeTable::parse_recoverable(text);
        for error in &syntax {
            let start = error.span().map_or(0, |span| span.start);
            self.errors.push(ConfigError {
                origin: place(path, text, start),
                key: None,
                message: format!("not TOML: {}", error.message()),
            });
        }
        // After a syntax error the parser guesses what was meant; complaints about its guesses
        // would only hide the one that matters.
        if syntax.is_empty() {
            self.section(path, text, "", table.get_ref());
        }
        self.errors[first..].sort_by_key(|error| match error.origin {
            Origin::File { line, column, .. } => (line, column),
            _ => (0, 0),
        });
    }

    fn section(&mut self, path: &Path, text: &str, section: &str, table: &DeTable<'_>) {
        for (name, value) in table.iter() {
            let key = match section {
                "" => name.get_ref().to_string(),
                section => format!("{section}.{}", name.get_ref()),
            };
            let is_section = section.is_empty() && SECTIONS.iter().any(|known| known.0 == key);
            match (settings::find(&key), value.get_ref()) {
                (Some(setting), raw) => {
                    let parsed = read::parse_toml(setting, raw);
                    self.apply(setting, parsed, |item| {
                        place(path, text, item_span(value, item).start)
                    });
                }
                (None, DeValue::Table(inner)) if is_section => {
                    self.section(path, text, &key, inner)
                }
                (None, raw) => {
                    let message = if is_section {
                        format!("is a section; write [{key}] above its settings")
                    } else {
                        unknown_key(&key, matches!(raw, DeValue::Table(_)))
                    };
                    self.errors.push(ConfigError {
                        origin: place(path, text, name.span().start),
                        key: Some(key),
                        message,
                    });
                }
            }
        }
    }

    // ---- Environment and flags ---------------------------------------------------------------

    fn environment(&mut self, variables: &[(String, String)]) {
        for (name, text) in variables {
            if name == CONFIG_VARIABLE {
                continue;
            }
            let origin = Origin::Environment {
                variable: name.clone(),
            };
            match SETTINGS.iter().find(|setting| setting.variable() == *name) {
                Some(setting) => {
                    let parsed = read::parse_text(setting, &[text], true);
                    self.apply(setting, parsed, |_| origin.clone());
                }
                None => {
                    let known: Vec<String> = SETTINGS
                        .iter()
                        .map(Setting::variable)
                        .chain([CONFIG_VARIABLE.to_owned()])
                        .collect();
                    // What all of them begin with says nothing about likeness.
                    let known = known.iter().map(|name| &name[VARIABLE_PREFIX.len()..]);
                    let help = match similar(&name[VARIABLE_PREFIX.len()..], known) {
                        Some(close) => format!("did you mean {VARIABLE_PREFIX}{close}?"),
                        None => "ringwire config reference lists all of them; unset it".into(),
                    };
                    self.errors.push(ConfigError {
                        origin,
                        key: None,
                        message: format!("there is no such variable; {help}"),
                    });
                }
            }
        }
    }

    fn flags(&mut self, flags: &[FlagValue]) {
        for given in flags {
            let setting = settings::find(given.key).expect("flags are made from the table");
            let texts: Vec<&str> = given.values.iter().map(String::as_str).collect();
            let bare_unit = given.flag.ends_with("-us") || given.flag.ends_with("-ms");
            let parsed = read::parse_text(setting, &texts, bare_unit);
            self.apply(setting, parsed, |_| Origin::Flag {
                flag: given.flag.clone(),
            });
        }
    }

    // ---- All together ------------------------------------------------------------------------

    /// Raises what must hold the largest message, unless both were set and contradict each other.
    fn raise(&mut self) -> Vec<String> {
        let mut notes = Vec::new();
        let message = index("client.message_bytes");
        let needed = self.config.client.message_bytes as u64 + ENVELOPE_BYTES;
        for key in check::HOLDS_A_MESSAGE {
            let setting = &SETTINGS[index(key)];
            let Value::Number(current) = (setting.get)(&self.config) else {
                continue;
            };
            let origin = &self.origins[index(key)];
            let one_is_default =
                *origin == Origin::Default || self.origins[message] == Origin::Default;
            let broken = self.broken[index(key)] || self.broken[message];
            if current >= needed || !one_is_default || broken {
                continue;
            }
            notes.push(format!(
                "{key} is {} instead of {} ({origin}): it must hold the largest message \
                 (client.message_bytes, {}) and 64 KiB for its envelope",
                value::human(needed, Unit::Bytes),
                value::human(current, Unit::Bytes),
                value::human(needed - ENVELOPE_BYTES, Unit::Bytes),
            ));
            setting.store(&mut self.config, Value::Number(needed));
            self.origins[index(key)] = Origin::Raised;
        }
        notes
    }

    fn cross_check(&mut self) {
        for mut error in check::relations(&self.config, |key| !self.broken[index(key)]) {
            if let Some(key) = &error.key {
                error.origin = self.origins[index(key)].clone();
            }
            self.errors.push(error);
        }
    }
}

/// The span of a value, or of one item of it.
fn item_span(value: &Spanned<DeValue<'_>>, item: Option<usize>) -> Range<usize> {
    match (item, value.get_ref()) {
        (Some(item), DeValue::Array(array)) => array.get(item).map_or(value.span(), Spanned::span),
        _ => value.span(),
    }
}

fn place(path: &Path, text: &str, offset: usize) -> Origin {
    let (line, column) = position(text, offset);
    Origin::File {
        path: path.to_owned(),
        line,
        column,
    }
}

/// Line and column (from 1, in characters) of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
    (line, column)
}

fn unknown_key(key: &str, is_table: bool) -> String {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    if is_table {
        let known = SECTIONS
            .iter()
            .map(|section| section.0)
            .filter(|name| !name.is_empty());
        return match similar(key, known) {
            Some(close) => format!("there is no such section; did you mean [{close}]?"),
            None => "there is no such section".into(),
        };
    }
    // The right name in the wrong section.
    if let Some(setting) = SETTINGS
        .iter()
        .find(|setting| setting.section_and_name().1 == name)
    {
        return match setting.section_and_name().0 {
            "" => format!(
                "there is no such setting here; {name} belongs at the top, before any section"
            ),
            home => format!("there is no such setting here; {name} belongs in [{home}]"),
        };
    }
    // A misspelt name: first among its neighbours, then anywhere.
    let names = |section: Option<&'static str>| {
        SETTINGS
            .iter()
            .map(Setting::section_and_name)
            .filter(move |(home, _)| section.is_none_or(|section| section == *home))
            .map(|(_, name)| name)
    };
    let known_section = SECTIONS
        .iter()
        .map(|known| known.0)
        .find(|known| *known == section);
    if let Some(close) = known_section.and_then(|section| similar(name, names(Some(section)))) {
        return format!("there is no such setting; did you mean {close}?");
    }
    let elsewhere = similar(name, names(None)).and_then(|close| {
        SETTINGS
            .iter()
            .find(|setting| setting.section_and_name().1 == close)
    });
    match elsewhere {
        Some(setting) => format!("there is no such setting; did you mean {}?", setting.key),
        None => "there is no such setting; ringwire config reference lists all of them".into(),
    }
}

/// The candidate that `name` was most likely meant to be.
fn similar<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // 0.8 is what clap uses for flags: two letters off in a name of ten.
    candidates
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
