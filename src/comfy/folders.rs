//! ComfyUI's folders on this machine, and the one way from names to paths in them.

use std::path::{Component, Path, PathBuf};

use crate::job::OutputFolder;

/// Where the ComfyUI on this machine reads and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folders {
    /// What graphs keep.
    pub output: PathBuf,
    /// What graphs read.
    pub input: PathBuf,
    /// Previews; wiped when ComfyUI starts.
    pub temp: PathBuf,
}

impl Folders {
    fn root(&self, folder: OutputFolder) -> &Path {
        match folder {
            OutputFolder::Output => &self.output,
            OutputFolder::Input => &self.input,
            OutputFolder::Temp => &self.temp,
        }
    }

    /// The path of a file by the names that ComfyUI's API uses; [`None`] when they lead out of the folder.
    pub fn path(&self, folder: OutputFolder, subfolder: &str, filename: &str) -> Option<PathBuf> {
        let inner = relative(subfolder)?;
        let name = relative(filename)?;
        if name.components().count() != 1 {
            return None;
        }
        Some(self.root(folder).join(inner).join(name))
    }

    /// [`Self::path`], and that no link on the way leads out of the folder. Touches the disk.
    pub fn existing(&self, folder: OutputFolder, subfolder: &str, filename: &str) -> Option<PathBuf> {
        let path = self.path(folder, subfolder, filename)?.canonicalize().ok()?;
        let root = self.root(folder).canonicalize().ok()?;
        (path.starts_with(root) && path.is_file()).then_some(path)
    }
}

/// A path of plain names only.
fn relative(text: &str) -> Option<PathBuf> {
    if text.contains(['\\', '\0']) {
        return None;
    }
    let path = PathBuf::from(text);
    path.components()
        .all(|part| matches!(part, Component::Normal(_)))
        .then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(root: &Path) -> Folders {
        Folders {
            output: root.join("output"),
            input: root.join("input"),
            temp: root.join("temp"),
        }
    }

    #[test]
    fn names_cannot_leave_their_folder() {
        let folders = folders(Path::new("/data"));
        let path = |subfolder, filename| folders.path(OutputFolder::Output, subfolder, filename);
        assert_eq!(path("", "a.png").unwrap(), Path::new("/data/output/a.png"));
        assert_eq!(path("x/y", "a.png").unwrap(), Path::new("/data/output/x/y/a.png"));
        for (subfolder, filename) in [
            ("..", "a"),
            ("x/../..", "a"),
            ("/etc", "passwd"),
            ("", "../a"),
            ("", "x/a"),
            ("", ""),
            ("", ".."),
            ("", "a\\b"),
        ] {
            assert_eq!(path(subfolder, filename), None, "{subfolder:?} {filename:?}");
        }
    }

    #[test]
    fn links_cannot_leave_their_folder() {
        let root = tempfile::tempdir().unwrap();
        let folders = folders(root.path());
        std::fs::create_dir_all(&folders.output).unwrap();
        std::fs::write(root.path().join("secret"), "x").unwrap();
        std::fs::write(folders.output.join("a.png"), "x").unwrap();
        std::os::unix::fs::symlink(root.path().join("secret"), folders.output.join("link.png")).unwrap();
        assert!(folders.existing(OutputFolder::Output, "", "a.png").is_some());
        assert_eq!(folders.existing(OutputFolder::Output, "", "link.png"), None);
        assert_eq!(folders.existing(OutputFolder::Output, "", "none.png"), None);
    }
}
