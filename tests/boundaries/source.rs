//! Reading Rust sources as far as the rules of the tree need it.
//!
//! Files are cut into tokens by `proc-macro2`, so comments, documentation and strings are out of
//! the way and macro bodies are seen like all other code. What remains is a list of the paths and
//! words a file names, each with its line and whether it is compiled for tests only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A path as it is written (`std::io::Read`, `super::frame`, `Mutex`), imports in braces one by one.
#[derive(Debug)]
pub(crate) struct Name {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
    /// Inside `#[cfg(test)]`.
    pub(crate) test: bool,
    /// Directly imported: `use name…` or `extern crate name`.
    pub(crate) import: bool,
    /// Followed by `!`: a macro that is called (or defined).
    pub(crate) called: bool,
    /// The modules around it, from the crate's root.
    pub(crate) module: Vec<String>,
}

impl Name {
    /// Whether the path starts with these segments.
    pub(crate) fn starts_with(&self, prefix: &[&str]) -> bool {
        self.segments.len() >= prefix.len()
            && self
                .segments
                .iter()
                .zip(prefix)
                .all(|(have, want)| have == want)
    }

    /// Whether one of the segments is this one.
    pub(crate) fn has(&self, word: &str) -> bool {
        self.segments.iter().any(|segment| segment == word)
    }

    /// The path from the crate's root, without `crate`, where the path is one inside this crate.
    pub(crate) fn in_crate(&self) -> Option<Vec<&str>> {
        let written: Vec<&str> = self.segments.iter().map(String::as_str).collect();
        // `pub(super)`, `pub(crate)`: a visibility, no name.
        if written.len() == 1 {
            return None;
        }
        match *written.first()? {
            "crate" => Some(written[1..].to_vec()),
            "super" => {
                let up = written
                    .iter()
                    .take_while(|segment| **segment == "super")
                    .count();
                let stay = self.module.len().checked_sub(up)?;
                let above = self.module[..stay].iter().map(String::as_str);
                Some(above.chain(written[up..].iter().copied()).collect())
            }
            _ => None,
        }
    }
}

/// `mod name;`
#[derive(Debug)]
struct Declaration {
    name: String,
    /// Inline modules around it, within its file.
    inside: Vec<String>,
    /// `#[path = "…"]`
    path: Option<String>,
    test: bool,
}

/// One source file.
#[derive(Debug)]
pub(crate) struct Source {
    /// From the package's root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) names: Vec<Name>,
    declarations: Vec<Declaration>,
    /// Compiled for tests only.
    pub(crate) test: bool,
}

impl Source {
    /// The first folder (or file) under `src`: `src/wire/frame.rs` → `wire`. `None`: outside of `src`,
    /// or a crate root (`src/lib.rs`, `src/main.rs`).
    pub(crate) fn folder(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let first = inside.split('/').next()?;
        match first {
            "lib.rs" | "main.rs" => None,
            _ => Some(first.trim_end_matches(".rs")),
        }
    }

    /// Whether a use in this file counts for tests only.
    pub(crate) fn is_test(&self, name: &Name) -> bool {
        self.test || name.test
    }
}

/// The sources of a package.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) files: Vec<Source>,
    /// Files under `src` that no `mod` declaration leads to.
    pub(crate) orphans: Vec<String>,
}

impl Tree {
    /// Reads all Rust files of the package that starts at `root`.
    pub(crate) fn read(root: &Path) -> Self {
        let mut texts = Vec::new();
        for folder in ["src", "tests", "benches", "examples", "fuzz"] {
            collect(root, &root.join(folder), &mut texts);
        }
        Self::parse(texts)
    }

    /// A tree from (path, text) pairs.
    pub(crate) fn parse(texts: Vec<(String, String)>) -> Self {
        let mut files: Vec<Source> = texts
            .into_iter()
            .map(|(path, text)| parse(path, text))
            .collect();
        let orphans = follow_declarations(&mut files);
        Self { files, orphans }
    }
}

/// Adds the Rust files below `folder`, other than those cargo made.
fn collect(root: &Path, folder: &Path, texts: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("folder can be listed").path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if !path.ends_with("target") && !path.ends_with("node_modules") {
                collect(root, &path, texts);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let relative = path
                .strip_prefix(root)
                .expect("found below the root")
                .to_string_lossy()
                .into_owned();
            texts.push((relative, text));
        }
    }
}

fn parse(path: String, text: String) -> Source {
    let tokens: TokenStream = text
        .parse()
        .unwrap_or_else(|error| panic!("{path}: not Rust: {error}"));
    let mut reader = Reader {
        names: Vec::new(),
        declarations: Vec::new(),
        inside: Vec::new(),
        file_module: module_of(&path),
    };
    let test = reader.tokens(&tokens.into_iter().collect::<Vec<_>>(), false);
    Source {
        path,
        text,
        names: reader.names,
        declarations: reader.declarations,
        test,
    }
}

/// The module a file is, from the crate's root: `src/wire/mod.rs` → `wire`.
fn module_of(path: &str) -> Vec<String> {
    let inside = path
        .strip_prefix("src/")
        .unwrap_or(path)
        .trim_end_matches(".rs");
    let mut module: Vec<String> = inside.split('/').map(str::to_owned).collect();
    if matches!(
        module.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        module.pop();
    }
    module
}

/// Marks files that only tests reach, and returns those under `src` that nothing reaches.
fn follow_declarations(files: &mut [Source]) -> Vec<String> {
    let index: BTreeMap<String, usize> = files
        .iter()
        .enumerate()
        .map(|(at, file)| (file.path.clone(), at))
        .collect();
    let is_root =
        |path: &str| matches!(path, "src/lib.rs" | "src/main.rs") || path.starts_with("src/bin/");
    let mut reached: BTreeSet<usize> = BTreeSet::new();
    let mut to_do: Vec<usize> = index
        .iter()
        .filter(|(path, _)| is_root(path))
        .map(|(_, at)| *at)
        .collect();
    while let Some(at) = to_do.pop() {
        if !reached.insert(at) {
            continue;
        }
        let parent_test = files[at].test;
        let children: Vec<(usize, bool)> = files[at]
            .declarations
            .iter()
            .filter_map(|declaration| {
                let child = module_files(&files[at].path, declaration)
                    .into_iter()
                    .find_map(|path| index.get(&path))?;
                Some((*child, declaration.test))
            })
            .collect();
        for (child, test) in children {
            files[child].test |= parent_test || test;
            to_do.push(child);
        }
    }
    let unreached = |(at, file): (usize, &Source)| {
        (file.path.starts_with("src/") && !reached.contains(&at)).then(|| file.path.clone())
    };
    files.iter().enumerate().filter_map(unreached).collect()
}

/// The files that a declaration in `parent` may mean.
fn module_files(parent: &str, declaration: &Declaration) -> Vec<String> {
    let (folder, file) = parent.rsplit_once('/').expect("sources lie in folders");
    if let Some(path) = &declaration.path {
        return vec![format!("{folder}/{path}")];
    }
    let mut folder = folder.to_owned();
    let stem = file.trim_end_matches(".rs");
    if !matches!(stem, "mod" | "lib" | "main") {
        folder = format!("{folder}/{stem}");
    }
    for module in &declaration.inside {
        folder = format!("{folder}/{module}");
    }
    let name = &declaration.name;
    vec![
        format!("{folder}/{name}.rs"),
        format!("{folder}/{name}/mod.rs"),
    ]
}

/// Walks token trees.
struct Reader {
    names: Vec<Name>,
    declarations: Vec<Declaration>,
    /// Inline modules around the current token.
    inside: Vec<String>,
    file_module: Vec<String>,
}

/// What the attributes before an item said about it.
#[derive(Default)]
struct Attributes {
    test: bool,
    path: Option<String>,
    /// Whether the first word after the attributes has been seen, and whether it began an item.
    item: Option<bool>,
}

impl Reader {
    /// Reads one level of tokens. Returns whether an inner attribute (`#![cfg(test)]`) makes all of
    /// it a test.
    fn tokens(&mut self, tokens: &[TokenTree], mut test: bool) -> bool {
        let mut attributes = Attributes::default();
        let mut at = 0;
        while at < tokens.len() {
            let in_test = test || attributes.test;
            match &tokens[at] {
                TokenTree::Punct(mark) if mark.as_char() == '#' => {
                    let inner = is_punct(tokens.get(at + 1), '!');
                    if let Some(group) =
                        group_at(tokens, at + 1 + usize::from(inner), Delimiter::Bracket)
                    {
                        if inner {
                            test |= is_cfg_test(group);
                        } else {
                            attributes.test |= is_cfg_test(group);
                            attributes.path = path_attribute(group).or(attributes.path);
                            attributes.item = None;
                        }
                    }
                }
                TokenTree::Punct(mark) => {
                    // An attribute on a field or an argument reaches to the comma.
                    let ends = mark.as_char() == ';'
                        || (mark.as_char() == ',' && attributes.item != Some(true));
                    if ends {
                        attributes = Attributes::default();
                    }
                }
                TokenTree::Literal(_) => {}
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    self.tokens(&inner, in_test);
                    if group.delimiter() == Delimiter::Brace {
                        attributes = Attributes::default();
                    }
                }
                TokenTree::Ident(word) => {
                    let word = word.to_string();
                    if attributes.item.is_none() && word != "pub" {
                        attributes.item = Some(ITEM_WORDS.contains(&word.as_str()));
                    }
                    if word == "mod"
                        && let Some(after) = self.module(tokens, at, in_test, &mut attributes)
                    {
                        at = after;
                        continue;
                    }
                    at = self.name(tokens, at, in_test);
                    continue;
                }
            }
            at += 1;
        }
        test
    }

    /// Reads `mod name;` or `mod name { … }` at `at`; returns where it ends.
    fn module(
        &mut self,
        tokens: &[TokenTree],
        at: usize,
        test: bool,
        attributes: &mut Attributes,
    ) -> Option<usize> {
        let Some(TokenTree::Ident(name)) = tokens.get(at + 1) else {
            return None;
        };
        let name = name.to_string();
        if is_punct(tokens.get(at + 2), ';') {
            let path = attributes.path.take();
            self.declarations.push(Declaration {
                name,
                inside: self.inside.clone(),
                path,
                test,
            });
        } else {
            let body: Vec<TokenTree> = group_at(tokens, at + 2, Delimiter::Brace)?
                .stream()
                .into_iter()
                .collect();
            self.inside.push(name);
            self.tokens(&body, test);
            self.inside.pop();
        }
        *attributes = Attributes::default();
        Some(at + 3)
    }

    /// Reads the path that begins with the word at `at`; returns where it ends.
    fn name(&mut self, tokens: &[TokenTree], at: usize, test: bool) -> usize {
        let line = tokens[at].span().start().line;
        let before = |back: usize| at.checked_sub(back).and_then(|at| tokens.get(at));
        // `use name`, `use ::name`, `extern crate name`
        let leading = usize::from(is_punct(before(1), ':')) * 2;
        let import = match before(1 + leading) {
            Some(TokenTree::Ident(word)) => word == "use" || word == "crate",
            _ => false,
        };
        let mut found = Vec::new();
        let after = path_at(tokens, at, &[], &mut found);
        let module: Vec<String> = self
            .file_module
            .iter()
            .chain(&self.inside)
            .cloned()
            .collect();
        let called = is_punct(tokens.get(after), '!') && !is_punct(tokens.get(after + 1), '=');
        for segments in found {
            self.names.push(Name {
                segments,
                line,
                test,
                import,
                called,
                module: module.clone(),
            });
        }
        after
    }
}

/// Words that begin an item or a statement, which ends with `;` or `}`.
const ITEM_WORDS: &[&str] = &[
    "fn",
    "mod",
    "use",
    "impl",
    "struct",
    "enum",
    "union",
    "const",
    "static",
    "type",
    "trait",
    "let",
    "extern",
    "unsafe",
    "async",
    "macro_rules",
];

/// Reads a path from the word at `at`, with what its braces hold, and returns where it ends. All paths
/// found begin with `prefix`.
fn path_at(
    tokens: &[TokenTree],
    mut at: usize,
    prefix: &[String],
    found: &mut Vec<Vec<String>>,
) -> usize {
    let mut segments = prefix.to_vec();
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(word)) => {
                let word = word.to_string();
                segments.push(word.strip_prefix("r#").unwrap_or(&word).to_owned());
            }
            Some(TokenTree::Punct(mark)) if mark.as_char() == '*' && !segments.is_empty() => {
                segments.push("*".into())
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let mut start = 0;
                while start < inner.len() {
                    let end = path_at(&inner, start, &segments, found);
                    // On to the next import: past `as name` and the comma.
                    start = (end.max(start)..inner.len())
                        .find(|at| is_punct(inner.get(*at), ','))
                        .map_or(inner.len(), |at| at + 1);
                }
                return at + 1;
            }
            // `::<`, or the end of an unfinished path inside a macro.
            _ => break,
        }
        at += 1;
        if is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':') {
            at += 2;
        } else {
            break;
        }
    }
    found.push(segments);
    at
}

fn is_punct(token: Option<&TokenTree>, mark: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == mark)
}

fn group_at(tokens: &[TokenTree], at: usize, delimiter: Delimiter) -> Option<&Group> {
    match tokens.get(at) {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => Some(group),
        _ => None,
    }
}

/// `cfg(test)`, `cfg(all(test, …))`; not `cfg(not(test))`, nor `cfg(any(test, …))`.
fn is_cfg_test(attribute: &Group) -> bool {
    let tokens: Vec<TokenTree> = attribute.stream().into_iter().collect();
    let [TokenTree::Ident(name), TokenTree::Group(condition)] = tokens.as_slice() else {
        return false;
    };
    name == "cfg" && implies_test(condition.stream())
}

fn implies_test(condition: TokenStream) -> bool {
    let tokens: Vec<TokenTree> = condition.into_iter().collect();
    tokens.iter().enumerate().any(|(at, token)| match token {
        TokenTree::Ident(word) if word == "test" => true,
        TokenTree::Ident(word) if word == "all" => {
            group_at(&tokens, at + 1, Delimiter::Parenthesis)
                .is_some_and(|group| implies_test(group.stream()))
        }
        _ => false,
    })
}

/// The file that `#[path = "…"]` names.
fn path_attribute(attribute: &Group) -> Option<String> {
    let tokens: Vec<TokenTree> = attribute.stream().into_iter().collect();
    match tokens.as_slice() {
        [
            TokenTree::Ident(name),
            TokenTree::Punct(_),
            TokenTree::Literal(file),
        ] if name == "path" => Some(file.to_string().trim_matches('"').to_owned()),
        _ => None,
    }
}
