//! Reads which files of a directory import which, from their `use` lines and from paths in their code.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The files by their module path below the directory (empty for its `mod.rs`), each with the files that it imports.
pub type Imports = BTreeMap<String, BTreeSet<String>>;

/// Reads the directory `services/src/NAME`, or one with the same structure. Test files are skipped: their imports are
/// free.
pub fn read(folder: &Path) -> Imports {
    let mut texts = BTreeMap::new();
    read_texts(folder, &[], &mut texts);
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap();
    let modules: BTreeSet<Vec<String>> = texts.keys().cloned().collect();
    let imported = |module: &Vec<String>, text: &str| {
        let found = paths(text).into_iter().filter_map(|path| resolve(&path, name, module, &modules));
        found.filter(|found| found != module).map(|found| found.join("::")).collect()
    };
    texts.iter().map(|(module, text)| (module.join("::"), imported(module, text))).collect()
}

/// A cycle of imports, if there is one.
pub fn find_cycle(files: &Imports) -> Option<Vec<&str>> {
    fn visit<'a>(file: &'a str, files: &'a Imports, way: &mut Vec<&'a str>, done: &mut BTreeSet<&'a str>) -> bool {
        if let Some(place) = way.iter().position(|before| *before == file) {
            way.drain(..place);
            way.push(file);
            return true;
        }
        if done.contains(file) {
            return false;
        }
        way.push(file);
        if files.get(file).into_iter().flatten().any(|other| visit(other, files, way, done)) {
            return true;
        }
        way.pop();
        done.insert(file);
        false
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    files.keys().any(|file| visit(file, files, &mut way, &mut done)).then_some(way)
}

fn read_texts(folder: &Path, module: &[String], texts: &mut BTreeMap<Vec<String>, String>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap().to_owned();
        let below = |name: String| [module, &[name]].concat();
        match path.extension().is_some_and(|end| end == "rs") {
            _ if path.is_dir() => read_texts(&path, &below(name), texts),
            true if name == "mod" => _ = texts.insert(module.to_vec(), read_code(&path)),
            true if !name.ends_with("tests") => _ = texts.insert(below(name), read_code(&path)),
            _ => {}
        }
    }
}

/// The source without comments and without the tests at its end.
fn read_code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

/// All paths that begin with `crate`, `super` or `self`; a tree in braces yields one path per leaf.
fn paths(text: &str) -> Vec<Vec<String>> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let starts = ["crate", "super", "self"].contains(&tokens[at]) && tokens.get(at + 1) == Some(&"::");
        if starts && (at == 0 || tokens[at - 1] != "::") {
            path_from(&tokens, at, &[], &mut found);
        }
    }
    found
}

/// Reads a path or a tree of paths; returns the index after it.
fn path_from(tokens: &[&str], mut at: usize, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(at) {
        match *token {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| *token != "}") {
                    at = path_from(tokens, at, &path, found);
                    // Skip the rest of an entry, such as `as name`.
                    while tokens.get(at).is_some_and(|token| *token != "," && *token != "}") {
                        at += 1;
                    }
                    at += usize::from(tokens.get(at) == Some(&","));
                }
                return at + 1;
            }
            name => path.push(name.to_owned()),
        }
        at += 1;
        if tokens.get(at) != Some(&"::") {
            break;
        }
        at += 1;
    }
    found.push(path);
    at
}

/// Splits code into names, `::` and single characters.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
        let length = match first {
            _ if is_name(first) => rest.find(|letter| !is_name(letter)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        if !first.is_whitespace() {
            tokens.push(&rest[..length]);
        }
        rest = &rest[length..];
    }
    tokens
}

/// The file that a path in this module refers to; `None` outside the directory.
fn resolve(path: &[String], name: &str, module: &[String], modules: &BTreeSet<Vec<String>>) -> Option<Vec<String>> {
    let supers = path.iter().take_while(|part| *part == "super").count();
    let mut full = match path.first()?.as_str() {
        "crate" if path.get(1).is_some_and(|part| part == name) => path[2..].to_vec(),
        "crate" => return None,
        "self" => [module, &path[1..]].concat(),
        _ => [module.get(..module.len().checked_sub(supers)?)?, &path[supers..]].concat(),
    };
    while !modules.contains(&full) {
        full.pop()?;
    }
    Some(full)
}

#[test]
fn paths_are_read_out_of_trees_and_out_of_code() {
    let text = "use crate::user::{a::{B, c::*}, d as e};\nuse super::f; fn g() { self::h::i(1); x::super_::y() }";
    let read: Vec<String> = paths(text).iter().map(|path| path.join("::")).collect();
    let want = ["crate::user::a::B", "crate::user::a::c::*", "crate::user::d", "super::f", "self::h::i"];
    assert_eq!(read, want);
    let modules: BTreeSet<Vec<String>> = ["", "a", "a::c", "f"]
        .iter()
        .map(|name| name.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect())
        .collect();
    let resolved = |path: &str, module: &[&str]| {
        let split = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<_>>();
        let module: Vec<String> = module.iter().map(|part| (*part).to_owned()).collect();
        resolve(&split(path), "user", &module, &modules).map(|found| found.join("::"))
    };
    assert_eq!(resolved("crate::user::a::c::X", &[]).as_deref(), Some("a::c"));
    assert_eq!(resolved("super::super::f::X", &["a", "c"]).as_deref(), Some("f"));
    assert_eq!(resolved("super::Users", &["f"]).as_deref(), Some(""));
    assert_eq!(resolved("crate::query::X", &["f"]), None);
}

#[test]
fn a_circle_is_found_however_long_it_is() {
    let files = |pairs: &[(&str, &str)]| {
        let mut files = Imports::new();
        for (from, to) in pairs {
            files.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        files
    };
    assert_eq!(find_cycle(&files(&[("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")])), None);
    let long = files(&[("a", "b"), ("b", "c"), ("c", "d"), ("d", "b"), ("e", "a")]);
    assert_eq!(find_cycle(&long), Some(vec!["b", "c", "d", "b"]));
}
