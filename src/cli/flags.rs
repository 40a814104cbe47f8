//! The flags that set settings, made from the table in `config::settings`.
//!
//! Clap knows their names and their help; their values are text here and are read by `config`,
//! where files and the environment are read too, so that every way in has the same rules and all
//! problems come out together.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, error::Error};

use crate::config::settings::{CONFIG_VARIABLE, Kind, SETTINGS, Setting};
use crate::config::{ConfigError, FlagValue, Loaded, Sources, load};

/// `--config` and the flags of the table.
#[derive(Clone, Debug, Default)]
pub struct SettingFlags {
    file: Option<PathBuf>,
    given: Vec<FlagValue>,
}

impl SettingFlags {
    /// Loads the configuration from these flags, the environment of the process, and the file.
    ///
    /// # Errors
    /// Every problem that was found.
    pub fn load(self) -> Result<Loaded, Vec<ConfigError>> {
        load(&Sources {
            file: self.file,
            environment: std::env::vars_os().collect(),
            flags: self.given,
        })
    }
}

/// Colours of the help, the same everywhere.
pub(super) const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const FILE: &str = "config";

fn negative(flag: &str) -> String {
    format!("no-{flag}")
}

fn value_name(setting: &Setting) -> &'static str {
    match setting.kind {
        Kind::Listen => "ADDRESS",
        Kind::Cores => "LIST",
        Kind::Paths => "PATH",
        Kind::Filter => "FILTER",
        Kind::Pattern => "PATTERN",
        Kind::Access { .. } => "WHO",
        Kind::Networks => "NETWORK",
        Kind::Choice(_) => "WORD",
        Kind::Switch => "BOOL",
        Kind::Number(_) => match setting.unit() {
            Some("bytes") => "SIZE",
            Some("ms") => "TIME",
            Some(_) => "MICROSECONDS",
            None => "N",
        },
    }
}

/// The default as it would be typed: without the quotes and brackets of a file.
fn default_text(setting: &Setting) -> String {
    match (setting.auto, setting.kind) {
        (Some(meaning), _) => meaning.into(),
        (None, Kind::Number(bound)) => match (bound.default(), bound.zero) {
            (0, Some(meaning)) => format!("0: {meaning}"),
            (number, _) => crate::config::human(number, bound.unit),
        },
        (None, _) => setting.default_toml().replace(['[', ']', '"'], ""),
    }
}

fn arguments(setting: &'static Setting, flag: &'static str) -> Vec<Arg> {
    let environment = format!("[env: {}]", setting.variable());
    if let Kind::Switch = setting.kind {
        let off = negative(flag);
        return vec![
            Arg::new(flag)
                .long(flag)
                .action(ArgAction::SetTrue)
                .overrides_with(off.clone())
                .help(format!(
                    "{} [default: {}] {environment}",
                    setting.description,
                    default_text(setting)
                )),
            Arg::new(off.clone())
                .long(off)
                .action(ArgAction::SetTrue)
                .overrides_with(flag)
                .help(format!("The opposite of --{flag}")),
        ];
    }
    vec![
        Arg::new(flag)
            .long(flag)
            .value_name(value_name(setting))
            .action(ArgAction::Append)
            // Minus signs are for `config` to refuse: it says what is allowed.
            .allow_negative_numbers(true)
            .help(format!(
                "{} [default: {}]",
                setting.description,
                default_text(setting)
            ))
            .long_help(format!(
                "{} Allowed: {}. [default: {}] {environment}",
                setting.description,
                setting.allowed(),
                default_text(setting),
            )),
    ]
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new(FILE)
            .long(FILE)
            .short('c')
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help(format!(
                "Read settings from this TOML file; flags and the environment win over it \
                 [env: {CONFIG_VARIABLE}]"
            ));
        let flags = SETTINGS
            .iter()
            .filter_map(|setting| Some(arguments(setting, setting.flag?)))
            .flatten();
        command.arg(file).next_help_heading("Settings").args(flags)
    }

    fn augment_args_for_update(command: Command) -> Command {
        SettingFlags::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SettingFlags, Error> {
        let mut flags = SettingFlags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.file = matches.get_one(FILE).cloned();
        self.given = SETTINGS
            .iter()
            .filter_map(|setting| given(setting, matches))
            .collect();
        Ok(())
    }
}

/// What was given of a setting's flag, if anything.
fn given(setting: &Setting, matches: &ArgMatches) -> Option<FlagValue> {
    let flag = setting.flag?;
    if let Kind::Switch = setting.kind {
        let off = negative(flag);
        return [(flag, "true"), (off.as_str(), "false")]
            .into_iter()
            .find(|(name, _)| matches.get_flag(name))
            .map(|(name, value)| FlagValue {
                key: setting.key,
                flag: format!("--{name}"),
                values: vec![value.into()],
            });
    }
    let values: Vec<String> = matches.get_many::<String>(flag)?.cloned().collect();
    Some(FlagValue {
        key: setting.key,
        flag: format!("--{flag}"),
        values,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> SettingFlags {
        let command = SettingFlags::augment_args(Command::new("test"));
        let matches = command
            .try_get_matches_from([&["test"], arguments].concat())
            .unwrap();
        SettingFlags::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn nothing_given_sets_nothing() {
        let flags = parse(&[]);
        assert_eq!(flags.file, None);
        assert_eq!(flags.given, []);
    }

    #[test]
    fn lists_gather_and_switches_take_the_last() {
        let flags = parse(&[
            "-c",
            "a.toml",
            "--listen",
            "1.2.3.4:1",
            "--listen=[::1]:2",
            "--echo",
            "--no-echo",
            "--shards",
            "-1",
        ]);
        assert_eq!(flags.file, Some("a.toml".into()));
        let flag = |key, flag: &str, values: &[&str]| FlagValue {
            key,
            flag: flag.into(),
            values: values.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(
            flags.given,
            [
                flag("listen", "--listen", &["1.2.3.4:1", "[::1]:2"]),
                flag("shards", "--shards", &["-1"]),
                flag("http.echo", "--no-echo", &["false"]),
            ]
        );
        assert_eq!(
            parse(&["--no-echo", "--echo"]).given,
            [flag("http.echo", "--echo", &["true"])]
        );
    }

    #[test]
    fn the_help_says_default_bounds_and_variable_of_every_flag() {
        let help = SettingFlags::augment_args(Command::new("test"))
            .render_long_help()
            .to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for setting in SETTINGS.iter().filter(|setting| setting.flag.is_some()) {
            assert!(
                help.contains(&format!("[env: {}]", setting.variable())),
                "{}",
                setting.key
            );
            assert!(
                help.contains(&format!("[default: {}]", default_text(setting))),
                "{}",
                setting.key
            );
        }
    }
}
