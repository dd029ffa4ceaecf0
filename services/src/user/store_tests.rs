//! What cannot be tried from outside: very many rows, and a store of which nobody knows whether it wrote.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use openorch_api::{Json, Path, user::RoleId};
use openorch_chassis::{
    Audit, Caller, Cx,
    clock::ManualClock,
    ids::Ids,
    mail::NoMailer,
    seal::Seal,
    service::{LIST_MOST, RequestContext, Shared},
};
use openorch_store::{
    Batch, BoxFuture, Collection, Committed, Filter, Layer, Result, SqliteOptions, SqliteStore, Store, StoreError,
};

use super::{
    UserSettings, Users, authorize, collections, prepare, role,
    rows::{RoleLinkRow, RoleRow},
    rules::Change,
};

/// A store whose next commit is made and not acknowledged.
struct Unsure {
    store: Arc<dyn Store>,
    is_unsure: AtomicBool,
}

impl Layer for Unsure {
    fn inner(&self) -> &dyn Store {
        &*self.store
    }

    fn committing(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>> {
        Box::pin(async move {
            let committed = self.store.commit(batch).await?;
            match self.is_unsure.swap(false, Ordering::SeqCst) {
                true => Err(StoreError::Unavailable("the connection was lost".into())),
                false => Ok(committed),
            }
        })
    }
}

struct Bench {
    users: Arc<Users>,
    store: Arc<Unsure>,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path(), SqliteOptions::default()).unwrap();
        let store = Arc::new(Unsure { store, is_unsure: AtomicBool::new(false) });
        let users = start(store.clone()).await;
        Bench { users, store, _folder: folder }
    }

    /// A call by the account of the daemon's own user service.
    async fn cx(&self) -> Cx<Users> {
        let owner = self.users.by_slug("user-svc").await.unwrap().unwrap();
        let caller = Caller {
            user_id: owner.id.into(),
            slug: owner.slug.into(),
            session_id: "".into(),
            roles: Arc::new([openorch_api::role::ADMIN.into()]),
            app: "unnamed".into(),
            audience: None,
        };
        let request = RequestContext {
            caller: Some(caller),
            request_id: "".into(),
            client_ip: Ipv4Addr::LOCALHOST.into(),
            extended: false,
        };
        Cx { state: self.users.clone(), request: Arc::new(request) }
    }
}

async fn start(store: Arc<dyn Store>) -> Arc<Users> {
    let opened: Vec<Collection> = collections().iter().map(|collection| **collection).collect();
    store.open_collections(&opened).await.unwrap();
    let clock = ManualClock::new("2026-11-24T12:00:00Z".parse().unwrap());
    let ids = Arc::new(Ids::new(clock.clone()));
    let audit = Arc::new(Audit::new(store.clone(), clock.clone(), ids.clone()));
    let shared = Shared { clock, ids, audit, mailer: Arc::new(NoMailer), list_most: LIST_MOST };
    let settings = |_| UserSettings::default();
    prepare(store, shared, &Seal::new("a key"), settings, None, Arc::default()).await.unwrap()
}

#[tokio::test]
async fn a_role_that_more_have_than_one_batch_touches_is_taken_from_all_of_them() {
    let bench = Bench::new().await;
    let (users, cx) = (&bench.users, bench.cx().await);
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
    let save = |row: RoleRow| users.change_rules(|_| Ok((vec![Change::SaveRole(row)], Batch::new())));
    save(row.clone()).await.unwrap();
    let links =
        (0..openorch_store::MOST_TOUCHED + 5).map(|n| RoleLinkRow::new("unnamed", &format!("usr_{n}"), &id(), now));
    let links: Vec<RoleLinkRow> = links.collect();
    for part in links.chunks(5000) {
        let creates = part.iter().map(|link| users.role_links.create(link.id(), link));
        users.store.commit(creates.collect::<Result<Batch>>().unwrap()).await.unwrap();
    }
    let held = async || users.role_links.count(&[Filter::equals("roleId", id())]).await.unwrap();
    // Begun, and then the daemon stopped: nobody has it, its id is taken, and the next one ends it.
    let gone = users.memory.rules().without_role(&id());
    users.change_rules(|_| Ok((gone, Batch::new()))).await.unwrap();
    let again = start(bench.store.clone()).await;
    assert!(again.memory.rules().going.contains(&*id()) && !again.memory.rules().roles.contains_key(&*id()));
    assert!(held().await > 0);
    Users::settle(again.clone()).await;
    assert_eq!(held().await, 0);
    assert!(again.memory.rules().going.is_empty());
    // Whole, as it is called.
    users.clear_roles().await;
    save(row).await.unwrap();
    for part in links.chunks(5000) {
        let creates = part.iter().map(|link| users.role_links.create(link.id(), link));
        users.store.commit(creates.collect::<Result<Batch>>().unwrap()).await.unwrap();
    }
    role::delete(cx, Path(RoleId(id()))).await.unwrap();
    assert_eq!(held().await, 0);
    assert!(users.memory.rules().going.is_empty(), "and its id is free");
}

#[tokio::test]
async fn a_key_that_was_stored_signs_also_where_nobody_was_told_so() {
    let bench = Bench::new().await;
    let kid = || bench.users.keys.load().current.verifying.public.kid.clone();
    let before = kid();
    bench.store.is_unsure.store(true, Ordering::SeqCst);
    let Json(keys) = authorize::rotate_key(bench.cx().await, ()).await.unwrap();
    assert_eq!((keys.keys.len(), &keys.keys[0].kid), (2, &kid()));
    assert_ne!(kid(), before);
    let restarted = start(bench.store.clone()).await;
    assert_eq!(restarted.keys.load().current.verifying.public.kid, kid(), "the store says the same");
    authorize::rotate_key(bench.cx().await, ()).await.unwrap();
    assert_eq!(bench.users.keys.load().retired.len(), 2);
}
