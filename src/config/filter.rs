//! Filters of the log: a level for everything, or levels by module, as `tracing` reads them.
//!
//! `tracing` takes a word that is no level for the name of a module, and then logs nothing else:
//! `--log verbose` would silence the server. Such words are refused here.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::limits::MAX_LOG_FILTER_BYTES;

/// The levels, least first.
const LEVELS: &str = "off, error, warn, info, debug and trace";

/// Names that people give to levels, which `tracing` does not know.
const OTHER_NAMES: [(&str, &str); 1] = [("warning", "warn")];

/// The filter with the names of levels that `tracing` knows.
pub fn normalized(filter: &str) -> String {
    let level = |word: &str| {
        OTHER_NAMES
            .iter()
            .find(|(other, _)| word.eq_ignore_ascii_case(other))
            .map_or_else(|| word.to_owned(), |(_, known)| (*known).to_owned())
    };
    let directives = filter.split(',').map(|directive| {
        let directive = directive.trim();
        match directive.rsplit_once('=') {
            Some((module, word)) => format!("{module}={}", level(word)),
            None => level(directive),
        }
    });
    directives.collect::<Vec<_>>().join(",")
}

/// Checks a filter.
///
/// # Errors
/// Says what is wrong, and what is allowed.
pub(super) fn check(filter: &str) -> Result<(), String> {
    if filter.trim().is_empty() {
        return Err("is empty; write off for no log at all".into());
    }
    if filter.len() > MAX_LOG_FILTER_BYTES {
        return Err(format!(
            "has {} bytes; at most {MAX_LOG_FILTER_BYTES} are allowed",
            filter.len()
        ));
    }
    let wrong = |why: String| {
        format!(
            "{filter:?} is not a filter: {why}; levels are {LEVELS}, for everything (info) or by module \
             (ringwire::shard=debug,warn)"
        )
    };
    let normalized = normalized(filter);
    for directive in normalized.split(',') {
        // Spans and their fields have a grammar of their own.
        if directive.contains(['[', ']', '{', '}']) {
            continue;
        }
        let (module, word) = match directive.rsplit_once('=') {
            Some((module, word)) => (Some(module), word),
            None => (None, directive),
        };
        // Nothing between two commas is nothing; nothing behind a module is a mistake.
        let is_missing = word.is_empty() && module.is_some();
        let is_level = !is_missing && word.parse::<LevelFilter>().is_ok();
        let is_own = word == "ringwire" || word.starts_with("ringwire::");
        let is_own_module = module.is_none() && is_own;
        if !(is_level || is_own_module) {
            return Err(wrong(format!("{word:?} is no level")));
        }
    }
    match EnvFilter::builder().parse(&normalized) {
        Ok(_) => Ok(()),
        Err(error) => Err(wrong(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_modules_are_filters() {
        for filter in [
            "info",
            "off",
            "WARN",
            "warning",
            "ringwire::shard=debug,warn",
            "ringwire=Warning, error",
            "ringwire::session",
            "my_app=trace,warn",
            "ringwire[span{field=1}]=debug,info,",
        ] {
            check(filter).unwrap_or_else(|error| panic!("{error}"));
        }
        assert_eq!(normalized("a=Warning, warning"), "a=warn,warn");
    }

    #[test]
    fn words_that_would_silence_the_log_are_refused() {
        for (filter, word) in [
            ("verbose", "verbose"),
            ("none", "none"),
            ("info,ringwrie", "ringwrie"),
            ("ringwire=loud", "loud"),
            ("ringwire=", ""),
            ("ringwires", "ringwires"),
        ] {
            let error = check(filter).unwrap_err();
            assert!(
                error.contains(&format!("{word:?} is no level; levels are off, error")),
                "{error}"
            );
        }
        assert!(check(" ").unwrap_err().contains("off"));
    }
}
