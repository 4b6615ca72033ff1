//! ComfyUI's folders on this machine, and the one way from names to paths in them.

use std::path::{Component, Path, PathBuf};

use crate::job::OutputFolder;

/// Where the ComfyUI on this machine reads and writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folders {
    /// What graphs keep.
    pub output: PathBuf,
    /// What graphs read.
    pub input: PathBuf,
    /// Previews; wiped when ComfyUI starts.
    pub temp: PathBuf,
    /// Whether they are this worker's alone. A ComfyUI that somebody installed may be shared with others, and with other
    /// workers.
    pub are_ours: bool,
    /// The previews of the other ComfyUIs of this worker, which share the rest.
    pub other_temps: Vec<PathBuf>,
    /// What the prefixes of its output files end with, where others write into the same folder.
    pub mark: Option<String>,
}

impl Folders {
    fn root(&self, folder: OutputFolder) -> &Path {
        match folder {
            OutputFolder::Output => &self.output,
            OutputFolder::Input => &self.input,
            OutputFolder::Temp => &self.temp,
        }
    }

    /// The path of a file by the names that ComfyUI's API uses; [`None`] when they lead out of the folder. A backslash is
    /// a letter like others here, as it is in the names that ComfyUI gives on this system.
    pub fn path(&self, folder: OutputFolder, subfolder: &str, filename: &str) -> Option<PathBuf> {
        let inner = relative(subfolder)?;
        let name = relative(filename)?;
        if name.components().count() != 1 {
            return None;
        }
        let inner = inner.join(name);
        Some(self.root_of(folder, &inner).join(inner))
    }

    /// The folder that has this file. Previews have names that no other has, so it need not be said whose one is.
    fn root_of(&self, folder: OutputFolder, inner: &Path) -> &Path {
        let others = if folder == OutputFolder::Temp {
            &self.other_temps[..]
        } else {
            &[]
        };
        let own = self.root(folder);
        if others.is_empty() || own.join(inner).exists() {
            return own;
        }
        let mut others = others.iter().filter(|other| other.join(inner).exists());
        others.next().map_or(own, PathBuf::as_path)
    }

    /// The plain subfolder and filename of a file that a node names in its own way: with `.` and `..` in the path, with
    /// folders before the filename, or by an absolute path, as ComfyUI's `/view` takes them too. [`None`] when they lead
    /// out of the folder.
    pub fn plain_names(&self, folder: OutputFolder, subfolder: &str, filename: &str) -> Option<(String, String)> {
        if filename.is_empty() || filename.ends_with('/') {
            return None;
        }
        let named = Path::new(subfolder).join(filename);
        let root = self.root(folder);
        let inner = match named.strip_prefix("/") {
            Err(_) => named.as_path(),
            Ok(_) => match named.strip_prefix(root) {
                Ok(inner) => inner,
                // ComfyUI may know the folder by its other name, where one of them is a link.
                Err(_) => named.strip_prefix(root.canonicalize().ok()?).ok()?,
            },
        };
        plain(inner)
    }

    /// [`Self::path`], and that no link on the way leads out of the folder. Touches the disk.
    pub fn existing(&self, folder: OutputFolder, subfolder: &str, filename: &str) -> Option<PathBuf> {
        let path = self.path(folder, subfolder, filename)?;
        let inner = relative(subfolder)?.join(filename);
        let root = self.root_of(folder, &inner).canonicalize().ok()?;
        let path = path.canonicalize().ok()?;
        (path.starts_with(root) && path.is_file()).then_some(path)
    }
}

/// The plain subfolder and filename of a relative path; [`None`] when it leads out of where it begins.
pub(crate) fn plain(path: &Path) -> Option<(String, String)> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str().filter(|name| !name.contains('\0'))?),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    let filename = parts.pop()?.to_owned();
    Some((parts.join("/"), filename))
}

/// A path of plain names only; a `.` among them says nothing.
fn relative(text: &str) -> Option<PathBuf> {
    let parts = Path::new(text).components().filter(|part| *part != Component::CurDir);
    let plain = parts.map(|part| matches!(part, Component::Normal(_)).then_some(part));
    plain.collect::<Option<PathBuf>>().filter(|_| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(root: &Path) -> Folders {
        Folders {
            output: root.join("output"),
            input: root.join("input"),
            temp: root.join("temp"),
            are_ours: true,
            ..Folders::default()
        }
    }

    #[test]
    fn names_cannot_leave_their_folder() {
        let folders = folders(Path::new("/data"));
        let path = |subfolder, filename| folders.path(OutputFolder::Output, subfolder, filename);
        assert_eq!(path("", "a.png").unwrap(), Path::new("/data/output/a.png"));
        assert_eq!(path("x/y", "a.png").unwrap(), Path::new("/data/output/x/y/a.png"));
        assert_eq!(path("./x/.", "a.png").unwrap(), Path::new("/data/output/x/a.png"));
        assert_eq!(path("", "Qwen\\a.png").unwrap(), Path::new("/data/output/Qwen\\a.png"));
        assert_eq!(path("", "..\\a.png").unwrap(), Path::new("/data/output/..\\a.png"));
        for (subfolder, filename) in [
            ("..", "a"),
            ("x/../..", "a"),
            ("/etc", "passwd"),
            ("", "../a"),
            ("", "x/a"),
            ("", ""),
            ("", ".."),
            ("", "."),
            ("", "a\0"),
        ] {
            assert_eq!(path(subfolder, filename), None, "{subfolder:?} {filename:?}");
        }
    }

    #[test]
    fn what_nodes_name_in_their_own_ways_gets_plain_names() {
        let folders = folders(Path::new("/data"));
        let plain = |subfolder, filename| folders.plain_names(OutputFolder::Output, subfolder, filename);
        for (subfolder, filename, expected) in [
            ("", "a.png", ("", "a.png")),
            (".", "a.png", ("", "a.png")),
            ("./x/./y//", "a.png", ("x/y", "a.png")),
            ("x/../y", "a.png", ("y", "a.png")),
            ("/data/output/x", "a.png", ("x", "a.png")),
            ("/data/output", "a.png", ("", "a.png")),
            ("", "x/a.png", ("x", "a.png")),
            ("", "/data/output/x/a.png", ("x", "a.png")),
            ("", "Qwen\\a.png", ("", "Qwen\\a.png")),
            ("x\\y", "a.png", ("x\\y", "a.png")),
        ] {
            let expected = (expected.0.to_owned(), expected.1.to_owned());
            assert_eq!(plain(subfolder, filename), Some(expected), "{subfolder:?} {filename:?}");
        }
        for (subfolder, filename) in [
            ("..", "a"),
            ("x/../..", "a"),
            ("/etc", "passwd"),
            ("/data/output/../secret", "a"),
            ("/data/outputs", "a"),
            ("", "x/"),
            ("x", ""),
            ("", "../a"),
        ] {
            assert_eq!(plain(subfolder, filename), None, "{subfolder:?} {filename:?}");
        }
    }

    #[test]
    fn previews_are_found_whichever_comfyui_made_them() {
        let root = tempfile::tempdir().unwrap();
        let other = root.path().join("gpu1/temp");
        let folders = Folders {
            other_temps: vec![other.clone()],
            ..folders(root.path())
        };
        for folder in [&folders.temp, &other] {
            std::fs::create_dir_all(folder.join("x")).unwrap();
        }
        std::fs::write(folders.temp.join("a.png"), "own").unwrap();
        std::fs::write(other.join("x/b.png"), "other").unwrap();
        let read = |folder, subfolder, name| {
            let path = folders.existing(folder, subfolder, name)?;
            std::fs::read_to_string(path).ok()
        };
        assert_eq!(read(OutputFolder::Temp, "", "a.png").unwrap(), "own");
        assert_eq!(read(OutputFolder::Temp, "x", "b.png").unwrap(), "other");
        assert_eq!(read(OutputFolder::Temp, "", "c.png"), None);
        assert_eq!(read(OutputFolder::Output, "x", "b.png"), None);
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
