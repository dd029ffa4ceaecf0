//! Data files of a running daemon that are removed, replaced, or copied without their log; and backups over the
//! network.

use std::{fs, path::Path, process::Stdio};

use openorch_store::{ArchiveReader, Engine, SqliteEngine};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    process::{command, expect_start_failure, post, run},
    support::{Daemon, id_of, status},
};

async fn request(url: &str, method: Method, path: &str, token: &str, body: Value) -> (u16, Vec<u8>) {
    let request = reqwest::Client::new().request(method, format!("{url}{path}")).body(body.to_string());
    let answer = request.bearer_auth(token).send().await.unwrap();
    (answer.status().as_u16(), answer.bytes().await.unwrap().into())
}

async fn admin(url: &str) -> String {
    let answer = post(url, "/user-svc/login", "", json!({ "slug": "openorch", "password": "changeme" })).await.unwrap();
    answer["token"]["token"].as_str().unwrap().to_owned()
}

fn restore(place: &Path, file: &Path) -> std::path::PathBuf {
    let other = place.join("restored");
    let mut restoring = command(&other);
    let output = restoring.args(["restore", file.to_str().unwrap()]).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    other
}

#[tokio::test]
async fn once_its_files_are_removed_writes_are_refused_and_a_backup_saves_what_was_acknowledged() {
    for name in ["openorch.db", "openorch.db-wal"] {
        let place = TempDir::new().unwrap();
        let folder = place.path().join("data");
        let daemon = run(&mut command(&folder));
        let token = admin(&daemon.url).await;
        let register = |slug: &str| json!({ "slug": slug, "password": "p" });
        for n in 0..20 {
            assert!(post(&daemon.url, "/user-svc/register", "", register(&format!("kept{n}"))).await.is_some());
        }
        let file = folder.join("server").join(name);
        fs::remove_file(&file).unwrap();
        for n in 0..5 {
            let body = register(&format!("lost{n}"));
            let (code, text) = request(&daemon.url, Method::POST, "/user-svc/register", "", body).await;
            let text = String::from_utf8_lossy(&text);
            assert_eq!(code, 503, "{text}");
            assert!(text.contains(file.to_str().unwrap()), "{text}");
        }
        let (code, users) = request(&daemon.url, Method::POST, "/user-svc/users", &token, json!({})).await;
        assert!(code == 200 && String::from_utf8_lossy(&users).contains("kept19"), "reads still work");

        let (code, backup) = request(&daemon.url, Method::POST, "/platform-svc/backup", &token, json!({})).await;
        assert_eq!(code, 200, "{}", String::from_utf8_lossy(&backup[..backup.len().min(300)]));
        let saved = place.path().join("saved");
        fs::write(&saved, backup).unwrap();
        daemon.terminate();
        drop(daemon);
        let restored = run(&mut command(&restore(place.path(), &saved)));
        for n in 0..20 {
            let login = register(&format!("kept{n}"));
            assert!(post(&restored.url, "/user-svc/login", "", login).await.is_some(), "{name} {n}");
        }
    }
}

#[tokio::test]
async fn a_copy_of_the_main_file_alone_does_not_start_before_it_is_accepted() {
    let place = TempDir::new().unwrap();
    let (folder, other) = (place.path().join("data"), place.path().join("copy"));
    let daemon = run(&mut command(&folder));
    let body = json!({ "slug": "newest", "password": "p" });
    assert!(post(&daemon.url, "/user-svc/register", "", body.clone()).await.is_some());
    fs::create_dir_all(other.join("server")).unwrap();
    for name in ["openorch.db", "encryption.key"] {
        fs::copy(folder.join("server").join(name), other.join("server").join(name)).unwrap();
    }
    drop(daemon);
    let said = expect_start_failure(&mut command(&other));
    for words in ["newest writes", "openorch backup", "openorch restore", "openorch check --accept"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(expect_start_failure(command(&other).arg("check")).contains("newest writes"));
    let accepted = crate::maintenance::stdout_of(command(&other).args(["check", "--accept"]));
    assert!(accepted.contains("is sound") && accepted.contains("newest entry"), "{accepted}");
    let copied = run(&mut command(&other));
    assert!(
        post(&copied.url, "/user-svc/login", "", body.clone()).await.is_none(),
        "the copied file does not contain it"
    );
    drop(copied);
    // After a kill the log is still there.
    let daemon = run(&mut command(&folder));
    assert!(post(&daemon.url, "/user-svc/login", "", body).await.is_some());
}

#[tokio::test]
async fn a_backup_over_the_network_is_for_admins_and_told_in_the_audit_log() {
    let daemon = Daemon::start().await;
    let ann = daemon.register("ann").await;
    assert_eq!(status(&daemon, "POST", "/platform-svc/backup", &ann, Value::Null).await, 403);
    let admin = daemon.admin().await;
    let answer = daemon.send_for_bytes("/platform-svc/backup", &admin).await;
    assert!(answer.starts_with(b"SQLite format 3\0"));
    let place = TempDir::new().unwrap();
    let (file, folder) = (place.path().join("file"), place.path().join("data"));
    fs::write(&file, &answer).unwrap();
    let (archive, engine) = (ArchiveReader::open(&file).unwrap(), SqliteEngine::new(folder.as_path()));
    let restoring = engine.restore(archive, &[], &mut |_| {}).await.unwrap();
    assert!(restoring.notes().iter().any(|(name, text)| name == "made_at" && text.starts_with("2026-11-24")));
    restoring.finish(&mut |_| {}).await.unwrap();
    let told = daemon.call("POST", "/user-svc/audit", &admin, json!({ "operation": "backup" })).await.json();
    let outcomes: Vec<_> = told["entries"].as_array().unwrap().iter().map(|entry| entry["outcome"].clone()).collect();
    assert!(outcomes.contains(&json!("done")), "{told}");
    assert_eq!(told["entries"][0]["actorId"], id_of(&admin));
    // No temporary file remains on the daemon's disk.
    let left = fs::read_dir(daemon.data_dir.path().join("server"));
    let names = left.into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().all(|name| !name.starts_with("openorch-backup")));
}
