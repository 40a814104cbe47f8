//! What settings must agree on with each other, and the check that every way in goes through.

use super::limits::{ENVELOPE_BYTES, Unit};
use super::settings::{self, SETTINGS};
use super::value::{self, Value};
use super::{Config, ConfigError, Origin};

/// Settings that must be at least `client.message_bytes` plus the envelope.
pub(super) const HOLDS_A_MESSAGE: [&str; 2] = ["client.outbox_bytes", "client.mesh_pending_bytes"];

impl Config {
    /// Checks every value and what they must agree on. Files, environment and flags are checked by
    /// this too; a program that fills in a [`Config`] calls it itself or through the server's
    /// builder.
    ///
    /// # Errors
    /// Every problem there is, not only the first.
    pub fn check(self) -> Result<Config, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut broken = Vec::new();
        for setting in SETTINGS {
            if let Err(faults) = value::check(setting, &(setting.get)(&self)) {
                broken.push(setting.key);
                errors.extend(
                    faults
                        .into_iter()
                        .map(|fault| error(setting.key, fault.message)),
                );
            }
        }
        errors.extend(relations(&self, |key| !broken.contains(&key)));
        if errors.is_empty() {
            Ok(self)
        } else {
            Err(errors)
        }
    }
}

fn error(key: &str, message: String) -> ConfigError {
    ConfigError {
        origin: Origin::Program,
        key: Some(key.to_owned()),
        message,
    }
}

/// Checks relations between settings. Only between those that are `sound` by themselves: the others
/// have their error already.
pub(super) fn relations(config: &Config, sound: impl Fn(&str) -> bool) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let message = config.client.message_bytes as u64;
    for key in HOLDS_A_MESSAGE {
        let setting = settings::find(key).expect("a key of the table");
        let Value::Number(bytes) = (setting.get)(config) else {
            continue;
        };
        if bytes < message + ENVELOPE_BYTES && sound(key) && sound("client.message_bytes") {
            errors.push(error(
                key,
                format!(
                    "{} cannot hold the largest message (client.message_bytes, {}) and 64 KiB for its \
                     envelope; raise it to {}, or lower client.message_bytes",
                    value::human(bytes, Unit::Bytes),
                    value::human(message, Unit::Bytes),
                    message + ENVELOPE_BYTES,
                ),
            ));
        }
    }
    let ring = &config.ring;
    if ring.completion_entries < ring.entries
        && sound("ring.completion_entries")
        && sound("ring.entries")
    {
        errors.push(error(
            "ring.completion_entries",
            format!(
                "{} is less than ring.entries ({}); the kernel wants at least as many",
                ring.completion_entries, ring.entries
            ),
        ));
    }
    errors
}
