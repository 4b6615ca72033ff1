//! The symbolic links of a tree, and whether one leads out of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

/// How many links a path may lead through, as in the kernel.
const MOST_LINKS: usize = 40;

/// The symbolic links of a tree: the path of each below the tree's root, and where it leads.
#[derive(Debug, Default)]
pub(in crate::comfy) struct Links(pub(super) BTreeMap<PathBuf, PathBuf>);

impl Links {
    /// The links of the tree in `root`. Blocks.
    pub(in crate::comfy) fn of(root: &Path) -> io::Result<Self> {
        let mut links = Self::default();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(root.join(&folder))? {
                let entry = entry?;
                let (path, kind) = (folder.join(entry.file_name()), entry.file_type()?);
                if kind.is_symlink() {
                    let to = std::fs::read_link(entry.path())?;
                    links.0.insert(path, to);
                } else if kind.is_dir() {
                    folders.push(path);
                }
            }
        }
        Ok(links)
    }

    /// The first link that leads out, with the reason.
    pub(in crate::comfy) fn leading_out(&self) -> Option<(&Path, &'static str)> {
        self.0
            .keys()
            .find_map(|path| self.check(path).err().map(|reason| (path.as_path(), reason)))
    }

    /// Whether the link at `path` leads to a place in the tree, which need not be there.
    pub(super) fn check(&self, path: &Path) -> Result<(), &'static str> {
        const OUT: &str = "is a link that leads out of it";
        let mut here = PathBuf::new();
        let mut through = 0;
        // The way still to go, the next part last.
        let mut way: Vec<Component<'_>> = path.components().rev().collect();
        while let Some(part) = way.pop() {
            match part {
                Component::CurDir => {}
                Component::ParentDir => {
                    if !here.pop() {
                        return Err(OUT);
                    }
                }
                Component::RootDir | Component::Prefix(_) => return Err(OUT),
                Component::Normal(name) => {
                    here.push(name);
                    if let Some(to) = self.0.get(&here) {
                        through += 1;
                        if through > MOST_LINKS {
                            return Err("is a link that leads in a circle");
                        }
                        here.pop();
                        way.extend(to.components().rev());
                    }
                }
            }
        }
        Ok(())
    }
}
