//! The program as its user sees it: output, exit codes and the settings file. The server is a stub; the daemon's own
//! tests and `examples/first-service/run` use the real daemon.

use std::fs;
#[cfg(unix)]
use std::{io::Read, process::Stdio};

use openorch_test_support::stub::{Request, Stub, json};

use crate::support::{CommandOutput, Home};

/// `{"ori":["user-svc:admin"]}` as the claims of a token.
const TOKEN: &str = "e30.eyJvcmkiOlsidXNlci1zdmM6YWRtaW4iXX0.c2ln";

fn daemon(request: &Request) -> String {
    match request.line().as_str() {
        "POST /user-svc/login" if request.body.contains("wrong") => json(401, r#"{"error": "Invalid password"}"#),
        "POST /user-svc/login" => json(200, &format!(r#"{{"token":{{"token":"{TOKEN}"}}}}"#)),
        "POST /user-svc/user/by-token" => json(200, r#"{"user":{"id":"usr_1","slug":"openorch"}}"#),
        "GET /registry-svc/instances" => json(
            200,
            r#"{"instances":[{"id":"inst_1","url":"http://127.0.0.1:9311","status":"Healthy","slug":"skeleton-svc",
                "lastHeartbeat":"0001-01-01T00:00:00Z"}]}"#,
        ),
        "POST /registry-svc/nodes" => json(200, r#"{"nodes":[]}"#),
        "DELETE /registry-svc/instance/inst_1" | "DELETE /registry-svc/node/a%2Fb" => "HTTP/1.1 204 X\r\n\r\n".into(),
        "DELETE /registry-svc/instance/theirs" => json(403, r#"{"error": "it belongs to another account"}"#),
        _ => json(404, r#"{"error": "there is no instance with this id"}"#),
    }
}

#[test]
fn signing_in_from_nothing_keeps_the_token_private_and_prints_none() {
    let (stub, home) = (Stub::new(daemon), Home::new());
    home.oo(&format!("env add here {}/", stub.url)).expect(0, "", "");
    home.oo_with_input("login", "openorch\n pass word \n").expect(0, "", "");
    let sent: serde_json::Value = serde_json::from_str(&stub.requests()[0].body).unwrap();
    assert_eq!((sent["slug"].as_str(), sent["password"].as_str()), (Some("openorch"), Some(" pass word ")));
    let device = sent["device"].as_str().unwrap().to_owned();
    assert!(device.starts_with("cli@") && device.rsplit_once(':').is_some_and(|(_, own)| own.len() == 6), "{device}");
    home.oo_with_input("login openorch", "x\n").expect(0, "", "");
    assert!(stub.requests()[1].body.contains(&device), "one home directory is one device");
    let other = Home::new();
    other.oo(&format!("env add here {}/", stub.url)).expect(0, "", "");
    other.oo_with_input("login openorch", "x\n").expect(0, "", "");
    assert!(!stub.requests()[2].body.contains(&device), "another home directory is another device");

    home.oo("whoami").expect(0, "slug: openorch\nid: usr_1\nroles:\n- user-svc:admin\n", "");
    home.oo("token").expect(0, &format!("{TOKEN}\n"), "");
    assert_eq!(stub.requests()[3].header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(home.settings()).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn whoever_signs_in_while_the_variable_says_another_is_told() {
    let (stub, home) = (Stub::new(daemon), Home::new());
    home.oo(&format!("env add here {}", stub.url)).expect(0, "", "");
    let run = |line: &str| {
        let mut command = home.command(line);
        CommandOutput::of(command.env("OPENORCH_TOKEN", "t").output().unwrap())
    };
    for line in ["login openorch changeme", "switch openorch"] {
        let ran = run(line);
        assert!(
            ran.code == 0 && ran.err.contains("warning: OPENORCH_TOKEN is set and takes precedence"),
            "{}",
            ran.err
        );
    }
}

#[test]
fn a_password_as_an_argument_works_with_a_warning() {
    let (stub, home) = (Stub::new(daemon), Home::new());
    home.oo(&format!("env add here {}", stub.url)).expect(0, "", "");
    let ran = home.oo("login openorch changeme");
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    assert!(ran.err.starts_with("warning: passwords in arguments"), "{}", ran.err);
    home.oo_with_input("login openorch", "wrong\n").expect(4, "", "Error: Invalid password [request req-1]\n");
    home.oo("token").expect(0, &format!("{TOKEN}\n"), "");
}

#[test]
fn instances_are_a_documented_table_or_data() {
    let stub = Stub::new(daemon);
    let home = Home::signed_in(&stub);
    let table = "INSTANCE ID   URL                     STATUS    OWNER SLUG     LAST HEARTBEAT\n\
                 inst_1        http://127.0.0.1:9311   Healthy   skeleton-svc\n";
    for line in ["instance ls", "i list", "instances ls"] {
        home.oo(line).expect(0, table, "");
    }
    let data: serde_json::Value = serde_json::from_str(&home.oo("instance ls -o json").out).unwrap();
    assert_eq!(data[0]["slug"], "skeleton-svc");
    home.oo("node ls").expect(0, "NODE ID   URL   LAST HEARTBEAT\n", "");
    home.oo("instance rm -y inst_1").expect(0, "", "");
}

#[test]
fn how_it_ends_tells_scripts_why() {
    let stub = Stub::new(daemon);
    let home = Home::signed_in(&stub);
    home.oo("instance rm -y inst_2").expect(3, "", "Error: there is no instance with this id [request req-1]\n");
    home.oo("instance rm -y theirs").expect(4, "", "Error: it belongs to another account [request req-1]\n");
    for (line, code) in
        [("instance rm", 2), ("frobnicate", 2), ("env typo", 2), ("env rm nope", 3), ("-e nope node ls", 3)]
    {
        assert_eq!(home.oo(line).code, code, "{line}");
    }
    for line in ["", "env", "instance"] {
        let help = home.oo(line);
        assert_eq!((help.code, help.err.as_str(), help.out.contains("Usage: oo")), (0, "", true), "{line}");
    }

    let nobody = Home::new();
    let free = openorch_test_support::free_address();
    nobody.oo(&format!("env add gone http://{free}")).expect(0, "", "");
    let ran = nobody.oo_with_input("login openorch", "x\n");
    assert_eq!((ran.code, ran.out.as_str()), (5, ""));
    assert!(ran.err.starts_with(&format!("Error: login: no response from http://{free}: ")), "{}", ran.err);
}

#[test]
fn before_any_sign_in_the_way_to_it_is_told() {
    let home = Home::new();
    let told = "Error: not signed in to `local` (http://127.0.0.1:58231); run `oo login`\n";
    for line in ["token", "whoami", "node ls", "call listNodes"] {
        home.oo(line).expect(4, "", told);
    }
    assert!(!home.settings().exists(), "nothing is written");
}

#[test]
fn environments_are_added_selected_and_forgotten() {
    let home = Home::new();
    let used =
        "ENV NAME   SELECTED   URL                      DESCRIPTION\nlocal      *          http://127.0.0.1:58231\n";
    home.oo("env ls").expect(0, used, "");
    let current =
        "SELECTED   USERS   URL                      DESCRIPTION\nlocal              http://127.0.0.1:58231\n";
    home.oo("env current").expect(0, current, "");
    home.oo("env add b http://127.0.0.1:2 second").expect(0, "", "");
    home.oo("environment add a http://127.0.0.1:1/").expect(0, "", "");
    home.oo("e s b").expect(0, "", "");
    let table = "ENV NAME   SELECTED   URL                  DESCRIPTION\n\
                 a                     http://127.0.0.1:1\n\
                 b          *          http://127.0.0.1:2   second\n";
    home.oo("environments ls").expect(0, table, "");
    home.oo("env add b http://127.0.0.1:3").expect(0, "", "");
    assert!(home.oo("env ls").out.contains("http://127.0.0.1:3   second"));
    home.oo("env rm b").expect(0, "", "");
    let ran = home.oo("node ls");
    assert_eq!((ran.code, ran.err.contains("`oo env select`")), (2, true), "{}", ran.err);
    let ran = home.oo("env add c 127.0.0.1:1");
    assert_eq!((ran.code, ran.err.contains("http://")), (2, true), "{}", ran.err);
}

#[test]
fn the_token_for_one_server_is_never_sent_to_another() {
    let (one, other) = (Stub::new(daemon), Stub::new(daemon));
    let home = Home::signed_in(&one);
    let run = |line: &str, token: Option<&str>| {
        let mut command = home.command(line);
        command.env("OPENORCH_URL", &other.url).envs(token.map(|token| ("OPENORCH_TOKEN", token)));
        CommandOutput::of(command.output().unwrap()).code
    };
    assert_eq!(run("node ls", None), 4);
    run("call health", None);
    assert!(other.requests().iter().all(|request| request.header("authorization").is_none()));
    assert_eq!(run("node ls", Some("var")), 0);
    assert_eq!(other.requests().last().unwrap().header("authorization"), Some("Bearer var"));
    assert_eq!(run("-e s node ls", Some("var")), 0);
    assert_eq!(one.requests().last().unwrap().header("authorization"), Some("Bearer t0k"));

    // An environment that now points to another server does not send its old tokens there.
    let forgotten = format!("warning: `s` pointed to {}; its users were signed out here (openorch)\n", one.url);
    home.oo(&format!("env add s {}", other.url)).expect(0, "", &forgotten);
    assert_eq!(home.oo("node ls").code, 4);
}

#[test]
fn any_operation_can_be_called_by_its_id() {
    let stub = Stub::new(daemon);
    let home = Home::signed_in(&stub);
    home.oo("call listNodes --ids=a --ids=b").expect(0, "{\n  \"nodes\": []\n}\n", "");
    home.oo_with_input("call listNodes -o yaml -f -", "ids: [c]\n").expect(0, "nodes: []\n", "");
    home.oo("call deleteNode --url=a/b").expect(0, "", "");
    let seen: Vec<_> = stub.requests().iter().map(|request| format!("{} {}", request.line(), request.body)).collect();
    let expected = [
        r#"POST /registry-svc/nodes {"ids":["a","b"]}"#,
        r#"POST /registry-svc/nodes {"ids":["c"]}"#,
        "DELETE /registry-svc/node/a%2Fb ",
    ];
    assert_eq!(seen, expected);

    let list = home.oo("call");
    assert!(list.out.starts_with("OPERATION") && list.out.contains("registerInstance"), "{}", list.out);
    let help = home.oo("call registerInstance --help");
    assert!(help.out.contains("PUT /registry-svc/instance") && help.out.contains("--healthPath=<string>"), "{help:?}");
    for (line, words) in [
        ("call nodes", "did you mean listNodes?"),
        ("call xyz", "`oo call` lists them"),
        ("call listNodes ids=a", "write `--key=value`"),
        ("call listNodes --nope=a", "it takes --ids"),
        ("call listNodes -o table", "cannot be printed as a table"),
        ("call listNodes -f", "requires a value"),
        ("call listNodes -f /does/not/exist", "/does/not/exist"),
    ] {
        let ran = home.oo(line);
        assert_eq!((ran.code, ran.err.contains(words)), (2, true), "{line}: {}", ran.err);
    }
    assert_eq!(stub.requests().len(), 3, "invalid calls are not sent");
}

#[cfg(unix)]
#[test]
fn a_reader_who_has_seen_enough_is_no_failure() {
    let home = Home::new();
    let mut child = home.command("call").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!((openorch_test_support::process::wait(&mut child).code(), told.as_str()), (Some(0), ""));
}

#[test]
fn two_sign_ins_at_once_lose_nothing() {
    let (stub, home) = (Stub::new(daemon), Home::new());
    home.oo(&format!("env add here {}", stub.url)).expect(0, "", "");
    std::thread::scope(|threads| {
        for user in ["a", "b", "c", "d"] {
            let home = &home;
            threads.spawn(move || home.oo_with_input(&format!("login {user}"), "x\n").expect(0, "", ""));
        }
    });
    let users: serde_json::Value = serde_json::from_str(&home.oo("env current -o json").out).unwrap();
    assert_eq!(users["users"].as_array().unwrap().len(), 4);
}

#[test]
fn a_contact_is_added_by_the_code_that_arrives_there() {
    let stub = Stub::new(|request| match request.line().as_str() {
        "POST /user-svc/self/contact" => json(200, r#"{"otpId":"otp_1"}"#),
        "PUT /user-svc/self/contact" => json(200, "{}"),
        _ => json(200, r#"{"contacts":[{"id":"ann@example.org","platform":"email","verified":true}]}"#),
    });
    let home = Home::signed_in(&stub);
    home.oo("contact add Ann@Example.org").expect(0, "otp_1\n", "");
    home.oo("contact add Ann@Example.org -o json").expect(0, "\"otp_1\"\n", "");
    home.oo("contact verify otp_1 012345").expect(0, "", "");
    home.oo("contact ls -o name").expect(0, "ann@example.org\n", "");
    let bodies: Vec<String> = stub.requests().into_iter().map(|request| request.body).collect();
    assert!(bodies[0].contains(r#""contactId":"Ann@Example.org""#), "{bodies:?}");
    assert!(bodies[2].contains(r#""otpCode":"012345""#) && bodies[2].contains(r#""otpId":"otp_1""#), "{bodies:?}");
}
