//! Contacts: who learns whose they are, and which addresses get mail.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::{
    contacts::{contacts, request_code, start},
    support::{Daemon, status, token_of},
};

async fn register(daemon: &Daemon, slug: &str, contact: Value) -> crate::support::Answer {
    let body = json!({ "slug": slug, "password": "pass", "contact": contact });
    daemon.call("POST", "/user-svc/register", "", body).await
}

#[tokio::test]
async fn w64_no_answer_tells_a_stranger_whether_a_contact_is_somebodys() {
    let (daemon, post) = start().await;
    let id = request_code(&daemon, "", "ann@example.org").await;
    let shown = json!({ "value": "ann@example.org", "otpId": id, "otpCode": post.last_code().0 });
    let ann = token_of(&register(&daemon, "ann", shown).await);
    assert_eq!(contacts(&daemon, &ann).await.len(), 1);
    // An unverified contact in a registration is neither attached nor reported, whether it is taken or not.
    for (slug, contact) in
        [("eve", "ann@example.org"), ("mallory", "nobody@example.org"), ("trudy", "nobody@example.org")]
    {
        let answer = register(&daemon, slug, json!({ "value": contact, "verified": true })).await;
        assert_eq!(answer.status, 200, "{contact}: {}", answer.text);
        let token = token_of(&answer);
        assert!(contacts(&daemon, &token).await.is_empty(), "{contact}");
    }
    // Nor does an invalid code reveal anything.
    daemon.clock.advance(61);
    let mut told = Vec::new();
    for contact in ["ann@example.org", "nobody@example.org"] {
        let id = request_code(&daemon, "", contact).await;
        let code = post.last_code().0;
        let wrong = if code == "000000" { "000001" } else { "000000" };
        let answer = register(&daemon, "late", json!({ "value": contact, "otpId": id, "otpCode": wrong })).await;
        let asked = daemon.call("POST", "/user-svc/otp/send", "", json!({ "contactId": contact })).await;
        let login = json!({ "contact": contact, "password": "guess" });
        let login = daemon.call("POST", "/user-svc/login", "", login).await;
        told.push([answer, asked, login].map(|answer| (answer.status.as_u16(), answer.error())));
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0][0].0, 400, "{told:?}");
}

#[tokio::test]
async fn w65_an_address_that_no_mail_can_be_sent_to_is_refused_with_a_sentence() {
    let (daemon, _post) = start().await;
    let ann = daemon.register("ann").await;
    let long = format!("{}@example.org", "a".repeat(65));
    for contact in [
        r#""a b"@example.org"#,
        "a@[127.0.0.1]",
        "a@[IPv6:::1]",
        "a@127.0.0.1",
        "Ann <ann@example.org>",
        "ann@example.org,eve@example.org",
        "ann@example.org\r\nBcc: eve@example.org",
        "a\u{85}nn@example.org",
        "a\u{202e}nn@example.org",
        "ann@exa_mple.org",
        "ann@example..org",
        "ann@.org",
        "@example.org",
        "ann@",
        "ann",
        "a b@example.org",
        "ann(comment)@example.org",
        &long,
    ] {
        for (path, token) in [("/user-svc/otp/send", ""), ("/user-svc/self/contact", &*ann)] {
            let answer = daemon.call("POST", path, token, json!({ "contactId": contact })).await;
            assert!(answer.status == 400 && answer.error().contains("contactId"), "{contact}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn w66_a_code_goes_to_the_address_that_was_typed_and_shows_no_other() {
    let (daemon, post) = start().await;
    let ann = daemon.register("ann").await;
    let shows = async |token: &str, typed: &str, sent_to: &str| {
        daemon.clock.advance(61);
        let id = request_code(&daemon, token, typed).await;
        let (code, to) = post.last_code();
        assert_eq!(to, sent_to);
        let body = json!({ "otpId": id, "otpCode": code });
        daemon.call("PUT", "/user-svc/self/contact", token, body).await.status.as_u16()
    };
    // Some servers deliver `first+last` to `first`, others do not, so it counts as another mailbox.
    assert_eq!(shows(&ann, "First+Last@Example.org", "First+Last@example.org").await, 200);
    let first = daemon.register("first").await;
    assert_eq!(shows(&first, "first@example.org", "first@example.org").await, 200, "another mailbox");
    assert_eq!(shows(&first, "first+last@EXAMPLE.org", "first+last@example.org").await, 409, "the same mailbox");
    // The Kelvin sign is not a `k`, and a domain is the same in Unicode and in Punycode.
    let mike = daemon.register("mike").await;
    assert_eq!(shows(&mike, "mike@b\u{fc}cher.example", "mike@xn--bcher-kva.example").await, 200);
    let login = async |contact: &str| {
        let body = json!({ "contact": contact, "password": "pass" });
        daemon.call("POST", "/user-svc/login", "", body).await.status.as_u16()
    };
    for (contact, status) in [
        ("first+last@example.org", 200),
        ("MIKE@B\u{dc}CHER.example", 200),
        ("mike@xn--bcher-kva.example", 200),
        ("mi\u{212a}e@b\u{fc}cher.example", 401),
        ("first+other@example.org", 401),
    ] {
        assert_eq!(login(contact).await, status, "{contact}");
    }
    // Tags do not circumvent the limits.
    let mut statuses = Vec::new();
    for n in 0..8 {
        statuses.push(login(&format!("mike+{n}@b\u{fc}cher.example")).await);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    let asked = json!({ "contactId": "first+again@example.org" });
    assert_eq!(daemon.call("POST", "/user-svc/otp/send", "", asked.clone()).await.status, 200);
    let asked = json!({ "contactId": "first+more@example.org" });
    assert_eq!(daemon.call("POST", "/user-svc/otp/send", "", asked).await.status, 429);
}

#[tokio::test]
async fn w88_a_wrong_code_is_told_the_same_whether_a_contact_is_somebodys_or_not() {
    let (daemon, post) = start().await;
    let ann = daemon.register("ann").await;
    let id = request_code(&daemon, &ann, "ann@example.org").await;
    let shown = json!({ "otpId": id, "otpCode": post.last_code().0 });
    assert_eq!(daemon.call("PUT", "/user-svc/self/contact", &ann, shown).await.status, 200);
    daemon.clock.advance(61);
    let sign_in = async |contact: &str, id: &str, code: &str| {
        let contact = json!({ "value": contact, "otpId": id, "otpCode": code });
        daemon.call("POST", "/user-svc/login", "", json!({ "contact": contact })).await
    };
    let mut told = Vec::new();
    for contact in ["ann@example.org", "nobody@example.org"] {
        let id = request_code(&daemon, "", contact).await;
        let code = post.last_code().0;
        let wrong = if code == "000000" { "000001" } else { "000000" };
        let mut answers = Vec::new();
        for _ in 0..6 {
            let answer = sign_in(contact, &id, wrong).await;
            answers.push((answer.status.as_u16(), answer.error()));
        }
        answers.push((
            400,
            register(&daemon, "late", json!({ "value": contact, "otpId": id, "otpCode": wrong })).await.error(),
        ));
        told.push(answers);
        // Attempts are counted for both contacts: the right code is no longer accepted.
        assert_eq!(sign_in(contact, &id, &code).await.status, 400);
    }
    assert_eq!(told[0], told[1]);
    assert!(told[0][0].1.contains("4 attempts left"), "{told:?}");
    // The recipient learns what the code is for.
    daemon.clock.advance(61);
    let id = request_code(&daemon, "", "nobody@example.org").await;
    let refused = sign_in("nobody@example.org", &id, &post.last_code().0).await;
    assert!(refused.status == 400 && refused.error().contains("register an account"), "{}", refused.text);
    assert_eq!(
        register(&daemon, "new", json!({ "value": "nobody@example.org", "otpId": id, "otpCode": post.last_code().0 }))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn w97_who_signs_in_with_a_contact_gets_codes_though_strangers_ask_for_them_too() {
    let post = crate::contacts::MailServer::start().await;
    let flags = ["--smtp-host", "127.0.0.1", "--smtp-port", post.port(), "--smtp-from", "us@example.org"];
    let proxied = ["--trusted-proxies", "127.0.0.0/8", "--registration", "open"];
    let daemon = Daemon::with_flags(&[&flags[..], &proxied[..]].concat()).await;
    let admin = daemon.admin().await;
    let change = json!({ "currentPassword": "changeme", "newPassword": "another one" });
    assert_eq!(daemon.call("POST", "/user-svc/change-password", &admin, change).await.status, 200);
    let from = async |address: &str, path: &str, token: &str, body: Value| {
        daemon.send("POST", path, token, body.to_string().into_bytes(), &[("x-forwarded-for", address)]).await
    };
    let send = json!({ "contactId": "ann@example.org" });
    let id = from("192.0.2.1", "/user-svc/otp/send", "", send.clone()).await.json()["otpId"].clone();
    let contact = json!({ "value": "ann@example.org", "otpId": id, "otpCode": post.last_code().0 });
    let ann = json!({ "slug": "ann", "password": "long enough", "contact": contact });
    assert_eq!(from("192.0.2.1", "/user-svc/register", "", ann).await.status, 200);
    let sign_in = async |address: &str| {
        let sent = from(address, "/user-svc/otp/send", "", send.clone()).await;
        if sent.status != 200 {
            return sent.status.as_u16();
        }
        let contact =
            json!({ "value": "ann@example.org", "otpId": sent.json()["otpId"], "otpCode": post.last_code().0 });
        from(address, "/user-svc/login", "", json!({ "contact": contact })).await.status.as_u16()
    };
    daemon.clock.advance(61);
    assert_eq!(sign_in("192.0.2.1").await, 200);
    let mut refused = 0;
    for n in 0..12 {
        daemon.clock.advance(61);
        let (stranger, asked) = (format!("198.51.100.{n}"), json!({ "contactId": "ann+x@example.org" }));
        refused += usize::from(from(&stranger, "/user-svc/otp/send", "", asked).await.status == 429);
    }
    assert!(refused > 0, "the number of codes per contact and hour is limited");
    assert_eq!(sign_in("203.0.113.9").await, 429, "from an unknown address");
    assert_eq!(sign_in("192.0.2.1").await, 200);
}

#[tokio::test]
async fn w164_a_mail_server_that_never_ends_its_line_or_offers_no_encryption_is_at_fault_itself() {
    let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let endless = openorch_test_support::wire::listen({
        let taken = taken.clone();
        move |mut stream, _| {
            let taken = taken.clone();
            async move {
                stream.send("220 ").await;
                // More in total than one message may use; it stops when the connection closes.
                while taken.fetch_add(64, Ordering::Relaxed) < 1 << 18 && stream.send(&"a".repeat(64 << 10)).await {}
            }
        }
    });
    let (endless, post) = (endless.await.port().to_string(), crate::contacts::MailServer::start().await);
    for (port, security) in [(&*endless, "none"), (post.port(), "starttls")] {
        let from = ["--smtp-from", "us@example.org", "--smtp-security", security];
        let daemon =
            Daemon::with_flags(&[&["--smtp-host", "127.0.0.1", "--smtp-port", port], &from[..]].concat()).await;
        let send = json!({ "contactId": "ann@example.org" });
        let answer = daemon.call("POST", "/user-svc/otp/send", "", send).await;
        assert_eq!(answer.status, 503, "{security}: {}", answer.text);
        assert_eq!(answer.json()["code"], "user.mail_not_taken", "{security}");
    }
    // Includes the buffers of the connection.
    let taken = taken.load(Ordering::Relaxed);
    assert!(taken < 64 << 10, "{taken} KiB were read");
}

#[tokio::test]
async fn w165_strangers_who_ask_for_codes_keep_none_from_who_is_signed_in() {
    let post = crate::contacts::MailServer::start().await;
    let flags = ["--smtp-host", "127.0.0.1", "--smtp-port", post.port(), "--smtp-from", "us@example.org"];
    let daemon = Daemon::with_flags(&[&flags[..], &["--trusted-proxies", "127.0.0.0/8"]].concat()).await;
    let (admin, ann, eve) = (daemon.admin().await, daemon.register("ann").await, daemon.register("eve").await);
    let change = json!({ "currentPassword": "changeme", "newPassword": "another one" });
    assert_eq!(status(&daemon, "POST", "/user-svc/change-password", &admin, change).await, 200);
    let ask = async |address: &str, path: &str, token: &str| {
        let body = json!({ "contactId": "ann@example.org" }).to_string().into_bytes();
        daemon.send("POST", path, token, body, &[("x-forwarded-for", address)]).await.status.as_u16()
    };
    for n in 0..10 {
        assert_eq!(ask(&format!("2001:db8:0:{n}::1"), "/user-svc/otp/send", "").await, 200);
    }
    assert_eq!(ask("192.0.2.1", "/user-svc/otp/send", "").await, 429);
    // Nor can another account.
    let mut as_eve = Vec::new();
    for n in 2..6 {
        as_eve.push(ask(&format!("192.0.2.{n}"), "/user-svc/self/contact", &eve).await);
    }
    assert_eq!(as_eve, [200, 200, 200, 429]);
    assert_eq!(ask("192.0.2.1", "/user-svc/self/contact", &ann).await, 200);
}
