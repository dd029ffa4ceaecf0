//! The time limit of each test: runs the script `run` on programs that imitate the test harness.
#![cfg(unix)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use openorch_test_support::{WAIT_TIMEOUT, eventually_sync};

/// Runs this shell script as a test program with a time limit in seconds for each test.
fn run(script: &str, limit: u32) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("deps/it-1");
    fs::create_dir(program.parent().unwrap()).unwrap();
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let mut run = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("run"));
    run.arg(&program).arg("--some-flag").env("TEST_LIMIT_SECONDS", limit.to_string()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_test_that_hangs_is_named_and_ended_with_all_that_it_started() {
    for (says, limit) in [
        // In parallel with others, and with one thread.
        ("echo 'test a::hangs has been running for over 60 seconds'", 61),
        ("printf 'test a::hangs ... '", 1),
    ] {
        let ran = run(&format!("{says}; sleep 1000 & echo $! >&2; sleep 1000; echo never"), limit);
        let (said, told) = (text(&ran.stdout), text(&ran.stderr));
        assert!(!ran.status.success() && said.contains("test a::hangs ") && !said.contains("never"), "{said}");
        assert!(told.contains("test a::hangs has not ended after"), "{told}");
        let started = format!("/proc/{}/stat", told.lines().next().unwrap());
        let is_gone = || fs::read_to_string(&started).map_or(true, |state| state.contains(") Z "));
        eventually_sync(WAIT_TIMEOUT, "the child process is gone", is_gone);
    }
}

#[test]
fn a_test_that_ends_in_time_and_what_it_says_are_left_alone() {
    let slow = "echo 'test slow has been running for over 60 seconds'; echo 'test slow ... ok'; sleep 3";
    let ran = run(&format!("echo \"$1\"; {slow}; printf 'no end of a line'; exit 7"), 61);
    assert_eq!(ran.status.code(), Some(7), "{ran:?}");
    let said = "--some-flag\ntest slow has been running for over 60 seconds\ntest slow ... ok\nno end of a line";
    assert_eq!((text(&ran.stdout), text(&ran.stderr)), (said.to_owned(), String::new()));
}
