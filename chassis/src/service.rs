//! A service: handlers bound to rows of the table of operations, and the work it does by itself.

use std::{
    any::Any,
    future::ready,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use http::{Response, StatusCode};
use openorch_api::{
    Access, Checker, Events, Exempt, Guard, Input, Json, Op, Output, Parts, Row,
    error::{access, platform, request},
    events::Event,
    output::{Encoded, Items, LongList},
};
use tokio::runtime::Handle;
use tracing::{Instrument, Span};

use tokio::time::Instant;

use crate::{
    Body, BoxFuture, Caller, Error, Result, audit,
    events::{Streams, Subscription},
    forwarded::network,
    identity::{AccountDeletionHook, InstancePresence},
    respond,
    routes::UnreachableHook,
    turns::Turns,
};

/// What a handler is called with: the state of its service and all that is known of the request.
pub struct Cx<S> {
    pub state: Arc<S>,
    pub request: Arc<RequestContext>,
}

/// A request as services see it, whatever it came through.
pub struct RequestContext {
    /// The authenticated account; always there in guarded operations.
    pub caller: Option<Caller>,
    pub request_id: Box<str>,
    /// Where the client is, by the rules of contract decision 17.
    pub client_ip: std::net::IpAddr,
    /// Whether it comes from a program on this machine: see [`crate::local`].
    pub from_this_machine: bool,
    /// Whether answers may carry `extra` (contract decision 2).
    pub extended: bool,
    /// Whether the body is so large that decoding it would hold up an async worker.
    pub large_body: bool,
    /// The open streams of events, among which an answer may be one.
    pub streams: Arc<Streams>,
}

impl<S> Cx<S> {
    /// The caller of an operation that is not public.
    pub fn caller(&self) -> Result<&Caller> {
        self.request.caller.as_ref().ok_or_else(|| Error::new(&access::NO_TOKEN, "Unauthorized"))
    }

    /// The id of the account that an input names; the caller's own where it names none.
    pub fn account_named(&self, id: Option<&str>) -> Result<String> {
        let own = &*self.caller()?.user_id;
        Ok(id.filter(|id| !id.is_empty()).unwrap_or(own).to_owned())
    }
}

impl<S> std::ops::Deref for Cx<S> {
    type Target = S;
    fn deref(&self) -> &S {
        &self.state
    }
}

/// Runs one operation: decodes the parts, finds the owner where the row asks for it, calls the handler.
pub(crate) type Handler =
    Arc<dyn Fn(Arc<RequestContext>, Parts, Verdict) -> BoxFuture<'static, Result<Response<Body>>> + Send + Sync>;

/// What the permission check said before the input was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// Only as the owner of what the input names.
    IfOwner,
}

pub struct Bound {
    pub row: &'static Row,
    pub(crate) reads_body: bool,
    pub(crate) handler: Handler,
}

/// Work that a service does by itself until the daemon stops.
pub struct Task {
    pub name: &'static str,
    pub run: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

/// A service being put together: its state, its operations, its background work.
pub struct Service<S> {
    state: Arc<S>,
    mounted: Mounted,
    /// Turns for long answers, by whoever asks.
    long_answers: Turns<Asker>,
}

/// Whoever asks for long answers or streams: an account, or the address of nobody in particular.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Asker {
    Account(Arc<str>),
    Address(std::net::IpAddr),
}

impl Asker {
    fn of(request: &RequestContext) -> Asker {
        match &request.caller {
            Some(caller) => Asker::Account(caller.user_id.clone()),
            None => Asker::Address(network(request.client_ip)),
        }
    }
}

/// A service that is mounted, its state type forgotten.
pub struct Mounted {
    pub slug: &'static str,
    pub bound: Vec<Bound>,
    pub tasks: Vec<Task>,
    pub hooks: Hooks,
}

/// What a service is told by others, or tells them.
#[derive(Clone, Default)]
pub struct Hooks {
    /// Run when an account is deleted.
    pub account_deletion: Vec<Arc<dyn AccountDeletionHook>>,
    /// Asked whether an instance of an account is up.
    pub presence: Vec<Arc<dyn InstancePresence>>,
    /// Run when the gateway could not connect to an instance.
    pub unreachable: Vec<Arc<dyn UnreachableHook>>,
}

impl Hooks {
    /// Those of all these services.
    pub fn of(services: &[Mounted]) -> Hooks {
        let mut all = Hooks::default();
        for Mounted { hooks, .. } in services {
            all.account_deletion.extend(hooks.account_deletion.iter().cloned());
            all.presence.extend(hooks.presence.iter().cloned());
            all.unreachable.extend(hooks.unreachable.iter().cloned());
        }
        all
    }
}

impl<S: Send + Sync + 'static> Service<S> {
    pub fn new(slug: &'static str, state: Arc<S>) -> Service<S> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let long_answers = Turns::new(cores.max(MIN_LONG_ANSWERS));
        let mounted = Mounted { slug, bound: Vec::new(), tasks: Vec::new(), hooks: Hooks::default() };
        Service { state, mounted, long_answers }
    }

    /// Goes on with another part of the service: what follows works on its state.
    pub fn part<T: Send + Sync + 'static>(self, state: Arc<T>) -> Service<T> {
        Service { state, mounted: self.mounted, long_answers: self.long_answers }
    }

    /// Binds the handler of an operation.
    pub fn on<I, O, F, R>(self, op: Op<I, O>, handler: F) -> Self
    where
        I: Input,
        O: Output,
        F: Fn(Cx<S>, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O>> + Send + 'static,
    {
        assert!(!asks_for_owner(op.row), "operation `{}` asks for its owner: bind it with on_owned", op.row.id);
        self.bind(op.row, no_owner, handler, Answer { status: O::STATUS, encode: O::encode })
    }

    /// Binds the handler of an operation whose answer is a list that may be long: the handler gives its items, which are
    /// encoded while the client reads.
    pub fn on_list<I, T, F, R>(self, op: Op<I, Json<T>>, handler: F) -> Self
    where
        I: Input,
        T: LongList,
        Json<T>: Output,
        F: Fn(Cx<S>, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Items<T>>> + Send + 'static,
    {
        assert!(!asks_for_owner(op.row), "operation `{}` asks for its owner: bind it with on_owned", op.row.id);
        let encode = |items: Items<T>| items.encode().map(Some);
        self.bind(op.row, no_owner, handler, Answer { status: Json::<T>::STATUS, encode })
    }

    /// Binds the handler of an operation whose answer is a stream of events: the handler gives the subscription. It ends with
    /// the session and the right of its caller, and at the start of a drain.
    pub fn on_events<I, E, F, R>(self, op: Op<I, Events<E>>, handler: F) -> Self
    where
        I: Input,
        E: Event,
        F: Fn(Cx<S>, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Subscription<E>>> + Send + 'static,
    {
        assert!(!asks_for_owner(op.row), "operation `{}` asks for its owner: bind it with on_owned", op.row.id);
        let handler = Arc::new(handler);
        let open = move |cx: Cx<S>, input| {
            let handler = handler.clone();
            async move {
                let place = cx.request.streams.enter(Asker::of(&cx.request))?;
                Ok(handler(cx, input).await?.into_events(place))
            }
        };
        self.bind(op.row, no_owner, open, Answer { status: Events::<E>::STATUS, encode: Events::encode })
    }

    /// Binds the handler of an operation whose row exempts the owner of what the input names, or the account itself:
    /// `owner` finds the id of that account, or says that there is no such thing for this caller.
    pub fn on_owned<I, O, W, F, R>(self, op: Op<I, O>, owner: W, handler: F) -> Self
    where
        I: Input,
        O: Output,
        W: Fn(&Cx<S>, &I) -> Result<String> + Send + Sync + 'static,
        F: Fn(Cx<S>, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O>> + Send + 'static,
    {
        self.on_owned_in_store(op, move |cx, input| Box::pin(ready(owner(cx, input))), handler)
    }

    /// The same where the owner is to be read first.
    pub fn on_owned_in_store<I, O, W, F, R>(self, op: Op<I, O>, owner: W, handler: F) -> Self
    where
        I: Input,
        O: Output,
        W: for<'a> Fn(&'a Cx<S>, &'a I) -> BoxFuture<'a, Result<String>> + Send + Sync + 'static,
        F: Fn(Cx<S>, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O>> + Send + 'static,
    {
        assert!(asks_for_owner(op.row), "the row of `{}` does not let the owner in", op.row.id);
        self.bind(op.row, owner, handler, Answer { status: O::STATUS, encode: O::encode })
    }

    fn bind<I, A, W, F, R>(mut self, row: &'static Row, owner: W, handler: F, answer: Answer<A>) -> Self
    where
        I: Input,
        A: 'static,
        W: for<'a> Fn(&'a Cx<S>, &'a I) -> BoxFuture<'a, Result<String>> + Send + Sync + 'static,
        F: Fn(Cx<S>, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<A>> + Send + 'static,
    {
        let state = self.state.clone();
        let (owner, handler) = (Arc::new(owner), Arc::new(handler));
        let checker = Checker::new(row);
        let checker = Arc::new(checker.unwrap_or_else(|unknown| panic!("the input of `{}`: {unknown}", row.id)));
        // Entries of the audit log are written from the task of their call.
        assert!(!(row.long_answer && row.audited), "the answer of `{}` is long, so it cannot be audited", row.id);
        let beside = row.long_answer.then(|| self.long_answers.clone());
        let run: Handler = Arc::new(move |request, mut parts, verdict| {
            let asker = Asker::of(&request);
            let cx = Cx { state: state.clone(), request };
            let (owner, handler, checker) = (owner.clone(), handler.clone(), checker.clone());
            let work = async move {
                let mut read = move || {
                    checker.check(&parts)?;
                    I::decode(&mut parts)
                };
                let read = match cx.request.large_body {
                    false => read(),
                    true => tokio::task::spawn_blocking(read).await.map_err(Error::internal)?,
                };
                let input = read.map_err(|refused| Error::new(&request::INVALID_INPUT, refused.0))?;
                if verdict == Verdict::IfOwner {
                    let owner_id = owner(&cx, &input).await?;
                    if *cx.caller()?.user_id != *owner_id {
                        return Err(Error::new(&access::NOT_OWNER, not_owner(row)));
                    }
                }
                let output = handler(cx, input).await?;
                let status = StatusCode::from_u16(answer.status).map_err(Error::internal)?;
                Ok(respond::success(status, (answer.encode)(output).map_err(Error::internal)?))
            };
            match beside.clone() {
                None => Box::pin(work),
                Some(turns) => Box::pin(run_beside(turns, asker, work)),
            }
        });
        self.mounted.bound.push(Bound { row, reads_body: I::HAS_BODY, handler: run });
        self
    }

    /// Adds work that runs until the daemon stops; when it panics it is started again.
    pub fn run<F, R>(mut self, name: &'static str, work: F) -> Self
    where
        F: Fn(Arc<S>) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let state = self.state.clone();
        self.mounted.tasks.push(Task { name, run: Arc::new(move || Box::pin(work(state.clone()))) });
        self
    }

    /// Adds work that is done again and again with this pause before each time.
    pub fn every<F, R>(self, pause: Duration, name: &'static str, work: F) -> Self
    where
        F: Fn(Arc<S>) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let work = Arc::new(work);
        self.run(name, move |state| {
            let work = work.clone();
            async move {
                loop {
                    tokio::time::sleep(pause).await;
                    work(state.clone()).await;
                }
            }
        })
    }

    /// Has the service's documents of an account deleted with the account.
    pub fn on_account_deletion(mut self) -> Self
    where
        S: AccountDeletionHook,
    {
        self.mounted.hooks.account_deletion.push(self.state.clone());
        self
    }

    /// Has the service asked whether an instance of an account is up.
    pub fn answers_presence(mut self) -> Self
    where
        S: InstancePresence,
    {
        self.mounted.hooks.presence.push(self.state.clone());
        self
    }

    /// Has the service told of instances that the gateway could not connect to.
    pub fn on_unreachable(mut self) -> Self
    where
        S: UnreachableHook,
    {
        self.mounted.hooks.unreachable.push(self.state.clone());
        self
    }

    pub fn mount(self) -> Mounted {
        self.mounted
    }
}

/// Long answers made at once, at least: one that waits for the store is not to keep all others waiting.
const MIN_LONG_ANSWERS: usize = 4;

/// Does the work on a thread of its own, in its turn.
async fn run_beside<T: Send + 'static>(
    turns: Turns<Asker>,
    asker: Asker,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let turn = turns.take(asker).await;
    let (runtime, work) = (Handle::current(), work.instrument(Span::current()));
    // The turn ends with the work, also where nobody waits for that any more.
    let work = async move {
        let _turn = turn;
        work.await
    };
    tokio::task::spawn_blocking(move || runtime.block_on(work)).await.map_err(Error::internal)?
}

/// How what a handler returns becomes an answer.
struct Answer<A> {
    status: u16,
    encode: fn(A) -> Result<Option<Encoded>, serde_json::Error>,
}

fn no_owner<'a, S, I>(_: &'a Cx<S>, _: &'a I) -> BoxFuture<'a, Result<String>> {
    Box::pin(ready(Err(Error::internal("an operation without owner"))))
}

fn not_owner(row: &Row) -> String {
    match row.access {
        Access::Needs(Guard { permission, exempt: Exempt::Account, .. }) => {
            format!("an account may do this for itself; for others it needs the permission `{}`", permission.id)
        }
        _ => "only the owner and admins may do this".to_owned(),
    }
}

fn asks_for_owner(row: &Row) -> bool {
    matches!(row.access, Access::Needs(guard) if guard.exempt != Exempt::Nobody)
}

/// Runs a task until its future ends; a panic is logged and the task starts again after a second.
pub async fn supervise(task: Task) {
    loop {
        match tokio::spawn((task.run)()).await {
            Ok(()) => return,
            Err(ended) if ended.is_cancelled() => return,
            Err(panicked) => {
                let reason = panic_text(panicked.into_panic());
                tracing::error!(task.name, "the task `{}` failed ({reason}) and is started again", task.name);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

pub(crate) fn panic_text(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => payload.downcast_ref::<&str>().map_or_else(|| "panic".to_owned(), |text| (*text).to_owned()),
    }
}

/// How long a lost race is run again: clients wait longer than this for an answer.
const RETRY_LIMIT: Duration = Duration::from_secs(20);
/// The longest pause before the next attempt.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Runs `attempt` again when another writer came between its reading and its batch. One of all who race wins each round;
/// the others pause, each for a random time out of a span that doubles, so that they do not meet again.
pub async fn retry<T, F: Future<Output = Result<T>>>(mut attempt: impl FnMut() -> F) -> Result<T> {
    let started = Instant::now();
    let mut span = Duration::from_millis(1);
    loop {
        match attempt().await {
            Err(error) if error.is_lost_race() && audit::caller_lost_standing() => return Err(error),
            Err(error) if error.is_lost_race() && started.elapsed() < RETRY_LIMIT => {
                tokio::time::sleep(span.mul_f64(random_part())).await;
                span = (span * 2).min(LONGEST_PAUSE);
            }
            Err(error) if error.is_lost_race() => {
                return Err(Error::new(
                    &platform::CONTENDED,
                    format!("others changed the same thing for {} s; try again in a moment", RETRY_LIMIT.as_secs()),
                ));
            }
            outcome => return outcome,
        }
    }
}

/// From 0 to 1. Not for secrets.
fn random_part() -> f64 {
    // The standard library seeds each of these anew.
    let number = RandomState::new().hash_one(0_u8);
    f64::from((number >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod retry_tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use openorch_store::StoreError;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lost_race_is_run_again_until_it_is_won_or_the_time_is_over() {
        let tries = AtomicUsize::new(0);
        let lost = || Error::from(StoreError::Conflict("another was first".into()));
        let won = retry(|| async {
            match tries.fetch_add(1, Ordering::Relaxed) {
                100 => Ok(()),
                _ => Err(lost()),
            }
        });
        assert!(won.await.is_ok());
        let started = Instant::now();
        let error = retry(|| async { Err::<(), _>(lost()) }).await.unwrap_err();
        assert_eq!(error.code, &platform::CONTENDED);
        assert!((RETRY_LIMIT..RETRY_LIMIT + LONGEST_PAUSE).contains(&started.elapsed()));
        let other = retry(|| async { Err::<(), _>(Error::new(&platform::CONFLICT, "taken")) }).await.unwrap_err();
        assert_eq!(other.code, &platform::CONFLICT, "what was decided is not decided again");
    }
}

#[cfg(test)]
mod long_answer_tests {
    use std::sync::mpsc;

    use openorch_api::op;

    use super::*;

    static LONG: Row = Row {
        id: "listNumbers",
        long_answer: true,
        access: openorch_api::Access::Public,
        output: <Json<Vec<u32>> as Output>::describe,
        ..op::TEMPLATE
    };

    /// One async worker, which must be free while the list is made.
    #[tokio::test]
    async fn a_long_answer_is_made_beside_the_async_workers() {
        let (send, wait) = mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let make = move |_: Cx<()>, ()| {
            let came = wait.lock().unwrap().recv_timeout(Duration::from_secs(10)).is_ok();
            async move { Ok(Json(vec![u32::from(came)])) }
        };
        let make = Arc::new(make);
        let service = Service::new("a-svc", Arc::new(())).on(Op::<(), Json<Vec<u32>>>::new(&LONG), move |cx, ()| {
            let make = make.clone();
            async move { make(cx, ()).await }
        });
        let request = RequestContext {
            caller: None,
            request_id: "".into(),
            client_ip: std::net::Ipv4Addr::LOCALHOST.into(),
            from_this_machine: true,
            extended: false,
            large_body: false,
            streams: Arc::default(),
        };
        let handler = service.mount().bound[0].handler.clone();
        let answer = handler(Arc::new(request), Parts { path: vec![], query: vec![], body: None }, Verdict::Allowed);
        let answer = tokio::spawn(answer);
        tokio::task::yield_now().await;
        send.send(()).unwrap();
        let body = answer.await.unwrap().unwrap().into_body();
        let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
        assert_eq!(&bytes[..], b"[1]");
    }
}
