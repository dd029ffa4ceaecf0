//! A service: handlers bound to operations of the table, and background tasks.

mod long_work;
mod retry;

use std::{any::Any, future::ready, sync::Arc, time::Duration};

use http::{Response, StatusCode};
use openorch_api::{
    Access, Events, Exempt, Idempotency, Input, Json, Op, Operation, Output, PermissionRequirement, RequestParts,
    SchemaValidator,
    error::{access, request},
    events::Event,
    output::{Encoded, Items, LongList},
};

pub(crate) use self::long_work::WorkQueue;
use self::long_work::{LongWork, run_blocking};
pub use self::retry::retry;
use crate::{
    Body, BoxFuture, Caller, Error, Result,
    audit::CallAudit,
    events::{EventStreams, Subscription},
    fair_semaphore::{FairPermit, Requester},
    forwarded::client_network,
    headers::DeclaredHeaders,
    identity::{AccountDeletionHook, AppDeletionHook, InstancePresence},
    local::FOREIGN_ON_LOOPBACK,
    response,
    router::Calls,
    routes::UnreachableHook,
};

/// The first argument of a handler: the state of its service and the request context.
pub struct Cx<S> {
    /// The state of the service.
    pub state: Arc<S>,
    /// The request that the handler serves.
    pub request: Arc<RequestContext>,
}

/// A request as services see it, whether it came over HTTP or from a call in process.
pub struct RequestContext {
    /// The authenticated account; always set in guarded operations.
    pub caller: Option<Caller>,
    /// The id of the request in logs and in the audit log.
    pub request_id: Box<str>,
    /// The client's address, determined by the rules of decision "Client address".
    pub client_ip: std::net::IpAddr,
    /// Whether the client is a program on this machine: see [`crate::local`].
    pub is_local: bool,
    /// The request headers that the operation declares.
    pub headers: DeclaredHeaders,
    /// The audit record of the call, committed with its changes.
    pub audit: CallAudit,
    /// Whether the body is so large that decoding it would block an async worker.
    pub large_body: bool,
    /// For calling other operations in process; `None` where no router serves the call.
    pub calls: Option<Calls>,
    /// The open event streams; a response may add one.
    pub streams: Arc<EventStreams>,
}

impl RequestContext {
    /// The address by which sign-ins are counted. Requests from loopback that do not come from a program on this machine
    /// (those of web pages and proxies) are counted together at [`FOREIGN_ON_LOOPBACK`], so that they do not use up the
    /// limits of programs on this machine.
    pub fn counted_address(&self) -> std::net::IpAddr {
        match self.client_ip.is_loopback() && !self.is_local {
            true => FOREIGN_ON_LOOPBACK,
            false => self.client_ip,
        }
    }
}

impl<S> Cx<S> {
    /// The caller of an operation that is not public.
    pub fn caller(&self) -> Result<&Caller> {
        self.request.caller.as_ref().ok_or_else(|| Error::new(&access::NO_TOKEN, "Unauthorized"))
    }

    /// For calling operations of the daemon in process, as this call's caller.
    pub fn calls(&self) -> Result<Calls> {
        self.request.calls.clone().ok_or_else(|| Error::internal("no router serves this call"))
    }

    /// Calls another operation in process, as this call's caller: see [`Calls::call`].
    pub async fn call<I: Input, O: Output>(&self, op: Op<I, O>, input: I) -> Result<O> {
        self.calls()?.call(op, input).await
    }

    /// The account id that an input names; the caller's id if it names none.
    pub fn account_or_caller(&self, id: Option<&str>) -> Result<String> {
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

/// Runs one operation: decodes the input, checks the owner or condition where the operation requires it, calls the handler.
/// Requires a permit of the operation's queue if it has one.
pub(crate) type Handler = Arc<
    dyn Fn(
            Arc<RequestContext>,
            RequestParts,
            Authorization,
            Option<FairPermit<Requester>>,
        ) -> BoxFuture<'static, Result<Response<Body>>>
        + Send
        + Sync,
>;

/// The result of the permission check, made before the input is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Allowed regardless of what the input names.
    Allowed,
    /// Allowed only if the caller owns what the input names.
    OwnerOnly,
}

/// An operation with its handler.
pub struct BoundOperation {
    /// The operation in the contract.
    pub definition: &'static Operation,
    pub(crate) reads_body: bool,
    /// The status of a success.
    pub(crate) status: StatusCode,
    /// Where its calls wait for a permit; `None` if they are short.
    pub(crate) queue: Option<WorkQueue>,
    pub(crate) handler: Handler,
}

/// A background task of a service, which runs until the daemon stops.
pub struct Task {
    /// The name of the task in logs.
    pub name: &'static str,
    /// Starts the task; its future is expected not to end.
    pub run: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

/// Builder of a service: its state, operations and background tasks.
pub struct ServiceBuilder<S> {
    state: Arc<S>,
    service: BuiltService,
    long_work: LongWork,
}

/// A finished service, with its state type erased.
pub struct BuiltService {
    /// The slug of the service.
    pub slug: &'static str,
    /// Its operations with their handlers.
    pub operations: Vec<BoundOperation>,
    /// Its background tasks.
    pub tasks: Vec<Task>,
    /// Its callbacks.
    pub hooks: Hooks,
}

/// Callbacks by which services take part in events of other components.
#[derive(Clone, Default)]
pub struct Hooks {
    /// Called when an account is deleted.
    pub account_deletion: Vec<Arc<dyn AccountDeletionHook>>,
    /// Called when an app is deleted.
    pub app_deletion: Vec<Arc<dyn AppDeletionHook>>,
    /// Queried for whether an account has a running instance.
    pub presence: Vec<Arc<dyn InstancePresence>>,
    /// Called when the gateway could not connect to an instance.
    pub unreachable: Vec<Arc<dyn UnreachableHook>>,
}

impl Hooks {
    /// The hooks of all these services.
    pub fn of(services: &[BuiltService]) -> Hooks {
        let mut all = Hooks::default();
        for BuiltService { hooks, .. } in services {
            all.account_deletion.extend(hooks.account_deletion.iter().cloned());
            all.app_deletion.extend(hooks.app_deletion.iter().cloned());
            all.presence.extend(hooks.presence.iter().cloned());
            all.unreachable.extend(hooks.unreachable.iter().cloned());
        }
        all
    }
}

impl<S: Send + Sync + 'static> ServiceBuilder<S> {
    /// A service without operations. `slug` is that of the contract.
    pub fn new(slug: &'static str, state: Arc<S>) -> ServiceBuilder<S> {
        let mounted = BuiltService { slug, operations: Vec::new(), tasks: Vec::new(), hooks: Hooks::default() };
        ServiceBuilder { state, service: mounted, long_work: LongWork::new() }
    }

    /// Continues with the state of another part of the service, which the handlers bound next receive.
    pub fn with_state<T: Send + Sync + 'static>(self, state: Arc<T>) -> ServiceBuilder<T> {
        ServiceBuilder { state, service: self.service, long_work: self.long_work }
    }

    /// Binds the handler of an operation.
    pub fn on<I, O, F, R>(self, op: Op<I, O>, handler: F) -> Self
    where
        I: Input,
        O: Output,
        F: Fn(Cx<S>, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O>> + Send + 'static,
    {
        assert_authorized_by_router(op.row);
        self.bind(
            op.row,
            |_, _, _| Box::pin(ready(Ok(()))),
            handler,
            ResponseEncoding { status: O::STATUS, encode: O::encode },
        )
    }

    /// Binds the handler of an operation whose answer is a possibly long list: the handler returns the items, which are
    /// encoded while the client reads.
    pub fn on_list<I, T, F, R>(self, op: Op<I, Json<T>>, handler: F) -> Self
    where
        I: Input,
        T: LongList,
        Json<T>: Output,
        F: Fn(Cx<S>, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Items<T>>> + Send + 'static,
    {
        assert_authorized_by_router(op.row);
        let encode = |items: Items<T>| items.encode().map(Some);
        self.bind(
            op.row,
            |_, _, _| Box::pin(ready(Ok(()))),
            handler,
            ResponseEncoding { status: Json::<T>::STATUS, encode },
        )
    }

    /// Binds the handler of an operation whose answer is an event stream: the handler returns the subscription. The stream
    /// ends when the caller loses its session or permission, and when a drain starts.
    pub fn on_events<I, E, F, R>(self, op: Op<I, Events<E>>, handler: F) -> Self
    where
        I: Input,
        E: Event,
        F: Fn(Cx<S>, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Subscription<E>>> + Send + 'static,
    {
        assert_authorized_by_router(op.row);
        let handler = Arc::new(handler);
        let open = move |cx: Cx<S>, input| {
            let handler = handler.clone();
            async move {
                // Per account, or per client network of an unauthenticated request.
                let requester = match &cx.request.caller {
                    Some(caller) => Requester::Account(caller.user_id.clone()),
                    None => Requester::Network(client_network(cx.request.client_ip)),
                };
                let slot = cx.request.streams.acquire(requester)?;
                Ok(handler(cx, input).await?.into_events(slot))
            }
        };
        self.bind(
            op.row,
            |_, _, _| Box::pin(ready(Ok(()))),
            open,
            ResponseEncoding { status: Events::<E>::STATUS, encode: Events::encode },
        )
    }

    /// Binds the handler of an operation that exempts the owner of what the input names, or the account itself, from its
    /// permission: `owner` returns the id of that account, or an error if the resource does not exist or is hidden from the
    /// caller.
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

    /// Like [`ServiceBuilder::on_owned`], for an owner that must be read from the store.
    pub fn on_owned_in_store<I, O, W, F, R>(self, op: Op<I, O>, owner: W, handler: F) -> Self
    where
        I: Input,
        O: Output,
        W: for<'a> Fn(&'a Cx<S>, &'a I) -> BoxFuture<'a, Result<String>> + Send + Sync + 'static,
        F: Fn(Cx<S>, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O>> + Send + 'static,
    {
        let row = op.row;
        assert!(exempts_owner(row) && row.condition.is_none(), "the row of `{}` does not let the owner in", row.id);
        self.bind(
            row,
            move |cx, input, verdict| match verdict {
                Authorization::Allowed => Box::pin(ready(Ok(()))),
                Authorization::OwnerOnly => Box::pin(require_owner(row, cx, owner(cx, input))),
            },
            handler,
            ResponseEncoding { status: O::STATUS, encode: O::encode },
        )
    }

    /// Binds the handler of an operation with a condition: `decide` fails with the condition's code if the caller does not
    /// meet it.
    pub fn on_condition<I, O, D, F, R>(self, op: Op<I, O>, decide: D, handler: F) -> Self
    where
        I: Input,
        O: Output,
        D: Fn(&Cx<S>, &I) -> Result<()> + Send + Sync + 'static,
        F: Fn(Cx<S>, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O>> + Send + 'static,
    {
        self.on_condition_in_store(op, move |cx, input| Box::pin(ready(decide(cx, input))), handler)
    }

    /// Like [`ServiceBuilder::on_condition`], for a condition that must read the store.
    pub fn on_condition_in_store<I, O, D, F, R>(self, op: Op<I, O>, decide: D, handler: F) -> Self
    where
        I: Input,
        O: Output,
        D: for<'a> Fn(&'a Cx<S>, &'a I) -> BoxFuture<'a, Result<()>> + Send + Sync + 'static,
        F: Fn(Cx<S>, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O>> + Send + 'static,
    {
        let row = op.row;
        assert!(row.condition.is_some() && !exempts_owner(row), "the row of `{}` has no condition", row.id);
        let answer = ResponseEncoding { status: O::STATUS, encode: O::encode };
        self.bind(row, move |cx, input, _| decide(cx, input), handler, answer)
    }

    fn bind<I, A, D, F, R>(
        mut self,
        row: &'static Operation,
        decide: D,
        handler: F,
        answer: ResponseEncoding<A>,
    ) -> Self
    where
        I: Input,
        A: 'static,
        D: for<'a> Fn(&'a Cx<S>, &'a I, Authorization) -> BoxFuture<'a, Result<()>> + Send + Sync + 'static,
        F: Fn(Cx<S>, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<A>> + Send + 'static,
    {
        let state = self.state.clone();
        let (decide, handler) = (Arc::new(decide), Arc::new(handler));
        let checker = SchemaValidator::new(row);
        let checker = Arc::new(checker.unwrap_or_else(|unknown| panic!("the input of `{}`: {unknown}", row.id)));
        // The answer is stored in the batch of the audit entry, and replayed without asking the service for authorization.
        let is_keyed = row.idempotency() == Idempotency::Keyed;
        assert!(!is_keyed || row.audited && is_authorized_by_router(row), "repeats of `{}` cannot be keyed", row.id);
        let status = StatusCode::from_u16(answer.status);
        let status = status.unwrap_or_else(|_| panic!("the status of `{}`: {}", row.id, answer.status));
        let queue = self.long_work.queue(row);
        let run: Handler = Arc::new(move |request, mut parts, verdict, permit| {
            let cx = Cx { state: state.clone(), request };
            let (decide, handler, checker) = (decide.clone(), handler.clone(), checker.clone());
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
                decide(&cx, &input, verdict).await?;
                let output = handler(cx, input).await?;
                Ok(response::success(status, (answer.encode)(output).map_err(Error::internal)?))
            };
            match permit {
                None => Box::pin(work),
                Some(permit) => Box::pin(run_blocking(permit, work)),
            }
        });
        self.service.operations.push(BoundOperation {
            definition: row,
            reads_body: I::HAS_BODY,
            status,
            queue,
            handler: run,
        });
        self
    }

    /// Adds a task that runs until the daemon stops; it is restarted after a panic.
    pub fn run<F, R>(mut self, name: &'static str, work: F) -> Self
    where
        F: Fn(Arc<S>) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let state = self.state.clone();
        self.service.tasks.push(Task { name, run: Arc::new(move || Box::pin(work(state.clone()))) });
        self
    }

    /// Adds a periodic task, with this pause before each run.
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

    /// Deletes the service's documents of an account with the account.
    pub fn on_account_deletion(mut self) -> Self
    where
        S: AccountDeletionHook,
    {
        self.service.hooks.account_deletion.push(self.state.clone());
        self
    }

    /// Deletes the service's documents of an app with the app.
    pub fn on_app_deletion(mut self) -> Self
    where
        S: AppDeletionHook,
    {
        self.service.hooks.app_deletion.push(self.state.clone());
        self
    }

    /// Registers the service as a source of [`InstancePresence`].
    pub fn provides_presence(mut self) -> Self
    where
        S: InstancePresence,
    {
        self.service.hooks.presence.push(self.state.clone());
        self
    }

    /// Notifies the service of instances that the gateway could not connect to.
    pub fn on_unreachable(mut self) -> Self
    where
        S: UnreachableHook,
    {
        self.service.hooks.unreachable.push(self.state.clone());
        self
    }

    /// The finished service.
    pub fn build(self) -> BuiltService {
        self.service
    }
}

/// How a handler's return value is encoded as a response.
struct ResponseEncoding<A> {
    status: u16,
    encode: fn(A) -> Result<Option<Encoded>, serde_json::Error>,
}

/// Fails unless the caller is the owner.
async fn require_owner<S>(row: &Operation, cx: &Cx<S>, owner_id: BoxFuture<'_, Result<String>>) -> Result<()> {
    match *cx.caller()?.user_id == *owner_id.await? {
        true => Ok(()),
        false => Err(Error::new(&access::NOT_OWNER, not_owner(row))),
    }
}

fn is_authorized_by_router(row: &Operation) -> bool {
    !exempts_owner(row) && row.condition.is_none()
}

fn assert_authorized_by_router(row: &Operation) {
    assert!(!exempts_owner(row), "operation `{}` asks for its owner: bind it with on_owned", row.id);
    assert!(row.condition.is_none(), "operation `{}` has a condition: bind it with on_condition", row.id);
}

fn not_owner(row: &Operation) -> String {
    match row.access {
        Access::Needs(PermissionRequirement { permission, exempt: Exempt::Account, .. }) => {
            format!("an account may do this for itself; for others it needs the permission `{}`", permission.id)
        }
        _ => "only the owner and admins may do this".to_owned(),
    }
}

fn exempts_owner(row: &Operation) -> bool {
    matches!(row.access, Access::Needs(guard) if guard.exempt != Exempt::None)
}

/// Runs a task until its future completes; a panic is logged and the task restarts after a second.
pub async fn supervise(task: Task) {
    loop {
        match tokio::spawn((task.run)()).await {
            Ok(()) => return,
            Err(ended) if ended.is_cancelled() => return,
            Err(panicked) => {
                let reason = panic_text(panicked.into_panic());
                tracing::error!(task.name, "task `{}` panicked ({reason}); restarting it", task.name);
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

#[cfg(test)]
mod long_answer_tests {
    use std::sync::mpsc;

    use openorch_api::op;

    use super::*;

    static LONG: Operation = Operation {
        id: "listNumbers",
        long_response: true,
        access: openorch_api::Access::Public,
        output: <Json<Vec<u32>> as Output>::describe,
        ..op::DEFAULT
    };

    /// There is one async worker, which must stay free while the list is built.
    #[tokio::test]
    async fn a_long_answer_is_made_beside_the_async_workers() {
        let (send, wait) = mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let make = move |_: Cx<()>, ()| {
            let came = wait.lock().unwrap().recv_timeout(Duration::from_secs(10)).is_ok();
            async move { Ok(Json(vec![u32::from(came)])) }
        };
        let make = Arc::new(make);
        let service =
            ServiceBuilder::new("a-svc", Arc::new(())).on(Op::<(), Json<Vec<u32>>>::new(&LONG), move |cx, ()| {
                let make = make.clone();
                async move { make(cx, ()).await }
            });
        let request = RequestContext {
            caller: None,
            request_id: "".into(),
            client_ip: std::net::Ipv4Addr::LOCALHOST.into(),
            is_local: true,
            headers: DeclaredHeaders::default(),
            large_body: false,
            calls: None,
            audit: CallAudit::NONE,
            streams: Arc::default(),
        };
        let BoundOperation { queue, handler, .. } = service.build().operations.remove(0);
        let permit = queue.unwrap().acquire(None, request.client_ip, true).await.unwrap();
        let parts = RequestParts { path: vec![], query: vec![], body: None };
        let answer = handler(Arc::new(request), parts, Authorization::Allowed, Some(permit));
        let answer = tokio::spawn(answer);
        tokio::task::yield_now().await;
        send.send(()).unwrap();
        let body = answer.await.unwrap().unwrap().into_body();
        let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
        assert_eq!(&bytes[..], b"[1]");
    }
}
