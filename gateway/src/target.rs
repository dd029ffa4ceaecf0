//! The target service of a request: the first segment of the raw path (decision "Paths are decoded once", decision
//! "Forwarding").

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

#[derive(Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// The decoded first segment; empty for the path `/`.
    Segment(Cow<'a, str>),
    /// `//x` names no service.
    Nameless,
    /// The first segment is not text when decoded.
    NotUtf8,
}

/// Splits the path at the first slash, then decodes the segment once. The forwarded path is not changed.
pub fn target(path: &str) -> Target<'_> {
    let Some(rest) = path.strip_prefix('/') else {
        return Target::Nameless;
    };
    let segment = rest.split_once('/').map_or(rest, |(first, _)| first);
    if segment.is_empty() && !rest.is_empty() {
        return Target::Nameless;
    }
    match percent_decode_str(segment).decode_utf8() {
        Ok(decoded) => Target::Segment(decoded),
        Err(_) => Target::NotUtf8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_segment_names_the_service() {
        for (path, want) in [
            ("/", Some("")),
            ("/a", Some("a")),
            ("/a/", Some("a")),
            ("/a/b/c", Some("a")),
            ("/a//b", Some("a")),
            ("/%61b/c", Some("ab")),
            ("/a%2Fb/c", Some("a/b")),
            ("/%2561", Some("%61")),
            ("/a%zz", Some("a%zz")),
            ("/../a", Some("..")),
            ("//a", None),
            ("///", None),
            ("*", None),
            ("", None),
        ] {
            let want = want.map_or(Target::Nameless, |s| Target::Segment(s.into()));
            assert_eq!(target(path), want, "{path}");
        }
        assert_eq!(target("/%ff/x"), Target::NotUtf8);
    }
}
