//! What can go wrong around `oo`: its settings, its surroundings, the server. Each has a sentence with the way out and
//! its code, and nothing is half written.

use std::{
    fs,
    process::{Command, Stdio},
    sync::{Mutex, mpsc},
    time::Duration,
};

use crate::{
    stub::{Request, Stub, json},
    support::{Home, Ran},
};

/// A server that answers every request with these bytes.
fn saying(bytes: impl Into<String>) -> Stub {
    let bytes = bytes.into();
    Stub::new(move |_| bytes.clone())
}

/// A server that does not answer before it is dropped.
fn silent() -> (Stub, mpsc::Sender<()>) {
    let (let_go, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let stub = Stub::new(move |_: &Request| {
        let _ = held.lock().unwrap().recv();
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
        let stub = saying(html(status));
        let home = Home::signed_in(&stub);
        let ran = home.oo("instance ls");
        assert_ne!(ran.code, 0, "{status}");
        let told = ["HTML", "another program", "not understood"].iter().any(|words| ran.err.contains(words));
        assert!(told && ran.out.is_empty(), "{status}: {}", ran.err);
        let doctor = home.oo("doctor");
        assert_eq!(doctor.code, 1, "{}", doctor.out);
        assert!(doctor.out.contains("answered by another program"), "{}", doctor.out);
    }
    let home = Home::signed_in(&saying("SSH-2.0-OpenSSH_9.6\r\n"));
    home.oo("instance ls").fails(5, "no answer from");
}

#[test]
fn a_daemon_of_another_version_is_told_as_one() {
    let stub = Stub::new(|request| match request.target.as_str() {
        "/" => json(200, r#"{"name":"OpenOrch","version":"99.0.0","docs":"/docs"}"#),
        "/ready" => json(503, r#"{"error":"the store is away"}"#),
        "/registry-svc/instances" => json(404, r#"{"error":"no such operation: GET /registry-svc/instances"}"#),
        "/registry-svc/nodes" => json(200, r#"{"nodes":{"not":"a list"}}"#),
        _ => json(200, r#"{"user":{"id":"usr_1","slug":"openorch"}}"#),
    });
    let home = Home::signed_in(&stub);
    home.oo("instance ls").fails(3, "`oo doctor` compares the versions");
    home.oo("node ls").fails(1, "not understood");
    let doctor = home.oo("doctor");
    assert_eq!(doctor.code, 1);
    assert!(doctor.out.contains("daemon 99.0.0: they differ"), "{}", doctor.out);
    assert!(doctor.out.contains("the store is away"), "{}", doctor.out);
    assert!(doctor.out.contains("does not tell its time"), "{}", doctor.out);
}

#[test]
fn a_daemon_whose_clock_is_wrong_is_told() {
    let body = r#"{"name":"OpenOrch","version":"0.1.0"}"#;
    let stub = saying(format!(
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
    home.oo("--timeout 0.05 instance ls").fails(5, "within 0.05 s; `--timeout` sets another limit");
    home.oo("whoami --timeout 0.05").fails(5, "no answer from");
    home.oo("--timeout 0.05 get /x").fails(5, "no answer from");
    assert!(home.oo("--timeout 0.05 doctor").out.contains("daemon        FAIL"));
}

#[test]
fn an_answer_that_is_cut_is_not_shown() {
    let stub = Stub::new(|_| "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"instances\": [".into());
    let home = Home::signed_in(&stub);
    let mut command = home.command("call listInstances --slug=hang-up");
    let ran = Ran::of(command.output().unwrap());
    assert!(ran.code == 1 && ran.out.is_empty() && ran.err.contains("cut"), "{ran:?}");
}

#[test]
fn settings_that_are_broken_are_told_and_kept_aside_by_the_next_sign_in() {
    let stub = Stub::new(|_| json(200, r#"{"token":{"token":"t"}}"#));
    for text in ["environments: [", "- a list", "some: other\nprogram: true\n"] {
        let home = Home::new();
        home.write_settings(text);
        home.oo("instance ls")
            .fails(1, "not a settings file of `oo`; repair it, or start anew with `oo env add NAME URL`");
        home.oo_with("login openorch", "x\n").fails(1, "not a settings file");
        assert_eq!(fs::read_to_string(home.settings()).unwrap(), text);
        let ran = home.oo(&format!("env add here {}", stub.url));
        assert!(ran.code == 0 && ran.err.contains("it was kept aside as"), "{}", ran.err);
        let aside = home.settings().with_file_name("cliConfig.yaml.broken");
        assert_eq!(fs::read_to_string(aside).unwrap(), text);
        home.oo_with("login openorch", "x\n").is(0, "", "");
        home.oo("token").is(0, "t\n", "");
    }
}

#[test]
fn a_selection_that_leads_nowhere_is_told() {
    let home = Home::new();
    home.write_settings("selectedEnvironment: gone\nenvironments: {here: {url: 'http://127.0.0.1:9'}}\n");
    home.oo("instance ls").fails(3, "the selected environment `gone` is not there any more; choose one of `oo env ls`");
    home.oo("env current").fails(3, "`gone`");
    home.write_settings("selectedEnvironment: here\nenvironments: {here: {url: nonsense}}\n");
    home.oo("get /x").fails(2, "`nonsense` is not the address of a server");
    home.write_settings("selectedEnvironment: s\nenvironments: {s: {url: 'http://127.0.0.1:9', selectedUser: gone}}\n");
    home.oo("instance ls").fails(4, "nobody is signed in");
}

#[cfg(unix)]
#[test]
fn without_a_home_what_needs_none_works() {
    let stub = Stub::new(|_| json(200, r#"{"nodes":[]}"#));
    let run = |line: &str, variables: &[(&str, &str)]| {
        let mut command = Home::new().command(line);
        // Empty, since a HOME that is not set is looked up by the account.
        command.env("HOME", "").envs(variables.iter().copied());
        Ran::of(command.output().unwrap())
    };
    run("instance ls", &[]).fails(1, "there is no home folder to keep the settings in; set HOME");
    run("env add a http://127.0.0.1:1", &[]).fails(1, "set HOME");
    let scripts = [("OPENORCH_URL", stub.url.as_str()), ("OPENORCH_TOKEN", "t")];
    run("node ls -o json", &scripts).is(0, "[]\n", "");
    assert_eq!(run("version", &[]).code, 0);
    assert!(run("doctor", &[]).out.contains("there is no home folder"));
}

#[cfg(unix)]
#[test]
fn settings_that_cannot_be_written_or_read_are_told() {
    let home = Home::new();
    // A file where the folder should be; permissions would not stop a test that runs as root.
    home.file(".openorch", "");
    let ran = home.oo("env add a http://127.0.0.1:1");
    assert!(ran.code == 1 && ran.err.contains("cliConfig.yaml"), "{}", ran.err);
    let home = Home::new();
    fs::create_dir_all(home.settings()).unwrap();
    home.oo("instance ls").fails(1, "cannot read the settings");
}

#[cfg(unix)]
#[test]
fn ctrl_c_while_a_call_runs_says_what_is_not_known() {
    use std::os::unix::process::ExitStatusExt;
    let interrupt = |stub: &Stub, line: &str| {
        let home = Home::signed_in(stub);
        let before = fs::read(home.settings()).unwrap();
        let seen = stub.seen().len();
        let mut command = home.command(line);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while stub.seen().len() == seen {
            std::thread::sleep(Duration::from_millis(2));
        }
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), None);
        assert_eq!(fs::read(home.settings()).unwrap(), before);
        assert_eq!(fs::read_dir(home.settings().parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
        Ran::of(output)
    };
    let (stub, _let_go) = silent();
    interrupt(&stub, "instance ls").is(130, "", "Error: stopped by Ctrl-C\n");
    let told = "removeInstance was under way, and whether the server carried it out is not known";
    interrupt(&stub, "instance rm a b").is(
        130,
        "",
        &format!("Error: stopped by Ctrl-C; 0 of 2 were removed; {told}\n"),
    );
    assert!(interrupt(&stub, "post /x").err.contains("POST /x was under way"));
    assert_eq!(interrupt(&stub, "logout").code, 130);
}

#[test]
fn a_watched_list_is_shown_again_and_outlives_the_server_being_away() {
    use std::io::{BufRead, BufReader};
    // Every second connection is cut.
    let stub =
        Stub::new(|request| if request.connection % 2 == 1 { String::new() } else { json(200, r#"{"nodes":[]}"#) });
    let home = Home::signed_in(&stub);
    let mut child =
        home.command("node ls --watch=0.001 -o json").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines: Vec<_> = BufReader::new(child.stdout.take().unwrap()).lines().take(3).map(Result::unwrap).collect();
    assert_eq!(lines, ["[]", "[]", "[]"]);
    // Its reader is gone: it ends by itself, and that is no failure.
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(home.oo("node ls -w=0").code, 2);
}
