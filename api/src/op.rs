//! The table of operations. Each row declares one operation completely; the router, the OpenAPI document, the client, the
//! command line, the seeding of permissions and the access tests are derived from the rows.

use std::marker::PhantomData;

use schemars::SchemaGenerator;
use serde_json::Value;

use crate::{
    ErrorCode,
    error::{access, platform, repeat, request},
    header::{self, Header},
    input::{Input, InputSchema},
    output::{self, Output, OutputSchema, Stream},
};

/// An HTTP method that operations use (RFC 9110, 9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// `GET`: reads.
    Get,
    /// `POST`: writes, unless the operation declares that it reads.
    Post,
    /// `PUT`: creates or replaces what the request names.
    Put,
    /// `DELETE`: removes what the request names.
    Delete,
}

impl Method {
    /// The method as it is sent, in upper case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
        }
    }
}

/// Whether an operation changes state, which determines retries and auditing. A POST that lists is a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It changes nothing.
    Read,
    /// It may change something.
    Write,
}

/// Whether an operation is idempotent, which determines whether a client may retry it (decision "Idempotency keys").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotency {
    /// Idempotent by itself: a repeated call leaves the same state, though its response may differ.
    Natural,
    /// Idempotent with the header `Idempotency-Key`: a repeated call receives the response of the first one. The operation
    /// commits one batch, and its response, which contains no secret, is stored in the same batch.
    Keyed,
    /// Not idempotent: a second call has its own effect, or fails.
    Never,
}

impl Idempotency {
    /// The value of `x-repeat` in the OpenAPI document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Idempotency::Natural => "natural",
            Idempotency::Keyed => "keyed",
            Idempotency::Never => "never",
        }
    }
}

/// A permission that can be given to a role or granted to a slug.
#[derive(Debug)]
pub struct Permission {
    /// `<slug of the service>:<thing>:<verb>`.
    pub id: &'static str,
    /// What it allows, in a sentence.
    pub description: &'static str,
    /// The built-in roles that have it when the daemon is first started.
    pub granted_to: &'static [&'static str],
    /// Whether it applies to resources that belong to no app, or to all apps. Such a permission counts only if the account
    /// has it in the default app or in all apps.
    pub platform_scoped: bool,
}

/// [`Permission::platform_scoped`], as an argument of the macro `permissions!`.
pub const PLATFORM_SCOPED: bool = true;

/// Who may call an operation.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    /// Anyone, without a token.
    Public,
    /// Any account with a valid token.
    SignedIn,
    /// Accounts that satisfy the requirement.
    Needs(PermissionRequirement),
}

/// A permission that an operation needs, and the callers that do not need it.
#[derive(Clone, Copy, Debug)]
pub struct PermissionRequirement {
    /// The permission, which the caller has through a role or a grant.
    pub permission: &'static Permission,
    /// Slugs of built-in services that may call the operation without the permission.
    pub exempt_slugs: &'static [&'static str],
    /// Other callers that do not need the permission.
    pub exempt: Exempt,
}

/// An additional authorization rule that depends on the caller and the input. The service binds the function that
/// evaluates it, which runs before the handler.
#[derive(Debug)]
pub struct Condition {
    /// The callers that satisfy it, for the OpenAPI document: "an admin of the organization".
    pub allowed_callers: &'static str,
    /// The error for other callers.
    pub error: &'static ErrorCode,
}

/// Callers that do not need the permission. The service binds a function that finds the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exempt {
    /// No one: every caller that is not an exempt service needs the permission.
    None,
    /// The owner of the resource that the input names.
    Owner,
    /// The account that the input names, or the account that the named resource concerns; the caller if none is named.
    Account,
}

impl Access {
    /// Accounts with the permission.
    pub const fn needs(permission: &'static Permission) -> Access {
        Access::Needs(PermissionRequirement { permission, exempt_slugs: &[], exempt: Exempt::None })
    }

    /// Also the built-in services with these slugs, without the permission. No effect unless a permission is needed.
    pub const fn or_slugs(self, also_slugs: &'static [&'static str]) -> Access {
        match self {
            Access::Needs(guard) => Access::Needs(PermissionRequirement { exempt_slugs: also_slugs, ..guard }),
            other => other,
        }
    }

    /// Also the owner of the resource that the input names. No effect unless a permission is needed.
    pub const fn or_owner(self) -> Access {
        self.exempting(Exempt::Owner)
    }

    /// Each account may call it for itself; calls for other accounts need the permission.
    pub const fn itself_or(permission: &'static Permission) -> Access {
        Access::needs(permission).exempting(Exempt::Account)
    }

    /// Whether it needs a permission that accounts do not have from the start, whatever they name.
    pub fn is_privileged(&self) -> bool {
        matches!(self, Access::Needs(guard) if guard.exempt == Exempt::None
            && !guard.permission.granted_to.contains(&crate::role::USER))
    }

    const fn exempting(self, exempt: Exempt) -> Access {
        match self {
            Access::Needs(guard) => Access::Needs(PermissionRequirement { exempt, ..guard }),
            other => other,
        }
    }
}

/// The declaration of one operation, without its input and output types.
pub struct Operation {
    /// The operation id in the OpenAPI document, logs, metrics and `oo call`.
    pub id: &'static str,
    /// The HTTP method, the same for all paths.
    pub method: Method,
    /// The path template, with `{name}` for path parameters.
    pub path: &'static str,
    /// Other paths of the same operation.
    pub aliases: &'static [&'static str],
    /// The doc comment: its first sentence is the summary, the rest the description.
    pub doc: &'static str,
    /// Who may call it.
    pub access: Access,
    /// A rule that callers must satisfy besides `access`, if there is one.
    pub condition: Option<&'static Condition>,
    /// `None`: derived from the method (GET reads, all others write).
    pub effect: Option<Effect>,
    /// Required for operations that write; reads are [`Natural`](Idempotency::Natural).
    pub repeat: Option<Idempotency>,
    /// Whether a call that changes something or is refused is written to the audit log.
    pub audited: bool,
    /// JSON pointers into the body whose values are targets in the audit log, besides the path parameters. `*` stands for
    /// each element of a list. Never points to a secret.
    pub audit_targets: &'static [&'static str],
    /// Whether it may be called with a delegated token (decision "Delegated tokens").
    pub delegated: bool,
    /// Whether it ends sessions. Such calls are exempt from the write rate limit of the account, so that the holder of a
    /// stolen token cannot prevent the owner from revoking it.
    pub ends_sessions: bool,
    /// Request headers that it reads, besides the common ones and `Idempotency-Key` of [`Idempotency::Keyed`].
    pub request_headers: &'static [&'static Header],
    /// Headers of its success response, besides the common ones.
    pub response_headers: &'static [&'static Header],
    /// Error codes besides those implied by access, input and the state of the daemon.
    pub errors: &'static [&'static ErrorCode],
    /// Whether the response may be a long list. It is built and encoded on a blocking thread, so that it does not block the
    /// async workers. A test of the table names the lists that are always short.
    pub long_response: bool,
    /// Whether one call may be expensive. It also runs on a blocking thread, and waits apart from those.
    pub heavy: bool,
    /// Maximum body size in bytes as sent; `None`: the limit from the settings. Decompressed, the body may be
    /// [`MAX_DECOMPRESSION_RATIO`] times as large.
    pub max_body_bytes: Option<usize>,
    /// Maximum number of JSON values in the body; `None`: the limit from the settings.
    pub max_values: Option<usize>,
    /// Rewrites alternative forms of the body (those of the successor API) into the canonical one, before decoding.
    pub normalize_body: Option<fn(&mut Value)>,
    /// Describes the input. Construction of the schemas is expensive, so call it rarely.
    pub input: fn(&mut SchemaGenerator) -> InputSchema,
    /// Describes the output. Construction of the schemas is expensive, so call it rarely.
    pub output: fn(&mut SchemaGenerator) -> OutputSchema,
}

/// Default maximum size of a JSON body in bytes as sent (decision "Limits").
pub const DEFAULT_MAX_BODY_BYTES: usize = 4 << 20;
/// A decompressed body may be this many times the maximum size of the compressed one.
pub const MAX_DECOMPRESSION_RATIO: usize = 4;

impl Operation {
    /// Whether it reads or writes, with the default of its method applied.
    pub fn effect(&self) -> Effect {
        match (self.effect, self.method) {
            (Some(effect), _) => effect,
            (None, Method::Get) => Effect::Read,
            (None, _) => Effect::Write,
        }
    }

    /// Whether the operation is idempotent, with the default for reads applied.
    pub fn idempotency(&self) -> Idempotency {
        match (self.repeat, self.effect()) {
            (Some(repeat), _) => repeat,
            (None, Effect::Read) => Idempotency::Natural,
            (None, Effect::Write) => Idempotency::Never,
        }
    }

    /// The request headers that it reads, besides the common ones.
    pub fn all_request_headers(&self) -> impl Iterator<Item = &'static Header> {
        let key = (self.idempotency() == Idempotency::Keyed).then_some(&header::IDEMPOTENCY_KEY);
        self.request_headers.iter().copied().chain(key)
    }

    /// The first sentence of the documentation, without the full stop.
    pub fn summary(&self) -> String {
        let (summary, _) = self.split_doc();
        summary.trim_end_matches('.').to_owned()
    }

    /// The documentation after its first sentence; may be empty.
    pub fn description(&self) -> String {
        self.split_doc().1
    }

    /// The first sentence on one line, and the rest with its line breaks.
    fn split_doc(&self) -> (String, String) {
        let doc = self.doc.trim();
        let paragraph = doc.split("\n\n").next().unwrap_or_default();
        // The sentence ends at a full stop before white space; these texts contain no abbreviations.
        let end = paragraph
            .match_indices('.')
            .map(|(at, _)| at + 1)
            .find(|end| paragraph[*end..].starts_with(char::is_whitespace))
            .unwrap_or(paragraph.len());
        let on_one_line = paragraph[..end].split_whitespace().collect::<Vec<_>>().join(" ");
        let rest = doc[end..].lines().map(str::trim).collect::<Vec<_>>().join("\n");
        (on_one_line, rest.trim().to_owned())
    }

    /// The error codes implied by access and by `input`, followed by the declared ones. Any operation may also return
    /// [`platform::ERRORS`] and [`request::INVALID_URL`], which are not included.
    pub fn error_codes(&self, input: &InputSchema) -> Vec<&'static ErrorCode> {
        let mut list = Vec::new();
        if input.body.is_some() || input.query.is_some() || !input.path.is_empty() {
            list.extend([&request::INVALID_INPUT, &request::UNUSABLE_VALUE]);
        }
        if input.body.is_some() {
            list.extend([
                &request::INVALID_BODY,
                &request::BODY_TOO_SLOW,
                &request::BODY_TOO_LARGE,
                &request::TOO_MANY_VALUES,
            ]);
            if self.effect() == Effect::Write {
                list.push(&request::DOCUMENT_TOO_LARGE);
            }
        }
        if self.long_response {
            list.push(&request::LIST_TOO_LONG);
        }
        if self.long_response || self.heavy {
            list.push(&access::TOO_MANY_WAITING);
        }
        if matches!(self.stream(), Some(Stream::Events(_))) {
            list.extend([&access::TOO_MANY_STREAMS, &access::STREAMS_FULL]);
        }
        if !matches!(self.access, Access::Public) {
            list.extend([
                &access::NO_TOKEN,
                &access::INVALID_TOKEN,
                &access::SESSION_ENDED,
                &access::DELEGATION_ENDED,
                &access::ACCOUNT_GONE,
                &access::NOT_IN_APP,
            ]);
            if self.audited {
                list.extend([&access::LOST_MEANWHILE, &access::RIGHT_LOST_MEANWHILE]);
            }
            if self.effect() == Effect::Write || self.audited {
                list.push(&access::TOO_MANY_WRITES);
            }
            if !self.delegated {
                list.push(&access::NOT_DELEGATED);
            }
        }
        if self.idempotency() == Idempotency::Keyed {
            list.extend(repeat::ERRORS);
        }
        if let Access::Needs(guard) = self.access {
            if !self.audited {
                list.push(&access::RIGHT_LOST_MEANWHILE);
            }
            list.push(match guard.exempt {
                Exempt::None => &access::PERMISSION_MISSING,
                Exempt::Owner | Exempt::Account => &access::NOT_OWNER,
            });
        }
        list.extend(self.condition.map(|condition| condition.error));
        list.extend(self.errors.iter().filter(|code| !list.contains(code)).copied().collect::<Vec<_>>());
        list
    }

    /// Whether the operation may return this error code.
    pub fn may_return_error(&self, code: &ErrorCode) -> bool {
        let input = (self.input)(&mut SchemaGenerator::default());
        platform::ERRORS.contains(&code) || *code == request::INVALID_URL || self.error_codes(&input).contains(&code)
    }

    /// Whether its response contains a session token, with which its reader can act as the account.
    pub fn returns_token(&self) -> bool {
        let mut generator = SchemaGenerator::default();
        (self.output)(&mut generator);
        generator.definitions().contains_key("AuthToken")
    }

    /// Whether its response is JSON or has no body.
    pub fn returns_json(&self) -> bool {
        let output = (self.output)(&mut SchemaGenerator::default());
        output.body.is_none_or(|(content_type, _)| content_type == output::JSON)
    }

    /// How its response is streamed, if it is.
    pub fn stream(&self) -> Option<Stream> {
        (self.output)(&mut SchemaGenerator::default()).stream
    }

    /// The names of the path parameters, in order.
    pub fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
    }
}

/// An operation with its input and output types, so that a handler of the wrong type does not compile.
pub struct Op<I, O> {
    /// The declaration of the operation.
    pub row: &'static Operation,
    types: PhantomData<fn(I) -> O>,
}

impl<I: Input, O: Output> Op<I, O> {
    /// Adds the types to the declaration `row`, which must be the one of this input and output.
    pub const fn new(row: &'static Operation) -> Op<I, O> {
        Op { row, types: PhantomData }
    }
}

impl<I, O> Clone for Op<I, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I, O> Copy for Op<I, O> {}

/// Declares the operations of a service, and the list `OPERATIONS`.
///
/// ```text
/// ops! {
///     /// Register an instance of a service.
///     REGISTER_INSTANCE "registerInstance" = PUT "/registry-svc/instance"
///         (Body<RegisterInstanceRequest>) -> Created<RegisterInstanceResponse>,
///         access: Access::needs(&INSTANCE_EDIT), audited: true;
/// }
/// ```
#[macro_export]
macro_rules! ops {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident $id:literal = $method:ident $path:literal ($($input:ty)?) -> $output:ty
        $(, $field:ident : $value:expr)* ;
    )*) => {
        $(
            $(#[doc = $doc])+
            pub const $name: $crate::Op<$crate::ops!(@input $($input)?), $output> = {
                const ROW: &$crate::Operation = &$crate::Operation {
                id: $id,
                method: $crate::ops!(@method $method),
                path: $path,
                doc: concat!($($doc, "\n"),+),
                input: <$crate::ops!(@input $($input)?) as $crate::Input>::describe,
                output: <$output as $crate::Output>::describe,
                $($field: $value,)*
                ..$crate::op::DEFAULT
                };
                $crate::Op::new(ROW)
            };
        )*
        /// The rows of this service, in the order of the contract.
        pub static OPERATIONS: &[&$crate::Operation] = &[$($name.row),*];
    };
    (@input) => { () };
    (@input $input:ty) => { $input };
    (@method GET) => { $crate::Method::Get };
    (@method POST) => { $crate::Method::Post };
    (@method PUT) => { $crate::Method::Put };
    (@method DELETE) => { $crate::Method::Delete };
}

/// Default values for the fields of a row. Access is denied unless the row declares it.
pub const DEFAULT: Operation = Operation {
    id: "",
    method: Method::Get,
    path: "",
    aliases: &[],
    doc: "",
    access: Access::Needs(PermissionRequirement {
        permission: &Permission { id: "", description: "", granted_to: &[], platform_scoped: false },
        exempt_slugs: &[],
        exempt: Exempt::None,
    }),
    condition: None,
    effect: None,
    repeat: None,
    audited: false,
    audit_targets: &[],
    delegated: false,
    ends_sessions: false,
    request_headers: &[],
    response_headers: &[],
    errors: &[],
    long_response: false,
    heavy: false,
    max_body_bytes: None,
    max_values: None,
    normalize_body: None,
    input: <() as Input>::describe,
    output: <crate::NoContent as Output>::describe,
};

/// Declares the permissions of a service, and the list `PERMISSIONS`.
#[macro_export]
macro_rules! permissions {
    ($($name:ident $id:literal $description:literal [$($role:ident),*] $(, $reach:ident)?;)*) => {
        $(
            #[doc = $description]
            pub static $name: $crate::Permission = $crate::Permission {
                id: $id,
                description: $description,
                granted_to: &[$($crate::role::$role),*],
                platform_scoped: [$($crate::op::$reach,)? false][0],
            };
        )*
        /// The permissions of this service; seeded when the daemon first starts.
        pub static PERMISSIONS: &[&$crate::Permission] = &[$(&$name),*];
    };
}
