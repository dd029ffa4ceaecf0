//! Transcripts of sessions with a real daemon: each file in `transcripts/` is run line by line, and the output of `oo`
//! must match. `UPDATE=1 cargo test` rewrites them; changes to `oo` are reviewed by their diff.
//!
//! A line that begins with `$ ` is run by `sh` in a temporary directory, with the daemon at `$URL` and a service that
//! can be registered at `$SERVICE`. Its output follows, standard error first, then `? N` for a nonzero exit code N.
//! Lines that begin with `#` are comments. Values that vary between runs are replaced by a word in capitals.

use std::{fs, path::Path, process::Command};

use openorch_test_support::stub::{Request, Stub, json};

use crate::support::{Daemon, Home};

macro_rules! transcripts {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(concat!(stringify!($name), ".txt"));
            }
        )*

        #[test]
        fn every_transcript_is_run() {
            let files = fs::read_dir(transcript_dir()).unwrap().count();
            assert_eq!(files, [$(stringify!($name)),*].len());
        }
    };
}

transcripts! {
    first_steps backup users accounts roles organizations policies environments raw_calls operations batch groups files doctor
}

fn transcript_dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/transcripts")
}

fn check(name: &str) {
    let path = transcript_dir().join(name);
    let golden = fs::read_to_string(&path).unwrap();
    let played = run_transcript(&golden);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &played).unwrap();
    } else if golden != played {
        let differs = golden.lines().zip(played.lines()).find(|(old, new)| old != new);
        panic!("{name} differs, first at {differs:?}; if that is right, run UPDATE=1 cargo test -p oo\n{played}");
    }
}

/// Runs the transcript and returns the new one.
fn run_transcript(golden: &str) -> String {
    let (daemon, service, home) = (Daemon::start(), Stub::new(service), Home::new());
    let folder = tempfile::tempdir().unwrap();
    let mut played = String::new();
    let mut lines = golden.lines().peekable();
    while let Some(line) = lines.next() {
        // An empty line belongs to the comment that follows it; otherwise a command printed it.
        let is_gap = line.is_empty() && lines.peek().is_some_and(|next| next.starts_with('#'));
        if !(line.starts_with("$ ") || line.starts_with('#') || is_gap) {
            continue;
        }
        played.push_str(&format!("{line}\n"));
        let Some(line) = line.strip_prefix("$ ") else { continue };
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(folder.path());
        home.prepare(&mut command);
        let programs = Path::new(env!("CARGO_BIN_EXE_oo")).parent().unwrap().display();
        command.env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap()));
        command.env("URL", &daemon.url).env("SERVICE", &service.url);
        let output = command.output().unwrap();
        for bytes in [&output.stderr, &output.stdout] {
            let text = String::from_utf8_lossy(bytes);
            let text = text.replace(&daemon.url, "URL").replace(&service.url, "SERVICE");
            let text = text.replace(service.url.trim_start_matches("http://"), "SERVICE_HOST");
            let text = text.replace(home.directory.path().to_str().unwrap(), "HOME");
            text.lines().for_each(|line| played.push_str(&format!("{}\n", normalize(line))));
        }
        match output.status.code() {
            Some(0) => {}
            code => played.push_str(&format!("? {}\n", code.unwrap_or(-1))),
        }
    }
    played
}

/// A service behind the gateway.
fn service(request: &Request) -> String {
    let path = request.target.split('?').next().unwrap();
    match path {
        "/my-svc/text" => "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n".into(),
        "/my-svc/gone" => "HTTP/1.1 410 Gone\r\nContent-Length: 8\r\n\r\nwas here".into(),
        "/my-svc/old" => "HTTP/1.1 302 Found\r\nLocation: /my-svc/new?x=1\r\nContent-Length: 0\r\n\r\n".into(),
        "/my-svc/away" => "HTTP/1.1 302 Found\r\nLocation: https://example.com/x\r\nContent-Length: 0\r\n\r\n".into(),
        "/my-svc/none" => "HTTP/1.1 204 No Content\r\n\r\n".into(),
        _ => {
            let said = serde_json::json!({
                "method": request.method,
                "target": request.target,
                "type": request.header("content-type"),
                "body": request.body,
            });
            json(200, &said.to_string())
        }
    }
}

/// A line with the values replaced that vary between runs.
fn normalize(line: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in line.split(' ') {
        let after_request = words.last().is_some_and(|known| known == "[request");
        if word == "ago" {
            words.pop();
            words.push("AGE".into());
        }
        words.push(match word {
            _ if after_request => format!("ID{}", &word[word.find(']').unwrap_or(word.len())..]),
            _ if word.starts_with("eyJ") => "TOKEN".into(),
            _ => normalize_word(word),
        });
    }
    // Column widths vary with the replaced values; lines that begin with spaces are not tables.
    let mut line = words.join(" ");
    while !line.starts_with(' ') && line.contains("    ") {
        line = line.replace("    ", "   ");
    }
    line
}

fn normalize_word(word: &str) -> String {
    let mut word = word.to_owned();
    for prefix in ["inst_", "node_", "usr_", "invi_", "ses_"] {
        if let Some(at) = word.find(prefix) {
            let start = at + prefix.len();
            let length = word[start..].chars().take_while(char::is_ascii_alphanumeric).count();
            if length > 6 {
                word.replace_range(start..start + length, "ID");
            }
        }
    }
    if let Some(at) = word.find("cli@") {
        let length = word[at..].find('"').unwrap_or(word.len() - at);
        word.replace_range(at..at + length, "cli@HOST:OWN");
    }
    let is_time = |at: usize| {
        let part = word.as_bytes().get(at..at + 11);
        part.is_some_and(|part| part[4] == b'-' && part[7] == b'-' && part[10] == b'T' && part[0].is_ascii_digit())
    };
    if let Some(at) = (0..word.len()).find(|at| is_time(*at)) {
        let length = word[at..].find('Z').map_or(0, |end| end + 1);
        word.replace_range(at..at + length, "TIME");
    }
    word
}
