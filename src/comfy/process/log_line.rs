//! From the bytes that ComfyUI writes to lines with a level.

use std::fmt::Write as _;
use std::io;

use anstream::adapter::strip_str;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tracing::Level;

/// The longest line that is kept, in bytes. What is longer is cut.
const LONGEST_LINE: usize = 4096;

/// Reads a stream to its end, and calls `line` for each of its lines.
pub(in crate::comfy) async fn read_lines(
    mut stream: impl AsyncRead + Unpin,
    mut line: impl FnMut(String),
) -> io::Result<()> {
    let mut splitter = LineSplitter::default();
    let mut bytes = vec![0; 8192];
    let ended = loop {
        match stream.read(&mut bytes).await {
            Ok(0) => break Ok(()),
            Ok(count) => splitter.push(&bytes[..count], &mut line),
            Err(error) => break Err(error),
        }
    };
    if let Some(last) = splitter.finish() {
        line(last);
    }
    ended
}

/// Cuts a stream of bytes into lines.
///
/// A progress bar writes `\r` and then its new text over the old one. Such a text is only reported as overwritten;
/// what stands there when the line ends is the line.
#[derive(Debug, Default)]
struct LineSplitter {
    line: Vec<u8>,
    /// Bytes of this line beyond [`LONGEST_LINE`].
    cut: usize,
    after_return: bool,
}

impl LineSplitter {
    /// Takes the next bytes, and calls `line` for each line they end.
    fn push(&mut self, bytes: &[u8], mut line: impl FnMut(String)) {
        for &byte in bytes {
            match byte {
                b'\n' => {
                    self.after_return = false;
                    line(self.take());
                }
                b'\r' => self.after_return = true,
                _ => {
                    if std::mem::take(&mut self.after_return) {
                        self.line.clear();
                        self.cut = 0;
                    }
                    if self.line.len() < LONGEST_LINE {
                        self.line.push(byte);
                    } else {
                        self.cut += 1;
                    }
                }
            }
        }
    }

    /// The last line, if the stream ended within one.
    fn finish(&mut self) -> Option<String> {
        (!self.line.is_empty()).then(|| self.take())
    }

    /// The line as text: invalid UTF-8 replaced, colours and control characters taken out.
    fn take(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.line);
        // Tabs apart: a line of the log stays one line, whatever a node writes.
        let shown = |character: &char| *character == '\t' || !character.is_control();
        let mut text: String = strip_str(&text).flat_map(str::chars).filter(shown).collect();
        text.truncate(text.trim_end().len());
        if self.cut > 0 {
            let _ = write!(text, " … ({} more bytes)", self.cut);
        }
        self.line.clear();
        self.cut = 0;
        text
    }
}

/// Tells the level of each line of one stream.
///
/// Since 0.30 ComfyUI begins each record with its level, as `[WARNING] `; the further lines of a record have no tag, and
/// neither has what others write past its logging.
#[derive(Debug)]
pub(super) struct LevelTracker {
    /// The level of the line before.
    level: Level,
    /// The level of the record that untagged lines belong to. INFO, if there is none.
    record: Level,
    in_traceback: bool,
}

impl Default for LevelTracker {
    fn default() -> Self {
        Self {
            level: Level::INFO,
            record: Level::INFO,
            in_traceback: false,
        }
    }
}

impl LevelTracker {
    /// The level of `line` and what to show of it: without the tag, which the level now says.
    pub(super) fn classify<'a>(&mut self, line: &'a str) -> (Level, &'a str) {
        let (tag, text) = split_tag(line);
        self.level = self.level_of(tag, text);
        (self.level, text)
    }

    fn level_of(&mut self, tag: Option<Level>, text: &str) -> Level {
        let begins_traceback = text.trim_start().starts_with("Traceback (most recent call last)");
        if let Some(tag) = tag {
            self.record = tag;
            self.in_traceback = begins_traceback;
            return tag;
        }
        if begins_traceback {
            self.in_traceback = true;
            // A debug record with a traceback tells of a failure that somebody got over.
            return if self.level == Level::DEBUG {
                Level::DEBUG
            } else {
                Level::ERROR
            };
        }
        let goes_on = text.is_empty() || text.starts_with([' ', '\t']) || is_between_tracebacks(text);
        if goes_on {
            return self.level;
        }
        if std::mem::take(&mut self.in_traceback) {
            // The exception itself, with which a traceback ends.
            return self.level;
        }
        level_by_words(text).unwrap_or_else(|| {
            // The end of a progress bar belongs to no record; and after a debug record a plain line is more likely
            // somebody's own than its second line.
            let of_record = matches!(self.record, Level::WARN | Level::ERROR) && !text.contains("%|");
            if of_record { self.record } else { Level::INFO }
        })
    }
}

/// Splits `[WARNING] text`.
fn split_tag(line: &str) -> (Option<Level>, &str) {
    let tagged = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let Some((name, text)) = tagged else {
        return (None, line);
    };
    match level_named(name) {
        Some(level) => (Some(level), text.strip_prefix(' ').unwrap_or(text)),
        None => (None, line),
    }
}

/// How ComfyUI, or Python's own logging, marks a line.
fn level_named(name: &str) -> Option<Level> {
    Some(match name {
        "DEBUG" | "DETAIL" => Level::DEBUG,
        "INFO" => Level::INFO,
        "WARNING" | "WARN" => Level::WARN,
        "ERROR" | "CRITICAL" | "FATAL" => Level::ERROR,
        _ => return None,
    })
}

/// The sentences between two tracebacks of one exception.
fn is_between_tracebacks(text: &str) -> bool {
    text.starts_with("During handling of the above exception") || text.starts_with("The above exception was the direct")
}

/// The level of a line that has no tag, from a level name near its begin (`ERROR:root:…`, `[Some-Node] WARNING: …`)
/// or from an exception's or warning's class name.
fn level_by_words(text: &str) -> Option<Level> {
    /// A level name this near the begin is a mark, with a date and a time before it at most; later it is a word like
    /// any other.
    const FIRST_WORDS: usize = 6;
    let words = text
        .split([' ', '\t', ':', '[', ']', '|'])
        .filter(|word| !word.is_empty());
    if let Some(level) = words.take(FIRST_WORDS).find_map(level_named) {
        return Some(level);
    }
    // `main.py: error: …`, `/x/y.py:3: UserWarning: …`, `torch.cuda.OutOfMemoryError: …`
    let (before_message, _) = text.rsplit_once(": ")?;
    for part in before_message.split(": ") {
        let class = part.rsplit(' ').next().unwrap_or(part);
        if class.ends_with("Warning") || class == "warning" {
            return Some(Level::WARN);
        }
        if class.ends_with("Error") || class.ends_with("Exception") || class == "error" {
            return Some(Level::ERROR);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |line| lines.push(line));
        }
        lines.extend(splitter.finish());
        lines
    }

    fn levels(text: &[&str]) -> Vec<Level> {
        let mut tracker = LevelTracker::default();
        text.iter().map(|line| tracker.classify(line).0).collect()
    }

    #[test]
    fn joins_chunks_and_keeps_the_last_line() {
        assert_eq!(lines(&[b"one\ntw", b"o\r", b"\n\nlast"]), ["one", "two", "", "last"]);
    }

    #[test]
    fn of_a_progress_bar_only_the_end_is_a_line() {
        assert_eq!(
            lines(&[b"\r  0%| | 0/2\r 50%|# | 1/2", b"\r100%|##| 2/2\nnext\n"]),
            ["100%|##| 2/2", "next"]
        );
    }

    #[test]
    fn cuts_long_lines() {
        let long = vec![b'x'; LONGEST_LINE + 10_000];
        let found = lines(&[&long, b"\nshort\n"]);
        assert!(found[0].ends_with("xxx … (10000 more bytes)"), "{}", found[0]);
        assert_eq!(found[1], "short");
    }

    #[test]
    fn replaces_invalid_utf8() {
        assert_eq!(lines(&[b"a\xff\xfeb\n"]), ["a\u{fffd}\u{fffd}b"]);
    }

    #[test]
    fn strips_escape_sequences_and_control_characters() {
        assert_eq!(
            lines(&[b"\x1b[1m\x1b[33m[WARNING]\x1b[0m a\tb\x07 \x1b]8;;http://x\x1b\\link\x1b]8;;\x07\x1bM!\x1b[3"]),
            ["[WARNING] a\tb link!"]
        );
    }

    #[test]
    fn takes_the_level_from_the_tag() {
        let mut tracker = LevelTracker::default();
        assert_eq!(tracker.classify("[DETAIL] x"), (Level::DEBUG, "x"));
        assert_eq!(tracker.classify("[Some-Node] x"), (Level::INFO, "[Some-Node] x"));
        assert_eq!(tracker.classify("[CRITICAL] x"), (Level::ERROR, "x"));
    }

    #[test]
    fn a_traceback_is_an_error_to_its_last_line() {
        let text = [
            "Traceback (most recent call last):",
            "  File \"x.py\", line 1, in <module>",
            "KeyError: 'a'",
            "",
            "During handling of the above exception, another exception occurred:",
            "",
            "Traceback (most recent call last):",
            "  File \"x.py\", line 2, in <module>",
            "torch.cuda.OutOfMemoryError: no",
            "Loaded 3 models",
        ];
        let found = levels(&text);
        assert!(found[..9].iter().all(|level| *level == Level::ERROR), "{found:?}");
        assert_eq!(found[9], Level::INFO);
    }

    #[test]
    fn the_traceback_of_a_debug_record_is_debug() {
        let found = levels(&[
            "[DEBUG] Failed to load an extension",
            "Traceback (most recent call last):",
            "  File \"x.py\", line 1, in <module>",
            "OSError: libavutil.so.57: cannot open shared object file",
            "",
            "The above exception was the direct cause of the following exception:",
            "",
            "Traceback (most recent call last):",
            "  File \"x.py\", line 2, in <module>",
            "RuntimeError: no",
            "plain",
        ]);
        assert!(found[..10].iter().all(|level| *level == Level::DEBUG), "{found:?}");
        assert_eq!(found[10], Level::INFO);
    }

    #[test]
    fn further_lines_of_a_record_keep_its_level() {
        let found = levels(&[
            "[WARNING] these:",
            "  a",
            "",
            "b",
            "100%|##| 2/2",
            "[INFO] so",
            "plain",
            "  c",
        ]);
        assert!(found[..4].iter().all(|level| *level == Level::WARN), "{found:?}");
        assert!(found[4..].iter().all(|level| *level == Level::INFO), "{found:?}");
    }

    #[test]
    fn knows_the_level_words_of_others() {
        assert_eq!(
            levels(&[
                "ERROR:root:no",
                "[Some-Node] WARNING: old",
                "/x/y.py:3: UserWarning: old",
                "main.py: error: unrecognized arguments",
                "2026-01-01 12:00:00,123 - INFO fine",
                "torch.OutOfMemoryError: Allocation failed",
                "it says: ERRORS",
            ]),
            [
                Level::ERROR,
                Level::WARN,
                Level::WARN,
                Level::ERROR,
                Level::INFO,
                Level::ERROR,
                Level::INFO
            ]
        );
    }
}
