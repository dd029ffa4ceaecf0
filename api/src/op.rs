//! The table of operations: one row says all that is true of an operation, and router, document, client, command line,
//! permission seeding and guard tests are folds over the rows.

use std::marker::PhantomData;

use schemars::SchemaGenerator;
use serde_json::Value;

use crate::{
    ErrorCode,
    error::{access, platform, repeat, request},
    header::{self, Header},
    input::{Input, InputShape},
    output::{self, Output, OutputShape, Stream},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
}

impl Method {
    pub const fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
        }
    }
}

/// What an operation does to the state, which decides about retries and audit. A POST that lists is a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Read,
    Write,
}

/// What comes of a call that is made twice, which decides whether a client may try it again (decision "Idempotency keys").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The operation is idempotent: a repeat leaves the same state, though its answer may differ.
    Natural,
    /// With the header `Idempotency-Key` the second call is given the answer of the first. It is one batch, and its answer,
    /// which holds no secret, is stored with it.
    Keyed,
    /// Neither: the second call is another one, or is refused.
    Never,
}

impl Repeat {
    /// As the document has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Repeat::Natural => "natural",
            Repeat::Keyed => "keyed",
            Repeat::Never => "never",
        }
    }
}

/// A right that can be held by a role or granted to a slug.
#[derive(Debug)]
pub struct Permission {
    /// `<slug of the service>:<thing>:<verb>`.
    pub id: &'static str,
    pub description: &'static str,
    /// The built-in roles that hold it when the daemon is first started.
    pub granted_to: &'static [&'static str],
    /// Whether it is about what belongs to no app, or to all: then it is held by those alone who hold it in the default
    /// app or in all apps.
    pub of_all_apps: bool,
}

/// [`Permission::of_all_apps`].
pub const OF_ALL_APPS: bool = true;

/// Who may call an operation.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    Public,
    /// Any account with a valid token.
    SignedIn,
    Needs(Guard),
}

#[derive(Clone, Copy, Debug)]
pub struct Guard {
    pub permission: &'static Permission,
    /// Accounts that pass without the permission: built-in services that need the operation for their work.
    pub also_slugs: &'static [&'static str],
    /// Who else passes without it.
    pub exempt: Exempt,
}

/// What must hold of the caller and of what the input names, beside what [`Access`] asks for: the service binds the function
/// that decides it, which runs before the handler.
#[derive(Debug)]
pub struct Condition {
    /// Who passes, for the document: "an admin of the organization".
    pub who: &'static str,
    /// The error for callers that do not meet the condition.
    pub refusal: &'static ErrorCode,
}

/// Who passes without the permission of a [`Guard`]. The service binds a function that finds the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exempt {
    Nobody,
    /// The owner of the thing that the input names.
    Owner,
    /// The account that the input names, or that the thing is about which it names; the caller's own where it names none.
    Account,
}

impl Access {
    pub const fn needs(permission: &'static Permission) -> Access {
        Access::Needs(Guard { permission, also_slugs: &[], exempt: Exempt::Nobody })
    }

    pub const fn or_slugs(self, also_slugs: &'static [&'static str]) -> Access {
        match self {
            Access::Needs(guard) => Access::Needs(Guard { also_slugs, ..guard }),
            other => other,
        }
    }

    pub const fn or_owner(self) -> Access {
        self.exempting(Exempt::Owner)
    }

    /// Each account for itself, and who has the permission for others.
    pub const fn itself_or(permission: &'static Permission) -> Access {
        Access::needs(permission).exempting(Exempt::Account)
    }

    const fn exempting(self, exempt: Exempt) -> Access {
        match self {
            Access::Needs(guard) => Access::Needs(Guard { exempt, ..guard }),
            other => other,
        }
    }
}

/// One operation without its types: what the folds read.
pub struct Row {
    /// The operation id of the document, of logs, metrics and `oo call`.
    pub id: &'static str,
    pub method: Method,
    /// With `{name}` for path parameters.
    pub path: &'static str,
    /// Other paths under which the same operation answers.
    pub aliases: &'static [&'static str],
    /// The doc comment: its first sentence is the summary, the rest a description.
    pub doc: &'static str,
    pub access: Access,
    pub condition: Option<&'static Condition>,
    /// `None`: what the method says (GET reads, all else writes).
    pub effect: Option<Effect>,
    /// What comes of a repeat. Each operation that writes says it; one that reads is natural.
    pub repeat: Option<Repeat>,
    /// Whether a call that changes something, or is refused, leaves an entry in the audit log.
    pub audited: bool,
    /// What of the body the entry names as the call's target, beside the path's parameters: JSON pointers to texts, in
    /// which `*` stands for each element of a list. Never to a secret.
    pub target: &'static [&'static str],
    /// Whether a delegated token (decision "Delegated tokens") may call it.
    pub delegated: bool,
    /// Whether a caller ends sessions by it. It is not counted among what an account writes, so that who has stolen a token
    /// cannot keep its owner from ending it.
    pub ends_sessions: bool,
    /// Header fields that it looks at, beside those of every operation and the one that [`Repeat::Keyed`] brings.
    pub reads: &'static [&'static Header],
    /// Header fields of its success, beside those of every answer.
    pub sets: &'static [&'static Header],
    /// Refusals beyond those that access, input and the daemon's state bring by themselves.
    pub errors: &'static [&'static ErrorCode],
    /// Whether the answer is a list that may be long: it is made and encoded beside the async workers, which would serve
    /// nobody else meanwhile. The guard test of the table names the lists that never are.
    pub long_answer: bool,
    /// Whether one call may be very much work: it is done beside the async workers too, and callers take turns.
    pub heavy: bool,
    /// Largest body in bytes as sent, where it is not the usual one, which a setting gives; unpacked it may be four
    /// times that.
    pub body_limit: Option<usize>,
    /// Most JSON values in the body, where it is not the usual number, which a setting gives.
    pub max_values: Option<usize>,
    /// Rewrites other accepted forms of the request (the successor's) into ours, before decoding.
    pub normalise: Option<fn(&mut Value)>,
    pub input: fn(&mut SchemaGenerator) -> InputShape,
    pub output: fn(&mut SchemaGenerator) -> OutputShape,
}

/// The usual limit for a JSON body in bytes as sent, where no setting says otherwise (decision "Limits").
pub const BODY_LIMIT: usize = 4 << 20;
/// How many times larger than its limit a compressed body may be when unpacked.
pub const UNPACKED_FACTOR: usize = 4;

impl Row {
    pub fn effect(&self) -> Effect {
        match (self.effect, self.method) {
            (Some(effect), _) => effect,
            (None, Method::Get) => Effect::Read,
            (None, _) => Effect::Write,
        }
    }

    /// What comes of a repeat ([`Row::repeat`]).
    pub fn repeats(&self) -> Repeat {
        match (self.repeat, self.effect()) {
            (Some(repeat), _) => repeat,
            (None, Effect::Read) => Repeat::Natural,
            (None, Effect::Write) => Repeat::Never,
        }
    }

    /// The header fields that it looks at, beside those of every operation.
    pub fn headers(&self) -> impl Iterator<Item = &'static Header> {
        let key = (self.repeats() == Repeat::Keyed).then_some(&header::IDEMPOTENCY_KEY);
        self.reads.iter().copied().chain(key)
    }

    /// The first sentence of the documentation, without its full stop.
    pub fn summary(&self) -> String {
        let (summary, _) = self.sentences();
        summary.trim_end_matches('.').to_owned()
    }

    /// What the documentation says after its first sentence; empty where that is all.
    pub fn description(&self) -> String {
        self.sentences().1
    }

    /// The first sentence, on one line, and the rest as it stands.
    fn sentences(&self) -> (String, String) {
        let doc = self.doc.trim();
        let paragraph = doc.split("\n\n").next().unwrap_or_default();
        // A full stop before white space; abbreviations are not used in these texts.
        let end = paragraph
            .match_indices('.')
            .map(|(at, _)| at + 1)
            .find(|end| paragraph[*end..].starts_with(char::is_whitespace))
            .unwrap_or(paragraph.len());
        let on_one_line = paragraph[..end].split_whitespace().collect::<Vec<_>>().join(" ");
        let rest = doc[end..].lines().map(str::trim).collect::<Vec<_>>().join("\n");
        (on_one_line, rest.trim().to_owned())
    }

    /// The refusals that follow from access and input, which `input` describes, then those of its own. Any operation may
    /// also answer what the state of the daemon brings ([`platform::ERRORS`]), and that its URL cannot be read.
    pub fn refusals(&self, input: &InputShape) -> Vec<&'static ErrorCode> {
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
        if self.long_answer {
            list.push(&request::LIST_TOO_LONG);
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
        if self.repeats() == Repeat::Keyed {
            list.extend(repeat::ERRORS);
        }
        if let Access::Needs(guard) = self.access {
            if !self.audited {
                list.push(&access::RIGHT_LOST_MEANWHILE);
            }
            list.push(match guard.exempt {
                Exempt::Nobody => &access::PERMISSION_MISSING,
                Exempt::Owner | Exempt::Account => &access::NOT_OWNER,
            });
        }
        list.extend(self.condition.map(|condition| condition.refusal));
        list.extend(self.errors.iter().filter(|code| !list.contains(code)).copied().collect::<Vec<_>>());
        list
    }

    /// Whether the operation may refuse with this code.
    pub fn may_refuse(&self, code: &ErrorCode) -> bool {
        let input = (self.input)(&mut SchemaGenerator::default());
        platform::ERRORS.contains(&code) || *code == request::INVALID_URL || self.refusals(&input).contains(&code)
    }

    /// Whether its answer holds the token of a session: whoever reads it can be that account.
    pub fn answers_token(&self) -> bool {
        let mut generator = SchemaGenerator::default();
        (self.output)(&mut generator);
        generator.definitions().contains_key("AuthToken")
    }

    /// Whether its answer is JSON, or has no body.
    pub fn answers_json(&self) -> bool {
        let output = (self.output)(&mut SchemaGenerator::default());
        output.body.is_none_or(|(content_type, _)| content_type == output::JSON)
    }

    /// How its answer is streamed, where it is.
    pub fn stream(&self) -> Option<Stream> {
        (self.output)(&mut SchemaGenerator::default()).stream
    }

    /// The names of the path parameters, in order.
    pub fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
    }
}

/// A row with the types of its input and output, so that a handler of the wrong type does not compile.
pub struct Op<I, O> {
    pub row: &'static Row,
    types: PhantomData<fn(I) -> O>,
}

impl<I: Input, O: Output> Op<I, O> {
    pub const fn new(row: &'static Row) -> Op<I, O> {
        Op { row, types: PhantomData }
    }
}

impl<I, O> Clone for Op<I, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I, O> Copy for Op<I, O> {}

/// Declares the operations of a service and the list of their rows.
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
                const ROW: &$crate::Row = &$crate::Row {
                id: $id,
                method: $crate::ops!(@method $method),
                path: $path,
                doc: concat!($($doc, "\n"),+),
                input: <$crate::ops!(@input $($input)?) as $crate::Input>::describe,
                output: <$output as $crate::Output>::describe,
                $($field: $value,)*
                ..$crate::op::TEMPLATE
                };
                $crate::Op::new(ROW)
            };
        )*
        /// The rows of this service, in the order of the contract.
        pub static OPERATIONS: &[&$crate::Row] = &[$($name.row),*];
    };
    (@input) => { () };
    (@input $input:ty) => { $input };
    (@method GET) => { $crate::Method::Get };
    (@method POST) => { $crate::Method::Post };
    (@method PUT) => { $crate::Method::Put };
    (@method DELETE) => { $crate::Method::Delete };
}

/// What a row says when it does not say otherwise: nobody gets in who is not admitted by name.
pub const TEMPLATE: Row = Row {
    id: "",
    method: Method::Get,
    path: "",
    aliases: &[],
    doc: "",
    access: Access::Needs(Guard {
        permission: &Permission { id: "", description: "", granted_to: &[], of_all_apps: false },
        also_slugs: &[],
        exempt: Exempt::Nobody,
    }),
    condition: None,
    effect: None,
    repeat: None,
    audited: false,
    target: &[],
    delegated: false,
    ends_sessions: false,
    reads: &[],
    sets: &[],
    errors: &[],
    long_answer: false,
    heavy: false,
    body_limit: None,
    max_values: None,
    normalise: None,
    input: <() as Input>::describe,
    output: <crate::NoContent as Output>::describe,
};

/// Declares the permissions of a service and the list of them.
#[macro_export]
macro_rules! permissions {
    ($($name:ident $id:literal $description:literal [$($role:ident),*] $(, $reach:ident)?;)*) => {
        $(
            #[doc = $description]
            pub static $name: $crate::Permission = $crate::Permission {
                id: $id,
                description: $description,
                granted_to: &[$($crate::role::$role),*],
                of_all_apps: [$($crate::op::$reach,)? false][0],
            };
        )*
        /// The permissions of this service; seeded when the daemon first starts.
        pub static PERMISSIONS: &[&$crate::Permission] = &[$(&$name),*];
    };
}
