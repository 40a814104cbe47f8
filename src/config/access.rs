//! Who may do something, as text: one of the words, or a list of user ids.

use std::collections::HashSet;

use super::Access;
use super::help::similar;
use super::limits::{MAX_LISTED_USERS, MAX_USER_ID_BYTES};
use super::value::Fault;

/// What stands before user ids in the environment: `users:42,43`.
const LIST_PREFIX: &str = "users:";

/// The words, from the widest to the narrowest.
const WORDS: [(&str, Access); 4] = [
    ("everyone", Access::Everyone),
    ("authenticated", Access::Authenticated),
    ("named", Access::Named),
    ("nobody", Access::Nobody),
];

/// The words that are allowed, with commas between them.
pub(super) fn words(named: bool) -> String {
    allowed(named).collect::<Vec<_>>().join(", ")
}

fn allowed(named: bool) -> impl Iterator<Item = &'static str> {
    WORDS
        .iter()
        .filter(move |(_, access)| named || *access != Access::Named)
        .map(|(word, _)| *word)
}

/// The word for it; `None`: a list of users.
pub(super) fn word(access: &Access) -> Option<&'static str> {
    WORDS
        .iter()
        .find(|(_, known)| known == access)
        .map(|(word, _)| *word)
}

/// Reads a word, as it stands in a file.
///
/// # Errors
/// Says which word was probably meant, and how user ids are written.
pub(super) fn parse_word(text: &str, named: bool) -> Result<Access, String> {
    let list = toml::Value::Array(vec![text.into()]);
    parse(text, named, &format!("a list, for example {list}"))
}

/// Reads a word or a list of users, as they stand in the environment.
///
/// # Errors
/// Says which word was probably meant, and how user ids are written.
pub(super) fn parse_text(text: &str, named: bool) -> Result<Access, String> {
    match text.strip_prefix(LIST_PREFIX) {
        Some(ids) => Ok(Access::Users(
            ids.split(',').map(|id| id.trim().to_owned()).collect(),
        )),
        None => parse(text, named, &format!("{LIST_PREFIX}{text}")),
    }
}

fn parse(text: &str, named: bool, as_users: &str) -> Result<Access, String> {
    // `named` is known everywhere: where it is not allowed, `check` says why.
    if let Some((_, access)) = WORDS.iter().find(|(word, _)| *word == text) {
        return Ok(access.clone());
    }
    let meant = match similar(text, allowed(named)) {
        Some(word) => format!("did you mean {word}?"),
        None => format!("allowed: {}", words(named)),
    };
    Err(format!(
        "{text:?} is not allowed; {meant} (user ids are written as {as_users})"
    ))
}

/// Checks who may: whether there can be a name to stand in, and the ids of a list.
pub(super) fn check(access: &Access, named: bool) -> Vec<Fault> {
    match access {
        Access::Named if !named => vec![Fault::whole(format!(
            "named is not allowed here: there is no channel's name for users to stand in; allowed: {}, \
             or user ids",
            words(named)
        ))],
        Access::Users(ids) => check_ids(ids),
        _ => Vec::new(),
    }
}

fn check_ids(ids: &[String]) -> Vec<Fault> {
    if ids.is_empty() {
        return vec![Fault::whole(
            "is an empty list; write nobody if nobody may, or at least one user id",
        )];
    }
    let mut faults = Vec::new();
    if ids.len() > MAX_LISTED_USERS {
        faults.push(Fault::whole(format!(
            "has {} user ids; at most {MAX_LISTED_USERS} are allowed",
            ids.len()
        )));
    }
    let mut seen = HashSet::new();
    for (index, id) in ids.iter().enumerate() {
        let wrong = if id.is_empty() {
            Some("an empty text is no user id".to_owned())
        } else if id.len() > MAX_USER_ID_BYTES {
            Some(format!(
                "this user id has {} bytes; at most {MAX_USER_ID_BYTES} are allowed",
                id.len()
            ))
        } else if let Some(bad) = id.chars().find(|c| c.is_control()) {
            Some(format!("{id:?} contains the control character {bad:?}"))
        } else if !seen.insert(id) {
            Some(format!("{id:?} is listed twice"))
        } else {
            None
        };
        faults.extend(wrong.map(|message| Fault::item(index, message)));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_written() {
        for (text, access) in &WORDS {
            assert_eq!(parse_word(text, true).as_ref(), Ok(access));
            assert_eq!(parse_text(text, true).as_ref(), Ok(access));
            assert_eq!(word(access), Some(*text));
        }
        assert_eq!(words(false), "everyone, authenticated, nobody");
        assert_eq!(
            parse_text("users:42, 43", false),
            Ok(Access::Users(vec!["42".into(), "43".into()]))
        );
        assert_eq!(word(&Access::Users(vec!["everyone".into()])), None);
    }

    #[test]
    fn other_words_get_the_nearest_and_how_ids_are_written() {
        assert_eq!(
            parse_word("everbody", true).unwrap_err(),
            "\"everbody\" is not allowed; did you mean everyone? (user ids are written as a list, for \
             example [\"everbody\"])"
        );
        assert_eq!(
            parse_word("42", true).unwrap_err(),
            "\"42\" is not allowed; allowed: everyone, authenticated, named, nobody (user ids are written \
             as a list, for example [\"42\"])"
        );
        assert_eq!(
            parse_text("42", false).unwrap_err(),
            "\"42\" is not allowed; allowed: everyone, authenticated, nobody (user ids are written as \
             users:42)"
        );
        assert!(
            parse_word("authentificated", false)
                .unwrap_err()
                .contains("did you mean authenticated?")
        );
        // A file has its own way to say it.
        assert!(parse_word("users:42", true).is_err());
    }

    #[test]
    fn lists_are_checked_item_by_item() {
        let users = |ids: &[&str]| Access::Users(ids.iter().map(ToString::to_string).collect());
        let faults = |access: &Access| -> Vec<(Option<usize>, String)> {
            check(access, true)
                .into_iter()
                .map(|fault| (fault.item, fault.message))
                .collect()
        };
        let longest = "x".repeat(MAX_USER_ID_BYTES);
        assert_eq!(faults(&users(&["42", "ü", &longest])), []);
        assert_eq!(faults(&users(&[])).len(), 1);
        let found = faults(&users(&["42", "", "a\tb", "42", &format!("{longest}x")]));
        let expected = [
            (1, "empty"),
            (2, "'\\t'"),
            (3, "\"42\" is listed twice"),
            (4, "has 129 bytes; at most 128"),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((item, message), (index, words)) in found.iter().zip(expected) {
            assert_eq!(*item, Some(index));
            assert!(message.contains(words), "{message}");
        }
        let many: Vec<String> = (0..=MAX_LISTED_USERS).map(|id| id.to_string()).collect();
        assert_eq!(
            faults(&Access::Users(many)),
            [(None, "has 1001 user ids; at most 1000 are allowed".into())]
        );
        assert!(
            check(&Access::Named, false)[0]
                .message
                .contains("no channel's name")
        );
        assert_eq!(check(&Access::Named, true), []);
    }
}
