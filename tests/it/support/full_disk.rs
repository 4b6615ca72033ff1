//! A disk that can be filled and emptied again without any rights: a library that the worker's process loads first.

use std::path::PathBuf;

use tempfile::TempDir;

/// The library, and the switch that it looks at.
pub(crate) struct Disk {
    folder: TempDir,
}

impl Disk {
    /// Needs a C compiler, which links this test too.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = folder.path().join("full_disk.c");
        std::fs::write(&source, include_str!("full_disk.c")).expect("a file");
        let done = std::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(folder.path().join("full_disk.so"))
            .arg(&source)
            .arg("-ldl")
            .output()
            .expect("a C compiler");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self { folder }
    }

    /// The variables of a process whose disk it is.
    pub(crate) fn vars(&self) -> [(String, String); 2] {
        let library = self.folder.path().join("full_disk.so");
        [
            ("LD_PRELOAD".to_owned(), library.display().to_string()),
            ("FULL_DISK".to_owned(), self.switch().display().to_string()),
        ]
    }

    pub(crate) fn fill(&self) {
        std::fs::write(self.switch(), "").expect("a file");
    }

    pub(crate) fn empty(&self) {
        std::fs::remove_file(self.switch()).expect("it is full");
    }

    fn switch(&self) -> PathBuf {
        self.folder.path().join("full")
    }
}
