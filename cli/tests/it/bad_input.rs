//! Failures around `oo`: broken settings, environment problems, misbehaving servers. Each has an error message with a
//! remedy and an exit code, and nothing is left half written.

use std::{fs, process::Stdio, sync::Mutex};

use openorch_test_support::{
    GateOpener, gate,
    process::{interrupt, wait},
    stub::{Request, Stub, json},
};

use crate::support::{CommandOutput, Home};

/// A server that answers every request with these bytes.
fn fixed_response(bytes: impl Into<String>) -> Stub {
    let bytes = bytes.into();
    Stub::new(move |_| bytes.clone())
}

/// A server that does not answer until it is dropped.
fn silent() -> (Stub, GateOpener) {
    let (let_go, held) = gate();
    let stub = Stub::new(move |_: &Request| {
        held.wait();
        json(200, "{}")
    });
    (stub, let_go)
}

#[test]
fn a_server_that_is_no_daemon_is_told_as_one() {
    let page = "<!doctype html><title>It works!</title>";
    let html = |status: &str| {
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {}", page.len());
        format!("{head}\r\n\r\n{page}")
    };
    for status in ["200 OK", "404 Not Found", "502 Bad Gateway"] {
        let stub = fixed_response(html(status));
        let home = Home::signed_in(&stub);
        let ran = home.oo("instance ls");
        assert_ne!(ran.code, 0, "{status}");
        let told = ["HTML", "another program", "unexpected response"].iter().any(|words| ran.err.contains(words));
        assert!(told && ran.out.is_empty(), "{status}: {}", ran.err);
        let doctor = home.oo("doctor");
        assert_eq!(doctor.code, 1, "{}", doctor.out);
        assert!(doctor.out.contains("another program answers"), "{}", doctor.out);
    }
    let home = Home::signed_in(&fixed_response("SSH-2.0-OpenSSH_9.6\r\n"));
    home.oo("instance ls").expect_error(5, "no response from");
}

#[test]
fn a_daemon_of_another_version_is_told_as_one() {
    let stub = Stub::new(|request| match request.target.as_str() {
        "/" => json(200, r#"{"name":"OpenOrch","version":"99.0.0","docs":"/docs"}"#),
        "/ready" => json(503, r#"{"error":"the store is away"}"#),
        "/registry-svc/instances" => json(404, r#"{"error":"No.","code":"request.no_such_operation"}"#),
        "/registry-svc/nodes" => json(200, r#"{"nodes":{"not":"a list"}}"#),
        _ => json(200, r#"{"user":{"id":"usr_1","slug":"openorch"}}"#),
    });
    let home = Home::signed_in(&stub);
    home.oo("instance ls").expect_error(3, "`oo doctor` compares the versions");
    home.oo("node ls").expect_error(1, "unexpected response");
    let doctor = home.oo("doctor");
    assert_eq!(doctor.code, 1);
    assert!(doctor.out.contains("daemon 99.0.0: they differ"), "{}", doctor.out);
    assert!(doctor.out.contains("the store is away"), "{}", doctor.out);
    assert!(doctor.out.contains("no Date header"), "{}", doctor.out);
}

#[test]
fn a_daemon_whose_clock_is_wrong_is_told() {
    let body = r#"{"name":"OpenOrch","version":"0.1.0"}"#;
    let stub = fixed_response(format!(
        "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 2015 00:00:00 GMT\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let ran = Home::signed_in(&stub).oo("doctor");
    assert!(ran.code == 1 && ran.out.contains("clock         FAIL     "), "{}", ran.out);
}

#[test]
fn a_slow_server_is_given_up_when_patience_ends() {
    let (stub, _let_go) = silent();
    let home = Home::signed_in(&stub);
    home.oo("--timeout 0.05 instance ls").expect_error(5, "within 0.05 s; `--timeout` changes the limit");
    home.oo("whoami --timeout 0.05").expect_error(5, "no answer from");
    home.oo("--timeout 0.05 get /x").expect_error(5, "no answer from");
    assert!(home.oo("--timeout 0.05 doctor").out.contains("daemon        FAIL"));
}

#[test]
fn an_answer_that_is_cut_is_not_shown() {
    let stub = Stub::new(|_| "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"instances\": [".into());
    let home = Home::signed_in(&stub);
    let mut command = home.command("call listInstances --slug=hang-up");
    let ran = CommandOutput::of(command.output().unwrap());
    assert!(ran.code == 1 && ran.out.is_empty() && ran.err.contains("incomplete"), "{ran:?}");
}

#[test]
fn settings_that_are_broken_are_told_and_kept_aside_by_the_next_sign_in() {
    let stub = Stub::new(|_| json(200, r#"{"token":{"token":"t"}}"#));
    for text in ["environments: [", "- a list", "some: other\nprogram: true\n"] {
        let home = Home::new();
        home.write_settings(text);
        home.oo("instance ls")
            .expect_error(1, "not a settings file of `oo`; repair it, or start over with `oo env add NAME URL`");
        for line in ["login openorch", "env select here", "env rm here", "switch openorch", "logout"] {
            home.oo_with_input(line, "x\n").expect_error(1, "not a settings file");
        }
        assert_eq!(fs::read_to_string(home.settings()).unwrap(), text);
        let ran = home.oo(&format!("env add here {}", stub.url));
        assert!(ran.code == 0 && ran.err.contains("it was renamed to"), "{}", ran.err);
        let aside = home.settings().with_file_name("cliConfig.yaml.broken");
        assert_eq!(fs::read_to_string(aside).unwrap(), text);
        home.oo_with_input("login openorch", "x\n").expect(0, "", "");
        home.oo("token").expect(0, "t\n", "");
    }
}

#[test]
fn a_selection_that_leads_nowhere_is_told() {
    let home = Home::new();
    home.write_settings("selectedEnvironment: gone\nenvironments: {here: {url: 'http://127.0.0.1:9'}}\n");
    home.oo("instance ls")
        .expect_error(3, "the selected environment `gone` no longer exists; list them with `oo env ls`");
    home.oo("env current").expect_error(3, "`gone`");
    home.write_settings("selectedEnvironment: here\nenvironments: {here: {url: nonsense}}\n");
    home.oo("get /x").expect_error(2, "`nonsense` is not a server URL");
    home.write_settings("selectedEnvironment: s\nenvironments: {s: {url: 'http://127.0.0.1:9', selectedUser: gone}}\n");
    home.oo("instance ls").expect_error(4, "not signed in to");
}

#[cfg(unix)]
#[test]
fn without_a_home_what_needs_none_works() {
    let stub = Stub::new(|_| json(200, r#"{"nodes":[]}"#));
    let run = |line: &str, variables: &[(&str, &str)]| {
        let mut command = Home::new().command(line);
        // Empty, because an unset HOME is looked up in the account database.
        command.env("HOME", "").envs(variables.iter().copied());
        CommandOutput::of(command.output().unwrap())
    };
    run("instance ls", &[]).expect_error(1, "there is no home directory to store settings in; set HOME");
    run("env add a http://127.0.0.1:1", &[]).expect_error(1, "set HOME");
    let scripts = [("OPENORCH_URL", stub.url.as_str()), ("OPENORCH_TOKEN", "t")];
    run("node ls -o json", &scripts).expect(0, "[]\n", "");
    assert_eq!(run("version", &[]).code, 0);
    assert!(run("doctor", &[]).out.contains("there is no home directory"));
}

#[cfg(unix)]
#[test]
fn settings_that_cannot_be_written_or_read_are_told() {
    let home = Home::new();
    // A file in place of the directory; permissions would not stop a test that runs as root.
    home.file(".openorch", "");
    let ran = home.oo("env add a http://127.0.0.1:1");
    assert!(ran.code == 1 && ran.err.contains("cliConfig.yaml"), "{}", ran.err);
    let home = Home::new();
    fs::create_dir_all(home.settings()).unwrap();
    home.oo("instance ls").expect_error(1, "cannot read the settings");
}

#[cfg(unix)]
#[test]
fn ctrl_c_while_a_call_runs_says_what_is_not_known() {
    use std::os::unix::process::ExitStatusExt;
    let interrupted = |stub: &Stub, line: &str| {
        let home = Home::signed_in(stub);
        let before = fs::read(home.settings()).unwrap();
        let seen = stub.requests().len();
        let mut command = home.command(line);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        stub.wait("the call", |requests| requests.len() > seen);
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), None);
        assert_eq!(fs::read(home.settings()).unwrap(), before);
        assert_eq!(fs::read_dir(home.settings().parent().unwrap()).unwrap().count(), 1, "no temporary file remains");
        CommandOutput::of(output)
    };
    let (stub, _let_go) = silent();
    interrupted(&stub, "instance ls").expect(130, "", "Error: interrupted by Ctrl-C\n");
    let told = "removeInstance was in progress; its outcome is unknown";
    interrupted(&stub, "instance rm -y a b").expect(
        130,
        "",
        &format!("Error: interrupted by Ctrl-C; 0 of 2 were removed; {told}\n"),
    );
    assert!(interrupted(&stub, "post /x").err.contains("POST /x was in progress"));
    assert_eq!(interrupted(&stub, "logout").code, 130);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_program_that_is_held_up_by_its_reader_or_by_a_lock() {
    let interrupted = |child: &mut std::process::Child| {
        interrupt(child);
        wait(child).code()
    };
    let long = format!("[{}1]", "1,".repeat(1 << 20));
    let stub = Stub::new(move |request| match request.method.as_str() {
        "DELETE" => json(200, "{}"),
        _ => json(200, &long),
    });
    let home = Home::signed_in(&stub);
    let mut child = home.command("get /x").stdout(Stdio::piped()).spawn().unwrap();
    // It is writing, and the response exceeds the pipe's capacity.
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    assert_eq!(interrupted(&mut child), Some(130));

    let held = openorch_sdk::private_file::lock(&home.settings()).unwrap();
    let mut child = home.command("logout").spawn().unwrap();
    stub.wait("the sign-out", |requests| requests.iter().any(|request| request.method == "DELETE"));
    assert_eq!(interrupted(&mut child), Some(130));
    drop(held);
}

#[test]
fn nothing_is_asked_of_the_server_whose_answer_could_not_be_kept() {
    let stub = Stub::new(|_| json(200, r#"{"token":{"token":"t"}}"#));
    let home = Home::new();
    home.oo(&format!("env add here {}", stub.url)).expect(0, "", "");
    // A directory in place of the lock file; permissions would not stop a test that runs as root.
    let lock = home.settings().with_file_name("cliConfig.yaml.lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    for line in ["register joe", "login joe"] {
        home.oo_with_input(line, "x\n").expect_error(1, "OPENORCH_TOKEN and OPENORCH_URL set");
    }
    assert_eq!(stub.requests().len(), 0);
}

#[test]
fn an_account_that_was_made_is_told_where_its_token_cannot_be_kept() {
    let home = Home::new();
    let settings = home.settings();
    // A directory replaces the file while the server answers.
    let stub = Stub::new(move |_| {
        fs::remove_file(&settings).unwrap();
        fs::create_dir(&settings).unwrap();
        json(200, r#"{"token":{"token":"t"}}"#)
    });
    home.oo(&format!("env add here {}", stub.url)).expect(0, "", "");
    let ran = home.oo_with_input("register joe", "x\n");
    assert!(ran.code == 1 && ran.err.contains("cliConfig.yaml"), "{}", ran.err);
    let told = "hint: the account was created, but its token could not be stored; `oo login joe` gets another one";
    assert!(ran.err.contains(told), "{}", ran.err);
}

#[test]
fn a_server_that_says_all_is_well_to_everything_is_nobodys_daemon() {
    let stub = Stub::new(|request| match request.target.as_str() {
        "/" => json(200, r#"{"name":"OpenOrch","version":"0.1.0"}"#),
        _ => json(200, "{}"),
    });
    let home = Home::signed_in(&stub);
    home.oo("whoami").expect_error(1, "unexpected response");
    assert!(home.oo("doctor").out.contains("does not return the account of this token"), "{}", home.oo("doctor").out);
}

#[test]
fn an_answer_without_end_is_not_kept_and_what_is_no_json_is_handed_on() {
    let long = 65 << 20;
    let text = "x".repeat(1 << 20);
    let stub = Stub::new(move |request| {
        let kind = if request.target == "/text" { "text/plain" } else { "application/json" };
        let body = if request.target == "/text" { text.as_str() } else { "[" };
        let length = if request.target == "/text" { text.len() } else { long };
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
    });
    let home = Home::signed_in(&stub);
    home.oo("get /json").expect_error(1, "the body exceeds the client's limit of 67108864 bytes");
    home.oo("instance ls").expect_error(1, "the body exceeds the client's limit of 67108864 bytes");
    let ran = home.oo("get /text");
    assert_eq!((ran.code, ran.out.len()), (0, 1 << 20), "{}", ran.err);
}

#[test]
fn numbers_are_shown_with_all_their_digits() {
    let stub = Stub::new(|request| match request.target.as_str() {
        "/registry-svc/nodes" => json(200, r#"{"nodes":[{"url":"u","n":12345678901234567890123}]}"#),
        _ => json(200, r#"{"b": 12345678901234567890123, "a": 1.50, "c": "\u009b"}"#),
    });
    let home = Home::signed_in(&stub);
    let shown = "{\n  \"b\": 12345678901234567890123,\n  \"a\": 1.50,\n  \"c\": \"\\u009b\"\n}\n";
    for line in ["get /x", "get -o yaml /x", "post /x", "call selfNode"] {
        home.oo(line).expect(0, shown, "");
    }
    for line in ["node ls -o json", "node ls -o yaml", "node get u"] {
        assert!(home.oo(line).out.contains("12345678901234567890123"), "{line}");
    }
}

#[test]
fn a_watched_list_is_shown_again_and_outlives_the_server_being_away() {
    use std::io::{BufRead, BufReader};
    // It answers once, then closes the connection for as many attempts as a call makes.
    let flaky = || {
        let count = Mutex::new(0);
        Stub::new(move |_| {
            let mut count = count.lock().unwrap();
            *count += 1;
            if *count % 4 == 1 { json(200, r#"{"nodes":[{"id": "a", "n": 1.0}]}"#) } else { String::new() }
        })
    };
    for (format, lines) in [
        ("json", r#"[{"id":"a","n":1.0}] [{"id":"a","n":1.0}]"#),
        ("yaml", "- id: a|  n: 1.0|---|- id: a|  n: 1.0|---"),
    ] {
        let home = Home::signed_in(&flaky());
        let lines: Vec<_> = lines.split(if format == "json" { ' ' } else { '|' }).collect();
        let mut command = home.command(&format!("node ls --watch=0.001 -o {format}"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(out.take(lines.len()).map(Result::unwrap).collect::<Vec<_>>(), lines, "{format}");
        // The reader has closed the pipe: the command ends without an error.
        let ran = CommandOutput::of(child.wait_with_output().unwrap());
        assert!(ran.code == 0 && ran.err.starts_with("warning: ") && !ran.err.contains('\u{fffd}'), "{ran:?}");
    }
    let home = Home::new();
    assert_eq!(home.oo("node ls -w=0").code, 2);
}

#[test]
fn a_token_that_no_token_can_be_is_not_kept_and_spoils_nothing() {
    for token in ["x".repeat(5 << 20), "two\nlines".into()] {
        let body = serde_json::json!({ "token": { "token": token, "userId": "u" } }).to_string();
        let (home, stub) = (Home::new(), Stub::new(move |_: &Request| json(200, &body)));
        home.write_settings(format!("selectedEnvironment: s\nenvironments:\n  s: {{url: '{}'}}\n", stub.url));
        home.oo_with_input("login ann", "pass\n").expect_error(1, "invalid token");
        let kept = fs::read_to_string(home.settings()).unwrap();
        assert!(kept.len() < 1000 && !kept.contains("ann"), "{kept}");
    }
}

#[test]
fn a_redirect_is_followed_within_one_service_alone() {
    let stub = Stub::new(|request: &Request| match request.target.as_str() {
        "/evil-svc/x" => {
            "HTTP/1.1 302 Found\r\nLocation: /bank-svc/transfer?to=evil\r\nContent-Length: 0\r\n\r\n".into()
        }
        _ => json(200, "{}"),
    });
    let home = Home::signed_in(&stub);
    home.oo("get /evil-svc/x").expect_error(1, "redirect to `/bank-svc/transfer");
}
