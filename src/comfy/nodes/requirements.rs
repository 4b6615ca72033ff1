//! The Python packages that a pack asks for: its `requirements.txt`, as ComfyUI-Manager takes it, and where it has none the
//! `[project] dependencies` of its `pyproject.toml`.
//!
//! | line | what becomes of it |
//! | --- | --- |
//! | a requirement, `numpy>=1.26; python_version < "3.13"` | resolved with all others |
//! | a URL, `name @ https://…/x.whl`, `https://…/x.whl` | the same; the file's hash is kept in the set's list |
//! | `git+https://…@COMMIT` | the same; git itself checks the commit. Another reference only where packs may float |
//! | `-r FILE` | read, if it lies in the pack |
//! | other options (`--extra-index-url`, `--pre`, `-c`, …) | left out, with a note: where packages come from is the owner's to say |
//! | `-e`, paths, `file:`, `hg+`, `svn+`, `bzr+`, `${VARIABLE}` | the pack is refused: nobody can say what that is tomorrow |

use std::fs;
use std::path::{Component, Path};

use serde::Deserialize;

use crate::config::is_commit;
use crate::echo;

/// The files of a pack that say what it asks for.
pub(super) const FILES: [&str; 2] = ["requirements.txt", "pyproject.toml"];

/// How deep `-r` may lead.
const DEPTH: u32 = 5;

/// The largest list that is read, in bytes.
const LARGEST: u64 = 1_000_000;

/// What a pack asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Demands {
    /// Requirements as uv reads them, one a line.
    pub(super) lines: Vec<String>,
    /// What was left out, and why.
    pub(super) notes: Vec<String>,
}

/// Reads what the pack in `tree` asks for; an error is why it is refused. Blocks.
pub(super) fn read(tree: &Path, allow_floating: bool) -> Result<Demands, String> {
    let mut demands = Demands::default();
    let list = tree.join(FILES[0]);
    if list.is_file() {
        demands.take_file(tree, FILES[0], allow_floating, DEPTH)?;
    } else if let Some(text) = text(&tree.join(FILES[1]))? {
        // A file that is no TOML says nothing of what it needs, and ComfyUI does not mind it.
        match toml::from_str::<PyProject>(&text) {
            Ok(read) => {
                for line in read.project.dependencies {
                    demands.take(tree, FILES[1], &line, allow_floating, 0)?;
                }
            }
            Err(error) => demands
                .notes
                .push(format!("its pyproject.toml cannot be read: {}", error.message())),
        }
    }
    Ok(demands)
}

#[derive(Deserialize)]
struct PyProject {
    #[serde(default)]
    project: Project,
}

#[derive(Default, Deserialize)]
struct Project {
    #[serde(default)]
    dependencies: Vec<String>,
}

/// Checks requirements that the owner's manifest names.
pub(super) fn of_manifest(packages: &[String], allow_floating: bool) -> Result<Demands, String> {
    let mut demands = Demands::default();
    for line in packages {
        demands.take(Path::new(""), "the manifest", line, allow_floating, 0)?;
    }
    Ok(demands)
}

impl Demands {
    fn take_file(&mut self, tree: &Path, name: &str, allow_floating: bool, depth: u32) -> Result<(), String> {
        let Some(text) = text(&tree.join(name))? else {
            return Err(format!("its list {} is not there", echo::cut(name)));
        };
        // A backslash at its end makes the next line a part of a line.
        for line in text.replace("\\\r\n", " ").replace("\\\n", " ").lines() {
            self.take(tree, name, line, allow_floating, depth)?;
        }
        Ok(())
    }

    fn take(&mut self, tree: &Path, file: &str, line: &str, allow_floating: bool, depth: u32) -> Result<(), String> {
        let line = without_comment(line);
        if line.is_empty() {
            return Ok(());
        }
        let shown = echo::cut(&crate::comfy::install::star_passwords(line));
        let refused = |why: &str| Err(format!("`{shown}` in {file} {why}"));
        if line.contains("${") {
            return refused("takes a variable of the environment, which is not given to packs");
        }
        if let Some(option) = line.strip_prefix('-') {
            if let Some(name) = value_of(option, &["r", "-requirement"]) {
                // As pip has it: relative to the file that names it.
                let name = Path::new(file).with_file_name(name);
                let inside = name
                    .components()
                    .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
                return match name.to_str().filter(|_| inside && depth > 0) {
                    Some(name) => self.take_file(tree, name, allow_floating, depth - 1),
                    None => refused("leads out of the pack"),
                };
            }
            if value_of(option, &["e", "-editable"]).is_some() {
                return refused("is a folder, not a package");
            }
            self.notes.push(format!(
                "`{shown}` in its {file} is not followed; where packages come from is said by UV_INDEX or PIP_EXTRA_INDEX_URL for all of them"
            ));
            return Ok(());
        }
        if let Some((before, rest)) = line.split_once("://") {
            let is_scheme = |letter: char| letter.is_ascii_alphanumeric() || "+-.".contains(letter);
            let scheme = before.rsplit(|letter| !is_scheme(letter)).next().unwrap_or_default();
            match scheme.to_ascii_lowercase().as_str() {
                "http" | "https" => {}
                git if git.starts_with("git+") && git != "git+file" => {
                    let rest = rest.split(['#', ' ', ';']).next().unwrap_or_default();
                    let reference = rest.rsplit_once('@').map(|(_, reference)| reference);
                    if !allow_floating && !reference.is_some_and(is_commit) {
                        return refused(
                            "names no commit, and may be something else tomorrow; CUSTOM_NODES_ALLOW_FLOATING=true takes it as it is",
                        );
                    }
                }
                _ => return refused("comes from a place that packages are not taken from"),
            }
        } else {
            let place = line.split_once('@').map_or(line, |(_, place)| place.trim());
            if place.starts_with(['.', '/', '~']) || place.starts_with("file:") {
                return refused("is a path, not a package");
            }
        }
        self.lines.push(line.to_owned());
        Ok(())
    }
}

/// The value of an option that is one of `names`: `r x`, `-requirement=x`, `rx`.
fn value_of<'a>(option: &'a str, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| {
        let rest = option.strip_prefix(name)?;
        let short = !name.starts_with('-');
        (short && !option.starts_with('-') || rest.starts_with([' ', '=']))
            .then(|| rest.trim_start_matches(['=', ' ']).trim())
    })
}

/// A comment begins with `#` at the beginning or after a space: in a URL it is something else.
fn without_comment(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with('#') {
        return "";
    }
    line.split(" #")
        .next()
        .and_then(|line| line.split("\t#").next())
        .unwrap_or(line)
        .trim()
}

/// The text of a file; [`None`] where there is none.
fn text(path: &Path) -> Result<Option<String>, String> {
    let name = path.file_name().unwrap_or_default().display();
    match fs::metadata(path) {
        Ok(facts) if facts.len() > LARGEST => return Err(format!("its {name} has more than {LARGEST} bytes")),
        Ok(facts) if facts.is_file() => {}
        _ => return Ok(None),
    }
    let bytes = fs::read(path).map_err(|error| format!("its {name} cannot be read: {error}"))?;
    // Some were written by an editor on Windows.
    let text = String::from_utf8_lossy(&bytes);
    Ok(Some(text.trim_start_matches('\u{feff}').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &str) -> Result<Demands, String> {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("more")).unwrap();
        fs::write(folder.path().join("requirements.txt"), list).unwrap();
        fs::write(folder.path().join("more/a.txt"), "-r b.txt\nopencv-python\n").unwrap();
        fs::write(folder.path().join("more/b.txt"), "scipy\n").unwrap();
        read(folder.path(), false)
    }

    #[test]
    fn requirements_urls_and_further_lists_are_taken() {
        let commit = "3f20054214fec9f9234fd3841ae6f1e4287948f6";
        let list = format!(
            "\u{feff}# main\r\ngguf>=0.13.0 # as it says\n\nnumpy>=1.26 ; python_version < \"3.13\"\nmediapipe \\\n ==0.10\n\
             -r more/a.txt\nx @ https://e.example/x.whl#sha256=ab\nhttps://e.example/y-1-py3-none-any.whl\n\
             git+https://e.example/z.git@{commit}#egg=z\nq @ git+https://u@e.example/q@{commit}\n"
        );
        let demands = of(&list).unwrap();
        assert_eq!(demands.notes, [""; 0]);
        assert_eq!(
            demands.lines,
            [
                "gguf>=0.13.0",
                "numpy>=1.26 ; python_version < \"3.13\"",
                "mediapipe   ==0.10",
                "scipy",
                "opencv-python",
                "x @ https://e.example/x.whl#sha256=ab",
                "https://e.example/y-1-py3-none-any.whl",
                &format!("git+https://e.example/z.git@{commit}#egg=z"),
                &format!("q @ git+https://u@e.example/q@{commit}"),
            ]
        );
    }

    #[test]
    fn what_nobody_can_name_refuses_the_pack() {
        for (line, why) in [
            ("-e .", "folder"),
            ("--editable=./x", "folder"),
            ("./wheels/x.whl", "path"),
            ("/abs/x", "path"),
            ("x @ file:///abs/x.whl", "not taken from"),
            ("x @ ./y", "path"),
            ("git+https://u:s3cret@e.example/z.git@main", "names no commit"),
            ("git+ssh://git@e.example/z", "names no commit"),
            ("hg+https://e.example/z", "not taken from"),
            ("-r ../../etc/list", "out of the pack"),
            ("-r /etc/list", "out of the pack"),
            ("-r missing.txt", "is not there"),
            ("x @ https://e.example/${HF_TOKEN}", "variable"),
        ] {
            let error = of(line).unwrap_err();
            assert!(error.contains(why) && !error.contains("s3cret"), "{line}: {error}");
        }
    }

    #[test]
    fn options_are_told_and_not_followed() {
        let demands = of("--extra-index-url https://me:word@e.example/x\n--pre\n-c c.txt\ntorch\n").unwrap();
        assert_eq!(demands.lines, ["torch"]);
        assert_eq!(demands.notes.len(), 3);
        assert!(!demands.notes[0].contains("word"), "{:?}", demands.notes);
    }

    #[test]
    fn pyproject_counts_where_there_is_no_list() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path(), false), Ok(Demands::default()));
        let pyproject = "[project]\nname = \"x\"\ndependencies = [\"einops\", \"scipy>=1\"]\n[tool.comfy]\nx = 1\n";
        fs::write(folder.path().join("pyproject.toml"), pyproject).unwrap();
        assert_eq!(read(folder.path(), false).unwrap().lines, ["einops", "scipy>=1"]);
        fs::write(folder.path().join("requirements.txt"), "numpy\n").unwrap();
        assert_eq!(read(folder.path(), false).unwrap().lines, ["numpy"]);
    }
}
