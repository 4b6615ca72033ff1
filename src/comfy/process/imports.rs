//! What the start hook has recorded of the custom nodes that ComfyUI imports.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::hook;

/// One pack of custom nodes, a folder or a single file, on its way into ComfyUI.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    /// The folder or file, as ComfyUI names it.
    pub folder: PathBuf,
    /// How long its code ran, `prestartup_script.py` included; what still runs is not counted.
    pub seconds: f64,
    /// What came of it.
    pub outcome: Outcome,
    /// Why its `prestartup_script.py` failed. ComfyUI imports the pack all the same.
    pub prestartup_error: Option<String>,
}

/// What came of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its code runs, or ran when the process ended.
    Running,
    /// Its module is there. ComfyUI may still find no nodes in it.
    Done,
    /// It raised: `ModuleNotFoundError: No module named 'x'`.
    Failed(String),
}

impl Import {
    /// The pack's name: that of its folder, or of its file without `.py`.
    pub fn name(&self) -> String {
        pack_name(&self.folder)
    }
}

/// See [`Import::name`].
pub(super) fn pack_name(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(".py").unwrap_or(&name).to_owned()
}

/// One line of the record.
#[derive(Deserialize)]
struct Line {
    folder: PathBuf,
    /// `__init__.py`, `prestartup_script.py`, or the single file.
    file: String,
    state: Progress,
    #[serde(default)]
    seconds: f64,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Progress {
    Running,
    Done,
    Failed,
}

/// What the start hook has recorded of the current start of the `ComfyUI` whose folder this is
/// ([`run_dir`](super::Launch::run_dir)), in the order of the imports; of the last one, when none runs. Empty where the
/// hook does not run: at `COMFYUI_URL`, or under a Python that is told to ignore `PYTHONPATH`. Blocks for a moment.
pub fn imports(run_dir: &Path) -> Vec<Import> {
    let text = fs::read(hook::record(run_dir)).unwrap_or_default();
    read(&String::from_utf8_lossy(&text))
}

/// A line that was cut off by the end of the process is left out.
fn read(text: &str) -> Vec<Import> {
    let mut imports: Vec<Import> = Vec::new();
    let mut places: HashMap<PathBuf, usize> = HashMap::new();
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Line>(line) else {
            continue;
        };
        let place = *places.entry(line.folder.clone()).or_insert_with(|| {
            imports.push(Import {
                folder: line.folder.clone(),
                seconds: 0.0,
                outcome: Outcome::Running,
                prestartup_error: None,
            });
            imports.len() - 1
        });
        let import = &mut imports[place];
        import.seconds += line.seconds;
        import.outcome = match line.state {
            Progress::Running => Outcome::Running,
            Progress::Done => Outcome::Done,
            Progress::Failed if line.file == hook::PRESTARTUP => {
                import.prestartup_error = Some(line.error);
                Outcome::Done
            }
            Progress::Failed => Outcome::Failed(line.error),
        };
    }
    imports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_pack_counts_and_its_seconds_add_up() {
        let text = r#"{"folder": "/n/a", "file": "prestartup_script.py", "state": "running"}
{"folder": "/n/a", "file": "prestartup_script.py", "state": "failed", "seconds": 0.5, "error": "OSError: no"}
{"folder": "/n/b.py", "file": "b.py", "state": "running"}
{"folder": "/n/b.py", "file": "b.py", "state": "failed", "seconds": 1.0, "error": "KeyError: 'x'"}
{"folder": "/n/a", "file": "__init__.py", "state": "running"}
{"folder": "/n/a", "file": "__init__.py", "state": "done", "seconds": 2.0}
{"folder": "/n/c", "file": "__init__.py", "state": "running"}
{"folder": "/n/d", "file": "__ini"#;
        let found = read(text);
        let told: Vec<_> = found
            .iter()
            .map(|import| (import.name(), import.seconds, import.outcome.clone()))
            .collect();
        assert_eq!(
            told,
            [
                ("a".to_owned(), 2.5, Outcome::Done),
                ("b".to_owned(), 1.0, Outcome::Failed("KeyError: 'x'".to_owned())),
                ("c".to_owned(), 0.0, Outcome::Running),
            ]
        );
        assert_eq!(found[0].prestartup_error.as_deref(), Some("OSError: no"));
        assert_eq!(read("rubbish\n"), []);
        assert_eq!(imports(Path::new("/nowhere")), []);
    }
}
