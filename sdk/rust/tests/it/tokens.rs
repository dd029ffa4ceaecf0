//! Token verification and permission checks: key rotation, invalid tokens, and caching of positive results. Time is
//! advanced, not waited for.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeySize, PublicKeyComponents},
    signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use openorch_sdk::{
    ClientFactory, Error,
    http::HeaderMap,
    service::{PermissionGuard, TokenVerifier},
};
use openorch_test_support::{
    gate,
    stub::{self, Stub},
};
use serde_json::{Value, json};

use crate::until;

/// A key that signs tokens like the daemon.
struct Signer {
    id: String,
    pair: RsaKeyPair,
}

impl Signer {
    fn new(id: &str) -> Signer {
        Signer { id: id.into(), pair: RsaKeyPair::generate(KeySize::Rsa2048).unwrap() }
    }

    fn jwk(&self) -> Value {
        let public: PublicKeyComponents<Vec<u8>> = self.pair.public_key().into();
        let (n, e) = (URL_SAFE_NO_PAD.encode(public.n), URL_SAFE_NO_PAD.encode(public.e));
        json!({ "kid": self.id, "kty": "RSA", "alg": "RS256", "use": "sig", "n": n, "e": e })
    }

    fn sign(&self, head: Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&head), part(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(json!({ "alg": "RS256", "typ": "JWT", "kid": self.id }), claims)
    }
}

/// The claims of joe's token for `a-svc`, with a lifetime in seconds.
#[expect(clippy::disallowed_methods, reason = "token expiry is wall-clock time")]
fn claims(lifetime: i64) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    json!({
        "oui": "usr_1", "olu": "joe", "ori": ["user-svc:user"], "iss": "openorch", "iat": now, "jti": "t", "sid": "s",
        "exp": now + lifetime, "aud": "a-svc",
    })
}

fn with(mut claims: Value, key: &str, value: Value) -> Value {
    claims[key] = value;
    claims
}

/// A daemon that serves these keys, or fails while there are none, and allows joe everything if `allowed`.
fn daemon(keys: &Arc<Mutex<Option<Vec<Value>>>>, allowed: bool) -> Stub {
    let keys = Arc::clone(keys);
    Stub::new(move |request| match (request.target.ends_with("jwks.json"), &*keys.lock().unwrap()) {
        (true, Some(keys)) => stub::json(200, &json!({ "keys": keys }).to_string()),
        (true, None) => stub::json(500, r#"{"error":"the store is away"}"#),
        (false, _) if allowed => stub::json(200, r#"{"authorized":true,"user":{"slug":"joe"}}"#),
        (false, _) => stub::json(401, r#"{"error":"Unauthorized"}"#),
    })
}

fn keys(signers: &[&Signer]) -> Arc<Mutex<Option<Vec<Value>>>> {
    Arc::new(Mutex::new(Some(signers.iter().map(|signer| signer.jwk()).collect())))
}

fn verifier(stub: &Stub) -> TokenVerifier {
    TokenVerifier::new(ClientFactory::new(&stub.url).unwrap().client().with_token("own").unwrap(), "a-svc")
}

/// Advances the Tokio clock. It runs in between, so that connections do not time out.
async fn advance_clock(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

fn request_count(stub: &Stub, what: &str) -> usize {
    stub.requests().iter().filter(|request| request.target.contains(what)).count()
}

#[tokio::test]
async fn a_token_says_who_calls_without_the_daemon_being_asked_each_time() {
    let signer = Signer::new("k1");
    let stub = daemon(&keys(&[&signer]), true);
    let check = verifier(&stub);
    for _ in 0..3 {
        let caller = check.verify(&signer.token(&claims(60))).await.unwrap();
        assert_eq!(
            (caller.slug(), caller.user_id(), caller.roles()),
            ("joe", "usr_1", &["user-svc:user".to_owned()][..])
        );
        assert!(!format!("{caller:?}").contains("ey"));
    }
    assert_eq!(stub.requests().len(), 1);
    assert_eq!(stub.requests()[0].header("authorization"), None, "keys are public, so the service's token is not sent");

    let mut request = HeaderMap::new();
    assert!(check.authenticate(&request).await.unwrap_err().to_string().contains("has no token"));
    for scheme in ["Bearer ", "bearer ", ""] {
        request.insert("authorization", format!("{scheme}{}", signer.token(&claims(60))).parse().unwrap());
        assert_eq!(check.authenticate(&request).await.unwrap().slug(), "joe");
    }
}

#[tokio::test]
async fn a_token_that_is_not_good_is_refused_with_the_reason() {
    let (signer, other) = (Signer::new("k1"), Signer::new("k1"));
    let stub = daemon(&keys(&[&signer]), true);
    let check = verifier(&stub);
    let (good, claims) = (signer.token(&claims(60)), claims(60));
    let head = |alg: &str| json!({ "alg": alg, "kid": "k1" });
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let exp = claims["exp"].as_i64().unwrap();
    for (token, why) in [
        (signer.token(&with(claims.clone(), "exp", json!(exp - 121))), "has expired"),
        (signer.token(&with(claims.clone(), "exp", json!(0))), "has expired"),
        (signer.token(&with(claims.clone(), "exp", json!("soon"))), "lacks required claims"),
        (signer.token(&with(claims.clone(), "aud", json!("b-svc"))), "not issued for `a-svc`"),
        (signer.token(&with(claims.clone(), "aud", Value::Null)), "not issued for `a-svc`"),
        (signer.token(&with(claims.clone(), "iss", json!("else"))), "another issuer"),
        (signer.token(&json!({})), "lacks required claims"),
        (other.token(&claims), "the signature of the token is invalid"),
        (signer.sign(head("none"), &claims), "unsupported algorithm"),
        (signer.sign(head("HS256"), &claims), "unsupported algorithm"),
        (signer.sign(json!({ "alg": "RS256", "kid": "k1", "crit": ["b64"] }), &claims), "unsupported algorithm"),
        (signer.sign(json!({ "alg": "RS256" }), &claims), "is malformed"),
        (signer.sign(json!({ "alg": "RS256", "kid": "k2" }), &claims), "the signature of the token is invalid"),
        (format!("{signed}."), "the signature of the token is invalid"),
        (format!("{signed}x.{signature}"), "is malformed"),
        (format!("{good}.x"), "is malformed"),
        (signed.to_owned(), "is malformed"),
        ("x".repeat(1 << 20), "is malformed"),
        (String::new(), "is malformed"),
        ("..".into(), "is malformed"),
    ] {
        let error = check.verify(&token).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Unauthenticated(_)), "{text}");
        assert!(text.contains(why), "{text} does not say `{why}`");
    }
    check.verify(&good).await.unwrap();
    // Clocks differ: a token that has just expired here may still be valid by the daemon's clock.
    check.verify(&signer.token(&with(claims, "exp", json!(exp - 90)))).await.unwrap();
}

#[tokio::test]
async fn a_rotated_key_is_found_and_keys_are_asked_for_seldom_however_many_are_unknown() {
    let (old, new) = (Signer::new("k1"), Signer::new("k2"));
    let keys = keys(&[&old]);
    let stub = daemon(&keys, true);
    let check = verifier(&stub);
    check.verify(&old.token(&claims(600))).await.unwrap();
    *keys.lock().unwrap() = Some(vec![old.jwk(), new.jwk()]);
    for _ in 0..20 {
        check.verify(&new.token(&claims(600))).await.unwrap_err();
    }
    assert_eq!(stub.requests().len(), 1, "the keys were fetched a moment ago");
    advance_clock(Duration::from_secs(11)).await;
    check.verify(&new.token(&claims(600))).await.unwrap();
    check.verify(&old.token(&claims(600))).await.unwrap();
    assert_eq!(stub.requests().len(), 2);
}

#[tokio::test]
async fn a_withdrawn_key_is_not_trusted_for_ever_and_an_absent_daemon_changes_nothing() {
    let (old, new) = (Signer::new("k1"), Signer::new("k2"));
    let keys = keys(&[&old]);
    let stub = daemon(&keys, true);
    let check = verifier(&stub);
    check.verify(&old.token(&claims(600))).await.unwrap();
    *keys.lock().unwrap() = None;
    advance_clock(Duration::from_secs(3601)).await;
    let token = old.token(&claims(600));
    until("the keys are fetched again", async || check.verify(&token).await.is_ok() && stub.requests().len() == 2)
        .await;
    for _ in 0..5 {
        check.verify(&old.token(&claims(600))).await.expect("the previous keys are still used");
    }
    assert_eq!(stub.requests().len(), 2, "a failing daemon is not asked at every call");
    *keys.lock().unwrap() = Some(vec![new.jwk()]);
    advance_clock(Duration::from_secs(11)).await;
    // Fetched in the background: callers with a cached key do not wait.
    until("the old key is refused", async || check.verify(&old.token(&claims(600))).await.is_err()).await;
    check.verify(&new.token(&claims(600))).await.unwrap();
}

#[tokio::test]
async fn a_caller_who_gives_up_does_not_end_the_question_for_keys() {
    let signer = Signer::new("k1");
    let (let_go, held) = gate();
    let keys = json!({ "keys": [signer.jwk()] }).to_string();
    let stub = Stub::new(move |_| {
        held.wait();
        stub::json(200, &keys)
    });
    let (check, token) = (verifier(&stub), signer.token(&claims(600)));
    let impatient = tokio::spawn({
        let (check, token) = (check.clone(), token.clone());
        async move { check.verify(&token).await }
    });
    until("the keys are being fetched", async || stub.requests().len() == 1).await;
    impatient.abort();
    assert!(impatient.await.unwrap_err().is_cancelled());
    drop(let_go);
    assert_eq!(check.verify(&token).await.unwrap().slug(), "joe");
    assert_eq!(stub.requests().len(), 1);
}

#[tokio::test]
async fn without_any_key_a_token_is_neither_good_nor_bad() {
    let signer = Signer::new("k1");
    let stub = daemon(&Arc::default(), true);
    let check = verifier(&stub);
    let error = check.verify(&signer.token(&claims(60))).await.unwrap_err();
    assert_eq!(error.status(), Some(500), "{error}");
    let error = check.verify(&signer.token(&claims(60))).await.unwrap_err();
    assert!(error.is_temporary() && error.to_string().contains("getKeySet"), "{error}");
    assert_eq!(stub.requests().len(), 1);
}

#[tokio::test]
async fn a_yes_is_kept_for_ten_seconds_and_asked_for_in_the_callers_name() {
    let signer = Signer::new("k1");
    let stub = daemon(&keys(&[&signer]), true);
    let token = signer.token(&claims(600));
    let caller = verifier(&stub).verify(&token).await.unwrap();
    let guard = PermissionGuard::new(ClientFactory::new(&stub.url).unwrap().client().with_token("own").unwrap());
    for _ in 0..3 {
        guard.require(&caller, "a-svc:thing:view").await.unwrap();
    }
    assert_eq!(request_count(&stub, "is-authorized"), 1);
    assert_eq!(stub.requests()[1].line(), "POST /user-svc/permission/a-svc%3Athing%3Aview/is-authorized");
    assert_eq!(stub.requests()[1].header("authorization"), Some(format!("Bearer {token}").as_str()));
    guard.require(&caller, "a-svc:thing:edit").await.unwrap();
    assert_eq!(request_count(&stub, "is-authorized"), 2, "another permission is checked separately");
    advance_clock(Duration::from_secs(5)).await;
    guard.require(&caller, "a-svc:thing:view").await.unwrap();
    assert_eq!(request_count(&stub, "is-authorized"), 2);
    advance_clock(Duration::from_secs(6)).await;
    guard.require(&caller, "a-svc:thing:view").await.unwrap();
    assert_eq!(request_count(&stub, "is-authorized"), 3);
}

#[tokio::test]
async fn a_yes_never_outlives_the_token() {
    let signer = Signer::new("k1");
    let stub = daemon(&keys(&[&signer]), true);
    let caller = verifier(&stub).verify(&signer.token(&claims(8))).await.unwrap();
    let guard = PermissionGuard::new(ClientFactory::new(&stub.url).unwrap().client());
    guard.require(&caller, "a-svc:thing:view").await.unwrap();
    advance_clock(Duration::from_secs(9)).await;
    guard.require(&caller, "a-svc:thing:view").await.unwrap();
    assert_eq!(request_count(&stub, "is-authorized"), 2);
}

#[tokio::test]
async fn a_no_is_not_kept_and_a_daemon_that_cannot_be_asked_lets_nobody_in() {
    let signer = Signer::new("k1");
    let stub = daemon(&keys(&[&signer]), false);
    let caller = verifier(&stub).verify(&signer.token(&claims(600))).await.unwrap();
    let guard = PermissionGuard::new(ClientFactory::new(&stub.url).unwrap().client());
    for count in 1..=3 {
        let error = guard.require(&caller, "a-svc:thing:view").await.unwrap_err();
        assert_eq!(error, Error::Forbidden("account `joe` lacks the permission `a-svc:thing:view`".into()));
        assert_eq!(request_count(&stub, "is-authorized"), count);
    }
    let away = PermissionGuard::new(ClientFactory::new("http://127.0.0.1:1").unwrap().client());
    assert!(matches!(away.allows(&caller, "a-svc:thing:view").await, Err(Error::Unreachable { .. })));
}
