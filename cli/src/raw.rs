//! `oo get`, `post`, `put` and `delete`: call any path of the daemon or of a service behind its gateway.

use std::io::{self, IsTerminal, Write};

use openorch_sdk::{
    Bytes, Client, Error, Response, StreamingResponse,
    api::{Operation, RequestParts},
    http::{HeaderValue, Method, header},
    path_and_query,
};
use serde_json::{json, value::RawValue};

use crate::{
    args::{RawArgs, Words},
    body_args,
    context::{Connection, Context},
    curl,
    error::{CliError, printable_lines},
    flag::Flag,
    manifest,
    print::{self, Output},
};

/// The parsed words after the options.
struct Request {
    /// Path and query.
    target: String,
    flags: Vec<Flag>,
}

/// A request body and its source.
struct RequestBody {
    bytes: Vec<u8>,
    /// A file that is sent unchanged.
    verbatim: Option<String>,
}

pub async fn run(context: &Context, method: Method, file: Option<String>, args: RawArgs) -> Result<Output, CliError> {
    print::check_answer_format(context.common.output)?;
    let mut request = parse_words(Words::or_empty(args.request))?;
    let headers = args.headers.iter().map(|text| parse_header(text)).collect::<Result<Vec<_>, _>>()?;
    let flags = std::mem::take(&mut request.flags);
    let content = if method == Method::GET {
        // A GET has no body: its keys become query parameters.
        flags.into_iter().for_each(|flag| append_query(&mut request.target, &flag.key, &flag.value.into_text()));
        None
    } else {
        Some(content(file, flags, &headers)?)
    };
    let Request { target, .. } = request;
    if args.curl {
        return as_curl(context, method, &target, &headers, content.as_ref()).map(Output::Text);
    }
    let mut connection = context.connection_if_signed_in()?;
    for (name, value) in &headers {
        connection.client = connection.client.with_header(name, value)?;
    }
    let answer = send(context, &connection, method, &target, content.map(|content| content.bytes)).await?;
    match answer {
        Answer::Json(json) => print::answer(context.common.output, &json).map(Output::Text),
        Answer::Other(body) => copy(body).await,
    }
}

/// Calls an operation whose answer is a stream, and copies it as it arrives.
pub async fn call_streamed(
    context: &Context,
    row: &'static Operation,
    parts: &RequestParts,
) -> Result<Output, CliError> {
    let connection = context.connection_for(row)?;
    let method = Method::from_bytes(row.method.as_str().as_bytes()).unwrap_or_default();
    let body = parts.body.as_ref().map(|body| body.to_string().into_bytes());
    match send(context, &connection, method, &path_and_query(row, parts)?, body).await? {
        Answer::Json(json) => print::answer(context.common.output, &json).map(Output::Text),
        Answer::Other(body) => copy(body).await,
    }
}

fn parse_words(words: Vec<String>) -> Result<Request, CliError> {
    let is_input = |word: &String| word.starts_with('-') || word.starts_with('?');
    let split = words.iter().position(is_input).unwrap_or(words.len());
    // As documented, the words before the first key are joined with slashes to form the path.
    let mut target = words[..split].join("/");
    if !target.starts_with('/') {
        let shown = if target.is_empty() { words.first().cloned().unwrap_or_default() } else { target };
        return Err(CliError::Usage(if shown.is_empty() {
            "a path is required, for example `/registry-svc/instances`".into()
        } else {
            format!("the path `{shown}` does not begin with `/`; write `/{shown}`")
        }));
    }
    let mut flags = Vec::new();
    for word in &words[split..] {
        match word.strip_prefix('?') {
            Some(pair) => match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() => append_query(&mut target, key, value),
                _ => return Err(CliError::Usage(format!("`{word}` is not a query parameter; write `?key=value`"))),
            },
            None => flags.push(Flag::parse(word)?),
        }
    }
    Ok(Request { target, flags })
}

/// Appends a query parameter to a target.
fn append_query(target: &mut String, key: &str, value: &str) {
    target.push(if target.contains('?') { '&' } else { '?' });
    target.push_str(&url::form_urlencoded::Serializer::new(String::new()).append_pair(key, value).finish());
}

fn parse_header(text: &str) -> Result<(String, String), CliError> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| CliError::Usage(format!("`-H {text}` is not a header; write `-H 'Name: value'`")))?;
    let (name, value) = (name.trim(), value.trim());
    if HeaderValue::from_str(value).is_err() {
        return Err(CliError::Usage(format!("the value of the header `{name}` is invalid")));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// The body: the file, overridden by the keys. A file of another type than JSON is sent unchanged.
fn content(file: Option<String>, flags: Vec<Flag>, headers: &[(String, String)]) -> Result<RequestBody, CliError> {
    let kind = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(header::CONTENT_TYPE.as_str()));
    let is_json = kind.is_none_or(|(_, value)| value.to_ascii_lowercase().contains("json"));
    match file {
        Some(file) if !is_json => {
            if !flags.is_empty() {
                return Err(CliError::Usage("`--key=value` requires a JSON body".into()));
            }
            Ok(RequestBody { bytes: manifest::read_bytes(&file)?, verbatim: Some(file) })
        }
        file => {
            let body = file.map_or(Ok(json!({})), |file| manifest::read_one(&file))?;
            Ok(RequestBody { bytes: body_args::merge_flags(body, flags)?.to_string().into_bytes(), verbatim: None })
        }
    }
}

fn as_curl(
    context: &Context,
    method: Method,
    target: &str,
    headers: &[(String, String)],
    content: Option<&RequestBody>,
) -> Result<String, CliError> {
    let client = context.anonymous()?.client;
    let body = content.map(|content| match &content.verbatim {
        Some(file) => curl::Body::File(file),
        None => curl::Body::Json(&content.bytes),
    });
    let request = curl::Request {
        url: client.url_for(target)?,
        token: context.token_if_any()?.is_some(),
        defaults: client.headers(),
        headers,
        body,
        follow_redirects: method == Method::GET,
        method,
    };
    Ok(curl::line(&request, &context.common))
}

/// A successful response.
enum Answer {
    Json(String),
    /// Not JSON: streamed instead of buffered; this is its beginning.
    Other(StreamedBody),
}

struct StreamedBody {
    first: Bytes,
    rest: Option<Box<StreamingResponse>>,
}

/// The outcome of one request.
enum Outcome {
    Done(Answer),
    /// An error or a redirect.
    NotSuccess(Response),
}

/// Maximum number of redirects that a read follows.
const MAX_REDIRECTS: usize = 5;
/// Maximum bytes shown of an error response that is not in our format.
const MAX_SHOWN_BYTES: usize = 500;

/// Sends the request and returns a successful response.
async fn send(
    context: &Context,
    connection: &Connection,
    method: Method,
    target: &str,
    body: Option<Vec<u8>>,
) -> Result<Answer, CliError> {
    let mut target = target.to_owned();
    for _ in 0..=MAX_REDIRECTS {
        let path = target.split('?').next().unwrap_or_default();
        let name = format!("{method} {path}");
        let writes = (method != Method::GET).then_some(name.as_str());
        let call = send_once(&connection.client, method.clone(), &target, body.clone());
        let answer = match context.await_answer(connection, writes, call).await? {
            Outcome::Done(answer) => return Ok(answer),
            Outcome::NotSuccess(answer) => answer,
        };
        match next_target(&answer, &target, connection.client.url()) {
            // The token is sent along, so a redirect never leads to another server; a write is never repeated.
            Some(next) if method == Method::GET => target = next,
            _ => return Err(context.with_hint(refusal(name, answer), connection.caller.as_ref())),
        }
    }
    Err(CliError::Other(format!("more than {MAX_REDIRECTS} redirects")))
}

async fn send_once(client: &Client, method: Method, target: &str, body: Option<Vec<u8>>) -> Result<Outcome, Error> {
    let mut answer = client.stream(method, target, body.map(Into::into)).await?;
    if !answer.status.is_success() {
        return answer.read_to_end().await.map(Outcome::NotSuccess);
    }
    let kind = answer.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.to_ascii_lowercase();
    // Some services send no content type, or text/plain, for JSON.
    let (is_json, may_be) = (kind.contains("json"), kind.is_empty() || kind.starts_with("text/plain"));
    if is_json {
        let answer = answer.read_to_end().await?;
        return Ok(Outcome::Done(match json_text(&answer.bytes) {
            Some(json) => Answer::Json(json),
            None => Answer::Other(StreamedBody { first: answer.bytes, rest: None }),
        }));
    }
    let first = answer.chunk().await?.unwrap_or_default();
    let begins = first.iter().find(|byte| !byte.is_ascii_whitespace());
    if may_be && matches!(begins, Some(b'{' | b'[')) {
        // JSON only if the whole body arrived; otherwise it is streamed.
        let second = answer.chunk().await?;
        if let (None, Some(json)) = (&second, json_text(&first)) {
            return Ok(Outcome::Done(Answer::Json(json)));
        }
        let first = [first, second.unwrap_or_default()].concat().into();
        return Ok(Outcome::Done(Answer::Other(StreamedBody { first, rest: Some(Box::new(answer)) })));
    }
    Ok(Outcome::Done(Answer::Other(StreamedBody { first, rest: Some(Box::new(answer)) })))
}

fn json_text(bytes: &[u8]) -> Option<String> {
    let json: &RawValue = serde_json::from_slice(bytes).ok()?;
    Some(json.get().to_owned())
}

/// Copies a response that is not JSON as it arrives; on a terminal without control characters.
async fn copy(body: StreamedBody) -> Result<Output, CliError> {
    let StreamedBody { first, mut rest } = body;
    let mut next = Some(first);
    let is_terminal = io::stdout().is_terminal();
    while let Some(piece) = next {
        if is_terminal && piece.contains(&0) {
            return Err(CliError::Other("the response is binary; redirect it to a file, `oo … > FILE`".into()));
        }
        let mut out = io::stdout().lock();
        let written = match is_terminal {
            true => out.write_all(printable_lines(&String::from_utf8_lossy(&piece)).as_bytes()),
            false => out.write_all(&piece),
        };
        match written.and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written.map_err(|error| CliError::Other(format!("cannot write the response: {error}")))?,
        }
        drop(out);
        next = match &mut rest {
            Some(rest) => rest.chunk().await?,
            None => None,
        };
    }
    Ok(Output::Printed)
}

/// The target of a redirect, if it is the same service on the same server: a service must not redirect the user's token
/// to another service or to the daemon.
fn next_target(answer: &Response, target: &str, server: &str) -> Option<String> {
    if !answer.status.is_redirection() {
        return None;
    }
    let here = url::Url::parse(&format!("{server}{target}")).ok()?;
    let next = here.join(answer.headers.get(header::LOCATION)?.to_str().ok()?).ok()?;
    let service = |url: &url::Url| url.path_segments().and_then(|mut segments| segments.next()).map(str::to_owned);
    (next.origin() == here.origin() && service(&next) == service(&here))
        .then(|| next[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
}

/// The error for a refusal. Services behind the gateway have their own formats.
pub fn refusal(operation: String, answer: Response) -> Error {
    let (status, request_id) = (answer.status, answer.request_id().map(str::to_owned));
    let shown = String::from_utf8_lossy(&answer.bytes[..answer.bytes.len().min(MAX_SHOWN_BYTES)]).trim().to_owned();
    let points_to = answer.headers.get(header::LOCATION).and_then(|to| to.to_str().ok());
    let message = match (answer.error_message(), points_to) {
        (Some(sentence), _) => sentence,
        (None, Some(to)) if status.is_redirection() => format!("{operation}: {status}: redirect to `{to}`"),
        (None, _) if shown.is_empty() => format!("{operation}: {status}"),
        (None, _) => format!("{operation}: {status}: {shown}"),
    };
    // Raw calls are sent once; the user decides about a retry.
    let (status, code) = (status.as_u16(), answer.code());
    Error::Refused { operation: operation.into(), status, code, message, retry_after: None, request_id }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Request, String> {
        parse_words(line.split_whitespace().map(str::to_owned).collect()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn a_path_its_query_and_its_keys() {
        for (line, target, keys) in [
            ("/x", "/x", 0),
            ("/x y z", "/x/y/z", 0),
            ("/x?a=1 ?b=2", "/x?a=1&b=2", 0),
            ("/x ?a=b=c ?d=&e", "/x?a=b%3Dc&d=%26e", 0),
            ("/x --a=1 ?b=2 --c=3", "/x?b=2", 2),
        ] {
            let request = words(line).unwrap();
            assert_eq!((request.target.as_str(), request.flags.len()), (target, keys), "{line}");
        }
        for (line, refusal) in [
            ("", "a path is required"),
            ("x", "the path `x` does not begin with `/`"),
            ("registry-svc/instances", "does not begin with `/`"),
            ("--a=1", "the path `--a=1` does not begin"),
            ("/x --a", "invalid flag format: `--a`"),
            ("/x --a 1", "invalid flag format: `--a`"),
            ("/x -k=v", "invalid flag format: `-k=v`"),
            ("/x --a=1 y", "invalid flag format: `y`"),
            ("/x -o json", "options of `oo` precede the path"),
            ("/x ?a", "write `?key=value`"),
        ] {
            let told = words(line).err().unwrap_or_default();
            assert!(told.contains(refusal), "{line}: {told}");
        }
    }

    #[test]
    fn a_body_is_json_unless_its_type_says_otherwise() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "b: 2").unwrap();
        let path = || Some(file.path().to_str().unwrap().to_owned());
        let flags = || vec![Flag::parse("--a=1").unwrap()];
        let image = [("content-type".to_owned(), "image/png".to_owned())];
        let text = |content: RequestBody| String::from_utf8(content.bytes).unwrap();
        assert_eq!(text(content(None, vec![], &[]).unwrap()), "{}");
        assert_eq!(text(content(path(), flags(), &[]).unwrap()), r#"{"a":1,"b":2}"#);
        assert_eq!(text(content(path(), vec![], &image).unwrap()), "b: 2");
        assert!(content(path(), flags(), &image).is_err());
    }
}
