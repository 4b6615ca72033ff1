//! Which of several attached ComfyUIs made a file: each has folders of its own, and they may give the same names.

use std::sync::Arc;

use indexmap::IndexMap;
use parking_lot::Mutex;

use crate::job::OutputFile;

/// Files that are remembered; of older ones each ComfyUI is asked.
const MOST: usize = 10_000;

/// The last ones, the newest at the end. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Made(Arc<Mutex<IndexMap<String, String>>>);

impl Made {
    /// The ComfyUI of this name has made these.
    pub fn by(&self, name: &str, files: &[OutputFile]) {
        let mut known = self.0.lock();
        for file in files {
            let key = key(file.folder.as_str(), &file.subfolder, &file.filename);
            known.shift_remove(&key);
            known.insert(key, name.to_owned());
        }
        let over = known.len().saturating_sub(MOST);
        known.drain(..over);
    }

    /// Which one made a file of this name last.
    pub fn last(&self, folder: &str, subfolder: &str, filename: &str) -> Option<String> {
        self.0.lock().get(&key(folder, subfolder, filename)).cloned()
    }
}

fn key(folder: &str, subfolder: &str, filename: &str) -> String {
    format!("{folder}\0{subfolder}\0{filename}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{FileKind, OutputFolder};

    fn file(name: &str) -> OutputFile {
        OutputFile {
            node_id: "9".to_owned(),
            kind: FileKind::Image,
            filename: name.to_owned(),
            subfolder: String::new(),
            folder: OutputFolder::Output,
            url: None,
            recoded: None,
            engine: None,
            base64: None,
        }
    }

    #[test]
    fn the_last_one_counts_and_not_all_are_remembered() {
        let made = Made::default();
        made.by("a", &[file("1.png"), file("2.png")]);
        made.by("b", &[file("1.png")]);
        assert_eq!(made.last("output", "", "1.png").as_deref(), Some("b"));
        assert_eq!(made.last("output", "", "2.png").as_deref(), Some("a"));
        assert_eq!(made.last("temp", "", "1.png"), None);
        let many: Vec<_> = (0..MOST).map(|number| file(&format!("x{number}.png"))).collect();
        made.by("a", &many);
        assert_eq!(made.last("output", "", "1.png"), None);
        assert_eq!(made.last("output", "", "x0.png").as_deref(), Some("a"));
    }
}
