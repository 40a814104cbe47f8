//! What systemd gives to services: `system.conf` and the unit of the server (systemd-system.conf(5),
//! systemd.unit(5)).

use std::collections::BTreeMap;

use super::parse::{self, Limit};
use super::tree::{Fact, Tree, Unknown};

/// Where systemd looks, the strongest first: a file hides those of the same name in later folders.
const CONF_FOLDERS: [&str; 4] = [
    "/etc/systemd",
    "/run/systemd",
    "/usr/local/lib/systemd",
    "/usr/lib/systemd",
];
/// The unit that a packaged or tuned server runs in.
const UNIT: &str = "ringwire.service";

/// A limit and the file that sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) limit: Limit,
    pub(super) file: String,
}

/// What systemd is and says.
#[derive(Clone, Debug)]
pub(super) struct Systemd {
    /// Whether it runs this host: the name of process 1.
    pub(super) runs: Fact<bool>,
    /// `DefaultLimitNOFILE=`; `None` where no file sets it.
    pub(super) default_nofile: Fact<Option<Set>>,
    /// Whether there is a unit for the server.
    pub(super) has_unit: bool,
    /// `LimitNOFILE=` of that unit; `None` where no file sets it.
    pub(super) unit_nofile: Fact<Option<Set>>,
}

impl Systemd {
    pub(super) fn read(tree: &Tree) -> Self {
        let unit = unit_files(tree);
        Self {
            runs: tree.text("/proc/1/comm").map(|name| name == "systemd"),
            default_nofile: last(tree, &conf_files(tree), "Manager", "DefaultLimitNOFILE"),
            has_unit: !unit.is_empty(),
            unit_nofile: last(tree, &unit, "Service", "LimitNOFILE"),
        }
    }
}

/// The `.conf` files of drop-in folders in the order of their names; the strongest folder wins a name.
fn drop_ins(tree: &Tree, folder: &str) -> Vec<String> {
    let mut by_name = BTreeMap::new();
    for place in CONF_FOLDERS {
        let place = format!("{place}/{folder}");
        for name in tree.list(&place).unwrap_or_default() {
            if name.ends_with(".conf") {
                let path = format!("{place}/{name}");
                by_name.entry(name).or_insert(path);
            }
        }
    }
    by_name.into_values().collect()
}

/// The first of the places that has this file.
fn main_file(tree: &Tree, name: &str) -> Option<String> {
    CONF_FOLDERS
        .iter()
        .map(|place| format!("{place}/{name}"))
        .find(|path| tree.exists(path))
}

fn conf_files(tree: &Tree) -> Vec<String> {
    let mut files: Vec<String> = main_file(tree, "system.conf").into_iter().collect();
    files.extend(drop_ins(tree, "system.conf.d"));
    files
}

fn unit_files(tree: &Tree) -> Vec<String> {
    let mut files: Vec<String> = main_file(tree, &format!("system/{UNIT}"))
        .into_iter()
        .collect();
    files.extend(drop_ins(tree, &format!("system/{UNIT}.d")));
    files
}

/// The last assignment of `key` in these files; an empty one takes back what came before.
fn last(tree: &Tree, files: &[String], section: &str, key: &str) -> Fact<Option<Set>> {
    let mut found = None;
    for file in files {
        let text = tree.text(file)?;
        for value in assignments(&text, section, key) {
            found = match value {
                "" => None,
                value => Some(Set {
                    limit: parse::systemd_limit(value).ok_or_else(|| {
                        Unknown::malformed(file, &format!("{key}={value}"), "a limit")
                    })?,
                    file: file.clone(),
                }),
            };
        }
    }
    Ok(found)
}

fn assignments<'a>(text: &'a str, section: &str, key: &str) -> Vec<&'a str> {
    let header = format!("[{section}]");
    let mut inside = false;
    let mut values = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == header;
        } else if inside
            && let Some((name, value)) = line.split_once('=')
            && name.trim() == key
        {
            values.push(value.trim());
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(root: &std::path::Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn later_names_and_stronger_folders_win() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        let tree = Tree::new(root);
        let nothing = Systemd::read(&tree);
        assert_eq!(nothing.default_nofile, Ok(None));
        assert!(!nothing.has_unit && nothing.runs.is_err());

        write(root, "proc/1/comm", "systemd\n");
        write(
            root,
            "etc/systemd/system.conf",
            "[Manager]\n#DefaultLimitNOFILE=1\nDefaultLimitNOFILE=2\n[Other]\nDefaultLimitNOFILE=3\n",
        );
        let systemd = Systemd::read(&tree);
        assert_eq!(systemd.runs, Ok(true));
        let hard = |set: &Fact<Option<Set>>| set.clone().expect("read").expect("set").limit.hard;
        assert_eq!(hard(&systemd.default_nofile), Some(2));

        write(
            root,
            "usr/lib/systemd/system.conf.d/50-a.conf",
            "[Manager]\nDefaultLimitNOFILE=5\n",
        );
        write(
            root,
            "usr/lib/systemd/system.conf.d/40-a.conf",
            "[Manager]\nDefaultLimitNOFILE=4\n",
        );
        assert_eq!(hard(&Systemd::read(&tree).default_nofile), Some(5));
        write(
            root,
            "etc/systemd/system.conf.d/50-a.conf",
            "[Manager]\nDefaultLimitNOFILE=1024:6\n",
        );
        write(
            root,
            "etc/systemd/system.conf.d/60-a.txt",
            "[Manager]\nDefaultLimitNOFILE=7\n",
        );
        let set = Systemd::read(&tree)
            .default_nofile
            .expect("read")
            .expect("set");
        assert_eq!(set.file, "/etc/systemd/system.conf.d/50-a.conf");
        assert_eq!(set.limit.hard, Some(6));

        write(
            root,
            "usr/lib/systemd/system/ringwire.service",
            "[Service]\nLimitNOFILE=8\n",
        );
        let systemd = Systemd::read(&tree);
        assert!(systemd.has_unit);
        assert_eq!(hard(&systemd.unit_nofile), Some(8));
        write(
            root,
            "etc/systemd/system/ringwire.service.d/a.conf",
            "[Service]\nLimitNOFILE=\n",
        );
        assert_eq!(Systemd::read(&tree).unit_nofile, Ok(None));
        write(
            root,
            "etc/systemd/system/ringwire.service.d/a.conf",
            "[Service]\nLimitNOFILE=lots\n",
        );
        let error = Systemd::read(&tree).unit_nofile.unwrap_err().to_string();
        assert!(
            error.contains("a.conf says \"LimitNOFILE=lots\""),
            "{error}"
        );
    }
}
