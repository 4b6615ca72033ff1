//! Files by the hash of their content, each of which lies here once: what clients upload before a job names it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::job::ContentHash;

/// The folder of such files. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs(Arc<Path>);

impl Blobs {
    /// Those under the data folder.
    pub fn new(data_dir: &Path) -> Self {
        Self(data_dir.join("assets").into())
    }

    /// Where the file of this content lies, if it is here. Nothing of a user's is in the path.
    pub fn path(&self, hash: ContentHash) -> PathBuf {
        let name = hash.hex();
        self.0.join("blobs").join(&name[..2]).join(name)
    }
}
