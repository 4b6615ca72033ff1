//! What somebody sent, as errors, warnings and logs repeat it: short, and on one line. Whoever quotes a name, a value, a path
//! or a URL of a request does so through here; no answer grows with what was sent, and no line break forges a log line.

use std::fmt::Write as _;

use serde_json::Value;

/// The most characters that are repeated of one thing.
pub(crate) const LONGEST: usize = 120;

/// How many warnings an answer lists, and how long each is, in bytes.
const LISTED: usize = 50;
const LONGEST_WARNING: usize = 1_000;

/// A text as far as it is repeated: its first [`LONGEST`] characters, control characters escaped (`\n`).
pub(crate) fn cut(text: &str) -> String {
    let mut shown = Shown::default();
    // It refuses what is too long, and that is meant.
    let _ = shown.write_str(text);
    shown.text()
}

/// A value as JSON, as far as it is repeated.
pub(crate) fn json(value: &Value) -> String {
    match value {
        Value::String(text) => Value::from(cut(text)).to_string(),
        other => {
            let mut shown = Shown::default();
            let _ = write!(shown, "{other}");
            shown.text()
        }
    }
}

/// A text of ours that holds what others said, of at most so many bytes. Its line breaks stay: for what is built of several
/// things that were [`cut`] each, and for what a program such as a node of `ComfyUI` said.
pub(crate) fn at_most(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.push('…');
    }
    text
}

/// Warnings as an answer has them: some dozens, of some sentences each.
pub(crate) fn listed(mut warnings: Vec<String>) -> Vec<String> {
    let rest = warnings.len().saturating_sub(LISTED);
    warnings.truncate(LISTED);
    let mut warnings: Vec<String> = warnings
        .into_iter()
        .map(|text| at_most(text, LONGEST_WARNING))
        .collect();
    if rest > 0 {
        warnings.push(format!("and {rest} more"));
    }
    warnings
}

/// Takes as much as is shown, and refuses the rest unread.
#[derive(Default)]
struct Shown {
    text: String,
    characters: usize,
    is_cut: bool,
}

impl Shown {
    fn text(mut self) -> String {
        if self.is_cut {
            self.text.push('…');
        }
        self.text
    }
}

impl std::fmt::Write for Shown {
    fn write_str(&mut self, piece: &str) -> std::fmt::Result {
        for character in piece.chars() {
            if self.characters == LONGEST {
                self.is_cut = true;
                return Err(std::fmt::Error);
            }
            self.characters += 1;
            if is_control(character) {
                self.text.extend(character.escape_default());
            } else {
                self.text.push(character);
            }
        }
        Ok(())
    }
}

/// What moves a terminal's cursor or begins a line, in Unicode's words too.
fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_long_is_repeated() {
        assert_eq!(cut("short"), "short");
        let long = "ö".repeat(1_000_000);
        assert_eq!(cut(&long), format!("{}…", "ö".repeat(LONGEST)));
        assert_eq!(cut(&"a".repeat(LONGEST)), "a".repeat(LONGEST));
        assert!(json(&json!({ "a": long })).chars().count() <= LONGEST + 1);
        assert_eq!(json(&json!("a\"b")), r#""a\"b""#);
    }

    #[test]
    fn nothing_forges_a_line() {
        assert_eq!(
            cut("a\nERROR forged\x1b[2J\u{2028}"),
            r"a\nERROR forged\u{1b}[2J\u{2028}"
        );
    }

    #[test]
    fn what_is_put_together_has_an_end_too() {
        assert_eq!(at_most("é\né".to_owned(), 5), "é\né");
        assert_eq!(at_most("éé".to_owned(), 3), "é…");
        let warnings = listed(vec!["x".repeat(100_000); 100_000]);
        assert_eq!(warnings.last().map(String::as_str), Some("and 99950 more"));
        assert!(warnings.iter().map(String::len).sum::<usize>() < 60_000);
    }
}
