//! File, environment and flags → one checked [`Config`], and where each value came from.
//!
//! All problems of all sources are collected, so that a person mends them in one go.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::check::{self, Place};
use super::help::{similar, unknown_key};
use super::limits::{ENVELOPE_BYTES, MAX_CHANNEL_RULES, MAX_CONFIG_FILE_BYTES, Unit};
use super::rule_settings::MATCH;
use super::settings::{self, CONFIG_VARIABLE, Owner, RULES, SETTINGS, Setting, VARIABLE_PREFIX};
use super::value::{self, Fault, Value};
use super::{ChannelRule, Config, ConfigError, Origin, read};

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
    /// By index in [`SETTINGS`].
    origins: Vec<Origin>,
    /// By rule, then by index in [`super::rule_settings::RULE_SETTINGS`].
    rule_origins: Vec<Vec<Origin>>,
}

impl Loaded {
    /// Where the value of a setting came from.
    ///
    /// # Panics
    /// When there is no setting with this key.
    pub fn origin(&self, key: &str) -> &Origin {
        &self.origins[index::<Config>(key)]
    }

    /// Where the value of a setting of a rule for channels came from. Rules count from 0.
    ///
    /// # Panics
    /// When there is no such rule, or no setting with this key.
    pub fn rule_origin(&self, rule: usize, key: &str) -> &Origin {
        &self.rule_origins[rule][index::<ChannelRule>(key)]
    }
}

/// Loads the configuration.
///
/// # Errors
/// Every problem of every source, in the order file, environment, flags, and in the file's order.
pub fn load(sources: &Sources) -> Result<Loaded, Vec<ConfigError>> {
    let mut config = Config::default();
    let rules = std::mem::take(&mut config.channels);
    let mut loader = Loader {
        server: Reading::new(config, String::new()),
        rules: rules
            .into_iter()
            .enumerate()
            .map(|(rule, default)| Reading::new(default, rule_prefix(rule)))
            .collect(),
        rules_origin: Origin::Default,
        rules_broken: false,
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
    loader.finish(file, notes)
}

fn index<T: Owner>(key: &str) -> usize {
    T::SETTINGS
        .iter()
        .position(|setting| setting.key == key)
        .expect("a key of the table")
}

/// What the keys of a rule begin with in messages.
fn rule_prefix(rule: usize) -> String {
    format!("{RULES}[{rule}].")
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

/// Something whose settings are being read.
struct Reading<T: Owner> {
    /// It, with the values that were read so far.
    owner: T,
    /// Where each value came from, by index in the table.
    origins: Vec<Origin>,
    /// Settings with an error, whose default must not be judged in their place.
    broken: Vec<bool>,
    /// What its keys begin with in messages: nothing, or `channels[2].`.
    prefix: String,
}

impl<T: Owner> Reading<T> {
    fn new(owner: T, prefix: String) -> Reading<T> {
        Reading {
            owner,
            origins: vec![Origin::Default; T::SETTINGS.len()],
            broken: vec![false; T::SETTINGS.len()],
            prefix,
        }
    }

    fn apply(
        &mut self,
        setting: &'static Setting<T>,
        value: Result<Value, Vec<Fault>>,
        origin: impl Fn(Option<usize>) -> Origin,
        errors: &mut Vec<ConfigError>,
    ) {
        let index = index::<T>(setting.key);
        match value {
            Ok(value) => {
                setting.store(&mut self.owner, value);
                self.origins[index] = origin(None);
                self.broken[index] = false;
            }
            Err(faults) => {
                self.broken[index] = true;
                errors.extend(faults.into_iter().map(|fault| ConfigError {
                    origin: origin(fault.item),
                    key: Some(format!("{}{}", self.prefix, setting.key)),
                    message: fault.message,
                }));
            }
        }
    }

    /// Reads one entry of its table in a file, or of a section in that.
    fn entry(
        &mut self,
        file: &Text<'_>,
        section: &str,
        name: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        errors: &mut Vec<ConfigError>,
    ) {
        let key = match section {
            "" => name.get_ref().to_string(),
            section => format!("{section}.{}", name.get_ref()),
        };
        let is_section = section.is_empty()
            && T::SETTINGS
                .iter()
                .any(|setting| setting.section_and_name().0 == key);
        match (settings::find::<T>(&key), value.get_ref()) {
            (Some(setting), raw) => {
                let parsed = read::parse_toml(setting, raw);
                let origin = |item| file.place(item_span(value, item).start);
                self.apply(setting, parsed, origin, errors);
            }
            (None, DeValue::Table(inner)) if is_section => {
                for (name, value) in inner.iter() {
                    self.entry(file, &key, name, value, errors);
                }
            }
            (None, raw) => {
                let message = if is_section {
                    let header = T::header(&key);
                    format!("is a section; write {header} above its settings")
                } else {
                    unknown_key::<T>(&key, is_table(raw))
                };
                errors.push(ConfigError {
                    origin: file.place(name.span().start),
                    key: Some(format!("{}{key}", self.prefix)),
                    message,
                });
            }
        }
    }
}

struct Loader {
    /// The server's settings. Its rules are in `rules` until the end.
    server: Reading<Config>,
    /// The rules for channels.
    rules: Vec<Reading<ChannelRule>>,
    /// Where the rules as such came from.
    rules_origin: Origin,
    /// Whether something is wrong with the rules as such, so that the last one may not be the last.
    rules_broken: bool,
    errors: Vec<ConfigError>,
}

impl Loader {
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
        let (table, syntax) = DeTable::parse_recoverable(text);
        let file = Text { path, text };
        for error in &syntax {
            let start = error.span().map_or(0, |span| span.start);
            self.errors.push(ConfigError {
                origin: file.place(start),
                key: None,
                message: format!("not TOML: {}", error.message()),
            });
        }
        // After a syntax error the parser guesses what was meant; complaints about its guesses
        // would only hide the one that matters.
        if !syntax.is_empty() {
            return;
        }
        for (name, value) in table.get_ref().iter() {
            if name.get_ref() == RULES {
                self.read_rules(&file, name, value);
            } else {
                self.server.entry(&file, "", name, value, &mut self.errors);
            }
        }
    }

    fn read_rules(
        &mut self,
        file: &Text<'_>,
        name: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let error = |span: Range<usize>, key: String, message: String| ConfigError {
            origin: file.place(span.start),
            key: Some(key),
            message,
        };
        let DeValue::Array(tables) = value.get_ref() else {
            let message = not_rules(value.get_ref());
            self.rules_broken = true;
            self.errors.push(error(name.span(), RULES.into(), message));
            return;
        };
        self.rules_origin = file.place(value.span().start);
        self.rules.clear();
        for (rule, table) in tables.iter().enumerate() {
            if rule == MAX_CHANNEL_RULES {
                let message = check::too_many_rules(tables.len());
                self.rules_broken = true;
                self.errors.push(error(table.span(), RULES.into(), message));
                return;
            }
            let mut reading = Reading::new(ChannelRule::default(), rule_prefix(rule));
            let pattern = index::<ChannelRule>(MATCH);
            // Until one is read: the default matches everything.
            reading.broken[pattern] = true;
            let key = format!("{RULES}[{rule}]");
            if let DeValue::Table(entries) = table.get_ref() {
                for (name, value) in entries.iter() {
                    reading.entry(file, "", name, value, &mut self.errors);
                }
                if !entries.iter().any(|(name, _)| name.get_ref() == MATCH) {
                    let message = format!(
                        "{MATCH} is missing: it says which channels the rule is for, for example \
                         {MATCH} = \"chat:*\""
                    );
                    self.errors.push(error(table.span(), key, message));
                }
            } else {
                let message = not_rules(table.get_ref());
                self.errors.push(error(table.span(), key, message));
            }
            self.rules.push(reading);
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
                    self.server
                        .apply(setting, parsed, |_| origin.clone(), &mut self.errors);
                }
                None => {
                    let known: Vec<String> = SETTINGS
                        .iter()
                        .map(Setting::variable)
                        .chain([CONFIG_VARIABLE.to_owned()])
                        .collect();
                    // What all of them begin with says nothing about likeness.
                    let known = known.iter().map(|name| &name[VARIABLE_PREFIX.len()..]);
                    let own = &name[VARIABLE_PREFIX.len()..];
                    let help = match similar(own, known) {
                        _ if own.split('_').next() == Some("CHANNELS") => {
                            "rules for channels can only stand in a file".into()
                        }
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
            let setting =
                settings::find::<Config>(given.key).expect("flags are made from the table");
            let texts: Vec<&str> = given.values.iter().map(String::as_str).collect();
            let bare_unit = given.flag.ends_with("-us") || given.flag.ends_with("-ms");
            let parsed = read::parse_text(setting, &texts, bare_unit);
            let origin = |_| Origin::Flag {
                flag: given.flag.clone(),
            };
            self.server.apply(setting, parsed, origin, &mut self.errors);
        }
    }

    // ---- All together ------------------------------------------------------------------------

    /// Raises what must hold the largest message, unless both were set and contradict each other.
    fn raise(&mut self) -> Vec<String> {
        let mut notes = Vec::new();
        let server = &mut self.server;
        let message = index::<Config>("client.message_bytes");
        let needed = server.owner.client.message_bytes as u64 + ENVELOPE_BYTES;
        for key in check::HOLDS_A_MESSAGE {
            let index = index::<Config>(key);
            let setting = &SETTINGS[index];
            let Value::Number(current) = (setting.get)(&server.owner) else {
                continue;
            };
            let origin = &server.origins[index];
            let one_is_default =
                *origin == Origin::Default || server.origins[message] == Origin::Default;
            let broken = server.broken[index] || server.broken[message];
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
            setting.store(&mut server.owner, Value::Number(needed));
            server.origins[index] = Origin::Raised;
        }
        notes
    }

    fn finish(
        mut self,
        file: Option<PathBuf>,
        notes: Vec<String>,
    ) -> Result<Loaded, Vec<ConfigError>> {
        let mut config = self.server.owner.clone();
        config.channels = self.rules.iter().map(|rule| rule.owner.clone()).collect();
        let contradictions = check::relations(&config, &self);
        self.errors.extend(contradictions);
        if self.errors.is_empty() {
            return Ok(Loaded {
                config,
                file,
                notes,
                origins: self.server.origins,
                rule_origins: self.rules.into_iter().map(|rule| rule.origins).collect(),
            });
        }
        // A file is mended from its top to its end.
        self.errors.sort_by_key(|error| match error.origin {
            Origin::File { line, column, .. } => (false, line, column),
            _ => (true, 0, 0),
        });
        Err(self.errors)
    }
}

impl check::Values for Loader {
    fn sound(&self, place: Place) -> bool {
        match place {
            Place::Setting(key) => !self.server.broken[index::<Config>(key)],
            Place::Rules => !self.rules_broken,
            Place::Rule(rule, key) => !self.rules[rule].broken[index::<ChannelRule>(key)],
        }
    }

    fn origin(&self, place: Place) -> Origin {
        match place {
            Place::Setting(key) => self.server.origins[index::<Config>(key)].clone(),
            Place::Rules => self.rules_origin.clone(),
            Place::Rule(rule, key) => self.rules[rule].origins[index::<ChannelRule>(key)].clone(),
        }
    }
}

/// Whether a value is a section, or several of one name.
fn is_table(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Table(_) => true,
        DeValue::Array(items) => items
            .first()
            .is_some_and(|item| matches!(item.get_ref(), DeValue::Table(_))),
        _ => false,
    }
}

/// What to say about a value that stands where rules for channels should.
fn not_rules(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Table(_) => format!(
            "there can be several rules: write [[{RULES}]] with two brackets above each of them"
        ),
        DeValue::Integer(_) => format!(
            "takes rules, not a number: write [[{RULES}]] above each of them (how many channels one \
             connection may be subscribed to is client.channels)"
        ),
        _ => format!("takes rules: write [[{RULES}]] above each of them"),
    }
}

/// A file that is being read.
struct Text<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Text<'_> {
    fn place(&self, offset: usize) -> Origin {
        let (line, column) = position(self.text, offset);
        Origin::File {
            path: self.path.to_owned(),
            line,
            column,
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

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
