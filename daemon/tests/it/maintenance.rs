//! `openorch backup`, `restore` and `check` from the command line, with and without a running daemon.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;
use tempfile::TempDir;

use crate::process::{command, expect_start_failure, post, run};

pub fn stdout_of(command: &mut Command) -> String {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

fn command_with(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = command(folder);
    command.args(arguments);
    command
}

#[tokio::test]
async fn a_backup_beside_the_running_daemon_is_a_daemon_elsewhere() {
    let place = TempDir::new().unwrap();
    let (folder, other, file) = (place.path().join("a"), place.path().join("b"), place.path().join("backup"));
    let file = file.to_str().unwrap();
    let first = run(&mut command(&folder));
    let account = json!({ "slug": "kept-svc", "password": "p" });
    let token = post(&first.url, "/user-svc/register", "", account.clone()).await.unwrap()["token"]["token"].clone();
    assert!(stdout_of(&mut command_with(&folder, &["backup", file])).contains("contains all data"));
    let later = json!({ "slug": "later-svc", "password": "p" });
    post(&first.url, "/user-svc/register", "", later.clone()).await.unwrap();
    assert!(stdout_of(&mut command_with(&folder, &["check"])).contains("is sound"));
    assert!(expect_start_failure(&mut command_with(&folder, &["backup", file])).contains("exists already"));
    assert!(expect_start_failure(&mut command_with(&folder, &["restore", file])).contains("in use"));
    drop(first);

    assert!(expect_start_failure(&mut command_with(&folder, &["restore", file])).contains("has data"));
    assert!(stdout_of(&mut command_with(&other, &["restore", file])).contains("start the daemon"));
    let second = run(&mut command(&other));
    assert!(post(&second.url, "/user-svc/login", "", account).await.is_some());
    assert!(post(&second.url, "/user-svc/login", "", later).await.is_none(), "it was registered after the backup");
    let mine = post(&second.url, "/user-svc/user/by-token", token.as_str().unwrap(), json!({})).await;
    assert!(mine.is_some(), "sessions and the signing key are included");
}

#[tokio::test]
async fn a_key_that_the_operator_gave_is_not_in_the_backup() {
    let place = TempDir::new().unwrap();
    let (folder, other, file) = (place.path().join("a"), place.path().join("b"), place.path().join("backup"));
    let file = file.to_str().unwrap();
    let key = "the operator's key of 32 letters";
    let keyed = |command: &mut Command| {
        command.env("OPENORCH_ENCRYPTION_KEY", key);
    };
    let mut start = command(&folder);
    keyed(&mut start);
    drop(run(&mut start));
    assert!(stdout_of(&mut command_with(&folder, &["backup", file])).contains("back up OPENORCH_ENCRYPTION_KEY too"));
    let bytes = fs::read(file).unwrap();
    assert!(!bytes.windows(key.len()).any(|part| part == key.as_bytes()));
    assert!(stdout_of(&mut command_with(&other, &["restore", file])).contains("original OPENORCH_ENCRYPTION_KEY"));
    assert!(expect_start_failure(&mut command(&other)).contains("OPENORCH_ENCRYPTION_KEY"));
    let mut start = command(&other);
    keyed(&mut start);
    run(&mut start);
}

#[test]
fn a_backup_goes_by_a_name_alone_to_where_the_program_was_started() {
    let place = TempDir::new().unwrap();
    let (folder, other) = (place.path().join("a"), place.path().join("b"));
    drop(run(&mut command(&folder)));
    stdout_of(command_with(&folder, &["backup", "name"]).current_dir(place.path()));
    stdout_of(command_with(&other, &["restore", "name"]).current_dir(place.path()));
    assert!(stdout_of(&mut command_with(&other, &["check"])).contains("is sound"));
}

/// Data encrypted with the other key would become unreadable.
#[test]
fn a_restore_never_takes_the_place_of_another_key() {
    let place = TempDir::new().unwrap();
    let (folder, other, file) = (place.path().join("a"), place.path().join("b"), place.path().join("backup"));
    let file = file.to_str().unwrap();
    drop(run(&mut command(&folder)));
    stdout_of(&mut command_with(&folder, &["backup", file]));
    let key = other.join("server/encryption.key");
    fs::create_dir_all(other.join("server")).unwrap();
    fs::write(&key, "another key").unwrap();
    let said = expect_start_failure(&mut command_with(&other, &["restore", file]));
    assert!(said.contains("another one") && said.contains(key.to_str().unwrap()), "{said}");
    assert_eq!(fs::read_to_string(&key).unwrap(), "another key");
    assert!(!other.join("server/openorch.db").exists());
    fs::remove_file(&key).unwrap();
    stdout_of(&mut command_with(&other, &["restore", file]));
}

#[test]
fn what_is_wrong_is_told_and_fails() {
    let place = TempDir::new().unwrap();
    let mut daemon = run(&mut command(place.path()));
    daemon.terminate();
    assert!(daemon.wait().success());
    let database = place.path().join("server/openorch.db");
    let mut bytes = fs::read(&database).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0x5a);
    fs::write(&database, bytes).unwrap();
    let text = expect_start_failure(&mut command_with(place.path(), &["check"]));
    assert!(text.contains("damaged") && text.contains("backup"), "{text}");
    let nothing = TempDir::new().unwrap();
    assert!(expect_start_failure(&mut command_with(nothing.path(), &["check"])).contains("no data"));
    assert!(expect_start_failure(&mut command_with(nothing.path(), &["backup", "x"])).contains("no data"));
    assert!(
        expect_start_failure(&mut command_with(nothing.path(), &["restore", "/no/such/file"]))
            .contains("/no/such/file")
    );
}
