//! Behaviour specific to terminals: prompts, colours, progress. `script` (util-linux) provides the terminal; without it
//! these tests are skipped.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use openorch_test_support::{
    process::wait,
    stub::{Stub, json},
};

use crate::support::Home;

/// Types an answer after each prompt of `oo`; returns the terminal's output and the exit code.
fn run_in_terminal(
    home: &Home,
    line: &str,
    talk: &[(&str, &str)],
    variables: &[(&str, &str)],
) -> Option<(String, i32)> {
    let mut command = Command::new("script");
    let oo = env!("CARGO_BIN_EXE_oo");
    // `exec`, so that `script` returns the exit code of `oo`. A shell that runs the tests in the background makes them
    // and their children ignore Ctrl-C, and the terminal would swallow it before `oo` sets its mode.
    command.args(["-qefc", &format!("exec env --default-signal=INT {oo} {line}"), "/dev/null"]);
    home.prepare(&mut command);
    // With CI set, even a dumb terminal counts as one with colours.
    command.env("TERM", "xterm").env_remove("CI").envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Vec::new();
    for (prompt, keys) in talk {
        let from = shown.len();
        while !String::from_utf8_lossy(&shown[from..]).contains(prompt) {
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "no `{prompt}` in {}", String::from_utf8_lossy(&shown));
            shown.push(byte[0]);
        }
        stdin.write_all(keys.as_bytes()).unwrap();
    }
    stdout.read_to_end(&mut shown).unwrap();
    let code = wait(&mut child).code().unwrap_or(-1);
    Some((String::from_utf8_lossy(&shown).into_owned(), code))
}

fn server() -> Stub {
    Stub::new(|request| match (request.method.as_str(), request.target.as_str()) {
        ("GET", "/registry-svc/instances") => json(
            200,
            r#"{"instances":[{"id":"inst_1","url":"u","status":"Healthy","slug":"a","lastHeartbeat":"0001-01-01T00:00:00Z"}]}"#,
        ),
        ("DELETE", _) => "HTTP/1.1 204 X\r\n\r\n".into(),
        ("POST", "/user-svc/login") => json(200, r#"{"token":{"token":"t"}}"#),
        _ => json(404, r#"{"error":"nothing"}"#),
    })
}

#[test]
fn removing_asks_unless_told_not_to() {
    let stub = server();
    let home = Home::signed_in(&stub);
    let Some((shown, code)) = run_in_terminal(&home, "instance rm inst_1", &[("[y/N] ", "n\n")], &[]) else { return };
    assert!(shown.contains("Remove the instance inst_1? [y/N]") && code == 1, "{shown}");
    assert!(shown.contains("cancelled"), "{shown}");
    assert_eq!(stub.requests().len(), 0);
    assert_eq!(run_in_terminal(&home, "instance rm inst_1", &[("[y/N] ", "y\n")], &[]).unwrap().1, 0);
    assert_eq!(stub.requests().len(), 1);
    let (shown, code) = run_in_terminal(&home, "instance rm -y inst_1", &[], &[]).unwrap();
    assert!(!shown.contains("[y/N]") && code == 0, "{shown}");
    assert_eq!(stub.requests().len(), 2);
}

#[test]
fn colours_are_shown_on_a_terminal_unless_they_are_not_wanted() {
    let stub = server();
    let home = Home::signed_in(&stub);
    let Some((shown, _)) = run_in_terminal(&home, "instance ls", &[], &[]) else { return };
    assert!(shown.contains("\u{1b}[32mHealthy\u{1b}[0m"), "{shown:?}");
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let (shown, _) = run_in_terminal(&home, "instance ls", &[], &[variable]).unwrap();
        assert!(shown.contains("Healthy") && !shown.contains('\u{1b}'), "{shown:?}");
    }
    let (shown, code) = run_in_terminal(&home, "get /x", &[], &[]).unwrap();
    assert!(shown.contains("\u{1b}[31mError:\u{1b}[0m nothing") && code == 3, "{shown:?}");
    assert!(!home.oo("instance ls").out.contains('\u{1b}'));
}

#[test]
fn what_a_service_says_cannot_steer_the_terminal() {
    let stub = Stub::new(|_| {
        let body = "one\ttwo\n\u{1b}[2J\u{9b}31m";
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let home = Home::signed_in(&stub);
    let Some((shown, code)) = run_in_terminal(&home, "get /x", &[], &[]) else { return };
    assert!(shown.contains("one\ttwo\r\n") && code == 0, "{shown:?}");
    assert!(!shown.contains('\u{1b}') && !shown.contains('\u{9b}'), "{shown:?}");
    assert!(home.oo("get /x").out.contains('\u{1b}'), "a file receives the original bytes");
}

#[test]
fn a_password_is_asked_for_without_echo_and_a_new_one_twice() {
    let stub = server();
    let home = Home::signed_in(&stub);
    let Some((shown, code)) = run_in_terminal(&home, "login", &[("slug: ", "me\n"), ("password: ", "s3cret\n")], &[])
    else {
        return;
    };
    assert!(shown.contains("Enter slug: ") && shown.contains("Enter password: ") && code == 0, "{shown}");
    assert!(stub.requests()[0].body.contains(r#""password":"s3cret""#), "{}", stub.requests()[0].body);
    let (shown, code) =
        run_in_terminal(&home, "register me", &[("password: ", "one\n"), ("new password: ", "two\n")], &[]).unwrap();
    assert!(shown.contains("the passwords do not match; nothing was changed") && code == 2, "{shown}");
    // Ctrl-C at the prompt.
    let (shown, code) = run_in_terminal(&home, "login me", &[("password: ", "\u{3}")], &[]).unwrap();
    assert!(!shown.contains("s3cret") && code == 130, "{shown}");
    // Ctrl-D at the prompt. The newline is for a terminal that is still in line mode.
    let (shown, code) = run_in_terminal(&home, "login me", &[("password: ", "\u{4}\n")], &[]).unwrap();
    assert!(shown.contains("a password is required; type it at the prompt") && code == 2, "{shown}");
    assert_eq!(stub.requests().len(), 1);
}

#[test]
fn waiting_long_is_shown() {
    let is_slow = Arc::new(AtomicBool::new(true));
    let stub = Stub::new({
        let is_slow = is_slow.clone();
        move |_| {
            // Slow on purpose: the seconds shown are measured by `oo`.
            if is_slow.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(2500));
            }
            json(200, r#"{"nodes":[]}"#)
        }
    });
    let home = Home::signed_in(&stub);
    let Some((shown, _)) = run_in_terminal(&home, "node ls", &[], &[]) else { return };
    let line = format!("waiting for {}, 1 s (Ctrl-C stops)", stub.url);
    assert!(shown.contains(&line) && shown.contains("\u{1b}[KNODE ID"), "{shown:?}");
    is_slow.store(false, SeqCst);
    assert!(!run_in_terminal(&home, "node ls", &[], &[]).unwrap().0.contains("waiting"));
}
