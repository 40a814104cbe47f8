//! The report for people: 100 columns, a table of everything first, then what is to be done.

use super::checks::number;
use super::finding::{Finding, Report, Status};

/// Columns of everything that is not to be copied.
const WIDTH: usize = 100;
/// Columns of status, setting and value; what is needed gets the rest.
const STATUS: usize = 8;
const SETTING: usize = 31;
const NOW: usize = 31;

/// Which findings are explained below the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Explain {
    /// Those that want something done, or are not known.
    Problems,
    /// All.
    All,
}

fn label(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Info => "info",
        Status::Warn => "WARN",
        Status::Fail => "FAIL",
        Status::Unknown => "unknown",
    }
}

impl Report {
    /// The text.
    #[must_use]
    pub fn to_text(&self, explain: Explain) -> String {
        let mut text = format!(
            "{} on {}\n",
            count(self.connections, "connection"),
            count(self.shards, "shard")
        );
        for note in &self.notes {
            text += &indented(note, "  ", "  ");
        }
        text += "\n";
        text += &row(["", "setting", "now", "needed"]);
        let mut group = "";
        for finding in &self.findings {
            if finding.group != group {
                group = finding.group;
                text += &format!("\n{group}\n");
            }
            text += &row([
                label(finding.status),
                &finding.setting,
                // The reason is a sentence with a path: it stands below.
                match finding.status {
                    Status::Unknown => "",
                    _ => &finding.now,
                },
                &finding.needed,
            ]);
        }
        let explained: Vec<&Finding> = self
            .findings
            .iter()
            .filter(|finding| match explain {
                Explain::All => true,
                Explain::Problems => !matches!(finding.status, Status::Ok | Status::Info),
            })
            .collect();
        if !explained.is_empty() {
            text += match explain {
                Explain::All => "\nWhy, and how to set it (as root)\n",
                Explain::Problems => {
                    "\nWhat is not as it should be, why, and how to set it (as root)\n"
                }
            };
        }
        for finding in explained {
            text += &explanation(finding);
        }
        text + "\n" + &self.verdict()
    }

    /// The last lines: whether it fits, and what stops it.
    fn verdict(&self) -> String {
        let asked = count(self.connections, "connection");
        let least = self.limits.first().map(|limit| limit.connections);
        let at_most = match self.holds {
            Some(_) => "",
            None => "at most ",
        };
        let mut text = match (self.fits, least) {
            (Some(true), _) => format!("This host holds {asked} as it is."),
            (Some(false), Some(0)) => {
                format!(
                    "The server does not start on this host as it is, or takes no connection; {asked} don't fit."
                )
            }
            (Some(false), Some(least)) => format!(
                "This host holds {at_most}{} as it is; {asked} don't fit.",
                count(least, "connection")
            ),
            _ => format!(
                "Whether this host holds {asked} is not known, because something that decides it is not."
            ),
        };
        let mut limits = self
            .limits
            .iter()
            .map(|limit| format!("{} ({})", limit.setting, number(limit.connections)));
        let (too_few, enough): (Vec<_>, Vec<_>) = self
            .limits
            .iter()
            .zip(limits.by_ref())
            .partition(|(limit, _)| limit.connections < self.connections);
        let names = |list: Vec<(_, String)>| -> Vec<String> {
            list.into_iter().map(|(_, name)| name).collect()
        };
        let (too_few, enough) = (names(too_few), names(enough));
        if !too_few.is_empty() {
            text += &format!(" What stops it: {}.", too_few.join(", then "));
            if let Some(next) = enough.first() {
                text += &format!(" Beyond that: {next}.");
            }
        } else if let Some(first) = enough.first() {
            text += &format!(" What would stop it first: {first}.");
        }
        let unknown: Vec<&str> = self
            .findings
            .iter()
            .filter(|finding| finding.status == Status::Unknown)
            .map(|finding| finding.setting.as_str())
            .collect();
        if !unknown.is_empty() {
            text += &format!(" Not known, and left out of this: {}.", unknown.join(", "));
        }
        let mut text = indented(&text, "", "");
        let open = |finding: &&Finding| matches!(finding.status, Status::Warn | Status::Fail);
        if self.findings.iter().any(|finding| open(&finding)) {
            text += &indented(
                &format!(
                    "Sysctls, limits and interrupts at once: tuning/apply --connections {} shows what it would change, \
                     with --apply it changes it; tuning/revert takes it back.",
                    self.connections
                ),
                "",
                "",
            );
        }
        text
    }
}

fn count(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{} {what}s", number(count)),
    }
}

fn row(cells: [&str; 4]) -> String {
    let widths = [
        STATUS - 1,
        SETTING - 1,
        NOW - 1,
        WIDTH - STATUS - SETTING - NOW,
    ];
    let cells: Vec<Vec<String>> = cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| wrapped(cell, width))
        .collect();
    let lines = cells.iter().map(Vec::len).max().unwrap_or(0);
    let mut text = String::new();
    for line in 0..lines {
        let parts: Vec<String> = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| {
                let part = cell.get(line).map_or("", String::as_str);
                format!("{part:width$}")
            })
            .collect();
        text += parts.join(" ").trim_end();
        text.push('\n');
    }
    text
}

fn explanation(finding: &Finding) -> String {
    let mut text = format!(
        "{} {}: {}",
        label(finding.status),
        finding.setting,
        finding.now
    );
    if finding.needed != "-" {
        text += &format!("; needed: {}", finding.needed);
    }
    let mut text = format!("\n{}", indented(&text, "", "     "));
    text += &indented(&finding.why, "     ", "     ");
    for how in &finding.how {
        match how.place.as_str() {
            "" => text += &indented(&how.line, "     ", "     "),
            place => {
                text += &indented(&format!("{place}:"), "     ", "     ");
                // As it is: what is to be copied must not be broken.
                text += &format!("         {}\n", how.line);
            }
        }
    }
    text
}

/// A paragraph of at most [`WIDTH`] columns.
fn indented(text: &str, first: &str, rest: &str) -> String {
    let width = WIDTH - rest.len().max(first.len());
    let mut lines = wrapped(text, width).into_iter();
    let mut paragraph = format!("{first}{}\n", lines.next().unwrap_or_default());
    for line in lines {
        paragraph += &format!("{rest}{line}\n");
    }
    paragraph
}

/// Lines of at most `width` characters; a longer word is cut.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        if used > 0 && used + 1 + word.len() > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        while word.len() > width {
            lines.push(word.drain(..width).collect());
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        used += word.len();
        line.extend(word);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_wide_as_they_may() {
        assert_eq!(wrapped("", 5), [""]);
        assert_eq!(wrapped("ab cd  ef", 5), ["ab cd", "ef"]);
        assert_eq!(wrapped("a bcdefghij k", 4), ["a", "bcde", "fghi", "j k"]);
        assert_eq!(wrapped("äöü äöü", 7), ["äöü äöü"]);
        assert_eq!(
            indented("ab cd", "- ", &" ".repeat(WIDTH - 3)),
            format!("- ab\n{}cd\n", " ".repeat(WIDTH - 3))
        );
    }

    #[test]
    fn long_cells_stay_in_their_columns() {
        let text = row(["ok", "a", &"word ".repeat(10), "needed"]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("ok      a"), "{text}");
        assert!(
            lines[1].starts_with(&" ".repeat(STATUS + SETTING)),
            "{text}"
        );
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH));
    }
}
