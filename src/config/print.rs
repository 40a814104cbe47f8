//! The configuration for people and programs: `config print`, `config reference`.

use std::fmt::Write;

use serde_json::json;

use super::limits::{ENVELOPE_BYTES, Unit};
use super::rule_settings::{self, RULE_SETTINGS};
use super::settings::{CONFIG_VARIABLE, Kind, Owner, RULES, SECTIONS, SETTINGS, Setting, Word};
use super::value::{self, Value};
use super::{Loaded, Origin};

impl Loaded {
    /// The effective values as a TOML file, each with its description and where it came from. The
    /// file can be read back, and gives the same configuration.
    pub fn to_toml(&self) -> String {
        let mut out = format!(
            "# ringwire {}: the effective configuration\n",
            env!("CARGO_PKG_VERSION")
        );
        for (section, about) in SECTIONS {
            let _ = writeln!(out, "\n# {about}");
            if !section.is_empty() {
                let _ = writeln!(out, "[{section}]");
            }
            for setting in settings_of(section) {
                let _ = write!(out, "\n{}", description(setting));
                let name = setting.section_and_name().1;
                line(
                    &mut out,
                    name,
                    setting,
                    &self.config,
                    self.origin(setting.key),
                );
            }
        }
        let _ = write!(out, "\n{}", wrapped(rule_settings::ABOUT, "# ", 100));
        for (index, rule) in self.config.channels.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n" };
            let _ = writeln!(out, "{gap}[[{RULES}]]");
            for setting in RULE_SETTINGS {
                // What the settings are is said once, at the first rule.
                if index == 0 {
                    let _ = write!(out, "\n{}", description(setting));
                }
                let origin = self.rule_origin(index, setting.key);
                line(&mut out, setting.key, setting, rule, origin);
            }
        }
        out
    }

    /// The effective values by key, each with where it came from; `auto` is null. Rules for channels
    /// are a list of the same.
    pub fn to_json(&self) -> serde_json::Value {
        let rules = self.config.channels.iter().enumerate();
        let rules: Vec<_> = rules
            .map(|(index, rule)| values_json(rule, |key| self.rule_origin(index, key)))
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "file": self.file.as_ref().map(|path| path.display().to_string()),
            "notes": self.notes,
            "settings": values_json(&self.config, |key| self.origin(key)),
            "channels": rules,
        })
    }
}

/// What a setting is, as a comment above it.
fn description<T: Owner>(setting: &Setting<T>) -> String {
    let mut out = format!(
        "{}# Allowed: {}.\n",
        wrapped(setting.description, "# ", 100),
        setting.allowed()
    );
    if let Kind::Choice(words) = setting.kind {
        for Word { word, meaning } in words {
            // Their lines hang, so that the words stand out.
            let item = wrapped(&format!("{word}: {meaning}."), "", 96);
            for (index, line) in item.lines().enumerate() {
                let mark = if index == 0 { "-" } else { " " };
                let _ = writeln!(out, "# {mark} {line}");
            }
        }
    }
    out
}

/// A setting with its value as a line of a file.
fn line<T: Owner>(out: &mut String, name: &str, setting: &Setting<T>, owner: &T, origin: &Origin) {
    let value = (setting.get)(owner);
    let _ = writeln!(
        out,
        "{name} = {} # {}",
        value::to_toml(&value),
        comment(setting, &value, origin)
    );
}

fn values_json<'a, T: Owner>(
    owner: &T,
    origin: impl Fn(&'static str) -> &'a Origin,
) -> serde_json::Value {
    T::SETTINGS
        .iter()
        .map(|setting| {
            let value = value::to_json(&(setting.get)(owner));
            let source = origin_json(origin(setting.key));
            (
                setting.key.to_owned(),
                json!({ "value": value, "source": source }),
            )
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A problem's or value's origin for programs.
pub(crate) fn origin_json(origin: &Origin) -> serde_json::Value {
    match origin {
        Origin::Default => json!({ "kind": "default" }),
        Origin::Raised => json!({ "kind": "raised" }),
        Origin::Program => json!({ "kind": "program" }),
        Origin::File { path, line: 0, .. } => {
            json!({ "kind": "file", "path": path.display().to_string() })
        }
        Origin::File { path, line, column } => json!({
            "kind": "file", "path": path.display().to_string(), "line": line, "column": column,
        }),
        Origin::Environment { variable } => json!({ "kind": "environment", "variable": variable }),
        Origin::Flag { flag } => json!({ "kind": "flag", "flag": flag }),
    }
}

fn settings_of(section: &str) -> impl Iterator<Item = &'static Setting> {
    SETTINGS
        .iter()
        .filter(move |setting| setting.section_and_name().0 == section)
}

/// What stands behind a value: how people say it, and where it came from.
fn comment<T: Owner>(setting: &Setting<T>, value: &Value, origin: &Origin) -> String {
    let origin = match origin {
        // A line break in a file's name must not end the comment.
        Origin::File { .. } => {
            format!("from {}", origin.to_string().replace(char::is_control, "?"))
        }
        Origin::Environment { .. } | Origin::Flag { .. } => format!("from {origin}"),
        origin => origin.to_string(),
    };
    match (setting.kind, value) {
        (Kind::Number(bound), Value::Number(0)) if bound.zero.is_some() => {
            format!("{}; {origin}", bound.zero.unwrap_or_default())
        }
        (Kind::Number(bound), Value::Number(number)) if bound.unit != Unit::Count => {
            format!("{}; {origin}", value::human(*number, bound.unit))
        }
        (_, Value::Auto) => format!("{}; {origin}", setting.auto.unwrap_or_default()),
        _ => origin,
    }
}

/// The page about all settings, `docs/configuration.md`.
pub fn reference() -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "# Configuration\n\n\
         <!-- Made by `ringwire config reference > docs/configuration.md` from \
         src/config/settings.rs and src/config/limits.rs; a test compares it. -->\n\n\
         Every setting can stand in a TOML file (`--config FILE`, or `{CONFIG_VARIABLE}=FILE`) or in the\n\
         environment, and many have a flag. **Flags win over the environment, the environment over the\n\
         file, the file over the defaults.** Lists have commas between their items in the environment; a\n\
         flag for a list can also be given several times.\n\n\
         A bare number is in the unit that the name ends with. Strings may carry a unit instead: `\"25s\"`,\n\
         `\"500ms\"`, `\"1MiB\"`. A time in a flag needs its unit, unless the flag's name has it. `auto`\n\
         stands for what is worked out at start. In the environment `true`, `yes`, `on` and `1` mean\n\
         true, `false`, `no`, `off` and `0` false, in capitals or not.\n\n\
         A name that does not exist, a value out of bounds and two settings that contradict each other\n\
         are errors: all of them are printed, with file, line and column, and the server does not start\n\
         (exit code 2). `ringwire config check` only does this, and looks whether this machine has the\n\
         cores that are listed; `ringwire config print` shows the effective values and where each came\n\
         from. What must hold the largest message\n\
         (`client.outbox_bytes`, `client.mesh_pending_bytes`) must be at least `client.message_bytes` + {}.\n",
        value::human(ENVELOPE_BYTES, Unit::Bytes),
    );
    for (section, about) in SECTIONS {
        let title = if section.is_empty() {
            "Top of the file".into()
        } else {
            format!("`[{section}]`")
        };
        let _ = write!(out, "\n## {title}\n\n{about}\n");
        for setting in settings_of(section) {
            reference_entry(&mut out, setting.key, setting);
            let _ = write!(out, "- environment: `{}`", setting.variable());
            if let Some(flag) = setting.flag {
                let _ = match setting.kind {
                    Kind::Switch => write!(out, "; flags: `--{flag}`, `--no-{flag}`"),
                    kind if kind.is_list() => write!(out, "; flag: `--{flag}` (repeatable)"),
                    _ => write!(out, "; flag: `--{flag}`"),
                };
            }
            out.push('\n');
            reference_reason(&mut out, setting);
        }
    }
    let _ = write!(
        out,
        "\n## `[[{RULES}]]`\n\n{}\n\
         Each rule stands under a line `[[{RULES}]]` of its own, and goes on to the next line with\n\
         brackets: what belongs at the top of the file stands above the first rule. A rule behind one that\n\
         matches all its names could never be reached, and is an error.\n\n\
         Who may do something is one of these words, or a list of user ids:\n\n\
         - `everyone`: whoever is connected;\n\
         - `authenticated`: whoever has a user id;\n\
         - `named`: the users whose ids stand in the channel's name after the last `#`, with commas between\n\
         \x20 them: users 42 and 43 for `dialog#42,43`;\n\
         - `nobody`: nobody that is connected, only the backend.\n\n\
         ```toml\n{}```\n\n\
         Below, `{RULES}.history.size` is `history.size` in a rule, or `size` under `[{RULES}.history]`\n\
         behind its other settings.\n",
        wrapped(rule_settings::ABOUT, "", 100),
        rule_settings::EXAMPLE,
    );
    for setting in RULE_SETTINGS {
        reference_entry(&mut out, &format!("{RULES}.{}", setting.key), setting);
        reference_reason(&mut out, setting);
    }
    out
}

fn reference_entry<T: Owner>(out: &mut String, title: &str, setting: &Setting<T>) {
    let _ = write!(
        out,
        "\n### `{title}`\n\n{}\n",
        wrapped(setting.description, "", 100)
    );
    let default = setting.default_toml();
    match (setting.auto, setting.kind) {
        (None, Kind::Pattern) => {
            let _ = writeln!(out, "- default: none; it must be set");
        }
        (Some(meaning), _) => {
            let _ = writeln!(out, "- default: `{default}`: {meaning}");
        }
        (None, Kind::Number(bound)) => {
            let number = bound.default();
            let _ = match bound.zero {
                Some(meaning) if number == 0 => writeln!(out, "- default: `{default}` ({meaning})"),
                _ if bound.unit == Unit::Count => writeln!(out, "- default: `{default}`"),
                _ => writeln!(
                    out,
                    "- default: `{default}` ({})",
                    value::human(number, bound.unit)
                ),
            };
        }
        (None, _) => {
            let _ = writeln!(out, "- default: `{default}`");
        }
    }
    let _ = writeln!(out, "- allowed: {}", setting.allowed());
    if let Kind::Choice(words) = setting.kind {
        for Word { word, meaning } in words {
            let _ = writeln!(out, "  - `{word}`: {meaning}");
        }
    }
    if let Some(unit) = setting.unit() {
        let _ = writeln!(out, "- unit: {unit}");
    }
}

fn reference_reason<T: Owner>(out: &mut String, setting: &Setting<T>) {
    if let Kind::Number(bound) = setting.kind {
        let _ = writeln!(out, "- why: {}", bound.why);
    }
}

/// Words in lines of at most `width` characters, each with a prefix.
fn wrapped(text: &str, prefix: &str, width: usize) -> String {
    let mut out = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty()
            && prefix.len() + line.chars().count() + 1 + word.chars().count() > width
        {
            let _ = writeln!(out, "{prefix}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(out, "{prefix}{line}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_docs_is_what_the_table_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == reference(),
            "docs/configuration.md is out of date; run\n\
             cargo run -- config reference > docs/configuration.md"
        );
    }

    #[test]
    fn the_page_names_every_setting_in_every_way() {
        let page = reference();
        for setting in SETTINGS {
            assert!(page.contains(&format!("### `{}`", setting.key)));
            assert!(page.contains(&format!("`{}`", setting.variable())));
            if let Some(flag) = setting.flag {
                assert!(page.contains(&format!("`--{flag}`")));
            }
        }
        for setting in RULE_SETTINGS {
            assert!(page.contains(&format!("### `channels.{}`", setting.key)));
        }
    }

    #[test]
    fn lines_are_wrapped_between_words() {
        assert_eq!(wrapped("one two  three", "# ", 9), "# one two\n# three\n");
        assert_eq!(wrapped("unbreakable", "", 3), "unbreakable\n");
    }
}
