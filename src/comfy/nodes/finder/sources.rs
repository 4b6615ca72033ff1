//! The names that the sources of a pack speak of: a pack that does not load cannot say which classes it would bring.

use std::collections::HashSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// How much is read, and how many names are kept, of all packs together: some 30 MB, as names go.
const MOST_BYTES_IN_ALL: u64 = 128 * 1024 * 1024;
const MOST_NAMES_IN_ALL: usize = 300_000;

/// How much of one pack is read. The largest packs have some 300 files and 5 MB of Python.
const MOST_FILES: usize = 1_000;
const MOST_BYTES: u64 = 16 * 1024 * 1024;
const LONGEST_FILE: u64 = 2 * 1024 * 1024;
const DEEPEST: usize = 8;
/// The longest name that is kept, in bytes, and how many of them.
const LONGEST_NAME: usize = 120;
const MOST_NAMES: usize = 100_000;

/// How much may still be read and kept of all packs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    bytes: u64,
    names: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            bytes: MOST_BYTES_IN_ALL,
            names: MOST_NAMES_IN_ALL,
        }
    }
}

/// Names in the sources of one pack.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Those by which something is told apart: `"Foo": …`, `MAPPINGS["Foo"]`, `node_id="Foo"`.
    keys: HashSet<String>,
    /// All others: in quotes, or of Python classes. Of a pack that loaded they tell nothing, and are not kept.
    others: HashSet<String>,
    keeps_others: bool,
    /// How many more are kept.
    room: usize,
}

impl Names {
    /// Whether something is called so, and is most likely a node class.
    pub(super) fn has_key(&self, name: &str) -> bool {
        self.keys.contains(name)
    }

    /// Whether the name is there at all.
    pub(super) fn has(&self, name: &str) -> bool {
        self.has_key(name) || self.others.contains(name)
    }

    /// Reads the Python files of a pack: a folder, or one file. What cannot be read is left out. Blocks.
    pub(super) fn read(pack: &Path, keeps_others: bool, budget: &mut Budget) -> Self {
        let most_names = MOST_NAMES.min(budget.names);
        let mut names = Self {
            keeps_others,
            room: most_names,
            ..Self::default()
        };
        let mut files = Vec::new();
        if pack.is_dir() {
            python_files(pack, 0, &mut files);
        } else {
            files.push(pack.to_owned());
        }
        let most_bytes = MOST_BYTES.min(budget.bytes);
        let mut rest = most_bytes;
        for path in files {
            if rest == 0 || names.room == 0 {
                break;
            }
            let Ok(file) = fs::File::open(path) else { continue };
            let mut text = Vec::new();
            if file.take(LONGEST_FILE.min(rest)).read_to_end(&mut text).is_err() {
                continue;
            }
            rest = rest.saturating_sub(text.len() as u64);
            names.add(&String::from_utf8_lossy(&text));
        }
        budget.bytes -= most_bytes - rest;
        budget.names -= most_names - names.room;
        names
    }

    fn add(&mut self, source: &str) {
        for line in source.lines() {
            if let Some(class) = line.strip_prefix("class ") {
                let end = class.find(['(', ':']).unwrap_or(class.len());
                self.keep(&class[..end], false);
            }
            // Every text between two quotes of one kind, whether that is one of Python's or what stands between two: the
            // latter are no names of anything.
            for quote in ['"', '\''] {
                let mut pieces = line.split(quote);
                let Some(mut before) = pieces.next() else { continue };
                let mut pieces = pieces.peekable();
                while let Some(piece) = pieces.next() {
                    let Some(after) = pieces.peek() else { break };
                    let is_key = after.trim_start().starts_with([':', ']'])
                        || before.trim_end().trim_end_matches([' ', '=']).ends_with("node_id");
                    self.keep(piece, is_key);
                    before = piece;
                }
            }
        }
    }

    fn keep(&mut self, name: &str, is_key: bool) {
        let name = name.trim();
        let is_name = !name.is_empty() && name.len() <= LONGEST_NAME;
        if is_name && self.room > 0 && (is_key || self.keeps_others) {
            let names = if is_key { &mut self.keys } else { &mut self.others };
            if !names.contains(name) {
                names.insert(name.to_owned());
                self.room -= 1;
            }
        }
    }
}

/// Python files below a folder, those above first. Links are not followed: they may lead in circles.
fn python_files(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if kind.is_dir() && depth < DEEPEST && !name.starts_with('.') && !SKIPPED.contains(&&*name) {
            folders.push(entry.path());
        } else if kind.is_file() && name.ends_with(".py") && files.len() < MOST_FILES {
            files.push(entry.path());
        }
    }
    for folder in folders {
        python_files(&folder, depth + 1, files);
    }
}

/// Folders without classes of the pack's own.
const SKIPPED: &[&str] = &["__pycache__", "node_modules", "site-packages", "tests", "web", "js"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_however_a_pack_declares_them() {
        let pack = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = pack.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "__init__.py",
            "NODE_CLASS_MAPPINGS = {\n    \"Big (x)\": Big,  # don't\n    'Small|y' : Small, \"Third\": {\"class\": Third},\n}\nNODE_CLASS_MAPPINGS[\"Fourth\"] = Fourth\nlog(\"Mentioned\")\n",
        );
        write(
            "nodes/deep/v3.py",
            "io.Schema(node_id=\"Fifth\", display_name=\"Sixth\")\n",
        );
        write("nodes/by_class.py", "class Seventh(Base):\n    pass\n");
        write("__pycache__/x.py", "\"Hidden\": 1");
        write("notes.txt", "\"Hidden\": 1");
        std::os::unix::fs::symlink(pack.path(), pack.path().join("circle")).unwrap();
        let read = |path: &Path, keeps_others| Names::read(path, keeps_others, &mut Budget::default());
        let names = read(pack.path(), true);
        for key in ["Big (x)", "Small|y", "Third", "Fourth", "Fifth"] {
            assert!(names.has_key(key), "{key}");
        }
        for other in ["Mentioned", "Sixth", "Seventh"] {
            assert!(names.has(other) && !names.has_key(other), "{other}");
        }
        assert!(!names.has("Hidden") && !names.has("Big"));
        let keys_alone = read(pack.path(), false);
        assert!(keys_alone.has_key("Fifth") && !keys_alone.has("Mentioned"));
        let file = read(&pack.path().join("nodes/by_class.py"), true);
        assert!(file.has("Seventh") && !file.has("Fifth"));
        assert!(!read(&pack.path().join("nowhere"), true).has("x"));
    }

    #[test]
    fn a_huge_pack_is_read_in_part() {
        let pack = tempfile::tempdir().unwrap();
        let line = "x = \"A\"\n".repeat(300_000);
        fs::write(pack.path().join("huge.py"), format!("{line}\"Late\": 1,\n")).unwrap();
        let names = Names::read(pack.path(), true, &mut Budget::default());
        assert!(names.has("A") && !names.has("Late"));
    }

    #[test]
    fn many_packs_have_one_budget() {
        let pack = tempfile::tempdir().unwrap();
        fs::write(pack.path().join("a.py"), "x = {\"A\": 1,\n\"B\": 2,\n\"C\": 3}\n").unwrap();
        let mut budget = Budget { bytes: 1000, names: 5 };
        let mut read = || Names::read(pack.path(), true, &mut budget);
        let (first, second, third) = (read(), read(), read());
        assert!(first.has("C"));
        assert!(second.has("B") && !second.has("C"));
        assert!(!third.has("A"));
        let mut budget = Budget { bytes: 12, names: 5 };
        let names = Names::read(pack.path(), true, &mut budget);
        assert!(names.has("A") && !names.has("B"));
        assert_eq!((budget.bytes, budget.names), (0, 4));
    }
}
