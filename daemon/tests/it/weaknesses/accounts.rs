//! Identity: registration, passwords, tokens, sessions, codes.

use serde_json::{Value, json};

use crate::{
    contacts,
    support::{Daemon, Echo, claims, delegated_token, has_permission, id_of, status, token_of},
};

#[tokio::test]
async fn w03_no_answer_holds_a_password_hash() {
    let daemon = Daemon::start().await;
    let (ann, admin) = (daemon.register("ann").await, daemon.admin().await);
    let ask = "/user-svc/permission/user-svc:role:create/is-authorized";
    let by_hash = json!({ "query": { "filters": [{ "op": "startsWith", "fields": ["hash", "passwordHash"],
        "jsonValues": "[\"$\"]" }] } });
    let mut told = String::new();
    for (path, token, body) in [
        (ask, &ann, json!({})),
        ("/user-svc/self", &ann, json!({})),
        ("/user-svc/user/by-token", &ann, Value::Null),
        ("/user-svc/self/has/user-svc:role:create", &ann, Value::Null),
        ("/user-svc/users", &admin, json!({})),
    ] {
        let answer = daemon.call("POST", path, token, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        told += &answer.text;
    }
    told += &daemon.login("ann", "pass", "test").await.text;
    let lower = told.to_lowercase();
    assert!(!lower.contains("argon2") && !lower.contains("hash") && !lower.contains("password\":"), "{told}");
    let found = daemon.call("POST", "/user-svc/users", &admin, by_hash).await.json();
    assert_eq!(found["users"].as_array().map_or(0, Vec::len), 0, "nor can accounts be searched by it: {found}");
}

#[tokio::test]
async fn w06_a_registration_says_nothing_that_is_believed_and_takes_no_name_that_is_not_free() {
    let (daemon, _post) = contacts::start().await;
    let register = async |body: Value| daemon.call("POST", "/user-svc/register", "", body).await;
    for (slug, status) in [
        ("", 400),
        ("Upper", 400),
        ("a_b", 400),
        ("a--b", 400),
        ("-a", 400),
        ("a\u{0}b", 400),
        (&*"a".repeat(64), 400),
        ("user-svc", 409),
        ("model-svc", 409),
        ("health", 409),
        ("openorch", 409),
    ] {
        let answer = register(json!({ "slug": slug, "password": "p" })).await;
        assert_eq!(answer.status, status, "{slug:?}: {}", answer.text);
    }
    let longest = "a".repeat(63);
    daemon.register(&longest).await;
    for password in ["", &*"x".repeat(1025)] {
        assert_eq!(register(json!({ "slug": "joe", "password": password })).await.status, 400);
    }
    // Claims in the request about verification, id or roles are ignored.
    let contact =
        json!({ "id": "ann@example.org", "platform": "email", "verified": true, "isPrimary": true, "userId": "usr_x" });
    let joe =
        json!({ "slug": "joe", "password": "p", "contact": contact, "id": "usr_x", "roleIds": ["user-svc:admin"] });
    let joe = token_of(&register(joe).await);
    assert_eq!(claims(&joe)["ori"], json!(["user-svc:user"]));
    assert_ne!(id_of(&joe), "usr_x");
    assert!(contacts::contacts(&daemon, &joe).await.is_empty());
    // The slug of a deleted account stays reserved.
    let path = format!("/user-svc/user/{}", id_of(&joe));
    assert_eq!(status(&daemon, "DELETE", &path, &daemon.admin().await, Value::Null).await, 200);
    assert_eq!(register(json!({ "slug": "joe", "password": "p" })).await.status, 409);
}

#[tokio::test]
async fn w07_a_token_that_was_revoked_or_is_older_than_a_new_password_is_refused() {
    let mut daemon = Daemon::start().await;
    daemon.register("joe").await;
    let [laptop, phone, tablet] = [
        token_of(&daemon.login("joe", "pass", "laptop").await),
        token_of(&daemon.login("joe", "pass", "phone").await),
        token_of(&daemon.login("joe", "pass", "tablet").await),
    ];
    let told = claims(&laptop);
    let lives = told["exp"].as_i64().unwrap() - told["iat"].as_i64().unwrap();
    assert_eq!((lives, told["iss"].as_str()), (24 * 3600, Some("openorch")));
    assert!(told["jti"].is_string() && told["jti"] != claims(&phone)["jti"]);
    assert_eq!(status(&daemon, "DELETE", "/user-svc/tokens", &phone, Value::Null).await, 200);
    let change = json!({ "currentPassword": "pass", "newPassword": "new" });
    assert_eq!(status(&daemon, "POST", "/user-svc/change-password", &laptop, change).await, 200);
    for restarted in [false, true] {
        if restarted {
            daemon.restart(&[]).await;
        }
        for (token, want) in [(&laptop, 200), (&phone, 401), (&tablet, 401)] {
            for path in ["/user-svc/user/by-token", "/user-svc/refresh-token"] {
                let got = status(&daemon, "POST", path, token, Value::Null).await;
                assert_eq!(got, want, "{path}, restarted: {restarted}");
            }
        }
    }
    // Tokens are looked up by session: their text is not stored.
    let signature = laptop.rsplit('.').next().unwrap();
    assert!(!any_file_contains(daemon.data_dir.path(), signature.as_bytes()), "the token is stored");
}

#[tokio::test]
async fn w10_what_an_account_had_goes_with_it_and_the_last_admin_who_can_sign_in_stays() {
    let mut daemon = Daemon::start().await;
    let (ann, bob, admin) = (daemon.register("ann").await, daemon.register("bob").await, daemon.admin().await);
    let enroll = |token: &str| json!({ "enrolls": [{ "userId": id_of(token), "role": "user-svc:admin" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &admin, enroll(&ann)).await, 200);
    daemon.call("POST", "/user-svc/organization", &bob, json!({ "id": "org_b" })).await;
    let add = json!({ "userId": id_of(&ann) });
    assert_eq!(status(&daemon, "POST", "/user-svc/organization/org_b/user", &bob, add).await, 200);
    let path = |token: &str| format!("/user-svc/user/{}", id_of(token));
    assert_eq!(status(&daemon, "DELETE", &path(&ann), &admin, Value::Null).await, 200);
    assert_eq!(status(&daemon, "POST", "/user-svc/user/by-token", &ann, Value::Null).await, 401);
    let members = daemon.call("GET", "/user-svc/organization/org_b/users", &bob, Value::Null).await.json();
    assert_eq!(members["members"].as_array().unwrap().len(), 1, "{members}");
    for role in ["user-svc:admin", "user-svc:user"] {
        let listed = daemon.call("POST", "/user-svc/enrolls", &admin, json!({ "role": role })).await.text;
        assert!(!listed.contains(&id_of(&ann)), "{listed}");
    }
    // The role of a deleted account does not count as a remaining admin.
    let refused = daemon.call("DELETE", &path(&admin), &admin, Value::Null).await;
    assert!(refused.status == 409 && refused.error().contains("last admin"), "{}", refused.text);
    // An existing admin counts, and no admin is recreated at the next start.
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &admin, enroll(&bob)).await, 200);
    assert_eq!(status(&daemon, "DELETE", &path(&admin), &bob, Value::Null).await, 200);
    daemon.restart(&[]).await;
    assert!(daemon.login("openorch", "changeme", "").await.error().contains("Slug not found"));
    assert!(has_permission(&daemon, &bob, "user-svc:user:view").await);
}

#[tokio::test]
async fn w11_guessing_a_password_gets_slower_and_an_unknown_slug_never_counts() {
    let daemon = Daemon::start().await;
    daemon.register("ann").await;
    for _ in 0..100 {
        assert_eq!(daemon.login("nobody-yet", "x", "").await.status, 400);
    }
    for _ in 0..5 {
        assert_eq!(daemon.login("ann", "wrong", "").await.status, 401);
    }
    let slow = daemon.login("ann", "pass", "").await;
    assert!(slow.status == 429 && slow.error().contains("seconds"), "even with the right password: {}", slow.text);
    daemon.clock.advance(1);
    assert_eq!(daemon.login("ann", "wrong", "").await.status, 401);
    let slower = daemon.login("ann", "pass", "").await;
    assert_eq!((slower.status.as_u16(), slower.headers["retry-after"].to_str().unwrap()), (429, "2"));
    daemon.clock.advance(2);
    let token = token_of(&daemon.login("ann", "pass", "").await);
    assert_eq!(daemon.login("ann", "wrong", "").await.status, 401, "the right password resets the delay");
    // Guesses from a signed-in session are throttled too.
    let change = json!({ "currentPassword": "guess", "newPassword": "mine" });
    let mut statuses = Vec::new();
    for _ in 0..8 {
        let answer = daemon.call("POST", "/user-svc/change-password", &token, change.clone()).await;
        statuses.push(answer.status.as_u16());
    }
    assert!(statuses.contains(&429), "{statuses:?}");
}

#[tokio::test]
async fn w19_keys_and_passwords_lie_sealed_or_hashed_in_a_folder_that_is_the_daemons_alone() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = Daemon::start().await;
    let body = json!({ "slug": "ann", "password": "the very secret password of ann" });
    let ann = token_of(&daemon.call("POST", "/user-svc/register", "", body).await);
    assert_eq!(status(&daemon, "POST", "/user-svc/key/rotate", &daemon.admin().await, Value::Null).await, 200);
    let made = daemon.call("POST", "/user-svc/invitation", &daemon.admin().await, json!({})).await.json();
    let folder = daemon.data_dir.path();
    let key = std::fs::read_to_string(folder.join("server/encryption.key")).unwrap();
    // `rsaEncryption` (RFC 8017), which every private key in PKCS#8 contains, as bytes and as base64 in a PEM file.
    let rsa: [&[u8]; 2] = [&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01], b"ANBgkqhkiG9w0BAQEFAASC"];
    let code = made["invitation"]["code"].as_str().unwrap();
    let [_, _, signature] = ann.split('.').collect::<Vec<_>>()[..] else { panic!("no JWT") };
    let texts = ["the very secret password of ann", "changeme", "PRIVATE KEY", code, signature];
    for secret in rsa.into_iter().chain(texts.map(str::as_bytes)) {
        assert!(!any_file_contains(folder, secret), "{} is stored", String::from_utf8_lossy(secret));
    }
    for (path, mode) in files(folder) {
        let allowed = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode & !allowed, 0, "{} is open to others: {mode:o}", path.display());
        let is_key = path.ends_with("encryption.key");
        assert!(is_key || path.is_dir() || !contains(&std::fs::read(&path).unwrap(), key.trim().as_bytes()));
    }
    let mode = std::fs::metadata(folder.join("server/encryption.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// All files and directories below a directory, with their modes.
fn files(folder: &std::path::Path) -> Vec<(std::path::PathBuf, u32)> {
    use std::os::unix::fs::PermissionsExt;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        found.push((path.clone(), std::fs::metadata(&path).unwrap().permissions().mode() & 0o777));
        if path.is_dir() {
            found.extend(files(&path));
        }
    }
    found
}

/// Whether any file below the directory contains these bytes.
fn any_file_contains(folder: &std::path::Path, bytes: &[u8]) -> bool {
    let files = files(folder).into_iter().filter(|(path, _)| path.is_file());
    files.into_iter().any(|(path, _)| contains(&std::fs::read(path).unwrap(), bytes))
}

fn contains(within: &[u8], bytes: &[u8]) -> bool {
    within.windows(bytes.len()).any(|window| window == bytes)
}

#[tokio::test]
async fn w20_a_code_is_guessed_a_few_times_and_is_good_for_its_purpose_and_its_account() {
    let (daemon, post) = contacts::start().await;
    let (ann, eve) = (daemon.register("ann").await, daemon.register("eve").await);
    let verify = async |token: &str, id: &str, code: &str| {
        daemon.call("PUT", "/user-svc/self/contact", token, json!({ "otpId": id, "otpCode": code })).await
    };
    let id = contacts::request_code(&daemon, &ann, "ann@example.org").await;
    let (code, _) = post.last_code();
    assert_eq!(verify(&eve, &id, &code).await.status, 400, "another account");
    let register =
        json!({ "slug": "x", "password": "p", "contact": { "id": "ann@example.org", "otpId": id, "otpCode": code } });
    assert_eq!(daemon.call("POST", "/user-svc/register", "", register).await.status, 400, "another purpose");
    let wrong = if code == "000000" { "000001" } else { "000000" };
    let guesses = (0..20).map(|_| verify(&ann, &id, wrong));
    let mut told = Vec::new();
    for guess in guesses {
        told.push(guess.await);
    }
    assert!(told[0].error().contains("4 attempts left"), "{}", told[0].text);
    assert!(told[4].error().contains("no attempts left"), "{}", told[4].text);
    assert!(told.iter().all(|answer| answer.status == 400));
    assert_eq!(verify(&ann, &id, &code).await.status, 400, "the right code is no longer accepted");

    let early = daemon.call("POST", "/user-svc/self/contact", &ann, json!({ "contactId": "ann@example.org" })).await;
    assert!(early.status == 429 && early.error().contains("seconds"), "{}", early.text);
    daemon.clock.advance(60);
    let id = contacts::request_code(&daemon, &ann, "ann@example.org").await;
    let (code, _) = post.last_code();
    daemon.clock.advance(600);
    assert_eq!(verify(&ann, &id, &code).await.status, 400, "expired");
    let id = contacts::request_code(&daemon, &ann, "ann@example.org").await;
    let (code, _) = post.last_code();
    let (one, other) = tokio::join!(verify(&ann, &id, &code), verify(&ann, &id, &code));
    let passed = [one, other].iter().filter(|answer| answer.status == 200).count();
    assert_eq!(passed, 1, "once");
    assert_eq!(contacts::contacts(&daemon, &ann).await[0]["verified"], true);
}

#[tokio::test]
async fn w25_no_memory_answers_for_a_token_or_a_right_that_is_gone() {
    let daemon = Daemon::start().await;
    let echo = Echo::start().await;
    let (shop, ann, admin) = (daemon.register("shop-svc").await, daemon.register("ann").await, daemon.admin().await);
    daemon.put_instance(&shop, json!({ "url": echo.url })).await;
    let through = async |token: &str| daemon.call("GET", "/shop-svc/x", token, Value::Null).await;
    let delegated = delegated_token(&daemon, "/shop-svc/x", &ann).await;

    // A forged token is not matched with a cached valid one, whichever account it names.
    assert_eq!(status(&daemon, "POST", "/user-svc/refresh-token", &ann, Value::Null).await, 200);
    let [head, body, _] = ann.split('.').collect::<Vec<_>>()[..] else { panic!("no JWT") };
    let of_admin = admin.split('.').nth(1).unwrap();
    for forged in [format!("{head}.{body}.AAAA"), format!("{head}.{body}."), ann.replace(body, of_admin)] {
        for path in ["/user-svc/refresh-token", "/user-svc/user/by-token"] {
            let answer = daemon.call("POST", path, &forged, Value::Null).await;
            assert!(answer.status == 401 && !answer.text.contains("eyJ"), "{}", answer.text);
        }
    }
    // A service cannot refresh a delegated token.
    assert_eq!(status(&daemon, "POST", "/user-svc/refresh-token", &delegated, Value::Null).await, 403);

    // A revoked right is gone even if it was just used.
    let enroll = json!({ "enrolls": [{ "userId": id_of(&ann), "role": "user-svc:admin" }] });
    let saved = daemon.call("PUT", "/user-svc/enrolls", &admin, enroll).await.json();
    assert!(
        has_permission(&daemon, &ann, "user-svc:user:view").await
            && has_permission(&daemon, &delegated, "user-svc:user:view").await
    );
    let path = format!("/user-svc/enroll/{}", saved["enrolls"][0]["id"].as_str().unwrap());
    assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
    assert!(
        !has_permission(&daemon, &ann, "user-svc:user:view").await
            && !has_permission(&daemon, &delegated, "user-svc:user:view").await
    );

    // After a session is revoked, every token derived from it is invalid.
    assert_eq!(through(&ann).await.status, 200);
    let all = json!({ "userId": id_of(&ann), "allTokens": true });
    assert_eq!(status(&daemon, "DELETE", "/user-svc/tokens", &admin, all).await, 200);
    for token in [&ann, &delegated] {
        assert_eq!(through(token).await.status, 401);
        for path in ["/user-svc/user/by-token", "/user-svc/refresh-token"] {
            assert_eq!(status(&daemon, "POST", path, token, Value::Null).await, 401, "{path}");
        }
    }
}

#[tokio::test]
async fn w145_the_signing_key_is_rotated_only_so_often_and_one_at_a_time() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let narrow = daemon.register("narrow").await;
    let permit = json!({ "id": "rotates", "permission": "user-svc:key:rotate", "slugs": ["narrow"], "appHost": "*" });
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &admin, json!({ "permits": [permit] })).await, 200);
    let rotate = async |token: &str| daemon.call("POST", "/user-svc/key/rotate", token, Value::Null).await;
    for _ in 0..10 {
        assert_eq!(rotate(&narrow).await.status, 200);
    }
    let refused = rotate(&narrow).await;
    assert_eq!((refused.status.as_u16(), refused.json()["code"].clone()), (429, json!("user.keys_rotated_too_often")));
    for _ in 0..10 {
        assert_eq!(rotate(&admin).await.status, 200, "an admin still may");
    }
    assert_eq!(rotate(&admin).await.status, 429);
    daemon.clock.advance(24 * 3600);
    assert_eq!(rotate(&narrow).await.status, 200);
}
