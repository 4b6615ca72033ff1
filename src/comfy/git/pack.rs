//! Finds a commit in the beginning of a pack. See gitformat-pack(5).

use flate2::{Decompress, FlushDecompress, Status};
use sha1::{Digest, Sha1};

use super::Commit;

/// The largest commit that is taken, in bytes. Only its message can be long.
const LARGEST: usize = 1024 * 1024;

/// What the pack's beginning says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The hash of the commit's tree: 40 hexadecimal digits.
    Tree(String),
    /// More of the pack is needed.
    Incomplete,
    /// The commit is not in it.
    Missing,
    /// It is no pack.
    Malformed,
}

/// The tree of the commit `wanted`. git writes commits before anything else into a pack, so that the beginning will do.
/// Who sent it does not matter: the content has the hash that is the commit's name, or is not taken.
pub(super) fn tree_of(wanted: &Commit, pack: &[u8]) -> Found {
    let Some((head, mut rest)) = pack.split_at_checked(12) else {
        return Found::Incomplete;
    };
    let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if !head.starts_with(b"PACK") || !matches!(number(4), 2 | 3) {
        return Found::Malformed;
    }
    for _ in 0..number(8) {
        let Some((kind, after)) = object_head(rest) else {
            return Found::Incomplete;
        };
        let is_commit = kind == 1;
        if !matches!(kind, 1..=4) {
            // A delta is made of something before it; and commits are not written so.
            return Found::Malformed;
        }
        let (content, used) = match inflate(after, is_commit) {
            Inflated::All(content, used) => (content, used),
            Inflated::Incomplete => return Found::Incomplete,
            Inflated::Malformed => return Found::Malformed,
        };
        if is_commit && hash(&content) == wanted.as_str() {
            let text = String::from_utf8_lossy(&content);
            let tree = text.lines().next().and_then(|line| line.strip_prefix("tree "));
            return tree.map_or(Found::Malformed, |tree| Found::Tree(tree.to_owned()));
        }
        rest = &after[used..];
    }
    Found::Missing
}

/// The hash that names a commit with this content.
fn hash(content: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("commit {}\0", content.len()));
    hash.update(content);
    hex::encode(hash.finalize())
}

/// The kind of the object that begins here, and what follows its head: three bits of kind and the size, of which the
/// inflated content says more.
fn object_head(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0)? + 1;
    Some(((bytes[0] >> 4) & 7, &bytes[length..]))
}

enum Inflated {
    /// The content, and how many bytes it took.
    All(Vec<u8>, usize),
    Incomplete,
    Malformed,
}

/// Inflates the stream at the beginning of `bytes`. The content is kept only where `keep` is set.
fn inflate(bytes: &[u8], keep: bool) -> Inflated {
    let mut stream = Decompress::new(true);
    let mut content = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        // Neither is larger than what is there.
        let used = usize::try_from(stream.total_in()).unwrap_or(usize::MAX);
        let before = stream.total_out();
        let status = stream.decompress(&bytes[used..], &mut buffer, FlushDecompress::None);
        let came = usize::try_from(stream.total_out() - before).unwrap_or(usize::MAX);
        if keep {
            if content.len() + came > LARGEST {
                return Inflated::Malformed;
            }
            content.extend_from_slice(&buffer[..came]);
        }
        let now = usize::try_from(stream.total_in()).unwrap_or(usize::MAX);
        match status {
            Err(_) => return Inflated::Malformed,
            Ok(Status::StreamEnd) => return Inflated::All(content, now),
            Ok(_) if came == 0 && now == used => return Inflated::Incomplete,
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const CONTENT: &[u8] = b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor A <a@b> 1 +0000\n\nhello\n";

    fn pack(objects: &[(u8, &[u8])]) -> Vec<u8> {
        let mut pack = b"PACK\0\0\0\x02".to_vec();
        pack.extend_from_slice(&u32::try_from(objects.len()).unwrap().to_be_bytes());
        for (kind, content) in objects {
            let size = content.len();
            pack.push(0x80 | (kind << 4) | u8::try_from(size & 15).unwrap());
            pack.push(u8::try_from(size >> 4).unwrap());
            let mut zlib = flate2::write::ZlibEncoder::new(&mut pack, flate2::Compression::default());
            zlib.write_all(content).unwrap();
            zlib.finish().unwrap();
        }
        pack
    }

    #[test]
    fn a_commit_is_found_behind_others_and_at_any_cut() {
        let wanted = Commit(hash(CONTENT));
        let pack = pack(&[(1, b"tree x\n"), (3, b"blob"), (1, CONTENT), (3, b"more")]);
        let tree = Found::Tree("4b825dc642cb6eb9a060e54bf8d69288fbee4904".to_owned());
        assert_eq!(tree_of(&wanted, &pack), tree);
        let mut seen = Vec::new();
        for end in 0..pack.len() {
            let found = tree_of(&wanted, &pack[..end]);
            assert!(found == Found::Incomplete || found == tree, "{end}: {found:?}");
            seen.push(found == tree);
        }
        assert!(seen.is_sorted() && seen.contains(&true), "once there, it stays");
    }

    #[test]
    fn another_content_is_not_the_commit() {
        let wanted = Commit(hash(CONTENT));
        let changed = [CONTENT, b"!"].concat();
        assert_eq!(tree_of(&wanted, &pack(&[(1, &changed)])), Found::Missing);
        // The right bytes as another kind of object have another name.
        assert_eq!(tree_of(&wanted, &pack(&[(3, CONTENT)])), Found::Missing);
        assert_eq!(tree_of(&wanted, b"<!DOCTYPE html>"), Found::Malformed);
        let mut broken = pack(&[(1, CONTENT)]);
        broken[14] = 0;
        assert_eq!(tree_of(&wanted, &broken), Found::Malformed);
    }
}
