//! Reading the small text files of `/proc`, `/sys` and `/etc`, below any root.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Bytes of one file at most: `/proc/interrupts` of a machine with 1,024 processors and as many queues
/// has some 12 MB. A file below a wrong root must not fill the memory.
const MAX_FILE_BYTES: u64 = 32 << 20;
/// Characters of a malformed file that are quoted.
const QUOTED: usize = 40;

/// What a file says, or why that is not known.
pub(super) type Fact<T> = Result<T, Unknown>;

/// Why something is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    /// The file, as on the host: without the root.
    pub(super) path: String,
    pub(super) why: Why,
}

/// See [`Unknown`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// There is no such file.
    Missing,
    /// The system does not let this user read it.
    Denied,
    /// It does not say what it should; a sentence.
    Malformed(String),
    /// Anything else, as the system put it.
    Unreadable(String),
}

impl Unknown {
    pub(super) fn malformed(path: &str, text: &str, expected: &str) -> Self {
        let text = text.trim();
        let short: String = text.chars().take(QUOTED).collect();
        let dots = if short.len() < text.len() { "…" } else { "" };
        Self {
            path: path.to_owned(),
            why: Why::Malformed(format!("says {:?}{dots}, which is not {expected}", short)),
        }
    }

    pub(super) fn is_missing(&self) -> bool {
        self.why == Why::Missing
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.why {
            Why::Missing if path.starts_with("/proc/sys/") => write!(
                f,
                "{path} is not there: this kernel has no such setting, or a container or network namespace hides it"
            ),
            Why::Missing => write!(f, "{path} is not there"),
            Why::Denied => write!(f, "{path} may not be read by this user; run it as root"),
            Why::Malformed(what) => write!(f, "{path} {what}"),
            Why::Unreadable(error) => write!(f, "{path} cannot be read: {error}"),
        }
    }
}

/// The files of a host.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Where an absolute path of the host is in this tree.
    fn place(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn unknown(path: &str, error: &io::Error) -> Unknown {
        let why = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Why::Missing,
            io::ErrorKind::PermissionDenied => Why::Denied,
            _ => Why::Unreadable(error.to_string()),
        };
        Unknown {
            path: path.to_owned(),
            why,
        }
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.place(path).exists()
    }

    /// The file's text without the blanks around it. Bytes that are not UTF-8 are replaced; whoever
    /// expects a number then finds none.
    pub(super) fn text(&self, path: &str) -> Fact<String> {
        let mut bytes = Vec::new();
        File::open(self.place(path))
            .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes))
            .map_err(|error| Self::unknown(path, &error))?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A file that holds one number.
    pub(super) fn number<T: FromStr>(&self, path: &str) -> Fact<T> {
        let text = self.text(path)?;
        text.parse()
            .map_err(|_| Unknown::malformed(path, &text, "a number"))
    }

    /// A file that holds at least `N` numbers, of which the first `N` count.
    pub(super) fn numbers<const N: usize>(&self, path: &str) -> Fact<[u64; N]> {
        let text = self.text(path)?;
        let mut words = text.split_whitespace().map(str::parse);
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = match words.next() {
                Some(Ok(word)) => word,
                _ => return Err(Unknown::malformed(path, &text, &format!("{N} numbers"))),
            };
        }
        Ok(numbers)
    }

    /// A file that holds a number or `max`, which is `None`.
    pub(super) fn number_or_max(&self, path: &str) -> Fact<Option<u64>> {
        let text = self.text(path)?;
        match text.as_str() {
            "max" => Ok(None),
            _ => text
                .parse()
                .map(Some)
                .map_err(|_| Unknown::malformed(path, &text, "a number or \"max\"")),
        }
    }

    /// The names in a folder, sorted.
    pub(super) fn list(&self, path: &str) -> Fact<Vec<String>> {
        let mut names = Vec::new();
        let entries =
            std::fs::read_dir(self.place(path)).map_err(|error| Self::unknown(path, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| Self::unknown(path, &error))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_what_is_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("a"), "12\n").expect("written");
        std::fs::write(folder.path().join("b"), "1\t2 3\n").expect("written");
        std::fs::write(folder.path().join("c"), "max\n").expect("written");
        std::fs::write(folder.path().join("d"), [0xff, b'\n']).expect("written");
        let tree = Tree::new(folder.path());
        assert_eq!(tree.number::<u64>("/a"), Ok(12));
        assert_eq!(tree.numbers("/b"), Ok([1, 2, 3]));
        assert_eq!(tree.numbers("/b"), Ok([1]));
        assert_eq!(tree.number_or_max("/c"), Ok(None));
        assert_eq!(tree.number_or_max("/a"), Ok(Some(12)));
        let text = tree.numbers::<4>("/b").unwrap_err().to_string();
        assert_eq!(text, "/b says \"1\\t2 3\", which is not 4 numbers");
        for path in ["/c", "/d"] {
            let error = tree.number::<u64>(path).unwrap_err();
            assert!(
                matches!(error.why, Why::Malformed(_)) && error.path == path,
                "{error}"
            );
        }
        let missing = tree.number::<u64>("/e").unwrap_err();
        assert!(missing.is_missing());
        assert_eq!(missing.to_string(), "/e is not there");
        assert!(tree.text("/a/b").unwrap_err().is_missing());
        assert!(!tree.list("/").expect("a folder").is_empty());
    }

    #[test]
    fn long_nonsense_is_quoted_in_part() {
        let text = Unknown::malformed("/x", &"y".repeat(100), "a number").to_string();
        assert_eq!(
            text,
            format!("/x says {:?}…, which is not a number", "y".repeat(40))
        );
    }
}
