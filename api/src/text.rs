//! Detects hidden characters: control characters, bidirectional overrides and invisible ones. In a name they can make it
//! look like another, or send escape sequences to the terminal that prints it.

/// The characters of a text, each with whether it is hidden: a control or format character (Unicode categories Cc and
/// Cf) or a line or paragraph separator (Zl, Zp). A joiner between two non-ASCII characters is not hidden, since Persian,
/// Indic scripts and composed emoji need it.
pub fn characters(text: &str) -> impl Iterator<Item = (char, bool)> {
    let mut before = None;
    let mut rest = text.chars().peekable();
    std::iter::from_fn(move || {
        let letter = rest.next()?;
        let is_hidden = match letter {
            '\u{200c}' | '\u{200d}' => {
                !(before.is_some_and(is_joinable) && rest.peek().copied().is_some_and(is_joinable))
            }
            _ => is_hidden(letter),
        };
        before = Some(letter);
        Some((letter, is_hidden))
    })
}

/// The first hidden character of a text, if any.
pub fn first_hidden(text: &str) -> Option<char> {
    characters(text).find(|(_, is_hidden)| *is_hidden).map(|(letter, _)| letter)
}

/// A text without its hidden characters.
pub fn without_hidden(text: &str) -> String {
    characters(text).filter(|(_, is_hidden)| !is_hidden).map(|(letter, _)| letter).collect()
}

fn is_joinable(letter: char) -> bool {
    !letter.is_ascii() && !letter.is_whitespace() && !is_hidden(letter)
}

fn is_hidden(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') || is_format(letter)
}

/// Category Cf of Unicode 17. Characters that later versions add are not detected; fonts do not support them yet.
fn is_format(letter: char) -> bool {
    matches!(letter,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
        | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_found_and_what_scripts_need_is_not() {
        for text in ["ann", "Änne Müller", "東京", "می\u{200c}خواهم", "क्\u{200d}ष", "👩\u{200d}💻", "a b", ""]
        {
            assert_eq!(first_hidden(text), None, "{text}");
            assert_eq!(without_hidden(text), text);
        }
        for text in [
            "a\u{202e}b",
            "\u{2066}a",
            "a\u{200b}b",
            "ad\u{200d}min",
            "\u{200c}م",
            "م\u{200d}",
            "a\u{ad}b",
            "a\nb",
            "\u{feff}a",
            "a\u{2028}b",
            "a\u{9b}b",
            "\u{e0041}",
            "م\u{200d}\u{200d}م",
        ] {
            assert!(first_hidden(text).is_some(), "{text:?}");
            assert_eq!(first_hidden(&without_hidden(text)), None, "{text:?}");
        }
    }
}
