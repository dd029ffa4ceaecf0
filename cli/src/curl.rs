//! `--curl`: the same request as a line for curl. The token is left out; the shell asks `oo token` for it.

use openorch_sdk::http::Method;

use crate::args::Common;

pub struct Request<'a> {
    pub method: Method,
    pub url: String,
    /// Whether the call carries a token.
    pub token: bool,
    pub headers: &'a [(String, String)],
    pub body: Option<Body<'a>>,
}

pub enum Body<'a> {
    Json(&'a [u8]),
    /// Sent as it is; `-` is standard input.
    File(&'a str),
}

/// The line, ready to be pasted into a POSIX shell.
pub fn line(request: &Request, common: &Common) -> String {
    // curl takes brackets in an address for a range of addresses unless it is told not to.
    let literally = if request.url.contains(['[', ']', '{', '}']) { "-g " } else { "" };
    let mut line = format!("curl -X {} {literally}{}", request.method, quoted(&request.url));
    if request.token {
        // In double quotes, so that the shell runs what stands in the parentheses.
        line.push_str(&format!(" \\\n  -H \"Authorization: Bearer $({})\"", token_command(common)));
    }
    let has_type = request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    if request.body.is_some() && !has_type {
        line.push_str(" \\\n  -H 'Content-Type: application/json'");
    }
    for (name, value) in request.headers {
        line.push_str(&format!(" \\\n  -H {}", quoted(&format!("{name}: {value}"))));
    }
    match request.body {
        Some(Body::Json(body)) => {
            line.push_str(&format!(" \\\n  --data-raw {}", quoted(&String::from_utf8_lossy(body))));
        }
        Some(Body::File(file)) => line.push_str(&format!(" \\\n  --data-binary {}", quoted(&format!("@{file}")))),
        None => {}
    }
    line
}

fn token_command(common: &Common) -> String {
    let mut words = vec!["oo".to_owned()];
    for (flag, value) in [("-e", &common.env), ("-u", &common.user)] {
        if let Some(value) = value {
            words.extend([flag.to_owned(), quoted(value)]);
        }
    }
    words.push("token".into());
    words.join(" ")
}

/// A text as one word of a POSIX shell.
fn quoted(text: &str) -> String {
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
            assert_eq!(quoted(text), want);
        }
    }

    #[test]
    fn a_request_is_written_without_its_token() {
        let headers = [("X-A".to_owned(), "b".to_owned())];
        let request = Request {
            method: Method::PUT,
            url: "http://127.0.0.1:1/x".into(),
            token: true,
            headers: &headers,
            body: Some(Body::Json(br#"{"a":"it's"}"#)),
        };
        let common = Common { env: Some("prod site".into()), ..Common::default() };
        let want = "curl -X PUT http://127.0.0.1:1/x \\\n  \
            -H \"Authorization: Bearer $(oo -e 'prod site' token)\" \\\n  \
            -H 'Content-Type: application/json' \\\n  -H 'X-A: b' \\\n  \
            --data-raw '{\"a\":\"it'\\''s\"}'";
        assert_eq!(line(&request, &common), want);
    }
}
