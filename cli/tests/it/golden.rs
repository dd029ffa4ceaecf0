//! The help of every command as a golden file. `UPDATE=1 cargo test` rewrites it; commands are reviewed by its diff.

use std::{fs, path::Path};

use crate::support::Home;

#[test]
fn the_help_texts_are_the_golden_ones() {
    let home = Home::new();
    // Every command has a manual page, so this covers all of them.
    let pages = home.directory.path().join("man");
    home.oo_words(&["man", "-d", pages.to_str().unwrap()]).expect(0, "", "");
    let mut names: Vec<String> =
        fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut text = String::new();
    for name in names {
        let words = words_of(&fs::read_to_string(pages.join(&name)).unwrap());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let help = home.oo_words(&[&words[..], &["--help"]].concat());
        assert_eq!((help.code, help.err.as_str()), (0, ""), "{name}");
        text.push_str(&format!("$ oo {}\n{}\n", [&words[..], &["--help"]].concat().join(" "), help.out));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/help.txt");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    let differs = golden.lines().zip(text.lines()).find(|(old, new)| old != new);
    assert!(golden == text, "help.txt differs, first at {differs:?}: run UPDATE=1 cargo test -p oo and review it");
}

/// The command that a page describes. The file name is ambiguous: a dash may be part of a word.
fn words_of(page: &str) -> Vec<String> {
    let synopsis = page.lines().find_map(|line| line.strip_prefix("\\fBoo")).unwrap();
    let words = synopsis.split_once("\\fR").unwrap().0.replace("\\-", "-");
    words.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let home = Home::new();
    let page = home.oo("man").out;
    assert!(page.contains(".TH oo 1  \"oo 0.1.0\"") && page.contains("Exit codes"), "{page}");
    assert!(
        home.oo("man instance ls").out.contains(".TH oo-instance-list 1  \"oo 0.1.0\""),
        "{}",
        home.oo("man instance ls").out
    );
    home.oo("man frobnicate").expect_error(2, "no command `frobnicate`");
}
