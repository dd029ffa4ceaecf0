//! Formats JSON text, indented or on one line, with every value as written: numbers are never parsed, so they keep
//! their digits, and keys keep their order. For text that [`is_json`] accepts; other text yields unspecified text.

use openorch_api::text::characters;

/// Deeper documents are not indented: the spaces alone would exhaust memory.
const MAX_INDENT_DEPTH: usize = 100;

/// Whether a text is JSON. Ambiguous JSON, such as a duplicate key, counts too.
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// One value per line, indented by two spaces.
pub fn indent(json: &str) -> String {
    if max_depth(json) > MAX_INDENT_DEPTH {
        return compact(json);
    }
    let mut text = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut tokens = Tokens { rest: json }.peekable();
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        (0..depth).for_each(|_| text.push_str("  "));
    };
    while let Some(token) = tokens.next() {
        match token {
            "{" | "[" if matches!(tokens.peek(), Some(&"}" | &"]")) => {
                text.push_str(token);
                text.extend(tokens.next());
            }
            "{" | "[" => {
                text.push_str(token);
                depth += 1;
                line(&mut text, depth);
            }
            "}" | "]" => {
                depth = depth.saturating_sub(1);
                line(&mut text, depth);
                text.push_str(token);
            }
            "," => {
                text.push(',');
                line(&mut text, depth);
            }
            ":" => text.push_str(": "),
            value => push_value(&mut text, value),
        }
    }
    text
}

/// Everything on one line.
pub fn compact(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    Tokens { rest: json }.for_each(|token| push_value(&mut text, token));
    text
}

/// Maximum significant digits that a 64-bit float can need (IEEE 754 binary64).
const MAX_SIGNIFICANT_DIGITS: usize = 17;

/// The first number that a YAML reader or writer, which has 64 bits, would change.
pub fn changed_by_yaml(json: &str) -> Option<&str> {
    Tokens { rest: json }.find(|token| {
        token.starts_with(|c: char| c == '-' || c.is_ascii_digit())
            && token.parse::<i64>().is_err()
            && token.parse::<u64>().is_err()
            && token.parse::<f64>().is_ok_and(|number| {
                let digits = significant_digits(token);
                digits > MAX_SIGNIFICANT_DIGITS || number.is_infinite() || (number == 0.0 && digits > 0)
            })
    })
}

/// Number of significant digits: none in `0.0`, two in `1.50` and in `15e9`.
fn significant_digits(number: &str) -> usize {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let all: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    all.trim_matches('0').len()
}

/// Escapes characters that control a terminal or change how other text is displayed. The value stays the same.
fn push_value(text: &mut String, value: &str) {
    for (letter, is_hidden) in characters(value) {
        if !is_hidden {
            text.push(letter);
            continue;
        }
        let mut units = [0; 2];
        letter.encode_utf16(&mut units).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
    }
}

fn max_depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for token in (Tokens { rest: json }) {
        match token {
            "{" | "[" => depth += 1,
            "}" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Splits JSON into brackets, commas, colons and values.
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.rest.trim_start();
        let length = match *text.as_bytes().first()? {
            b'"' => {
                let mut is_escaped = false;
                let ends = |byte: u8| {
                    let ends = byte == b'"' && !is_escaped;
                    is_escaped = byte == b'\\' && !is_escaped;
                    ends
                };
                1 + text.bytes().skip(1).position(ends).map_or(text.len() - 1, |at| at + 1)
            }
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            _ => text.find(|c: char| ",:{}[]\"".contains(c) || c.is_whitespace()).unwrap_or(text.len()),
        };
        let (token, rest) = text.split_at(length);
        self.rest = rest;
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_as_they_were_written() {
        for (json, one_line) in [
            ("{}", "{}"),
            (" [ ] ", "[]"),
            (
                r#"{ "b": 1, "a" : [ 1.50, 12345678901234567890123, 1E400 ] }"#,
                r#"{"b":1,"a":[1.50,12345678901234567890123,1E400]}"#,
            ),
            (r#"["a\"b\\", "{,:}", null,true]"#, r#"["a\"b\\","{,:}",null,true]"#),
            ("7", "7"),
            ("\"\u{9b}31mä\u{7f}\"", "\"\\u009b31mä\\u007f\""),
            ("\"a\u{202e}b\u{e0041}\"", "\"a\\u202eb\\udb40\\udc41\""),
        ] {
            assert_eq!(compact(json), one_line);
            assert_eq!(compact(&indent(json)), one_line);
            if let Ok(value) = serde_json::from_str::<serde_norway::Value>(json) {
                let same = serde_json::from_str::<serde_norway::Value>(&indent(json)).unwrap();
                assert_eq!(value, same, "{json}");
            }
        }
        let json = r#"{"a":[1,{"b":[]}],"c":{}}"#;
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(indent(json), serde_json::to_string_pretty(&value).unwrap());
    }

    #[test]
    fn what_is_nested_without_end_is_not_indented_without_end() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(indent(&deep), deep);
    }

    #[test]
    fn what_is_no_json_comes_out_as_some_text() {
        for text in ["]", "Hi ]", "}]}", "]}[", "\"", "\"\\", "[}", ",,", "{]"] {
            assert!(!is_json(text), "{text}");
            assert!(indent(text).len() < 100, "{text}");
            assert_eq!(changed_by_yaml(text), None, "{text}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for text in ["7", r#"{"a":1,"a":2}"#, "[1E400, 12345678901234567890123]", &deep] {
            assert!(is_json(text), "{}", &text[..1]);
        }
    }

    #[test]
    fn numbers_that_64_bits_would_change() {
        for (number, changes) in [
            ("1", false),
            ("-9223372036854775808", false),
            ("18446744073709551615", false),
            ("18446744073709551616", true),
            ("18446744073709551617", true),
            ("1.50", false),
            ("15e-1", false),
            ("-0.0", false),
            ("0.1", false),
            ("0.12345678901234567890", true),
            ("1E400", true),
            ("1e23", false),
        ] {
            assert_eq!(changed_by_yaml(number).is_some(), changes, "{number}");
        }
        assert_eq!(
            changed_by_yaml(r#"{"a":["12345678901234567890123",12345678901234567890123]}"#),
            Some("12345678901234567890123")
        );
    }

    #[test]
    fn no_number_that_our_own_writer_wrote_counts_as_changed() {
        let mut bits = 7_u64;
        for _ in 0..20_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let share = (bits >> 11) as f64 / (1_u64 << 53) as f64 * 100.0;
            for number in [share, f64::from(share as f32), share / 1e9, share * 1e20, f64::from_bits(bits)] {
                let text = serde_json::to_string(&number).unwrap();
                assert_eq!(changed_by_yaml(&text), None, "{text}");
            }
        }
    }
}
