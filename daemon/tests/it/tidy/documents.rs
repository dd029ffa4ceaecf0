//! Documents that name what is in the tree: the decisions that are cited, and the files that documents mention.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::root;

const DECISIONS: &str = "docs/decisions.md";
/// Records below this heading are not cited by what they shape alone: most of it does not exist.
const NOT_BUILT: &str = "## Decided, not built yet";

/// The documents whose mentions of files are checked.
const DOCUMENTS: &[&str] = &["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", DECISIONS, "docs/glossary.md"];

/// What git does not track, and files that are not written by hand.
const SKIPPED: &[&str] = &["target", "node_modules", "Cargo.lock", "package-lock.json", "__pycache__"];

/// The text of each file of the tree, by its path. What is not UTF-8 is left out.
fn texts() -> BTreeMap<String, String> {
    fn walk(directory: &Path, found: &mut BTreeMap<String, String>) {
        for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if SKIPPED.contains(&name) || (name.starts_with('.') && name != ".ci") {
                continue;
            }
            if path.is_dir() {
                walk(&path, found);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let relative = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.insert(relative, text);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root(), &mut found);
    found
}

/// The text in one line, without the marks of comments, so that a citation may be broken between words.
fn joined(text: &str) -> String {
    let lines = text.lines().map(|line| line.trim().trim_start_matches(['/', '!', '#']).trim());
    lines.collect::<Vec<_>>().join(" ")
}

/// The names that a text cites, and numbers that it cites instead of names.
fn citations(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut names, mut numbers) = (Vec::new(), Vec::new());
    let text = joined(text);
    let lower = text.to_ascii_lowercase();
    for word in ["decision", "decisions"].map(|word| format!("{word} ")) {
        for (at, _) in lower.match_indices(&word) {
            let rest = &text[at + word.len()..];
            match rest.chars().next() {
                Some('"') => names.extend(rest[1..].split('"').next().map(str::to_owned)),
                Some(digit) if digit.is_ascii_digit() => numbers.push(rest.chars().take(20).collect()),
                _ => {}
            }
        }
    }
    (names, numbers)
}

/// What a text has in backquotes and looks like a path of the tree, or like the end of one. `top` are the directories at its
/// root.
fn mentioned<'a>(text: &'a str, top: &BTreeSet<String>) -> Vec<&'a str> {
    let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_path = |word: &&str| {
        let first = word.split_once('/').map(|(first, _)| first);
        (first.is_some_and(|first| top.contains(first)) || word.ends_with(".rs"))
            && !word.contains([' ', '*', '<', '{', '…'])
    };
    quoted.filter(is_path).collect()
}

#[test]
fn decisions_are_cited_by_names_that_exist_and_none_stands_for_nothing() {
    let texts = texts();
    let document = &texts[DECISIONS];
    let (built, unbuilt) = document.split_once(NOT_BUILT).expect("the document has a section of what is not built");
    let records: BTreeMap<&str, &str> =
        built.split("\n### ").skip(1).filter_map(|part| part.split_once('\n')).collect();
    let planned = unbuilt.lines().filter_map(|line| line.strip_prefix("- **")?.split_once("**")).map(|(name, _)| name);
    let known: BTreeSet<&str> = records.keys().copied().chain(planned).collect();
    assert!(records.len() > 30 && known.len() > records.len(), "decisions are read wrongly: {known:?}");

    let mut cited = BTreeSet::new();
    for (path, text) in &texts {
        let (names, numbers) = citations(text);
        assert!(numbers.is_empty(), "{path} cites a decision by number; name it as in {DECISIONS}: {numbers:?}");
        for name in names {
            assert!(
                known.contains(name.as_str()),
                "{path} cites the decision {name:?}, which {DECISIONS} does not have"
            );
            if path != DECISIONS {
                cited.insert(name);
            }
        }
    }
    for (name, record) in records {
        let names_code = record.contains("*Where:*") && record.contains('`');
        assert!(cited.contains(name) || names_code, "{DECISIONS}: nothing cites {name:?}, and it names no file");
    }
}

#[test]
fn files_that_documents_mention_exist() {
    let entries = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap());
    let top: BTreeSet<String> = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !SKIPPED.contains(&name.as_str()))
        .collect();
    let texts = texts();
    for document in DOCUMENTS {
        let paths = mentioned(&texts[*document], &top);
        assert!(!paths.is_empty(), "{document} is read wrongly");
        for path in paths {
            let exists = root().join(path).exists() || texts.keys().any(|known| known.ends_with(&format!("/{path}")));
            assert!(exists, "{document} mentions `{path}`, which does not exist");
        }
    }
}

#[test]
fn citations_are_found_across_lines_and_numbers_are_not_taken_for_names() {
    // Written in parts, since this file is read too.
    let text = format!("/// As said (de{}\n/// \"Clock\n/// jumps\"), and de{} 7.", "cision", "cision");
    assert_eq!(citations(&text), (vec!["Clock jumps".to_owned()], vec!["7.".to_owned()]));
    let top = BTreeSet::from(["api".to_owned()]);
    assert_eq!(mentioned("`api/src/op.rs`, `api/src/*`, `other/x`, `op.rs`", &top), ["api/src/op.rs", "op.rs"]);
}
