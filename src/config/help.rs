//! What was probably meant, where a name or a word does not exist.

use super::settings::{Owner, RULES, Setting};
use super::{ChannelRule, Config};

/// The candidate that `name` was most likely meant to be.
pub(super) fn similar<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    // 0.8 is what clap uses for flags: two letters off in a name of ten.
    candidates
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// What to say about a key that `T` has not.
pub(super) fn unknown_key<T: Owner>(key: &str, is_table: bool) -> String {
    if is_table {
        return unknown_section::<T>(key);
    }
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    // The right name in the wrong section: of its own kind, or of the other.
    let home = home::<T>(name)
        .or_else(|| home::<Config>(name))
        .or_else(|| home::<ChannelRule>(name));
    if let Some(home) = home {
        return format!("there is no such setting here; {name} belongs {home}");
    }
    // A misspelt name: first among its neighbours, then anywhere.
    let names = |section: Option<&str>| {
        let names = T::SETTINGS.iter().map(Setting::section_and_name);
        let section = section.map(str::to_owned);
        names
            .filter(move |(home, _)| section.as_deref().is_none_or(|section| section == *home))
            .map(|(_, name)| name)
    };
    if let Some(close) = similar(name, names(Some(section))) {
        return format!("there is no such setting; did you mean {close}?");
    }
    let elsewhere = similar(name, names(None)).and_then(|close| {
        T::SETTINGS
            .iter()
            .find(|setting| setting.section_and_name().1 == close)
    });
    match elsewhere {
        Some(setting) => format!("there is no such setting; did you mean {}?", setting.key),
        None => "there is no such setting; ringwire config reference lists all of them".into(),
    }
}

fn unknown_section<T: Owner>(key: &str) -> String {
    let sections = T::SETTINGS
        .iter()
        .map(|setting| setting.section_and_name().0)
        .filter(|section| !section.is_empty());
    let rules = T::HAS_RULES.then_some(RULES);
    match similar(key, sections.chain(rules)) {
        Some(close) => {
            let header = T::header(close);
            format!("there is no such section; did you mean {header}?")
        }
        None => "there is no such section".into(),
    }
}

/// Where the setting with this name belongs, if `T` has one.
fn home<T: Owner>(name: &str) -> Option<String> {
    T::SETTINGS
        .iter()
        .find(|setting| setting.section_and_name().1 == name)
        .map(T::home)
}
