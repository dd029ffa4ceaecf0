//! Checks the architecture rules of ARCHITECTURE.md, such as the allowed dependencies between crates, by reading the
//! source tree.

mod documents;
mod imports;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const TEST_SUPPORT: &str = "openorch-test-support";

/// The workspace crates that each crate may depend on. The same list applies to dev-dependencies, which may also
/// include the shared test support.
const ALLOWED_DEPENDENCIES: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("store", &[]),
    ("chassis", &["openorch-api", "openorch-store"]),
    ("services", &["openorch-api", "openorch-chassis", "openorch-store"]),
    ("gateway", &["openorch-chassis"]),
    ("sdk/rust", &["openorch-api", "openorch-store", "openorch-sdk"]),
    ("cli", &["openorch-api", "openorch-sdk"]),
    ("daemon", &["openorch-api", "openorch-chassis", "openorch-gateway", "openorch-services", "openorch-store"]),
    ("examples/first-service/rust", &["openorch-sdk", "openorch-api"]),
    ("bench/sdk", &["openorch-sdk"]),
    ("bench/store", &["openorch-store"]),
    ("test-support", &["openorch", "openorch-api", "openorch-chassis", "openorch-sdk", "openorch-store"]),
];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn crates_use_only_what_the_architecture_allows() {
    let allowed: BTreeMap<_, _> = ALLOWED_DEPENDENCIES.iter().copied().collect();
    let workspace: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    for member in workspace["workspace"]["members"].as_array().unwrap() {
        let folder = member.as_str().unwrap();
        let arrows = allowed
            .get(folder)
            .unwrap_or_else(|| panic!("{folder} is not in ALLOWED_DEPENDENCIES; add the crates that it may use"));
        let manifest: toml::Table =
            fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap().parse().unwrap();
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for name in
                manifest.get(table).and_then(|table| table.as_table()).into_iter().flat_map(|table| table.keys())
            {
                let ours = name.starts_with("openorch") && (name != TEST_SUPPORT || table != "dev-dependencies");
                assert!(!ours || arrows.contains(&name.as_str()), "{folder} must not use {name}");
            }
        }
        assert!(manifest.get("target").is_none(), "{folder}: extend this test to target-specific dependencies");
    }
}

/// If unit tests use a crate that depends on their own, cargo compiles their crate twice, and the two sets of types
/// differ.
#[test]
fn unit_tests_use_nothing_that_is_built_on_their_crate() {
    fn walk(folder: &Path) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                walk(&path);
            } else {
                let text = fs::read_to_string(&path).unwrap_or_default();
                assert!(!text.contains("openorch_test_support"), "{}: use it only in tests/", path.display());
            }
        }
    }
    for folder in ["api", "store", "chassis", "sdk/rust", "daemon"] {
        walk(&root().join(folder).join("src"));
    }
}

/// Every service is built from it, and each crate is one more dependency to trust.
#[test]
fn the_sdk_brings_fewer_than_130_crates_without_its_datastore() {
    let mut tree = std::process::Command::new(env!("CARGO"));
    tree.args(["tree", "--offline", "--package", "openorch-sdk", "--edges", "normal,build", "--prefix", "none"]);
    let listed = tree.args(["--format", "{p}"]).current_dir(root()).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let text = String::from_utf8(listed.stdout).unwrap();
    // A crate listed before is marked at the end of its line.
    let crates: BTreeSet<_> =
        text.lines().map(|line| line.trim_end_matches(" (*)")).filter(|line| !line.is_empty()).collect();
    assert!(crates.len() < 130, "{} crates: {crates:#?}", crates.len());
    assert!(crates.len() > 50, "unexpected output of cargo tree: {text}");
    assert!(!text.contains("openorch-store"), "the datastore is optional");
}

#[test]
fn no_service_imports_another() {
    let services = root().join("services/src");
    let names: Vec<String> = fs::read_dir(&services)
        .unwrap()
        .filter_map(|entry| entry.ok().filter(|entry| entry.path().is_dir())?.file_name().into_string().ok())
        .collect();
    fn files(folder: &Path) -> Vec<PathBuf> {
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }
    for name in &names {
        for file in files(&services.join(name)) {
            let text = fs::read_to_string(&file).unwrap();
            for other in names.iter().filter(|other| *other != name) {
                let imports = ["crate::{", "crate::", "super::super::", "crate::{\n    "];
                let imported = imports.iter().any(|start| text.contains(&format!("{start}{other}")));
                assert!(!imported, "{} imports `{other}`", file.display());
            }
        }
    }
}

/// The modules of the user service: each may import those after it.
const USER_MODULES: &[&str] = &["directory", "authn", "authz", "shared"];

/// So that a file can be read, moved and tested with only the modules below it.
#[test]
fn imports_in_the_user_service_go_one_way_and_never_in_a_circle() {
    let files = imports::read(&root().join("services/src/user"));
    let seen = files.get("authn::sign_in").is_some_and(|imported| imported.contains("authn::sessions::live"));
    assert!(files.len() > 40 && seen, "imports are not parsed correctly: {files:#?}");
    if let Some(circle) = imports::find_cycle(&files) {
        panic!("these files import each other: {}", circle.join(" → "));
    }
    let folder = |file: &str| USER_MODULES.iter().position(|folder| file.split("::").next() == Some(*folder));
    for (file, imported) in &files {
        let Some(from) = folder(file) else { continue };
        for other in imported {
            let fits = folder(other).is_some_and(|to| to >= from);
            assert!(fits, "`{file}` imports `{other}`: allowed imports are {}", USER_MODULES.join(" → "));
        }
    }
}

/// Stored documents outlive the wire types, so rows have their own types and the wire types can change.
#[test]
fn what_services_store_are_rows_in_files_of_that_name() {
    fn walk(folder: &Path, rows: &mut usize) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                walk(&path, rows);
                continue;
            }
            let (text, shown) = (fs::read_to_string(&path).unwrap(), path.display());
            let is_of_rows = path.file_name().is_some_and(|name| name == "rows.rs");
            for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                let declares = line.contains("static ") && line.contains(": Collection =");
                let is_row = line.contains("struct ") && line.split_whitespace().any(|word| word.ends_with("Row"));
                assert!(is_of_rows || !(declares || is_row), "{shown}: `{line}` belongs in the file `rows.rs`");
                *rows += usize::from(is_row);
                for stored in line.split("Table<").skip(1).filter_map(|rest| rest.split('>').next()) {
                    // The entries of the audit log are read and written by the chassis.
                    let fits = stored.ends_with("Row") || ["T", "AuditEntry"].contains(&stored);
                    assert!(fits, "{shown}: `{stored}` is stored but is not a row type");
                }
            }
        }
    }
    let mut rows = 0;
    walk(&root().join("services/src"), &mut rows);
    assert!(rows > 20, "rows are not parsed correctly");
}

/// Files that write outside a call's audited commit: the daemon's own writes, and writes beside a call's main change.
/// All other changes are committed with the audit entry of their call, and with guards on the rights of its caller.
const WRITES_BESIDE_CALLS: &[&str] = &[
    "registry/node.rs",
    "registry/probe.rs",
    "user/authn/otp/codes.rs",
    "user/authn/passwords/check.rs",
    "user/authn/passwords/known_address.rs",
    "user/authn/sessions/live.rs",
    "user/clock_grace.rs",
    "user/directory/users.rs",
    "user/seed.rs",
];

#[test]
fn changes_of_calls_are_committed_with_their_audit() {
    fn walk(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.to_str().unwrap().to_owned();
            if path.is_dir() {
                walk(&path, found);
            } else if !path.file_name().is_some_and(|file| file.to_str().unwrap().contains("test"))
                && !name.contains("/migrations/")
            {
                let text: String = std::fs::read_to_string(&path).unwrap().split_whitespace().collect();
                if text.contains("platform.store.commit(") {
                    found.push(name);
                }
            }
        }
    }
    let services = root().join("services/src");
    let mut found = Vec::new();
    walk(&services, &mut found);
    let mut found: Vec<&str> = found
        .iter()
        .map(|name| name.strip_prefix(services.to_str().unwrap()).unwrap().trim_start_matches('/'))
        .collect();
    found.sort_unstable();
    assert_eq!(found, WRITES_BESIDE_CALLS);
}

/// Services meet in traits of the chassis. Its own tests may use a service as an example.
#[test]
fn the_chassis_knows_no_service_by_name() {
    let services = fs::read_dir(root().join("services/src")).unwrap().map(|entry| entry.unwrap().path());
    let names: Vec<String> = services
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    fn walk(folder: &Path, names: &[String]) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                walk(&path, names);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            for name in names.iter().filter(|name| *name != "platform") {
                for form in [format!("{name}-svc"), format!("openorch_api::{name}"), format!("    {name}::")] {
                    assert!(!code.contains(&form), "{} names the service `{name}`: {form}", path.display());
                }
            }
        }
    }
    walk(&root().join("chassis/src"), &names);
}

#[test]
fn every_source_file_says_what_it_is_for_and_stays_readable() {
    fn walk(folder: &Path) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                walk(&path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                assert!(text.starts_with("//!"), "{} has no `//!` comment that states its purpose", path.display());
                assert!(text.lines().count() <= 600, "{} is too long; split it", path.display());
            }
        }
    }
    for folder in ["api", "store", "chassis", "services", "gateway", "sdk/rust", "cli", "daemon", "test-support"] {
        walk(&root().join(folder).join("src"));
        let tests = root().join(folder).join("tests");
        if tests.exists() {
            walk(&tests);
        }
    }
}
