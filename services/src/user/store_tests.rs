//! Cases that cannot be provoked from outside: very many rows, commits of unknown outcome, and writes between a read
//! and its commit.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use openorch_api::{
    Body, Json, Path, Time,
    audit::AuditEntry,
    error::{access, platform},
    user::{ContactId, ContactInput, RoleId, UserId, errors},
};
use openorch_chassis::{
    Caller, Credential, Cx, Identity,
    audit::CallAudit,
    clock::ManualClock,
    headers::DeclaredHeaders,
    identity::AccountDeletionHook,
    service::{Hooks, RequestContext},
};
use openorch_store::{Batch, BoxFuture, Filter, Result, SqliteOptions, SqliteStore, Store, Write};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    ADMIN_SLUG, Users,
    audit::remove_old,
    authn::{
        otp::send,
        passwords::hasher::hash_blocking,
        rows::{OTPS, PasswordRow, SESSIONS},
        sessions::live,
        sign_in,
        state::Authn,
        tokens::keys::{self, Tokens},
    },
    authz::{
        roles::role,
        rows::{ContactEnrollRow, RoleLinkRow, RoleRow},
        rules::Change,
        state::Authz,
    },
    clock_grace::watch,
    collections,
    directory::{contact, organization, profile, registration, state::Directory, users},
    migrations::contacts::restore_contact_tags,
    open, seed,
    shared::rows::{CONTACTS, ContactRow, MIGRATIONS},
    stored_clock_grace,
};
use crate::{
    indeterminate_store::IndeterminateStore,
    test_platform::{self, RecordingMailer},
};

/// A part of the service, for calling its handlers.
trait Part {
    fn of(users: &Users) -> Arc<Self>;
}

impl Part for Authz {
    fn of(users: &Users) -> Arc<Authz> {
        users.authz.clone()
    }
}

impl Part for Authn {
    fn of(users: &Users) -> Arc<Authn> {
        users.authn.clone()
    }
}

impl Part for Tokens {
    fn of(users: &Users) -> Arc<Tokens> {
        users.authn.tokens.clone()
    }
}

impl Part for Directory {
    fn of(users: &Users) -> Arc<Directory> {
        users.directory.clone()
    }
}

struct Fixture {
    users: Arc<Users>,
    store: Arc<IndeterminateStore>,
    clock: Arc<ManualClock>,
    post: Arc<RecordingMailer>,
    default_password: Arc<AtomicBool>,
    _directory: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Fixture {
        Fixture::with(OPEN_REGISTRATION, Hooks::default()).await
    }

    async fn with(settings: &[(&str, &str)], hooks: Hooks) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(directory.path(), SqliteOptions::default()).unwrap();
        let store = IndeterminateStore::wrap(store);
        let clock = test_platform::clock();
        let (post, default_password): (Arc<RecordingMailer>, Arc<AtomicBool>) = Default::default();
        let users =
            start_with(store.clone(), clock.clone(), post.clone(), default_password.clone(), settings, hooks).await;
        Fixture { users, store, clock, post, default_password, _directory: directory }
    }

    fn make_next_commit_indeterminate(&self) {
        self.store.drop_next_acknowledgement.store(true, Ordering::SeqCst);
    }

    fn write_before_next_commit(&self, write: Write) {
        *self.store.concurrent_write.lock().unwrap() = write.into();
    }

    /// A call with this token, or without a caller if it is empty.
    async fn cx_with_token<P: Part>(&self, token: &str) -> Cx<P> {
        let caller = match token {
            "" => None,
            token => Some(self.users.authn.authenticate(token).await.unwrap()),
        };
        self.call(caller)
    }

    fn call<P: Part>(&self, caller: Option<Caller>) -> Cx<P> {
        let request = RequestContext {
            caller,
            request_id: "".into(),
            client_ip: Ipv4Addr::LOCALHOST.into(),
            is_local: true,
            headers: DeclaredHeaders::default(),
            large_body: false,
            calls: None,
            audit: CallAudit::NONE,
            streams: Arc::default(),
        };
        Cx { state: P::of(&self.users), request: Arc::new(request) }
    }

    /// Registers an account, with the contact if not empty; returns its token and id.
    async fn register(&self, slug: &str, contact: ContactInput) -> (String, String) {
        let asked = json!({ "slug": slug, "password": "pass", "contact": contact });
        let Json(answer) = registration::register(self.cx_with_token("").await, body(asked)).await.unwrap();
        (answer.token.token, answer.token.user_id)
    }

    /// Requests a code for a contact, with this token or without a session, and reads it from the mail.
    async fn code(&self, token: &str, contact: &str) -> ContactInput {
        self.clock.advance(120);
        let (cx, asked) = (self.cx_with_token::<Authn>(token).await, json!({ "contactId": contact }));
        let answer = match token {
            "" => send::send(cx, body(asked)).await,
            _ => send::send_to_caller(cx, body(asked)).await,
        };
        let Json(sent) = answer.unwrap();
        let letter = self.post.0.lock().unwrap().pop().unwrap();
        let code = letter.split(" is ").nth(1).unwrap().lines().next().unwrap().to_owned();
        ContactInput { value: contact.into(), otp_id: sent.otp_id, otp_code: code, ..ContactInput::default() }
    }

    /// A call by the admin.
    async fn admin_cx<P: Part>(&self) -> Cx<P> {
        let owner = self.users.directory.accounts.by_slug(ADMIN_SLUG).await.unwrap().unwrap();
        let caller = Caller {
            user_id: owner.id.into(),
            slug: owner.slug.into(),
            session_id: "".into(),
            roles: Arc::new([openorch_api::role::ADMIN.into()]),
            default_app_roles: Arc::new([openorch_api::role::ADMIN.into()]),
            app: "unnamed".into(),
            audience: None,
        };
        self.call(Some(caller))
    }
}

fn body<T: DeserializeOwned>(body: Value) -> Body<T> {
    Body(serde_json::from_value(body).unwrap())
}

async fn start(store: Arc<dyn Store>) -> Arc<Users> {
    let clock = test_platform::clock();
    start_with(store, clock, Arc::default(), Arc::default(), OPEN_REGISTRATION, Hooks::default()).await
}

/// Registration is open to all.
const OPEN_REGISTRATION: &[(&str, &str)] = &[("OPENORCH_REGISTRATION", "open")];

async fn start_with(
    store: Arc<dyn Store>,
    clock: Arc<ManualClock>,
    letters: Arc<RecordingMailer>,
    default_password: Arc<AtomicBool>,
    settings: &[(&str, &str)],
    hooks: Hooks,
) -> Arc<Users> {
    let platform = test_platform::platform(store, collections(), clock, letters, settings).await;
    let seeded = seed(&platform, None, true).await.unwrap();
    open(&platform, seeded, hooks, default_password).await.unwrap()
}

#[tokio::test]
async fn a_deleted_role_is_removed_from_more_accounts_than_fit_in_one_batch() {
    let bench = Fixture::new().await;
    let (users, cx) = (&bench.users.authz, bench.admin_cx::<Authz>().await);
    let id = || "user-svc:crowd".to_owned();
    let now = users.now();
    let row = RoleRow {
        id: id(),
        name: "Crowd".into(),
        description: String::new(),
        owner_id: cx.caller().unwrap().user_id.to_string(),
        created_at: now,
        updated_at: now,
        going: false,
    };
    let save = |row: RoleRow| users.change_rules(&CallAudit::NONE, |_| Ok((vec![Change::SaveRole(row)], Batch::new())));
    save(row.clone()).await.unwrap();
    let links = (0..openorch_store::MAX_ROWS_AFFECTED + 5)
        .map(|n| RoleLinkRow::new("unnamed", &format!("usr_{n}"), &id(), now));
    let links: Vec<RoleLinkRow> = links.collect();
    for part in links.chunks(5000) {
        let creates = part.iter().map(|link| users.role_links.create(link.id(), link));
        users.platform.store.commit(creates.collect::<Result<Batch>>().unwrap()).await.unwrap();
    }
    let count_links = async || users.role_links.count(&[Filter::equals("roleId", id())]).await.unwrap();
    // The daemon stops after the first step: no account has the role anymore, its id is still taken, and the next start
    // completes the deletion.
    let changes = users.rules().without_role(&id());
    users.change_rules(&CallAudit::NONE, |_| Ok((changes, Batch::new()))).await.unwrap();
    let again = start(bench.store.clone()).await;
    assert!(again.authz.rules().deleting.contains(&*id()) && !again.authz.rules().roles.contains_key(&*id()));
    assert!(count_links().await > 0);
    Users::reconcile(again.clone()).await;
    assert_eq!(count_links().await, 0);
    assert!(again.authz.rules().deleting.is_empty());
    // The whole operation.
    users.remove_deleted_roles().await;
    save(row).await.unwrap();
    for part in links.chunks(5000) {
        let creates = part.iter().map(|link| users.role_links.create(link.id(), link));
        users.platform.store.commit(creates.collect::<Result<Batch>>().unwrap()).await.unwrap();
    }
    role::delete(cx, Path(RoleId(id()))).await.unwrap();
    assert_eq!(count_links().await, 0);
    assert!(users.rules().deleting.is_empty(), "its id is free again");
}

#[tokio::test]
async fn a_stored_key_signs_even_if_the_outcome_of_its_commit_is_unknown() {
    let bench = Fixture::new().await;
    let kid = || bench.users.authn.tokens.key_ring.load().current.verifying.public.kid.clone();
    let before = kid();
    bench.store.drop_next_acknowledgement.store(true, Ordering::SeqCst);
    let Json(keys) = keys::rotate_key(bench.admin_cx().await, ()).await.unwrap();
    assert_eq!((keys.keys.len(), &keys.keys[0].kid), (2, &kid()));
    assert_ne!(kid(), before);
    let restarted = start(bench.store.clone()).await;
    assert_eq!(
        restarted.authn.tokens.key_ring.load().current.verifying.public.kid,
        kid(),
        "the stored key is the same"
    );
    keys::rotate_key(bench.admin_cx().await, ()).await.unwrap();
    assert_eq!(bench.users.authn.tokens.key_ring.load().retired.len(), 2);
}

#[tokio::test]
async fn a_credential_lost_during_sign_in_is_refused_with_the_reason() {
    let bench = Fixture::new().await;
    let first = bench.code("", "ann@example.org").await;
    let (token, id) = bench.register("ann", first).await;
    let sign_in = async |asked: Value| {
        let refused = sign_in::login(bench.cx_with_token("").await, body(asked)).await.err().unwrap();
        let refusal = (refused.code.id, refused.to_string());
        let of_ann = [Filter::equals("userId", id.as_str())];
        assert_eq!(bench.users.authn.sessions.rows.count(&of_ann).await.unwrap(), 1, "{refusal:?}");
        refusal
    };
    // Each is lost between the check and the creation of the session. The address of the sign-ins is already known.
    sign_in::login(bench.cx_with_token("").await, body(json!({ "slug": "ann", "password": "pass" }))).await.unwrap();
    let mut row = bench.users.authn.passwords.rows.get(&id).await.unwrap().unwrap().value;
    row.hash = hash_blocking("another").unwrap();
    bench.write_before_next_commit(bench.users.authn.passwords.rows.replace(&id, &row, None).unwrap());
    let by_password = json!({ "slug": "ann", "password": "pass", "device": "laptop" });
    assert_eq!(sign_in(by_password).await, ("user.wrong_password", "Invalid password".into()));

    let used = bench.code("", "ann@example.org").await;
    bench.write_before_next_commit(Write::Delete { collection: OTPS.name, id: used.otp_id.clone(), version: None });
    let (code, why) = sign_in(json!({ "contact": used, "device": "laptop" })).await;
    assert!(code == "user.code_not_valid" && why.contains("used or expired"), "{code} {why}");
    let lost = bench.code("", "ann@example.org").await;
    bench.write_before_next_commit(Write::Delete {
        collection: CONTACTS.name,
        id: "ann@example.org".into(),
        version: None,
    });
    let (code, why) = sign_in(json!({ "contact": lost, "device": "laptop" })).await;
    assert!(code == "user.contact_gone" && why.contains("any more"), "{code} {why}");

    let cx = bench.cx_with_token::<Authn>(&token).await;
    let session = cx.caller().unwrap().session_id.to_string();
    bench.write_before_next_commit(Write::Delete { collection: SESSIONS.name, id: session, version: None });
    let refused = sign_in::exchange(cx, body(json!({ "newDevice": "phone" }))).await.err().unwrap();
    assert_eq!(refused.code, &access::SESSION_ENDED);
}

#[tokio::test]
async fn stored_changes_are_visible_even_if_the_outcome_of_their_commit_is_unknown() {
    let bench = Fixture::new().await;
    let users = &bench.users;
    let (ann, ann_id) = bench.register("ann", ContactInput::default()).await;
    let known = async |id: &str| users.authz.account(id).await.unwrap().unwrap();
    let unknown = |outcome: Option<openorch_chassis::Error>| {
        assert_eq!(outcome.map(|error| error.code), Some(&platform::STORE_UNAVAILABLE));
    };
    known(&ann_id).await;
    bench.make_next_commit_indeterminate();
    unknown(profile::save_self(bench.cx_with_token(&ann).await, body(json!({ "name": "Ann" }))).await.err());
    assert_eq!(known(&ann_id).await.profile.name, "Ann");

    let code = bench.code(&ann, "ann@example.org").await;
    bench.make_next_commit_indeterminate();
    let shown = json!({ "otpId": code.otp_id, "otpCode": code.otp_code });
    unknown(contact::verify(bench.cx_with_token(&ann).await, body(shown)).await.err());
    assert_eq!(known(&ann_id).await.profile.contacts.len(), 1);
    bench.make_next_commit_indeterminate();
    unknown(contact::remove(bench.cx_with_token(&ann).await, Path(ContactId("ann@example.org".into()))).await.err());
    assert!(known(&ann_id).await.profile.contacts.is_empty());

    bench.make_next_commit_indeterminate();
    unknown(organization::create(bench.cx_with_token(&ann).await, body(json!({ "id": "org_crew" }))).await.err());
    assert!(known(&ann_id).await.roles_in("unnamed").iter().any(|role| role.contains("org_crew")));

    // Unverified ownership of a contact yields to verified ownership.
    let named = json!({ "user": { "slug": "squatter", "name": "S" }, "contacts": [{ "value": "bob@example.org" }] });
    users::create(bench.admin_cx().await, body(named)).await.unwrap();
    let squatter = bench.users.directory.accounts.by_slug("squatter").await.unwrap().unwrap().id;
    assert_eq!(known(&squatter).await.profile.contacts.len(), 1);
    let shown = bench.code("", "bob@example.org").await;
    bench.make_next_commit_indeterminate();
    let asked = json!({ "slug": "bob", "password": "pass", "contact": shown });
    unknown(registration::register(bench.cx_with_token("").await, body(asked)).await.err());
    assert!(known(&squatter).await.profile.contacts.is_empty());
}

#[tokio::test]
async fn contacts_of_older_versions_are_found_as_entered_and_those_with_a_tag_must_be_verified_again() {
    let bench = Fixture::new().await;
    let users = &bench.users.directory;
    // As stored by older versions: without tag and in lower case.
    for (slug, typed, folded, verified) in [
        ("ann", "Ann@Example.org", "ann@example.org", true),
        ("tag", "First+Last@example.org", "first@example.org", true),
        ("mike", "mike@B\u{fc}cher.example", "mike@b\u{fc}cher.example", true),
        ("odd", "+44 20 7946", "+44 20 7946", false),
    ] {
        let (_, id) = bench.register(slug, ContactInput::default()).await;
        let mut user = users.accounts.users.get(&id).await.unwrap().unwrap().value;
        let contact = json!({ "id": folded, "createdAt": users.now(), "updatedAt": users.now(), "value": typed,
            "verified": verified });
        user.contacts = vec![serde_json::from_value(contact).unwrap()];
        let row = ContactRow { user_id: id.clone(), verified, created_at: users.now() };
        let batch = Batch::new().with(users.accounts.contacts.create(folded, &row).unwrap());
        users.platform.store.commit(batch.with(users.accounts.users.replace(&id, &user, None).unwrap())).await.unwrap();
    }
    let pending = ContactEnrollRow {
        contact: "mike@b\u{fc}cher.example".into(),
        role_id: openorch_api::role::USER.into(),
        app: "unnamed".into(),
        created_at: users.now(),
        created_by: String::new(),
        by_admin: true,
    };
    users
        .platform
        .store
        .commit(users.authz.contact_enrolls.create(pending.id(), &pending).unwrap().into())
        .await
        .unwrap();
    let forget_done = Write::DeleteWhere { collection: MIGRATIONS.name, filters: Vec::new() };
    users.platform.store.commit(forget_done.into()).await.unwrap();
    let store: Arc<dyn Store> = bench.store.clone();
    for _ in 0..2 {
        restore_contact_tags(&store, users.now()).await.unwrap();
        for (contact, owner, verified) in [
            ("ann@example.org", Some("ann"), true),
            ("first+last@example.org", Some("tag"), false),
            ("first@example.org", None, false),
            ("mike@xn--bcher-kva.example", Some("mike"), true),
            ("+44 20 7946", Some("odd"), false),
        ] {
            let row = users.accounts.by_contact(contact).await.unwrap().map(|row| row.value);
            assert_eq!(row.as_ref().is_some_and(|row| row.verified), verified, "{contact}");
            let Some(slug) = owner else {
                assert!(row.is_none(), "{contact}");
                continue;
            };
            let user = users.accounts.by_slug(slug).await.unwrap().unwrap();
            assert_eq!(row.unwrap().user_id, user.id);
            assert_eq!((user.contacts[0].id.as_str(), user.contacts[0].verified), (contact, verified));
        }
        assert_eq!(users.accounts.contacts.count(&[]).await.unwrap(), 4);
        let waits = users.authz.contact_enrolls.find(&openorch_store::Query::all()).await.unwrap();
        assert_eq!((waits.len(), waits[0].value.contact.as_str()), (1, "mike@xn--bcher-kva.example"));
        assert_eq!(waits[0].id, waits[0].value.id());
    }
}

#[tokio::test]
async fn a_deleted_account_is_evicted_everywhere_even_if_the_outcome_of_the_commit_is_unknown() {
    #[derive(Default)]
    struct Things(Mutex<Vec<String>>);
    impl AccountDeletionHook for Things {
        fn cascade<'a>(&'a self, _: &'a str) -> BoxFuture<'a, openorch_chassis::Result<Vec<Write>>> {
            Box::pin(async { Ok(Vec::new()) })
        }
        fn deleted(&self, user_id: &str) {
            self.0.lock().unwrap().push(user_id.to_owned());
        }
    }
    let things = Arc::new(Things::default());
    let bench =
        Fixture::with(OPEN_REGISTRATION, Hooks { account_deletion: vec![things.clone()], ..Hooks::default() }).await;
    let (_, id) = bench.register("ann", ContactInput::default()).await;
    let delete =
        async |id: &str| users::delete(bench.admin_cx().await, Path(UserId(id.into()))).await.err().unwrap().code;
    // A failed deletion calls no hooks.
    let admin = bench.users.directory.accounts.by_slug(ADMIN_SLUG).await.unwrap().unwrap();
    assert_eq!(delete(&admin.id).await, &errors::LAST_ADMIN);
    Users::reconcile(bench.users.clone()).await;
    assert!(things.0.lock().unwrap().is_empty());
    bench.make_next_commit_indeterminate();
    assert_eq!(delete(&id).await, &platform::STORE_UNAVAILABLE);
    Users::reconcile(bench.users.clone()).await;
    assert_eq!(things.0.lock().unwrap().concat(), id);
    assert!(bench.users.directory.pending_deletions.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_replaced_default_password_is_detected_even_if_the_outcome_of_the_commit_is_unknown() {
    let bench = Fixture::new().await;
    let is_default = || bench.default_password.load(Ordering::SeqCst);
    let admin = bench.users.directory.accounts.by_slug(ADMIN_SLUG).await.unwrap().unwrap();
    let reset = async |password: &str| {
        let asked = (Path(UserId(admin.id.clone())), body(json!({ "newPassword": password })));
        users::reset_password(bench.admin_cx().await, asked).await.is_ok()
    };
    assert!(is_default());
    for (password, want) in [("another one", false), ("changeme", true)] {
        bench.make_next_commit_indeterminate();
        assert!(!reset(password).await);
        assert_eq!(is_default(), want, "{password}");
    }
    assert!(reset("another one").await && !is_default());
}

#[tokio::test]
async fn a_session_that_is_used_lives_through_a_restart_however_soon_unused_ones_end() {
    let settings = &[("OPENORCH_USER_SESSION_IDLE_TIMEOUT", "20m"), OPEN_REGISTRATION[0]];
    let bench = Fixture::with(settings, Hooks::default()).await;
    let (ann, _) = bench.register("ann", ContactInput::default()).await;
    bench.clock.advance(900);
    bench.cx_with_token::<Authn>(&ann).await;
    live::flush_last_used(bench.users.authn.sessions.clone()).await;
    bench.clock.advance(900);
    let again =
        start_with(bench.store.clone(), bench.clock, bench.post, bench.default_password, settings, Hooks::default())
            .await;
    assert!(again.authn.authenticate(&ann).await.is_ok());
}

#[tokio::test]
async fn a_session_whose_deletion_is_applied_late_is_refused() {
    let bench = Fixture::new().await;
    let (token, _) = bench.register("ann", ContactInput::default()).await;
    let session = bench.users.authn.authenticate(&token).await.unwrap();
    bench.store.delay_next_commit.store(true, Ordering::SeqCst);
    let ended = [session.session_id.to_string()];
    assert!(bench.users.authn.sessions.revoke_sessions(&CallAudit::NONE, &session.user_id, &ended).await.is_err());
    // It still exists, and is cached again.
    assert!(bench.users.authn.authenticate(&token).await.is_ok());
    bench.store.apply_delayed().await;
    Users::reconcile(bench.users.clone()).await;
    assert!(bench.users.authn.authenticate(&token).await.is_err());
}

#[tokio::test]
async fn a_hash_from_before_passwords_were_normalized_is_matched_in_each_spelling_and_replaced() {
    use argon2::PasswordHasher;
    let bench = Fixture::new().await;
    let (composed, decomposed) = ("p\u{e4}ssw\u{f6}rd", "pa\u{308}sswo\u{308}rd");
    for (slug, then) in [("composed", composed), ("decomposed", decomposed)] {
        let (_, id) = bench.register(slug, ContactInput::default()).await;
        let rows = &bench.users.authn.passwords.rows;
        let hash = argon2::Argon2::default().hash_password(then.as_bytes()).unwrap().to_string();
        let row = PasswordRow { hash, meets_network_rule: None, ..rows.get(&id).await.unwrap().unwrap().value };
        bench.users.authn.platform.store.commit(rows.upsert(&id, &row).unwrap().into()).await.unwrap();
        let again = start(bench.store.clone()).await;
        assert_eq!(again.password_counts().await.unwrap().unknown, 1);
        let login = async |password: &str| {
            let cx = Cx { state: again.authn.clone(), request: bench.call::<Authn>(None).request };
            sign_in::login(cx, body(json!({ "slug": slug, "password": password }))).await.map(|_| ())
        };
        assert_eq!(login("password").await.unwrap_err().code, &errors::WRONG_PASSWORD);
        // Of concurrent sign-ins the first replaces the hash, and the others succeed too.
        let (first, second, third) = tokio::join!(login(composed), login(decomposed), login(composed));
        first.and(second).and(third).unwrap();
        let now = rows.get(&id).await.unwrap().unwrap().value;
        assert_eq!((now.meets_network_rule, now.updated_at), (Some(true), row.updated_at));
        assert_eq!(again.password_counts().await.unwrap().unknown, 0);
        let fresh = start(bench.store.clone()).await;
        assert!(!fresh.authn.passwords.has_old_hashes, "from now on one hash per check is enough");
    }
}

#[tokio::test]
async fn a_clock_that_was_wrong_for_two_minutes_ends_no_session_and_empties_no_audit_log() {
    const YEARS: i64 = 2 * 365 * 24 * 3600;
    let bench = Fixture::new().await;
    let (token, _) = bench.register("lasting", ContactInput::default()).await;
    let platform = &bench.users.authn.platform;
    let entry = AuditEntry { id: "aud_1".into(), at: Time(platform.clock.now()), ..AuditEntry::default() };
    platform.store.commit(bench.users.audit.entries.upsert(&entry.id, &entry).unwrap().into()).await.unwrap();
    let entries = async || {
        remove_old(bench.users.audit.clone()).await;
        bench.users.audit.entries.count(&[]).await.unwrap()
    };
    bench.clock.advance(2 * 3600);
    bench.clock.jump(YEARS);
    assert_eq!(entries().await, 1);
    // Looked up while the clock is wrong, from cache and store.
    assert!(bench.users.authn.authenticate(&token).await.is_ok());
    bench.users.authz.cache.all_rights_changed();
    bench.users.authn.sessions.cache.clear();
    assert!(bench.users.authn.authenticate(&token).await.is_ok());
    bench.clock.advance(120);
    bench.clock.jump(-YEARS);
    assert!(bench.users.authn.authenticate(&token).await.is_ok());
    assert_eq!(entries().await, 1);
    // Ages count again after seven days of running, if the clock is right and the session is old enough.
    bench.clock.advance(91 * 24 * 3600);
    assert_eq!(bench.users.authn.authenticate(&token).await.err().unwrap().code, &access::SESSION_ENDED);
    assert_eq!(entries().await, 1, "not a year old yet");
    bench.clock.advance(366 * 24 * 3600);
    assert_eq!(entries().await, 0);
}

#[tokio::test]
async fn a_restart_while_the_clock_is_wrong_does_not_end_what_is_kept() {
    let bench = Fixture::new().await;
    let left = async || stored_clock_grace(&(bench.store.clone() as Arc<dyn Store>)).await.unwrap().as_secs();
    let watch = async || watch(bench.users.clock_grace.clone()).await;
    watch().await;
    assert_eq!(left().await, 0);
    bench.clock.jump(2 * 365 * 24 * 3600);
    watch().await;
    assert_eq!(left().await, 7 * 24 * 3600, "immediately");
    bench.clock.advance(24 * 3600);
    watch().await;
    assert_eq!(left().await, 6 * 24 * 3600);
    bench.clock.advance(6 * 24 * 3600);
    watch().await;
    assert_eq!(left().await, 0);
}

#[tokio::test]
async fn requests_in_progress_end_with_their_right_and_session() {
    let bench = Fixture::new().await;
    let (token, user_id) = bench.register("demoted", ContactInput::default()).await;
    let session_id = bench.users.authn.authenticate(&token).await.unwrap().session_id;
    let needs = |permission| Credential::Permission { session_id: session_id.clone(), permission };
    let had = needs(openorch_api::user::USER_PASSWORD_CHANGE.id);
    let lost = needs(openorch_api::platform::BACKUP_CREATE.id);
    let credentials = [Credential::Session(session_id.clone()), had, lost.clone()];
    assert_eq!(bench.users.authn.ended_credentials(&credentials).await, [lost]);
    bench.users.authn.sessions.revoke_sessions(&CallAudit::NONE, &user_id, &[session_id.to_string()]).await.unwrap();
    assert_eq!(bench.users.authn.ended_credentials(&credentials).await, credentials);
}
