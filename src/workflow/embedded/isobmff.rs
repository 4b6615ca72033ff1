//! MP4 and `QuickTime` (ISO/IEC 14496-12): boxes of length, type and content. `FFmpeg` writes metadata as a list of keys (`keys`) with
//! a list of values by their numbers (`ilst`), or, where it keeps to the names that players know, as a comment (`©cmt`).

use super::Texts;
use super::reader::Reader;

/// The name of a comment among the names that players know.
const COMMENT: [u8; 4] = *b"\xa9cmt";
/// How many keys a list has at most.
const MOST_KEYS: usize = 1_000;

/// A box: its type, and what is in it.
struct Boxed<'a> {
    kind: [u8; 4],
    content: &'a [u8],
}

/// The next box.
fn next<'a>(boxes: &mut Reader<'a>) -> Option<Boxed<'a>> {
    let length = boxes.length()?;
    let kind = boxes.array()?;
    let content = match length {
        // To the end of the file.
        0 => boxes.take_up_to(usize::MAX),
        // The length stands behind the type.
        1 => {
            let length = usize::try_from(u64::from_be_bytes(boxes.array()?)).ok()?;
            boxes.take_up_to(length.checked_sub(16)?)
        }
        _ => boxes.take_up_to(length.checked_sub(8)?),
    };
    Some(Boxed { kind, content })
}

/// What is in the first box of a type.
fn find(content: &[u8], kind: [u8; 4]) -> Option<&[u8]> {
    let mut boxes = Reader(content);
    loop {
        let found = next(&mut boxes)?;
        if found.kind == kind {
            return Some(found.content);
        }
    }
}

pub(super) fn read(content: &[u8], texts: &mut Texts) -> Option<()> {
    let movie = find(content, *b"moov")?;
    if let Some(meta) = find(movie, *b"meta") {
        metadata(meta, texts);
    }
    let user_data = find(movie, *b"udta")?;
    if let Some(meta) = find(user_data, *b"meta") {
        metadata(meta, texts);
    }
    // QuickTime's: length of the text, language, text.
    if let Some(comment) = find(user_data, COMMENT) {
        texts.add("comment", comment.get(4..)?);
    }
    Some(())
}

fn metadata(meta: &[u8], texts: &mut Texts) -> Option<()> {
    // In MP4 it begins with a version, in QuickTime with the first box.
    let meta = if meta.get(4..8) == Some(b"hdlr") {
        meta
    } else {
        meta.get(4..)?
    };
    let keys = find(meta, *b"keys").and_then(keys).unwrap_or_default();
    let mut items = Reader(find(meta, *b"ilst")?);
    while let Some(item) = next(&mut items) {
        let number = u32::from_be_bytes(item.kind);
        let name = if item.kind == COMMENT {
            "comment"
        } else {
            let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
            match index.and_then(|index| keys.get(index)) {
                Some(name) => name.as_str(),
                None => continue,
            }
        };
        // Type and language stand before the value.
        if let Some(value) = find(item.content, *b"data").and_then(|data| data.get(8..)) {
            texts.add(name, value);
        }
    }
    Some(())
}

/// The keys in their order: version, count, and for each its length, namespace and name.
fn keys(content: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader(content.get(8..)?);
    let mut keys = Vec::new();
    while let Some(key) = next(&mut reader).filter(|_| keys.len() < MOST_KEYS) {
        keys.push(String::from_utf8_lossy(key.content).into_owned());
    }
    Some(keys)
}
