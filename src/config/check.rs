//! What settings must agree on with each other, and the check that every way in goes through.

use std::fmt;

use super::limits::{DELIVERY_BATCH_BYTES, ENVELOPE_BYTES, MAX_CHANNEL_RULES, Unit};
use super::pattern::{self, EVERY_NAME};
use super::rule_settings::{MATCH, RULE_SETTINGS};
use super::settings::{self, Owner, RULES};
use super::value::{self, Value};
use super::{Access, ChannelRule, Config, ConfigError, Origin};

/// Settings that must be at least `client.message_bytes` plus the envelope.
pub(super) const HOLDS_A_MESSAGE: [&str; 2] = ["client.outbox_bytes", "client.mesh_pending_bytes"];

/// What a problem can be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A setting of the server, by its key.
    Setting(&'static str),
    /// The rules for channels as such.
    Rules,
    /// A setting of one rule, by its key. Rules count from 0.
    Rule(usize, &'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Setting(key) => f.write_str(key),
            Place::Rules => f.write_str(RULES),
            Place::Rule(rule, key) => write!(f, "{RULES}[{rule}].{key}"),
        }
    }
}

/// What is known of values apart from the values.
pub(super) trait Values {
    /// Whether a value is right by itself. What is not has its error already, and is not compared with
    /// others.
    fn sound(&self, place: Place) -> bool;
    /// Where a value came from.
    fn origin(&self, place: Place) -> Origin;
}

/// The values of a program.
#[derive(Default)]
struct Program {
    broken: Vec<Place>,
    errors: Vec<ConfigError>,
}

impl Program {
    fn wrong(&mut self, place: Place, message: String) {
        self.broken.push(place);
        self.errors.push(ConfigError {
            origin: Origin::Program,
            key: Some(place.to_string()),
            message,
        });
    }

    fn values<T: Owner>(&mut self, owner: &T, place: impl Fn(&'static str) -> Place) {
        for setting in T::SETTINGS {
            if let Err(faults) = value::check(setting, &(setting.get)(owner)) {
                for fault in faults {
                    self.wrong(place(setting.key), fault.message);
                }
            }
        }
    }
}

impl Values for Program {
    fn sound(&self, place: Place) -> bool {
        !self.broken.contains(&place)
    }

    fn origin(&self, _: Place) -> Origin {
        Origin::Program
    }
}

impl Config {
    /// Checks every value and what they must agree on. Files, environment and flags are checked by
    /// this too; a program that fills in a [`Config`] calls it itself or through the server's
    /// builder.
    ///
    /// # Errors
    /// Every problem there is, not only the first.
    pub fn check(self) -> Result<Config, Vec<ConfigError>> {
        let mut program = Program::default();
        program.values(&self, Place::Setting);
        if self.channels.len() > MAX_CHANNEL_RULES {
            program.wrong(Place::Rules, too_many_rules(self.channels.len()));
        }
        for (rule, settings) in self.channels.iter().take(MAX_CHANNEL_RULES).enumerate() {
            program.values(settings, |key| Place::Rule(rule, key));
        }
        let contradictions = relations(&self, &program);
        program.errors.extend(contradictions);
        if program.errors.is_empty() {
            Ok(self)
        } else {
            Err(program.errors)
        }
    }
}

/// What to say about more rules than are allowed.
pub(super) fn too_many_rules(rules: usize) -> String {
    format!(
        "there are {rules} rules; at most {MAX_CHANNEL_RULES} are allowed: a channel's name is compared \
         with their patterns in turn"
    )
}

/// Checks relations between settings. Only between those that are sound by themselves: the others
/// have their error already.
pub(super) fn relations(config: &Config, values: &impl Values) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let mut wrong = |place: Place, message: String| {
        errors.push(ConfigError {
            origin: values.origin(place),
            key: Some(place.to_string()),
            message,
        });
    };
    let sound = |key| values.sound(Place::Setting(key));
    let message = config.client.message_bytes as u64;
    for key in HOLDS_A_MESSAGE {
        let setting = settings::find::<Config>(key).expect("a key of the table");
        let Value::Number(bytes) = (setting.get)(config) else {
            continue;
        };
        if bytes < message + ENVELOPE_BYTES && sound(key) && sound("client.message_bytes") {
            wrong(
                Place::Setting(key),
                format!(
                    "{} cannot hold the largest message (client.message_bytes, {}) and 64 KiB for its \
                     envelope; raise it to {}, or lower client.message_bytes",
                    value::human(bytes, Unit::Bytes),
                    value::human(message, Unit::Bytes),
                    message + ENVELOPE_BYTES,
                ),
            );
        }
    }
    let ring = &config.ring;
    if ring.completion_entries < ring.entries
        && sound("ring.completion_entries")
        && sound("ring.entries")
    {
        wrong(
            Place::Setting("ring.completion_entries"),
            format!(
                "{} is less than ring.entries ({}); the kernel wants at least as many",
                ring.completion_entries, ring.entries
            ),
        );
    }
    // More rules than are allowed have their error; comparing each with each would take long.
    let rules = &config.channels[..config.channels.len().min(MAX_CHANNEL_RULES)];
    order(rules, values, &mut wrong);
    for (index, rule) in rules.iter().enumerate() {
        inside(index, rule, message, values, &mut wrong);
        gathering(index, rule, config.client.outbox_bytes, values, &mut wrong);
    }
    errors
}

/// Checks that every name has a rule, and every rule has names.
fn order(rules: &[ChannelRule], values: &impl Values, wrong: &mut impl FnMut(Place, String)) {
    let sound = |rule| values.sound(Place::Rule(rule, MATCH));
    for (index, rule) in rules.iter().enumerate() {
        let earlier = (0..index).find(|&earlier| {
            let pattern = &rules[earlier].pattern;
            sound(earlier) && pattern::covers(pattern, &rule.pattern)
        });
        let Some(earlier) = earlier.filter(|_| sound(index)) else {
            continue;
        };
        let place = Place::Rule(earlier, MATCH);
        let line = match values.origin(place) {
            Origin::File { line, .. } => format!("line {line}"),
            _ => format!("{RULES}[{earlier}]"),
        };
        let (pattern, first) = (&rule.pattern, &rules[earlier].pattern);
        let message = if first == pattern {
            format!(
                "`{pattern}` is unreachable: there is a rule for `{first}` in {line} already; remove one \
                 of them"
            )
        } else {
            format!(
                "`{pattern}` is unreachable: `{first}` in {line} comes first and matches all of it; put \
                 this rule before it"
            )
        };
        wrong(Place::Rule(index, MATCH), message);
    }
    if !values.sound(Place::Rules) {
        return;
    }
    let for_every_name = |rule: usize| sound(rule) && rules[rule].pattern == EVERY_NAME;
    match rules.last() {
        None => wrong(
            Place::Rules,
            format!(
                "there is no rule, so that nothing says how channels behave; leave {RULES} out for one \
                 rule with the defaults, or write a rule with {MATCH} = \"{EVERY_NAME}\""
            ),
        ),
        // Behind a rule for every name the last one is unreachable, which has been said.
        Some(rule) if sound(rules.len() - 1) && !(0..rules.len()).any(for_every_name) => wrong(
            Place::Rule(rules.len() - 1, MATCH),
            format!(
                "`{}` is the last rule, so that nothing says how other channels behave; add a last rule \
                 with {MATCH} = \"{EVERY_NAME}\" (allow.subscribe = \"nobody\" there closes all other \
                 channels)",
                rule.pattern
            ),
        ),
        Some(_) => {}
    }
}

/// Checks what the settings of one rule must agree on. `message` is the largest one of a client, in
/// bytes.
fn inside(
    index: usize,
    rule: &ChannelRule,
    message: u64,
    values: &impl Values,
    wrong: &mut impl FnMut(Place, String),
) {
    let sound = |key| values.sound(Place::Rule(index, key));
    let has_users = match rule.pattern.rsplit_once('#') {
        Some((_, users)) => !users.is_empty(),
        None => !pattern::is_name(&rule.pattern),
    };
    if !has_users && sound(MATCH) {
        for setting in RULE_SETTINGS {
            if (setting.get)(rule) == Value::Access(Access::Named) && sound(setting.key) {
                wrong(
                    Place::Rule(index, setting.key),
                    format!(
                        "named allows nobody here: users are named after a # in a channel's name, and \
                         `{}` has none",
                        rule.pattern
                    ),
                );
            }
        }
    }
    if rule.allow.subscribe == Access::Named
        && rule.allow.wildcards != Access::Nobody
        && sound("allow.subscribe")
        && sound("allow.wildcards")
    {
        wrong(
            Place::Rule(index, "allow.wildcards"),
            "nobody can hear these channels through a wildcard: it stands for many channels, and with \
             allow.subscribe = \"named\" each has its own users; set allow.wildcards to nobody, or \
             allow.subscribe to something else"
                .into(),
        );
    }
    if let Some(bytes) = rule.data_bytes
        && bytes as u64 > message
        && sound("data_bytes")
        && values.sound(Place::Setting("client.message_bytes"))
    {
        wrong(
            Place::Rule(index, "data_bytes"),
            format!(
                "{} is more than the largest message (client.message_bytes, {}); lower it, or raise \
                 client.message_bytes",
                value::human(bytes as u64, Unit::Bytes),
                value::human(message, Unit::Bytes),
            ),
        );
    }
    if rule.history.last_on_subscribe
        && rule.history.size == 0
        && sound("history.last_on_subscribe")
        && sound("history.size")
    {
        wrong(
            Place::Rule(index, "history.last_on_subscribe"),
            "there is no last message without history; set history.size to at least 1".into(),
        );
    }
    let narrower = |those: &Access| *those != Access::Everyone && *those != rule.allow.subscribe;
    if rule.history.last_on_subscribe
        && narrower(&rule.allow.history)
        && [
            "history.last_on_subscribe",
            "allow.history",
            "allow.subscribe",
        ]
        .into_iter()
        .all(sound)
    {
        wrong(
            Place::Rule(index, "history.last_on_subscribe"),
            "all subscribers would get the last message, also those who may not read the history \
             (allow.history); switch it off, or make allow.history everyone or the same as allow.subscribe"
                .into(),
        );
    }
    if rule.presence.events && sound("presence.events") {
        if !rule.presence.enabled && sound("presence.enabled") {
            wrong(
                Place::Rule(index, "presence.events"),
                "nobody knows who comes and goes without presence; set presence.enabled to true"
                    .into(),
            );
        }
        if narrower(&rule.allow.presence) && sound("allow.presence") && sound("allow.subscribe") {
            wrong(
                Place::Rule(index, "presence.events"),
                "all subscribers would be told who comes and goes, also those who may not ask \
                 (allow.presence); switch the events off, or make allow.presence everyone or the same as \
                 allow.subscribe"
                    .into(),
            );
        }
    }
}

/// Checks that a rule says how much it gathers only where it gathers, and no more than may wait for a
/// client: `outbox`, in bytes.
fn gathering(
    index: usize,
    rule: &ChannelRule,
    outbox: usize,
    values: &impl Values,
    wrong: &mut impl FnMut(Place, String),
) {
    let (time, size) = ("delivery.batch_ms", "delivery.batch_bytes");
    let place = |key| Place::Rule(index, key);
    let bytes = rule.delivery.batch_bytes;
    if !values.sound(place(size)) {
        return;
    }
    if rule.delivery.batch_ms == 0 {
        // The default can be said together with a time of 0, as `config print` does. Said alone it was
        // meant to do something.
        let is_said = |key| values.origin(place(key)) != Origin::Default;
        let is_other = bytes as u64 != DELIVERY_BATCH_BYTES.default();
        if values.sound(place(time)) && (is_other || is_said(size) && !is_said(time)) {
            wrong(
                place(size),
                "nothing is gathered without a time for it; set delivery.batch_ms to at least 1"
                    .into(),
            );
            return;
        }
    }
    if bytes > outbox && values.sound(Place::Setting("client.outbox_bytes")) {
        wrong(
            place(size),
            format!(
                "{} is more than may wait for a client (client.outbox_bytes, {}); lower it, or raise \
                 client.outbox_bytes",
                value::human(bytes as u64, Unit::Bytes),
                value::human(outbox as u64, Unit::Bytes),
            ),
        );
    }
}
