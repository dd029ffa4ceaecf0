//! `oo monitor` with a real daemon. It runs until interrupted, so it cannot be a transcript.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
};

use openorch_test_support::{
    WAIT_TIMEOUT, free_address,
    process::{self, Process, interrupt, wait},
};
use serde_json::Value;

use crate::support::Home;

fn daemon(data_dir: &Path, address: SocketAddr) -> Process {
    let mut command = process::command(process::daemon_binary(), data_dir);
    process::run(command.env("OPENORCH_LISTEN", address.to_string()).env("OPENORCH_EVENTS_RECONNECT_DELAY", "100ms"))
}

/// A running `oo monitor` and its output lines.
struct Monitor {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

/// Reads lines as they arrive.
fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // The receiver may have been dropped.
        BufReader::new(from).lines().map_while(Result::ok).take_while(|line| sender.send(line.clone()).is_ok()).count()
    });
    receiver
}

impl Monitor {
    fn start(home: &Home, line: &str) -> Monitor {
        let mut command = Command::new("env");
        // A shell that runs the tests in the background makes them and their children ignore Ctrl-C.
        command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_oo"), "monitor"]).args(line.split_whitespace());
        home.prepare(&mut command);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        Monitor { child, out, err }
    }

    fn next(&self) -> String {
        self.out.recv_timeout(WAIT_TIMEOUT).expect("a line")
    }

    fn next_warning(&self) -> String {
        self.err.recv_timeout(WAIT_TIMEOUT).expect("a warning")
    }

    fn stop(mut self) {
        interrupt(&self.child);
        assert_eq!(wait(&mut self.child).code(), Some(130));
        assert_eq!(self.err.iter().collect::<Vec<_>>(), Vec::<String>::new(), "Ctrl-C is its regular end");
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn requests_are_shown_as_they_happen_and_again_after_a_restart_of_the_daemon() {
    let (folder, home, address) = (tempfile::tempdir().unwrap(), Home::new(), free_address());
    let running = daemon(folder.path(), address);
    home.oo(&format!("env add here {}", running.url)).expect(0, "", "");
    home.oo_with_input("login openorch", "changeme\n").expect(0, "", "");
    let table = Monitor::start(&home, "--service registry-svc");
    assert!(
        table.next().starts_with("AT                            STATUS   DURATION"),
        "the header shows that the stream is open"
    );
    let json = Monitor::start(&home, "-o json --status 4xx");
    // With a filter there is no output that shows when it starts.
    let seen = loop {
        assert_eq!(home.oo("get /user-svc/no-such-operation?q=secret").code, 3);
        if let Ok(line) = json.out.try_recv() {
            break line;
        }
    };
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!((&seen["path"], &seen["status"]), (&"/user-svc/no-such-operation".into(), &404.into()));
    assert_eq!(home.oo("instance ls").code, 0);
    let line = table.next();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[3..], ["registry-svc", "openorch", "GET", "/registry-svc/instances"], "{line}");
    json.stop();

    running.terminate();
    let lost = table.next_warning();
    assert!(lost.contains("lost the connection") && lost.contains("reconnecting in 0.1 s"), "{lost}");
    drop(running);
    let running = daemon(folder.path(), address);
    let resumed = table.next_warning();
    assert!(resumed.contains("reconnected"), "{resumed}");
    assert_eq!(home.oo("node ls").code, 0);
    assert!(table.next().ends_with("/registry-svc/nodes"));
    table.stop();
    drop(running);
}

#[test]
fn who_may_not_follow_is_told_why_and_a_session_that_ends_ends_it() {
    let (folder, home) = (tempfile::tempdir().unwrap(), Home::new());
    let running = daemon(folder.path(), free_address());
    home.oo(&format!("env add here {}", running.url)).expect(0, "", "");
    home.oo("monitor").expect_error(4, "not signed in to");
    home.oo_with_input("register ann", "password1\n");
    home.oo("monitor").expect_error(4, "lacks the permission `platform-svc:request:monitor`");
    let wrong = home.oo("monitor --status 7xx");
    assert!(wrong.code == 2 && wrong.err.contains("possible values: 1xx, 2xx"), "{}", wrong.err);
    home.oo_with_input("login openorch", "changeme\n").expect(0, "", "");
    let mut table = Monitor::start(&home, "");
    table.next();
    assert_eq!(home.oo("logout").code, 0);
    assert!(table.next_warning().contains("lost the connection"));
    let said = table.next_warning();
    assert!(said.starts_with("Error: ") && wait(&mut table.child).code() == Some(4), "{said}");
}
