//! Contacts and their verification by codes, with the test's own mail server.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use crate::support::{Daemon, token_of};

/// A mail server (RFC 5321) that records messages.
pub struct MailServer {
    port: String,
    letters: Arc<Mutex<Vec<String>>>,
}

impl MailServer {
    pub async fn start() -> MailServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let letters: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = letters.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let kept = kept.clone();
                tokio::spawn(async move {
                    let (read, mut write) = stream.split();
                    let mut lines = BufReader::new(read).lines();
                    let mut letter: Option<String> = None;
                    let _ = write.write_all(b"220 post\r\n").await;
                    while let Ok(Some(line)) = lines.next_line().await {
                        let answer: &[u8] = match &mut letter {
                            Some(_) if line == "." => {
                                kept.lock().unwrap().extend(letter.take());
                                b"250 kept\r\n"
                            }
                            Some(letter) => {
                                *letter += &format!("{line}\n");
                                continue;
                            }
                            None if line == "DATA" => {
                                letter = Some(String::new());
                                b"354 go on\r\n"
                            }
                            None => b"250 fine\r\n",
                        };
                        if write.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        MailServer { port, letters }
    }

    pub fn port(&self) -> &str {
        &self.port
    }

    /// The code in the last message, and its recipient.
    pub fn last_code(&self) -> (String, String) {
        let letters = self.letters.lock().unwrap();
        let letter = letters.last().unwrap();
        let after = |start: &str| letter.split(start).nth(1).unwrap().lines().next().unwrap().trim().to_owned();
        (after(" is "), after("To: "))
    }
}

pub async fn start() -> (Daemon, MailServer) {
    let post = MailServer::start().await;
    let flags = ["--smtp-host", "127.0.0.1", "--smtp-port", &post.port, "--smtp-from", "Us <us@example.org>"];
    (Daemon::with_flags(&flags).await, post)
}

pub async fn request_code(daemon: &Daemon, token: &str, contact: &str) -> String {
    let path = if token.is_empty() { "/user-svc/otp/send" } else { "/user-svc/self/contact" };
    let answer = daemon.call("POST", path, token, json!({ "contactId": contact, "contactPlatform": "email" })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["otpId"].as_str().unwrap().to_owned()
}

pub async fn contacts(daemon: &Daemon, token: &str) -> Vec<Value> {
    let own = daemon.call("POST", "/user-svc/self", token, Value::Null).await.json();
    own["contacts"].as_array().cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_registration_with_the_code_has_a_verified_contact() {
    let (daemon, post) = start().await;
    let id = request_code(&daemon, "", "Ann@Example.org").await;
    let (code, to) = post.last_code();
    assert_eq!((code.len(), to.as_str()), (6, "Ann@example.org"));
    let register = |slug: &str, contact: &str, id: &str, code: &str| {
        let contact = json!({ "id": contact, "otpId": id, "otpCode": code });
        json!({ "slug": slug, "password": "pass", "contact": contact })
    };
    let other = daemon.call("POST", "/user-svc/register", "", register("eve", "eve@example.org", &id, &code)).await;
    assert_eq!(other.status, 400, "a code is valid for one contact: {}", other.text);
    let ann = daemon.call("POST", "/user-svc/register", "", register("ann", "ann@example.org", &id, &code)).await;
    assert_eq!(ann.status, 200, "{}", ann.text);
    let own = contacts(&daemon, &token_of(&ann)).await;
    assert_eq!((&own[0]["verified"], &own[0]["platform"]), (&json!(true), &json!("email")));
    let again = daemon.call("POST", "/user-svc/register", "", register("bob", "ann@example.org", &id, &code)).await;
    assert_eq!(again.status, 400, "used up: {}", again.text);
    assert!(daemon.login("bob", "pass", "").await.error().contains("Slug not found"), "no account was created");
}

#[tokio::test]
async fn who_shows_that_a_contact_is_its_own_has_it() {
    let (daemon, post) = start().await;
    // An admin can set the contact of an account, which does not verify it.
    let said = json!({ "user": { "slug": "squatter", "name": "S" }, "password": "pass",
        "contacts": [{ "value": "ann@example.org", "verified": true }] });
    assert_eq!(daemon.call("POST", "/user-svc/user", &daemon.admin().await, said).await.status, 200);
    let squatter = token_of(&daemon.login("squatter", "pass", "").await);
    assert!(contacts(&daemon, &squatter).await[0]["verified"].is_null());
    let ann = daemon.register("ann").await;
    let id = request_code(&daemon, &ann, "Ann@example.org").await;
    let (code, to) = post.last_code();
    assert_eq!(to, "Ann@example.org", "a code verifies only the address that it was sent to");
    let body = json!({ "otpId": id, "otpCode": code });
    assert_eq!(daemon.call("PUT", "/user-svc/self/contact", &ann, body).await.status, 200);
    assert!(contacts(&daemon, &squatter).await.is_empty(), "an unverified claim is removed");
    assert_eq!(contacts(&daemon, &ann).await.len(), 1);
    daemon.clock.advance(3600);
    let id = request_code(&daemon, &squatter, "ann@example.org").await;
    let body = json!({ "otpId": id, "otpCode": post.last_code().0 });
    assert_eq!(daemon.call("PUT", "/user-svc/self/contact", &squatter, body).await.status, 409);

    let path = "/user-svc/self/contact/ann@example.org";
    assert_eq!(daemon.call("DELETE", path, &squatter, Value::Null).await.status, 404);
    assert_eq!(daemon.call("DELETE", path, &ann, Value::Null).await.status, 200);
    assert!(contacts(&daemon, &ann).await.is_empty());
    let body = json!({ "slug": "free", "password": "pass", "contact": { "value": "ann@example.org" } });
    assert_eq!(daemon.call("POST", "/user-svc/register", "", body).await.status, 200, "it is free again");
}

#[tokio::test]
async fn a_role_waits_for_whoever_shows_that_a_contact_is_its_own() {
    let (daemon, post) = start().await;
    let shop = daemon.register("shop-svc").await;
    daemon.call("POST", "/user-svc/role", &shop, json!({ "id": "shop-svc:clerk", "name": "Clerk" })).await;
    let enroll = |contact: &str, role: &str| json!({ "enrolls": [{ "contactId": contact, "role": role }] });
    let save = async |body: Value| daemon.call("PUT", "/user-svc/enrolls", &shop, body).await;
    for contact in ["ann@example.org", "bob@example.org", "eve@example.org"] {
        assert_eq!(save(enroll(contact, "shop-svc:clerk")).await.status, 200);
    }
    assert_eq!(save(enroll("ann@example.org", "user-svc:admin")).await.status, 403);
    assert_eq!(save(enroll("", "shop-svc:clerk")).await.status, 400);
    let listed = daemon.call("POST", "/user-svc/enrolls", &shop, json!({ "role": "shop-svc:clerk" })).await.json();
    assert_eq!(listed["enrolls"].as_array().unwrap().len(), 3);
    let of_eve =
        listed["enrolls"].as_array().unwrap().iter().find(|one| one["contactId"] == "eve@example.org").unwrap();
    let path = format!("/user-svc/enroll/{}", of_eve["id"].as_str().unwrap());
    assert_eq!(daemon.call("DELETE", &path, &daemon.register("dan").await, Value::Null).await.status, 404);
    assert_eq!(daemon.call("DELETE", &path, &shop, Value::Null).await.status, 200);

    let roles =
        async |token: &str| daemon.call("POST", "/user-svc/self", token, Value::Null).await.json()["roles"].clone();
    // At registration or later, but not for an unverified claim.
    let id = request_code(&daemon, "", "Ann@Example.org").await;
    let contact = json!({ "id": "ann@example.org", "otpId": id, "otpCode": post.last_code().0 });
    let ann = json!({ "slug": "ann", "password": "pass", "contact": contact });
    let ann = token_of(&daemon.call("POST", "/user-svc/register", "", ann).await);
    assert_eq!(roles(&ann).await, json!(["shop-svc:clerk", "user-svc:user"]));
    let liar = json!({ "slug": "liar", "password": "pass", "contact": { "value": "bob@example.org" } });
    let liar = token_of(&daemon.call("POST", "/user-svc/register", "", liar).await);
    assert_eq!(roles(&liar).await, json!(["user-svc:user"]));
    for (name, contact, want) in [
        ("bob", "bob@example.org", json!(["shop-svc:clerk", "user-svc:user"])),
        ("eve", "eve@example.org", json!(["user-svc:user"])),
    ] {
        let token = daemon.register(name).await;
        let id = request_code(&daemon, &token, contact).await;
        let body = json!({ "otpId": id, "otpCode": post.last_code().0 });
        assert_eq!(daemon.call("PUT", "/user-svc/self/contact", &token, body).await.status, 200);
        assert_eq!(roles(&token).await, want, "{name}");
    }
    // An account that already has the role keeps its existing assignment.
    let (admin, carl) = (daemon.admin().await, daemon.register("carl").await);
    let carl_id = crate::support::id_of(&carl);
    let by_admin = json!({ "enrolls": [{ "userId": carl_id, "role": "shop-svc:clerk" }] });
    let by_admin = daemon.call("PUT", "/user-svc/enrolls", &admin, by_admin).await.json();
    assert_eq!(save(enroll("carl@example.org", "shop-svc:clerk")).await.status, 200);
    let id = request_code(&daemon, &carl, "carl@example.org").await;
    let body = json!({ "otpId": id, "otpCode": post.last_code().0 });
    assert_eq!(daemon.call("PUT", "/user-svc/self/contact", &carl, body).await.status, 200);
    let own = json!({ "userId": carl_id, "role": "shop-svc:clerk" });
    let own = daemon.call("POST", "/user-svc/enrolls", &carl, own).await.json();
    assert_eq!(own["enrolls"], by_admin["enrolls"]);
    // If the contact is already verified, the role is assigned immediately.
    daemon.call("POST", "/user-svc/role", &shop, json!({ "id": "shop-svc:boss", "name": "Boss" })).await;
    let given = save(enroll("ANN@Example.org", "shop-svc:boss")).await.json();
    assert!(roles(&ann).await.as_array().unwrap().contains(&json!("shop-svc:boss")));
    // The answer does not reveal whose contact it is, or whether it is anyone's.
    let nobody = save(enroll("nobody@example.org", "shop-svc:boss")).await.json();
    let fields = |answer: &Value| answer["enrolls"][0].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((fields(&given), given["enrolls"][0]["userId"].as_str()), (fields(&nobody), None));
    let own = daemon.call("POST", "/user-svc/self", &ann, Value::Null).await.json();
    for by in [json!({ "role": "shop-svc:boss" }), json!({ "role": "shop-svc:clerk" })] {
        let listed = daemon.call("POST", "/user-svc/enrolls", &shop, by).await.text;
        let id = own["user"]["id"].as_str().unwrap();
        assert!(listed.contains("ann@example.org") && !listed.contains(&format!("\"userId\":\"{id}")), "{listed}");
    }
    for given in [&given, &nobody] {
        let path = format!("/user-svc/enroll/{}", given["enrolls"][0]["id"].as_str().unwrap());
        assert_eq!(daemon.call("DELETE", &path, &shop, Value::Null).await.status, 200);
        assert_eq!(daemon.call("DELETE", &path, &shop, Value::Null).await.status, 404);
    }
    assert!(!roles(&ann).await.as_array().unwrap().contains(&json!("shop-svc:boss")));
}

#[tokio::test]
async fn how_many_roles_a_contact_is_given_tells_nobody_whose_it_is() {
    let (daemon, post) = start().await;
    let (shop, ann) = (daemon.register("shop-svc").await, daemon.register("ann").await);
    let id = request_code(&daemon, &ann, "ann@example.org").await;
    let shown = json!({ "otpId": id, "otpCode": post.last_code().0 });
    assert_eq!(daemon.call("PUT", "/user-svc/self/contact", &ann, shown).await.status, 200);
    for n in 0..=100 {
        daemon.call("POST", "/user-svc/role", &shop, json!({ "id": format!("shop-svc:r{n}"), "name": "R" })).await;
    }
    let give = async |who: &str, name: &str, numbers: std::ops::RangeInclusive<usize>| {
        let enroll = |n: usize| json!({ who: name, "role": format!("shop-svc:r{n}") });
        let body = json!({ "enrolls": numbers.map(enroll).collect::<Vec<_>>() });
        let answer = daemon.call("PUT", "/user-svc/enrolls", &shop, body).await;
        (answer.status.as_u16(), answer.text)
    };
    let roles = async || {
        let own = daemon.call("POST", "/user-svc/self", &ann, Value::Null).await.json();
        own["roles"].as_array().unwrap().len()
    };
    // After all that may be given by account id, an assignment by contact reveals no more than for an unknown contact.
    assert_eq!(give("userId", &crate::support::id_of(&ann), 0..=99).await.0, 200);
    let told = async |contact: &str| {
        let given = give("contactId", contact, 0..=99).await;
        let again = give("contactId", contact, 0..=99).await;
        assert_eq!(
            (given.0, again.0),
            (200, 200),
            "repeating it succeeds too, as at each start of a service: {}",
            again.1
        );
        let over = give("contactId", contact, 100..=100).await;
        assert!(over.1.contains("100 roles by one contact"), "{}", over.1);
        let asked = json!({ "contactId": contact, "role": "shop-svc:r7" });
        let listed = daemon.call("POST", "/user-svc/enrolls", &shop, asked).await;
        let id = listed.json()["enrolls"][0]["id"].as_str().unwrap().to_owned();
        let gone = daemon.call("DELETE", &format!("/user-svc/enroll/{id}"), &shop, Value::Null).await;
        let texts = [given.1, over.1, listed.text.replace(&id, "id")].map(|text| text.replace(contact, "contact"));
        (over.0, gone.status, texts.map(|text| without_ids(&text)))
    };
    assert_eq!(told("ann@example.org").await, told("nobody@example.org").await);
    assert_eq!(roles().await, 101);
    // Nor is it revealed by what can be revoked by account id.
    daemon.call("POST", "/user-svc/role", &shop, json!({ "id": "shop-svc:s", "name": "S" })).await;
    let bob = daemon.register("bob").await;
    let id = request_code(&daemon, &bob, "bob@example.org").await;
    let shown = json!({ "otpId": id, "otpCode": post.last_code().0 });
    assert_eq!(daemon.call("PUT", "/user-svc/self/contact", &bob, shown).await.status, 200);
    let bob_id = crate::support::id_of(&bob);
    let taken = async |contact: &str| {
        let give = async |who: &str, name: &str| {
            let body = json!({ "enrolls": [{ who: name, "role": "shop-svc:s" }] });
            let given = daemon.call("PUT", "/user-svc/enrolls", &shop, body).await;
            given.json()["enrolls"][0]["id"].as_str().unwrap().to_owned()
        };
        let take = async |id: &str| {
            daemon.call("DELETE", &format!("/user-svc/enroll/{id}"), &shop, Value::Null).await.status.as_u16()
        };
        let has_it = async || {
            let own = daemon.call("POST", "/user-svc/self", &bob, Value::Null).await.json();
            own["roles"].as_array().unwrap().contains(&json!("shop-svc:s"))
        };
        let by_contact = give("contactId", contact).await;
        let by_id = format!("unnamed:{bob_id}:shop-svc:s");
        let before = take(&by_id).await;
        assert_eq!(give("userId", &bob_id).await, by_id);
        assert!(has_it().await);
        let after = (take(&by_id).await, take(&by_contact).await, take(&by_contact).await);
        assert!(!has_it().await);
        (before, after)
    };
    assert_eq!(taken("bob@example.org").await, (404, (200, 200, 404)));
    assert_eq!(taken("nobody@example.org").await, (404, (200, 200, 404)));
}

#[tokio::test]
async fn what_an_account_begins_with_is_not_had_by_the_word_of_another_instead() {
    let (daemon, post) = start().await;
    let (shop, admin) = (daemon.register("shop-svc").await, daemon.admin().await);
    daemon.call("POST", "/user-svc/role", &shop, json!({ "id": "shop-svc:clerk", "name": "C" })).await;
    let waits = json!({ "enrolls": [{ "contactId": "eve@example.org", "role": "shop-svc:clerk" }] });
    assert_eq!(daemon.call("PUT", "/user-svc/enrolls", &shop, waits).await.status, 200);
    let invited = json!({ "roleIds": ["shop-svc:clerk"] });
    let invited = daemon.call("POST", "/user-svc/invitation", &admin, invited).await.json();
    let id = request_code(&daemon, "", "eve@example.org").await;
    let contact = json!({ "id": "eve@example.org", "otpId": id, "otpCode": post.last_code().0 });
    let code = &invited["invitation"]["code"];
    let body = json!({ "slug": "eve", "password": "pass", "contact": contact, "invitation": code });
    let eve = token_of(&daemon.call("POST", "/user-svc/register", "", body).await);
    let asked = json!({ "userId": crate::support::id_of(&eve) });
    let own = daemon.call("POST", "/user-svc/enrolls", &eve, asked).await.json();
    let own = own["enrolls"].as_array().unwrap();
    assert!(own.len() == 1 && own[0]["createdBy"].is_null(), "{own:?}");
}

/// Ids of enrolls for contacts are digests.
fn without_ids(text: &str) -> String {
    text.split('"').map(|part| if part.starts_with("contact:") { "id" } else { part }).collect()
}

#[tokio::test]
async fn without_a_mail_server_the_setting_is_named_and_bad_addresses_are_refused() {
    let daemon = Daemon::start().await;
    let answer = daemon.call("POST", "/user-svc/otp/send", "", json!({ "contactId": "a@b.c" })).await;
    assert!(answer.status == 409 && answer.error().contains("OPENORCH_SMTP_HOST"), "{}", answer.text);
    let (daemon, post) = start().await;
    for body in [
        json!({}),
        json!({ "contactId": "no address" }),
        json!({ "contactId": "a@b.c\r\nBcc: x@y.z" }),
        json!({ "contactId": "a@b.c", "contactPlatform": "phone" }),
        json!({ "contactId": format!("{}@b.c", "a".repeat(400)) }),
    ] {
        assert_eq!(daemon.call("POST", "/user-svc/otp/send", "", body.clone()).await.status, 400, "{body}");
    }
    assert!(post.letters.lock().unwrap().is_empty());
    let told = crate::process::expect_start_failure(
        crate::process::command(daemon.data_dir.path()).args(["--smtp-host", "mail.example.org"]),
    );
    assert!(told.contains("OPENORCH_SMTP_FROM"), "{told}");
}

#[tokio::test]
async fn a_code_or_a_password_signs_in_by_a_contact_that_is_verified() {
    let (daemon, post) = start().await;
    let id = request_code(&daemon, "", "ann@example.org").await;
    let contact = |id: &str, code: &str| json!({ "id": "Ann@example.org", "otpId": id, "otpCode": code });
    let first = json!({ "slug": "ann", "password": "pass", "contact": contact(&id, &post.last_code().0) });
    assert_eq!(daemon.call("POST", "/user-svc/register", "", first).await.status, 200);
    let login = async |body: Value| daemon.call("POST", "/user-svc/login", "", body).await;
    let by_password = login(json!({ "contact": "ANN@example.org", "password": "pass" })).await;
    assert_eq!(by_password.status, 200, "{}", by_password.text);

    // A code sent to the contact of an account is for sign-in only and does not register another account.
    daemon.clock.advance(61);
    let id = request_code(&daemon, "", "ann@example.org").await;
    let code = post.last_code().0;
    let other = json!({ "slug": "bob", "password": "pass", "contact": contact(&id, &code) });
    assert_eq!(daemon.call("POST", "/user-svc/register", "", other).await.status, 409);
    let wrong = format!("{:06}", (code.parse::<u32>().unwrap() + 1) % 1_000_000);
    assert_eq!(login(json!({ "contact": contact(&id, &wrong) })).await.status, 400);
    let by_code = login(json!({ "contact": contact(&id, &code), "device": "phone" })).await;
    assert_eq!(by_code.status, 200, "{}", by_code.text);
    assert_eq!(by_code.json()["token"]["userId"], by_password.json()["token"]["userId"]);
    assert_eq!(login(json!({ "contact": contact(&id, &code) })).await.status, 400, "used up");

    // An unverified contact does not sign in to its account, and the response does not distinguish it from an unknown
    // one.
    let eve = json!({ "slug": "eve", "password": "pass", "contact": { "id": "eve@example.org" } });
    assert_eq!(daemon.call("POST", "/user-svc/register", "", eve).await.status, 200);
    let id = request_code(&daemon, "", "eve@example.org").await;
    let body = json!({ "contact": { "id": "eve@example.org", "otpId": id, "otpCode": post.last_code().0 } });
    assert_eq!(login(body).await.status, 400, "that code is for registration");
    for unknown in ["eve@example.org", "nobody@example.org"] {
        let answer = login(json!({ "contact": unknown, "password": "pass" })).await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (401, "Invalid password"), "{unknown}");
    }
    let long = login(json!({ "contact": "x".repeat(100_000), "password": "pass" })).await;
    assert_eq!(long.status, 400, "{}", long.text);
    // Guesses by slug do not affect guesses by contact, which would reveal whose contact it is.
    for _ in 0..8 {
        login(json!({ "slug": "ann", "password": "guess" })).await;
    }
    assert_eq!(login(json!({ "slug": "ann", "password": "guess" })).await.status, 429);
    assert_eq!(login(json!({ "contact": "ann@example.org", "password": "guess" })).await.status, 401);
    // Guesses for unknown contacts are throttled like those for existing accounts.
    let mut limited = 0;
    for _ in 0..8 {
        limited +=
            u32::from(login(json!({ "contact": "nobody@example.org", "password": "guess" })).await.status == 429);
    }
    assert!(limited > 0);
}

#[tokio::test]
async fn a_blank_contact_is_nobodys() {
    let daemon = Daemon::start().await;
    let (admin, ann) = (daemon.admin().await, daemon.register("ann").await);
    daemon.call("POST", "/user-svc/role", &ann, json!({ "id": "ann:guest" })).await;
    for (method, path, token, body) in [
        ("POST", "/user-svc/register", "", json!({ "slug": "eve", "password": "pass", "contact": { "value": " " } })),
        (
            "POST",
            "/user-svc/user",
            &admin,
            json!({ "user": { "slug": "eve", "name": "Eve", "contacts": [{ "value": " " }] } }),
        ),
        ("PUT", "/user-svc/enrolls", &ann, json!({ "enrolls": [{ "contactId": " ", "role": "ann:guest" }] })),
    ] {
        let answer = daemon.call(method, path, token, body).await;
        assert!(answer.status == 400 && answer.error().ends_with("is blank"), "{path}: {}", answer.text);
    }
    assert!(daemon.login("eve", "pass", "").await.error().contains("Slug not found"), "no account was created");
}

#[tokio::test]
async fn what_is_sent_too_often_says_to_programs_too_when_to_try_again() {
    let (daemon, post) = start().await;
    request_code(&daemon, "", "ann@example.org").await;
    let send = async |daemon: &Daemon| {
        let answer = daemon.call("POST", "/user-svc/otp/send", "", json!({ "contactId": "ann@example.org" })).await;
        (answer.status.as_u16(), answer.headers["retry-after"].to_str().unwrap().to_owned())
    };
    assert_eq!(send(&daemon).await, (429, "60".to_owned()));
    drop(post);
    // A code counts toward the limit even if the mail server was unreachable.
    let away =
        Daemon::with_flags(&["--smtp-host", "127.0.0.1", "--smtp-port", "1", "--smtp-from", "us@example.org"]).await;
    assert_eq!(send(&away).await, (503, "60".to_owned()));
    assert_eq!(send(&away).await, (429, "60".to_owned()));
}
