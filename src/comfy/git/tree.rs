//! The hash that git gives a folder: over the names, modes and hashes of all that is in it. See gitformat-pack(5) and
//! "Git Objects" in the Pro Git book.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sha1::{Digest, Sha1};

/// The hash of `folder` as git's tree, 40 hexadecimal digits. Blocks.
pub(super) fn hash(folder: &Path) -> io::Result<String> {
    let tree = tree(folder)?;
    Ok(hex::encode(tree.unwrap_or_else(|| object("tree", &[]))))
}

/// [`None`] for a folder with nothing in it, which git does not know.
fn tree(folder: &Path) -> io::Result<Option<[u8; 20]>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, metadata) = (entry.path(), entry.metadata()?);
        let (mode, hash) = if metadata.is_dir() {
            ("40000", tree(&path)?)
        } else if metadata.is_symlink() {
            let target = std::fs::read_link(&path)?;
            ("120000", Some(object("blob", target.as_os_str().as_bytes())))
        } else {
            let is_executable = metadata.permissions().mode() & 0o100 != 0;
            let mode = if is_executable { "100755" } else { "100644" };
            (mode, Some(file(&path, &metadata)?))
        };
        if let Some(hash) = hash {
            entries.push((entry.file_name().as_bytes().to_vec(), mode, hash));
        }
    }
    if entries.is_empty() {
        return Ok(None);
    }
    // A folder stands where its name with a slash would.
    entries.sort_by_cached_key(|(name, mode, _)| {
        let slash: &[u8] = if *mode == "40000" { b"/" } else { b"" };
        [name, slash].concat()
    });
    let mut content = Vec::new();
    for (name, mode, hash) in entries {
        content.extend_from_slice(mode.as_bytes());
        content.push(b' ');
        content.extend_from_slice(&name);
        content.push(0);
        content.extend_from_slice(&hash);
    }
    Ok(Some(object("tree", &content)))
}

fn object(kind: &str, content: &[u8]) -> [u8; 20] {
    let mut hash = head(kind, content.len() as u64);
    hash.update(content);
    hash.finalize().into()
}

fn head(kind: &str, size: u64) -> Sha1 {
    let mut hash = Sha1::new();
    hash.update(format!("{kind} {size}\0"));
    hash
}

fn file(path: &Path, metadata: &Metadata) -> io::Result<[u8; 20]> {
    let mut hash = head("blob", metadata.len());
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(hash(temp.path()).unwrap(), "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
        std::fs::create_dir(temp.path().join("empty")).unwrap();
        assert_eq!(
            hash(temp.path()).unwrap(),
            "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
            "git has no empty folders"
        );
        assert_eq!(
            hex::encode(object("blob", b"hello\n")),
            "ce013625030ba8dba906f756967f9e9ca394464a"
        );
    }
}
