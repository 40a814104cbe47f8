//! Patterns of rules for channels: a name, or the beginning of names followed by `*`.

use super::limits::MAX_CHANNEL_PATTERN_BYTES;

/// The pattern that matches every name.
pub(super) const EVERY_NAME: &str = "*";

/// Checks a pattern.
///
/// # Errors
/// Says what is wrong, and what to write instead.
pub(super) fn check(pattern: &str) -> Result<(), String> {
    if pattern.is_empty() {
        return Err("is empty; * alone matches every name".into());
    }
    if pattern.len() > MAX_CHANNEL_PATTERN_BYTES {
        return Err(format!(
            "has {} bytes; at most {MAX_CHANNEL_PATTERN_BYTES} are allowed",
            pattern.len()
        ));
    }
    if let Some(bad) = pattern.chars().find(|c| c.is_control()) {
        return Err(format!(
            "{pattern:?} contains the control character {bad:?}; no channel's name has one"
        ));
    }
    let beginning = pattern.strip_suffix('*').unwrap_or(pattern);
    if beginning.contains('*') {
        return Err(format!(
            "{pattern:?} has a * before its end; a pattern is a name such as news, or the beginning of \
             names with one * at the end, such as chat:*"
        ));
    }
    if let Some(above) = pattern.strip_suffix('>')
        && (above.is_empty() || above.ends_with('.'))
    {
        return Err(format!(
            "{pattern:?} is no channel's name: a last level > makes it a wildcard, to subscribe to; write \
             {above}* for the rule of all channels below, which in a rule may have any number of levels"
        ));
    }
    Ok(())
}

/// Whether a pattern is one name, not a beginning.
pub(super) fn is_name(pattern: &str) -> bool {
    !pattern.ends_with('*')
}

/// Whether `earlier` matches every name that `later` matches.
///
/// Rules that come together to this cannot be missed by looking at one after another: names go on
/// with more characters than there can be rules.
pub(super) fn covers(earlier: &str, later: &str) -> bool {
    match earlier.strip_suffix('*') {
        Some(beginning) => later
            .strip_suffix('*')
            .unwrap_or(later)
            .starts_with(beginning),
        None => earlier == later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_beginnings_are_patterns() {
        let longest = "ü".repeat(MAX_CHANNEL_PATTERN_BYTES / 2);
        for pattern in [
            "*",
            "news",
            "chat:*",
            "dialog#42,43",
            " a b ",
            "ü",
            "a.b>",
            "a.>.b",
            "prices.*",
            &longest,
        ] {
            assert_eq!(check(pattern), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn mistakes_say_what_is_allowed() {
        let long = format!("{}*", "x".repeat(MAX_CHANNEL_PATTERN_BYTES));
        for (pattern, words) in [
            ("", "* alone matches every name"),
            ("**", "one * at the end"),
            ("chat:*:log", "\"chat:*:log\" has a * before its end"),
            ("*x", "such as chat:*"),
            (
                "prices.>",
                "write prices.* for the rule of all channels below",
            ),
            (">", "write * for the rule"),
            ("a\nb", "'\\n'"),
            ("a\u{85}", "control character"),
            (&long, "has 1025 bytes; at most 1024"),
        ] {
            let error = check(pattern).unwrap_err();
            assert!(error.contains(words), "{pattern:?}: {error}");
        }
    }

    #[test]
    fn what_matches_more_covers_what_matches_less() {
        for (earlier, later) in [
            ("*", "*"),
            ("*", "chat:*"),
            ("*", "news"),
            ("chat:*", "chat:*"),
            ("chat:*", "chat:1*"),
            ("chat:*", "chat:"),
            ("chat:*", "chat:1"),
            ("news", "news"),
        ] {
            assert!(covers(earlier, later), "{earlier} {later}");
        }
        for (earlier, later) in [
            ("chat:*", "*"),
            ("chat:*", "chat*"),
            ("chat:*", "chat"),
            ("news", "news*"),
            ("news", "newspaper"),
        ] {
            assert!(!covers(earlier, later), "{earlier} {later}");
        }
    }
}
