//! Programs under test without the settings of whoever runs the tests.

use std::process::Command;

/// The command without the variables of whoever runs the tests: they are not this server's.
pub(crate) fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"RINGWIRE_") {
            command.env_remove(name);
        }
    }
    command
}
