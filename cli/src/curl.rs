//! `--curl`: prints a request as a curl command line. The token is left out; the shell gets it from `oo token`.

use openorch_sdk::http::{HeaderMap, Method};

use crate::args::Common;

pub struct Request<'a> {
    pub method: Method,
    pub url: String,
    /// Whether the call carries the token of the signed-in user.
    pub token: bool,
    /// Headers that the client always sends; the call's own headers override them.
    pub defaults: &'a HeaderMap,
    pub headers: &'a [(String, String)],
    pub body: Option<Body<'a>>,
    /// Whether `oo` follows redirects for this request.
    pub follow_redirects: bool,
}

pub enum Body<'a> {
    Json(&'a [u8]),
    /// Sent unchanged; `-` is standard input.
    File(&'a str),
}

/// The command line, to be pasted into a POSIX shell.
pub fn line(request: &Request, common: &Common) -> String {
    // Without `-g` curl expands brackets in a URL as ranges.
    let literally = if request.url.contains(['[', ']', '{', '}']) { "-g " } else { "" };
    let follows = if request.follow_redirects { "-L " } else { "" };
    let mut line = format!("curl -X {} {follows}{literally}{}", request.method, shell_quote(&request.url));
    let is_overridden = |name: &str| request.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
    if request.token && !is_overridden("authorization") {
        // In double quotes, so that the shell runs the command substitution.
        line.push_str(&format!(" \\\n  -H \"Authorization: Bearer $({})\"", token_command(common)));
    }
    if request.body.is_some() && !is_overridden("content-type") {
        push_header(&mut line, "Content-Type", "application/json");
    }
    for (name, value) in request.defaults {
        if !is_overridden(name.as_str()) && !value.is_sensitive() {
            push_header(&mut line, name.as_str(), value.to_str().unwrap_or_default());
        }
    }
    for (at, (name, value)) in request.headers.iter().enumerate() {
        // The last value of a repeated header wins.
        let again = request.headers[at + 1..].iter().any(|(later, _)| later.eq_ignore_ascii_case(name));
        if !again {
            push_header(&mut line, name, value);
        }
    }
    match request.body {
        Some(Body::Json(body)) => {
            line.push_str(&format!(" \\\n  --data-raw {}", shell_quote(&String::from_utf8_lossy(body))));
        }
        Some(Body::File(file)) => line.push_str(&format!(" \\\n  --data-binary {}", shell_quote(&format!("@{file}")))),
        None => {}
    }
    line
}

fn push_header(line: &mut String, name: &str, value: &str) {
    // With a colon, curl would omit an empty header.
    let header = if value.is_empty() { format!("{name};") } else { format!("{name}: {value}") };
    line.push_str(&format!(" \\\n  -H {}", shell_quote(&header)));
}

fn token_command(common: &Common) -> String {
    let mut words = vec!["oo".to_owned()];
    for (flag, value) in [("-e", &common.env), ("-u", &common.user)] {
        if let Some(value) = value {
            words.extend([flag.to_owned(), shell_quote(value)]);
        }
    }
    words.push("token".into());
    words.join(" ")
}

/// Quotes a text as one word of a POSIX shell.
fn shell_quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for (text, want) in [
            ("http://127.0.0.1:1/a", "http://127.0.0.1:1/a"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$(rm)", "'$(rm)'"),
            ("http://h/?a=1&b=2", "'http://h/?a=1&b=2'"),
        ] {
            assert_eq!(shell_quote(text), want);
        }
    }

    #[test]
    fn a_request_is_written_without_its_token() {
        let mut defaults = HeaderMap::new();
        defaults.insert("accept", "application/json".parse().unwrap());
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let request = |headers, method, body| Request {
            method,
            url: "http://127.0.0.1:1/x".into(),
            token: true,
            defaults: &defaults,
            headers,
            follow_redirects: body_is_none(&body),
            body,
        };
        let common = Common { env: Some("prod site".into()), ..Common::default() };
        let headers = [header("X-A", "a"), header("x-a", "b"), header("X-Empty", "")];
        let want = "curl -X PUT http://127.0.0.1:1/x \\\n  \
            -H \"Authorization: Bearer $(oo -e 'prod site' token)\" \\\n  \
            -H 'Content-Type: application/json' \\\n  -H 'accept: application/json' \\\n  \
            -H 'x-a: b' \\\n  -H 'X-Empty;' \\\n  --data-raw '{\"a\":\"it'\\''s\"}'";
        let body = Some(Body::Json(br#"{"a":"it's"}"#));
        assert_eq!(line(&request(&headers, Method::PUT, body), &common), want);
        let headers = [header("authorization", "none"), header("Accept", "text/plain")];
        let want = "curl -X GET -L http://127.0.0.1:1/x \\\n  -H 'authorization: none' \\\n  -H 'Accept: text/plain'";
        assert_eq!(line(&request(&headers, Method::GET, None), &common), want);
    }

    fn body_is_none(body: &Option<Body>) -> bool {
        body.is_none()
    }
}
