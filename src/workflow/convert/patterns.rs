//! Names of files as patterns: `%NODE.WIDGET%` is the value of a widget, `%date:yyyy-MM-dd%` the time. What is not known
//! stays: `%width%` and the like are for ComfyUI.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use serde_json::Value;
use time::OffsetDateTime;

use super::odd;
use super::world::{At, Is, World};

/// The property by which a pattern names a node.
const NAME: &str = "Node name for S&R";

/// Which node a name means: the first of those that have it.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_property: HashMap<String, At>,
    by_title: HashMap<String, At>,
}

impl Names {
    /// The names of all nodes. What is in a subgraph comes before its host.
    pub(super) fn of(world: &World<'_>) -> Self {
        let mut names = Self::default();
        names.add(world, 0, &mut HashSet::new());
        names
    }

    fn add(&mut self, world: &World<'_>, level: usize, seen: &mut HashSet<usize>) {
        for index in 0..world.nodes[level].len() {
            let at = (level, index);
            let node = world.node(at);
            if let Is::Host(inner) = node.kind
                && seen.insert(inner)
            {
                self.add(world, inner, seen);
            }
            let saved = world.saved(at);
            let property = saved.properties.and_then(|properties| properties.get(NAME));
            let own = match property {
                Some(property) => property.as_str(),
                // A new node has its class there, but for those whose names are patterns.
                None => Some(saved.class).filter(|class| matches!(node.kind, Is::Class(_)) && !odd::has_pattern(class)),
            };
            if let Some(name) = own {
                self.by_property.entry(name.to_owned()).or_insert(at);
            }
            self.by_title.entry(world.title(at).to_owned()).or_insert(at);
        }
    }

    /// The text with what its patterns mean.
    pub(super) fn resolve(&self, world: &World<'_>, text: &str, now: OffsetDateTime) -> String {
        let mut resolved = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find('%') {
            resolved.push_str(&rest[..start]);
            let behind = &rest[start + 1..];
            match behind.find('%') {
                Some(0) => {
                    resolved.push('%');
                    rest = behind;
                }
                Some(end) => {
                    let pattern = &behind[..end];
                    match self.meaning(world, pattern, now) {
                        Some(meaning) => resolved.push_str(&meaning),
                        None => resolved.push_str(&rest[start..start + end + 2]),
                    }
                    rest = &behind[end + 1..];
                }
                None => {
                    rest = &rest[start..];
                    break;
                }
            }
        }
        resolved.push_str(rest);
        resolved
    }

    fn meaning(&self, world: &World<'_>, pattern: &str, now: OffsetDateTime) -> Option<String> {
        let mut parts = pattern.split('.');
        let (Some(name), Some(widget), None) = (parts.next(), parts.next(), parts.next()) else {
            let first = pattern.split('.').next()?;
            return first.strip_prefix("date:").map(|format| date(format, now));
        };
        let at = self.by_property.get(name).or_else(|| self.by_title.get(name))?;
        let value = &world.node(*at).widget(widget)?.value;
        let is_unfit = |character: char| {
            matches!(
                character,
                '/' | '?' | '<' | '>' | '\\' | ':' | '*' | '|' | '"' | '\0'..='\x1f' | '\x7f'
            )
        };
        Some(as_text(value).replace(is_unfit, "_"))
    }
}

/// A value as JavaScript writes it into a text.
fn as_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(on) => on.to_string(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => {
                let size = float.abs();
                if size != 0.0 && !(1e-6..1e21).contains(&size) {
                    let text = format!("{float:e}");
                    if size >= 1.0 { text.replace('e', "e+") } else { text }
                } else {
                    float.to_string()
                }
            }
            _ => number.to_string(),
        },
        Value::Array(values) => values.iter().map(as_text).collect::<Vec<_>>().join(","),
        Value::Object(_) => "[object Object]".to_owned(),
    }
}

/// The time by a format of `d`, `M`, `h`, `m`, `s` (once or twice) and `yy` or `yyyy`; other characters stay.
fn date(format: &str, now: OffsetDateTime) -> String {
    let mut text = String::with_capacity(format.len());
    let mut rest = format;
    while let Some(first) = rest.chars().next() {
        let same = rest.chars().take_while(|character| *character == first).count();
        let (count, part) = match first {
            'd' => (same.min(2), Some(u32::from(now.day()))),
            'M' => (same.min(2), Some(u32::from(u8::from(now.month())))),
            'h' => (same.min(2), Some(u32::from(now.hour()))),
            'm' => (same.min(2), Some(u32::from(now.minute()))),
            's' => (same.min(2), Some(u32::from(now.second()))),
            'y' if same >= 2 => (same.min(4), None),
            _ => (1, None),
        };
        let taken = count * first.len_utf8();
        let _ = match (part, first, count) {
            (Some(part), ..) => write!(text, "{part:0count$}"),
            (None, 'y', 4) => write!(text, "{}", now.year()),
            (None, 'y', 2) => write!(text, "{:02}", now.year().rem_euclid(100)),
            _ => {
                text.push_str(&rest[..taken]);
                Ok(())
            }
        };
        rest = &rest[taken..];
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_date_is_told_by_its_format() {
        // 2026-03-07 08:05:09 UTC
        let now = OffsetDateTime::from_unix_timestamp(1_772_870_709).expect("a time");
        for (format, told) in [
            ("yyyy-MM-dd", "2026-03-07"),
            ("hhmmss", "080509"),
            ("d.M.yy h:m:s", "7.3.26 8:5:9"),
            ("yyy y x", "yyy y x"),
            ("ddd", "077"),
        ] {
            assert_eq!(date(format, now), told, "{format}");
        }
    }

    #[test]
    fn values_are_written_as_javascript_does() {
        for (value, text) in [
            (json!(1.0), "1"),
            (json!(0.5), "0.5"),
            (json!(1e21), "1e+21"),
            (json!(1e-7), "1e-7"),
            (json!(u64::MAX), "18446744073709551615"),
            (json!([1, [2, "a"]]), "1,2,a"),
            (json!(null), ""),
            (json!({}), "[object Object]"),
            (json!(true), "true"),
        ] {
            assert_eq!(as_text(&value), text, "{value}");
        }
    }
}
