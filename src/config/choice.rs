//! Settings that are one of a few words: the words of each, and reading one.
//!
//! A new one is an enum, a list of its words here, and an entry with [`super::settings::Kind::Choice`]
//! in a table.

use super::SlowConsumer;
use super::help::similar;
use super::settings::Word;
use super::value::{Field, Value};

/// Gives each variant of an enum its word in files, and what that means as the end of a line.
macro_rules! words {
    ($choice:ident { $($variant:ident: $word:literal, $meaning:literal;)+ }) => {
        impl $choice {
            /// The words, in the order in which people are told of them.
            pub(super) const WORDS: &'static [Word] =
                &[$(Word { word: $word, meaning: $meaning }),+];
        }

        impl Field for $choice {
            fn value(&self) -> Value {
                // Without another arm: a variant that has no word does not compile.
                Value::Choice(match self {
                    $($choice::$variant => $word,)+
                })
            }
            fn field(value: Value) -> Option<$choice> {
                match value {
                    $(Value::Choice($word) => Some($choice::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

words! {
    SlowConsumer {
        Disconnect: "disconnect",
            "when its outbox is full it is disconnected (4010), and can come back and recover";
        DropOldest: "drop-oldest",
            "when its outbox is full it loses the oldest messages that wait, and is told how many";
        Conflate: "conflate",
            "of the messages that wait for it, those that a newer one replaces are left out. A publish may \
             carry \"key\":K, and messages with the same key replace each other; without a key all messages \
             of the channel do. When its outbox is full all the same, it loses the oldest ones and is told \
             how many";
    }
}

/// The words that are allowed, for errors and for the documentation.
pub(super) fn allowed(words: &[Word]) -> String {
    let words: Vec<&str> = words.iter().map(|word| word.word).collect();
    match words.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => words.concat(),
    }
}

/// Reads a word.
///
/// # Errors
/// Says which word was probably meant, or which ones there are.
pub(super) fn parse(text: &str, words: &'static [Word]) -> Result<Value, String> {
    if let Some(known) = words.iter().find(|known| known.word == text) {
        return Ok(Value::Choice(known.word));
    }
    let meant = match similar(text, words.iter().map(|word| word.word)) {
        Some(word) => format!("did you mean {word}?"),
        None => format!("allowed: {}", allowed(words)),
    };
    Err(format!("{text:?} is not allowed; {meant}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_its_variant() {
        for (text, choice) in [
            ("disconnect", SlowConsumer::Disconnect),
            ("drop-oldest", SlowConsumer::DropOldest),
            ("conflate", SlowConsumer::Conflate),
        ] {
            let value = parse(text, SlowConsumer::WORDS).unwrap();
            assert_eq!(value, choice.value());
            assert_eq!(SlowConsumer::field(value), Some(choice));
        }
        assert_eq!(SlowConsumer::WORDS.len(), 3);
        // What is no word of this choice is nothing of it, whoever says it.
        assert_eq!(SlowConsumer::field(Value::Choice("never")), None);
        assert_eq!(SlowConsumer::field(Value::Text("conflate".into())), None);
    }

    #[test]
    fn other_words_get_the_nearest_or_all() {
        for (text, words) in [
            (
                "drop_oldest",
                "\"drop_oldest\" is not allowed; did you mean drop-oldest?",
            ),
            ("Conflate", "did you mean conflate?"),
            ("disconect", "did you mean disconnect?"),
            (
                "never",
                "\"never\" is not allowed; allowed: disconnect, drop-oldest or conflate",
            ),
            ("", "allowed: disconnect, drop-oldest or conflate"),
        ] {
            let error = parse(text, SlowConsumer::WORDS).unwrap_err();
            assert!(error.ends_with(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn few_words_are_listed_like_many() {
        let word = |word| Word { word, meaning: "" };
        assert_eq!(allowed(&[word("one")]), "one");
        assert_eq!(allowed(&[word("one"), word("two")]), "one or two");
    }
}
