//! Dynamic prompts: in a text, `{a|b}` is one of its choices, and what stands behind `//` or within `/* */` is for people.
//! The page resolves them when it sends a graph, by chance; here the job's seed decides.

/// Braces within braces, before a text is refused.
const DEEPEST: usize = 50;

/// A text that was resolved.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The text as it is sent.
    pub text: String,
    /// The choices that were made where there was one.
    pub choices: Vec<String>,
    /// Whether a comment was taken out.
    pub is_cut: bool,
}

/// Resolves a text; `None` where its braces lie too deep. `seed` decides, together with `place`, so that two texts of a job
/// do not choose alike.
pub(super) fn resolve(text: &str, seed: u64, place: &str) -> Option<Resolved> {
    let mut resolved = Resolved::default();
    if !text.contains(['{', '/', '\\']) {
        text.clone_into(&mut resolved.text);
        return Some(resolved);
    }
    let mut chance = Chance::new(seed, place);
    resolved.text = part(text, 0, &mut chance, &mut resolved)?;
    Some(resolved)
}

/// Resolves a text or a choice within it.
fn part(text: &str, depth: usize, chance: &mut Chance, resolved: &mut Resolved) -> Option<String> {
    if depth > DEEPEST {
        return None;
    }
    let text = without_comments(text, &mut resolved.is_cut);
    let mut result = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '\\' => escape(&mut rest, &mut result),
            '{' => {
                let mut choices = choices(&mut rest);
                let index = chance.below(choices.len());
                let chosen = choices.swap_remove(index);
                if choices.is_empty() {
                    result.push_str(&part(&chosen, depth + 1, chance, resolved)?);
                } else {
                    let chosen = part(&chosen, depth + 1, chance, resolved)?;
                    resolved.choices.push(chosen.clone());
                    result.push_str(&chosen);
                }
            }
            other => result.push(other),
        }
    }
    Some(unescaped(&result))
}

/// What stands in braces, up to the one that closes them, or to the end.
fn choices(rest: &mut std::str::Chars<'_>) -> Vec<String> {
    let mut choices = Vec::new();
    let mut choice = String::new();
    let mut depth = 0_usize;
    while let Some(character) = rest.next() {
        match character {
            '\\' => {
                escape(rest, &mut choice);
                continue;
            }
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            '|' if depth == 0 => {
                choices.push(std::mem::take(&mut choice));
                continue;
            }
            _ => {}
        }
        choice.push(character);
    }
    choices.push(choice);
    choices
}

/// A backslash and what follows. At the end of a text nothing does; the page writes `undefined` there.
fn escape(rest: &mut std::str::Chars<'_>, into: &mut String) {
    into.push('\\');
    into.extend(rest.next());
}

/// `\{`, `\|` and `\}` without the backslash.
fn unescaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        let escaped = rest.peek().filter(|_| character == '\\');
        match escaped {
            Some(next @ ('{' | '}' | '|')) => {
                result.push(*next);
                rest.next();
            }
            _ => result.push(character),
        }
    }
    result
}

/// The text without `/* … */` that is closed, and without `//` to the end of a line.
fn without_comments(text: &str, is_cut: &mut bool) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    // Once there is no end of a comment, there is none further on.
    let mut may_end = true;
    while let Some(start) = rest.find('/') {
        let behind = &rest[start..];
        let length = if behind.starts_with("/*") && may_end {
            let end = behind[2..].find("*/").map(|end| end + 4);
            may_end = end.is_some();
            end
        } else if behind.starts_with("//") {
            let is_end = |character: char| matches!(character, '\n' | '\r' | '\u{2028}' | '\u{2029}');
            Some(behind.find(is_end).unwrap_or(behind.len()))
        } else {
            None
        };
        result.push_str(&rest[..start]);
        *is_cut |= length.is_some();
        if length.is_none() {
            result.push('/');
        }
        rest = &behind[length.unwrap_or(1)..];
    }
    result.push_str(rest);
    result
}

/// Numbers that follow from a seed (`SplitMix64`).
struct Chance {
    state: u64,
}

impl Chance {
    fn new(seed: u64, place: &str) -> Self {
        // FNV-1a.
        let hash = place.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { state: seed ^ hash }
    }

    /// A number below `count`, which is not 0.
    fn below(&mut self, count: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % (count.max(1) as u64)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> String {
        resolve(text, 1, "4.text").expect("a text").text
    }

    #[test]
    fn texts_are_resolved_as_the_page_does() {
        for (text, expected) in [
            ("a red fox", "a red fox"),
            ("see https://x.org/a", "see https:"),
            ("a /* b */ c // d\ne", "a  c \ne"),
            ("a /* b", "a /* b"),
            ("{a}", "a"),
            (r"\{a\} \| {b}", "{a} | b"),
            ("{\"a\": {\"b\": 1}}", "\"a\": \"b\": 1"),
            ("x {a", "x a"),
            ("a}b", "a}b"),
            ("a\\", "a\\"),
            (r"\n", r"\n"),
            ("///**/", ""),
            ("/", "/"),
        ] {
            assert_eq!(resolved(text), expected, "{text}");
        }
    }

    #[test]
    fn a_choice_follows_from_the_seed() {
        let text = "a {red|blue|{dark|light} green} fox";
        let all = ["a red fox", "a blue fox", "a dark green fox", "a light green fox"];
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let one = resolve(text, seed, "4.text").expect("a text");
            assert!(all.contains(&one.text.as_str()), "{}", one.text);
            assert_eq!(Some(&one), resolve(text, seed, "4.text").as_ref());
            assert!(!one.choices.is_empty());
            seen.insert(one.text);
        }
        assert_eq!(seen.len(), all.len());
        let places = (0..20).map(|place| resolve(text, 7, &place.to_string()).expect("a text").text);
        assert!(places.collect::<std::collections::BTreeSet<_>>().len() > 1);
    }

    #[test]
    fn braces_without_end_are_refused_and_long_texts_are_quick() {
        assert_eq!(resolve(&"{".repeat(1_000_000), 1, ""), None);
        assert!(resolve(&"{a|".repeat(300_000), 0, "").is_some());
        assert_eq!(resolved(&"/* ".repeat(300_000)).len(), 900_000);
        assert_eq!(resolved(&"{a}".repeat(300_000)).len(), 300_000);
    }
}
