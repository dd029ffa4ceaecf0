//! Checks that every public item has an example, by reading the sources. Doc tests run the examples.

use std::{fs, path::Path};

#[test]
fn every_public_item_has_an_example() {
    let mut without = Vec::new();
    let count = count_items(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut without);
    assert_eq!(without, Vec::<String>::new());
    assert!(count > 80, "only {count} items found");
}

/// Counts the public items in the sources of this directory, and collects those without an example.
fn count_items(directory: &Path, without: &mut Vec<String>) -> usize {
    let mut count = 0;
    for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            count += count_items(&path, without);
            continue;
        }
        let mut has_example = false;
        for line in fs::read_to_string(&path).unwrap().lines().map(str::trim_start) {
            let is_item = ["fn ", "async fn ", "struct ", "enum ", "trait "]
                .iter()
                .any(|kind| line.strip_prefix("pub ").is_some_and(|rest| rest.starts_with(kind)));
            if is_item {
                count += 1;
                if !has_example {
                    without.push(format!("{}: {line}", path.display()));
                }
            }
            // Skip attributes between the comment and its item.
            has_example =
                line.starts_with("/// ```") || has_example && (line.starts_with("///") || line.starts_with('#'));
        }
    }
    count
}
