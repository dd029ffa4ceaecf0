//! Shell completion: the candidates, and the scripts in bash (and in zsh and fish if installed).

use std::{path::Path, process::Command};

use openorch_test_support::stub::{Stub, json};

use crate::support::Home;

fn server() -> Stub {
    Stub::new(|request| match request.target.split('?').next().unwrap() {
        "/registry-svc/instances" => json(
            200,
            r#"{"instances":[{"id":"inst_1","slug":"my-svc","status":"Healthy"},{"id":"inst_2","slug":"other"}]}"#,
        ),
        "/user-svc/roles" => json(200, r#"{"roles":[{"id":"a-svc:clerk","name":"Clerk"}]}"#),
        "/user-svc/users" => json(200, r#"{"users":[{"id":"usr_1","slug":"joe"},{"id":"usr_2"}]}"#),
        _ => json(404, r#"{"error":"nothing"}"#),
    })
}

#[test]
fn candidates_come_from_the_tree_the_table_the_settings_and_the_server() {
    let stub = server();
    let home = Home::signed_in(&stub);
    for (line, want) in [
        ("wh", vec!["whoami"]),
        ("env ", vec!["add", "list", "select", "remove", "current", "help"]),
        ("env s", vec!["select"]),
        ("e select ", vec!["s"]),
        ("-e ", vec!["s"]),
        ("instance ls --env ", vec!["s"]),
        ("-u ", vec!["openorch"]),
        ("switch ", vec!["openorch"]),
        ("logout --fo", vec!["--forget"]),
        ("-o ", vec!["table", "wide", "json", "yaml", "name"]),
        ("completion ", vec!["bash", "zsh", "fish"]),
        ("instance rm ", vec!["inst_1", "inst_2"]),
        ("i rm inst_1 inst_", vec!["inst_1", "inst_2"]),
        ("-e s i get ", vec!["inst_1", "inst_2"]),
        ("-e nowhere i get ", vec![]),
        ("user rm ", vec!["usr_1", "usr_2"]),
        ("user reset-password ", vec!["usr_1", "usr_2"]),
        ("session ls --user-id usr_", vec!["usr_1", "usr_2"]),
        ("org add-user o1 ", vec!["usr_1", "usr_2"]),
        ("role permissions ", vec!["a-svc:clerk"]),
        ("enroll ls --role ", vec!["a-svc:clerk"]),
        ("permission ls --roles a", vec!["a-svc:clerk"]),
        ("org m", vec!["members"]),
        ("instance ls --sl", vec!["--slug"]),
        ("call registerI", vec!["registerInstance"]),
        ("call removeInstance --", vec!["--id="]),
        ("call removeInstance --id=inst_2", vec![]),
        ("call removeInstance --id=", vec!["--id=inst_1", "--id=inst_2"]),
        ("call login --pass", vec!["--password="]),
        ("call nope --", vec![]),
        ("put /registry-svc/i", vec!["/registry-svc/instance"]),
        ("delete /registry-svc/n", vec!["/registry-svc/node/"]),
        ("get --cu", vec!["--curl"]),
        ("get /x --", vec![]),
        ("definition save ", vec![]),
        ("nonsense ", vec![]),
        ("complet", vec!["completion"]),
    ] {
        let words: Vec<&str> = ["complete", "--"].into_iter().chain(line.split(' ')).collect();
        let ran = home.oo_words(&words);
        let found: Vec<_> = ran.out.lines().map(|line| line.split('\t').next().unwrap()).collect();
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{line}");
        if line == "nonsense " {
            assert!(found.contains(&"whoami"), "{found:?}");
        } else {
            assert_eq!(found, want, "{line}");
        }
    }
    let about = home.oo_words(&["complete", "--", "instance", "rm", "inst_1"]);
    assert_eq!(about.out, "", "a complete word has no candidates");
    let about = home.oo_words(&["complete", "--", "instance", "rm", ""]);
    assert!(about.out.starts_with("inst_1\tmy-svc Healthy\n"), "{}", about.out);
}

/// The shell's output; `None` if it is not installed.
fn shell(home: &Home, shell: &str, script: &str) -> Option<String> {
    let mut command = Command::new(shell);
    command.args(if shell == "bash" { &["--norc", "-c"][..] } else { &["-c"][..] }).arg(script);
    home.prepare(&mut command);
    let programs = Path::new(env!("CARGO_BIN_EXE_oo")).parent().unwrap().display();
    command.env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap()));
    let output = command.output().ok()?;
    Some(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn bash_completes() {
    let stub = server();
    let home = Home::signed_in(&stub);
    for (line, want) in [
        ("oo wh", "whoami"),
        ("oo instance rm ", "inst_1 inst_2"),
        // Bash treats the text after `=` and `:` as a separate word.
        ("oo call removeInstance --id=", "inst_1 inst_2"),
        ("oo call removeInstance --i", "--id="),
        ("oo get /registry-svc/inst", "/registry-svc/instances"),
        ("oo definition save ", ""),
    ] {
        let script = format!(
            "source <(oo completion bash); complete -p oo > /dev/null || exit; \
             COMP_LINE='{line}' COMP_POINT={} _oo; echo \"${{COMPREPLY[*]}}\"",
            line.len()
        );
        let Some(printed) = shell(&home, "bash", &script) else { return };
        assert_eq!(printed.trim(), want, "{line}");
    }
}

#[test]
fn an_id_that_is_shell_is_completed_as_a_word_and_never_run() {
    let names = ["q;touch x", "q$(touch x)", "q`touch x`", "q'\"|touch x", "-q"];
    let definitions: Vec<_> = names.iter().map(|id| serde_json::json!({ "id": id })).collect();
    let answer = serde_json::json!({ "definitions": definitions }).to_string();
    let stub = Stub::new(move |_| json(200, &answer));
    let home = Home::signed_in(&stub);
    let line = "oo def get ";
    // Evaluates the completed line, with `oo` defined as a function that prints its argument.
    let script = format!(
        "source <(oo completion bash); COMP_LINE='{line}' COMP_POINT={} _oo; oo() {{ printf '%s\n' \"$3\"; }}; \
         for word in \"${{COMPREPLY[@]}}\"; do eval \"{line} $word\"; done; ls x",
        line.len()
    );
    let Some(printed) = shell(&home, "bash", &script) else { return };
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[..4], names[..4]);
    assert!(lines.len() == 5 && lines[4].contains("No such file"), "{printed}");
}

#[test]
fn fish_and_zsh_read_their_scripts() {
    let stub = server();
    let home = Home::signed_in(&stub);
    if let Some(printed) = shell(&home, "fish", "oo completion fish | source; complete -C 'oo instance rm '") {
        assert_eq!(printed, "inst_1\tmy-svc Healthy\ninst_2\tother\n");
    }
    // Zsh completes only on a terminal; this checks that it parses the script.
    let script = "compdef() { echo \"compdef $*\" }; source <(oo completion zsh); whence -w _oo";
    if let Some(printed) = shell(&home, "zsh", script) {
        assert_eq!(printed, "compdef _oo oo\n_oo: function\n");
    }
}
