//! Settings by flag, variable and file, their error messages, and the restriction to loopback.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    process::{command, expect_start_failure, post, run},
    support::{Daemon, start_time, token_of},
};

fn listen_on_all(folder: &Path) -> Command {
    let mut command = command(folder);
    command.env("OPENORCH_LISTEN", "0.0.0.0:0");
    command
}

#[test]
fn it_is_held_to_loopback_while_the_default_password_stands() {
    for given in [None, Some(""), Some("changeme")] {
        let folder = TempDir::new().unwrap();
        let mut command = listen_on_all(folder.path());
        command.envs(given.map(|password| ("OPENORCH_ADMIN_PASSWORD", password)));
        assert!(run(&mut command).url.starts_with("http://127.0.0.1:"), "{given:?}");
    }
    let weak = TempDir::new().unwrap();
    let text = expect_start_failure(listen_on_all(weak.path()).env("OPENORCH_ADMIN_PASSWORD", "short"));
    assert!(text.contains("OPENORCH_ADMIN_PASSWORD") && text.contains("8 characters"), "{text}");

    let open = TempDir::new().unwrap();
    let opened = run(listen_on_all(open.path()).env("OPENORCH_ADMIN_PASSWORD", "long enough for all"));
    assert!(opened.url.starts_with("http://0.0.0.0:"), "{}", opened.url);
    drop(opened);
    // The password is already set, so another one in the variable is ignored.
    for ignored in ["short", "changeme"] {
        let again = run(listen_on_all(open.path()).env("OPENORCH_ADMIN_PASSWORD", ignored));
        assert!(again.url.starts_with("http://0.0.0.0:"), "{}", again.url);
    }
}

#[test]
fn a_reset_password_is_held_to_the_same_rules() {
    let folder = TempDir::new().unwrap();
    drop(run(&mut command(folder.path())));
    let reset = |command: &mut Command, password: &str| {
        command.args(["admin", "reset-password"]).env("OPENORCH_ADMIN_PASSWORD", password).stdout(Stdio::null());
        command.output().unwrap()
    };
    let refused = reset(&mut listen_on_all(folder.path()), "a");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{text}");
    assert!(reset(&mut listen_on_all(folder.path()), "long enough for all").status.success());
    // A flag may also follow the subcommand.
    let mut elsewhere = Command::new(env!("CARGO_BIN_EXE_openorch"));
    elsewhere.env_clear().args(["admin", "reset-password", "--data-dir"]).arg(folder.path());
    assert!(
        elsewhere.env("OPENORCH_ADMIN_PASSWORD", "a").output().unwrap().status.success(),
        "any password is allowed on loopback"
    );
}

#[tokio::test]
async fn the_published_key_holds_to_loopback_until_another_takes_its_place() {
    let folder = TempDir::new().unwrap();
    let published = "changeMeToSomethingSecureForReal";
    let with_key = |key: &str| {
        let mut command = listen_on_all(folder.path());
        command.env("OPENORCH_ADMIN_PASSWORD", "long enough for all").env("OPENORCH_ENCRYPTION_KEY", key);
        command
    };
    let first = run(&mut with_key(published));
    assert!(first.url.starts_with("http://127.0.0.1:"));
    let login = json!({ "slug": "openorch", "password": "long enough for all" });
    let answer = post(&first.url, "/user-svc/login", "", login).await.unwrap();
    let token = answer["token"]["token"].as_str().unwrap().to_owned();
    drop(first);
    let second = run(&mut with_key("another key that nobody knows"));
    assert!(second.url.starts_with("http://0.0.0.0:"));
    let url = second.url.replace("0.0.0.0", "127.0.0.1");
    assert!(post(&url, "/user-svc/user/by-token", &token, json!({})).await.is_some(), "the signing key is unchanged");
    drop(second);
    let text = expect_start_failure(&mut with_key(published));
    assert!(text.contains("another key"), "{text}");
}

#[test]
fn a_mistake_in_a_setting_is_named_and_nothing_is_touched() {
    let folder = TempDir::new().unwrap();
    for (variable, value) in [
        ("OPENORCH_TRUSTED_PROXIES", "foo"),
        ("OPENORCH_INSTANCE_NETWORKS", "foo"),
        ("OPENORCH_URL", "http://a b"),
        ("OPENORCH_DRAIN", "soon"),
        ("OPENORCH_HTTP_MAX_CONNECTIONS", "0"),
        ("OPENORCH_REGISTRY_PROBE_INTERVAL", "0s"),
        ("OPENORCH_REGISTRATION", "maybe"),
        ("OPENORCH_LISTEN", "here"),
        ("OPENORCH_LOG", "a=b=c"),
        ("OPENORCH_DB", "oracle"),
        ("OPENORCH_ADMIN_PASSWORD_FILE", "/no/such/file"),
    ] {
        let text = expect_start_failure(command(folder.path()).env(variable, value));
        assert!(text.contains(variable), "{variable}: {text}");
    }
    let secret = expect_start_failure(command(folder.path()).env("OPENORCH_URL", "http://u:hunter2@a b"));
    assert!(secret.contains("OPENORCH_URL") && !secret.contains("hunter2"), "{secret}");
    let mut half = command(folder.path());
    half.env("OPENORCH_TLS_CERT", "/no/such/file").env("OPENORCH_TLS_KEY", "/no/such/file");
    assert!(expect_start_failure(&mut half).contains("OPENORCH_TLS_CERT"));
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "the directory was changed");
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let folder = TempDir::new().unwrap();
    let mut command = command(folder.path());
    for (section, setting) in openorch::settings::all() {
        let variable = section.variable(setting);
        if !["OPENORCH_LISTEN", "OPENORCH_DATA_DIR"].contains(&variable.as_str()) {
            command.env(variable, "");
        }
    }
    run(&mut command);
}

#[tokio::test]
async fn secrets_come_from_files_too() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "from a file\n").unwrap();
    let daemon = run(command(&folder.path().join("data")).env("OPENORCH_ADMIN_PASSWORD_FILE", &file));
    let login = json!({ "slug": "openorch", "password": "from a file" });
    assert!(post(&daemon.url, "/user-svc/login", "", login).await.is_some());
    drop(daemon);
    let config = folder.path().join("openorch.toml");
    fs::write(&config, "admin-password = \"from a config file\"\nlisten = \"127.0.0.1:0\"\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_openorch"));
    command.env_clear().env("OPENORCH_DATA_DIR", folder.path().join("other")).env("OPENORCH_CONFIG", &config);
    let daemon = run(&mut command);
    let login = json!({ "slug": "openorch", "password": "from a config file" });
    assert!(post(&daemon.url, "/user-svc/login", "", login).await.is_some());
}

#[test]
fn help_lists_every_setting_and_a_mistake_in_the_config_file_is_placed() {
    let folder = TempDir::new().unwrap();
    let help = command(folder.path()).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for (section, setting) in openorch::settings::all() {
        let (name, flag) = (section.variable(setting), format!("--{} ", section.flag(setting)));
        let shown = if setting.is_secret { name.clone() } else { format!("[{name}] [default: ") };
        assert!(help.contains(&shown), "{name}");
        assert_eq!(help.contains(&flag), !setting.is_secret, "{flag}");
    }
    for name in ["_FILE", "OPENORCH_CONFIG"] {
        assert!(help.contains(name), "{name}");
    }
    let config = folder.path().join("openorch.toml");
    for (text, shown) in [
        ("log = \"info\"\nlisten-on = \"x\"\n", "line 2"),
        ("[http]\ndrain = \"soon\"\n", "`soon` is not a duration"),
        ("\nadmin-password = 12345678\n", "line 2"),
        ("encryption-key = [\"hidden\"]\n", "line 1"),
        ("[smtp]\npassword = 12345678\n", "line 2"),
        ("[smtp]\npassword = hidden\n", "line 2"),
    ] {
        fs::write(&config, text).unwrap();
        let said = expect_start_failure(command(folder.path()).env("OPENORCH_CONFIG", &config));
        assert!(said.contains("openorch.toml") && said.contains(shown), "{said}");
        assert!(!said.contains("12345678") && !said.contains("hidden"), "{said}");
    }
}

#[tokio::test]
async fn how_long_an_answer_about_a_permission_is_kept_and_how_much_is_held_are_settings() {
    let daemon = Daemon::with_flags(&["--user-permission-cache-ttl", "3s", "--user-max-cache-entries", "1"]).await;
    let until = async |token: &str| {
        let answer = daemon.call("POST", "/user-svc/self/has/x:y", token, json!(null)).await.json();
        answer["until"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    // More accounts than cache entries: an evicted account is read again.
    for slug in ["ann", "bob", "cara"] {
        daemon.register(slug).await;
    }
    for slug in ["ann", "bob", "cara"] {
        let token = token_of(&daemon.login(slug, "pass", "test").await);
        assert_eq!(until(&token).await, start_time() + std::time::Duration::from_secs(3));
    }
}

#[test]
fn the_first_start_tells_the_next_step_that_works_and_nothing_secret() {
    for (registration, said) in [
        ("open", "Put a service behind it"),
        ("invite", "Registration is by invitation"),
        ("closed", "Registration is closed"),
    ] {
        let folder = TempDir::new().unwrap();
        let mut command = listen_on_all(folder.path());
        command.env("OPENORCH_REGISTRATION", registration).env("OPENORCH_ADMIN_PASSWORD", "long enough for all");
        let mut daemon = run(&mut command);
        let key = fs::read_to_string(folder.path().join("server/encryption.key")).unwrap();
        daemon.child.kill().unwrap();
        let mut text = String::new();
        daemon.output.read_to_string(&mut text).unwrap();
        assert!(
            text.contains(said) && text.contains("/user-svc/register") && text.contains("http://127.0.0.1:"),
            "{text}"
        );
        assert!(!text.contains("long enough") && !text.contains(key.trim()), "{text}");
    }
}

#[test]
fn a_mistake_in_the_config_file_names_its_key_and_the_nearest_one_and_exits_like_one_in_a_flag() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("config.toml");
    let exit = |command: &mut Command| {
        let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (text, words) in [
        ("[http]\ndrain = 10", &["line 2, `drain`", "`10` is not a duration like 150ms, 10s"][..]),
        ("\nlisten = 80", &["line 2, `listen`", "`80` is not an address"]),
        ("[http]\ndrian = \"10s\"", &["`drian`", "did you mean `drain`?"]),
        ("[htpp]\ndrain = \"10s\"", &["line 1", "no table of this name; did you mean `http`?"]),
        ("drain = \"10s\"", &["line 1, `drain`", "belongs in the table [http]"]),
        ("[http]\ndrain = true", &["line 2, `drain`", "quoted text or a number"]),
        ("quite-another-thing = 1", &["`quite-another-thing`", "--help"]),
        ("admin-password = 5", &["line 1, `admin-password`", "a secret must be quoted text"]),
    ] {
        fs::write(&file, text).unwrap();
        let (code, said) = exit(command(folder.path()).env("OPENORCH_CONFIG", &file));
        assert!(code == Some(2) && words.iter().all(|word| said.contains(word)), "{text}: {code:?} {said}");
    }
    let by_flag = exit(command(folder.path()).args(["--drain", "soon"])).0;
    let by_variable = exit(command(folder.path()).env("OPENORCH_DRAIN", "soon")).0;
    assert_eq!((by_flag, by_variable), (Some(2), Some(2)));

    let key = folder.path().join("key");
    fs::write(&key, [0xff, 0xfe, 0x80]).unwrap();
    let (_, said) = exit(command(folder.path()).env("OPENORCH_ENCRYPTION_KEY_FILE", &key));
    assert!(said.contains("OPENORCH_ENCRYPTION_KEY_FILE") && said.contains("openssl rand -hex 32"), "{said}");
    let missing = folder.path().join("no/such/directory");
    let (code, said) = exit(command(folder.path()).arg("backup").arg(missing.join("file")));
    assert!(code == Some(1) && said.contains("no/such/directory` for the backup does not exist"), "{said}");
}

#[test]
fn variables_without_effect_are_named_in_the_log() {
    let folder = TempDir::new().unwrap();
    let mut process = run(command(folder.path())
        .env("OPENORCH_DRIAN", "10s")
        .env("OPENORCH_TOKEN", "a program's")
        .env("OPENORCH_DB_SCHEMA", "openorch")
        .env("OPENORCH_LISTEN", "127.0.0.1:0")
        .stderr(Stdio::piped()));
    process.terminate();
    let mut log = String::new();
    process.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("ignoring the unknown variable OPENORCH_DRIAN; did you mean OPENORCH_DRAIN?"), "{log}");
    assert_eq!(log.matches("ignoring the unknown variable").count(), 1, "{log}");

    let free = openorch_test_support::free_address();
    let mut process = run(Command::new(env!("CARGO_BIN_EXE_openorch"))
        .env_clear()
        .env("OPENORCH_DATA_DIR", folder.path().join("other"))
        .env("OPENORCH_LISTEN", free.to_string())
        .env("OPENORCH_URL", "http://127.0.0.1:1")
        .env("OPENORCH_DB_STRING", "postgres://u:s3cret@127.0.0.1/x")
        .stderr(Stdio::piped()));
    process.terminate();
    let mut log = String::new();
    process.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("OPENORCH_DB_STRING is ignored without OPENORCH_DB=postgres"), "{log}");
    assert!(log.contains("OPENORCH_URL is http://127.0.0.1:1, but the daemon listens on"), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

#[tokio::test]
async fn what_browsers_ask_every_host_for_is_no_service() {
    let daemon = Daemon::start().await;
    for path in ["/favicon.ico", "/robots.txt"] {
        let answer = daemon.call("GET", path, "", serde_json::Value::Null).await;
        assert!(answer.status == 404 && answer.error().contains("no such operation"), "{}", answer.text);
    }
}
