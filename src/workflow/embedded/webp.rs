//! WebP (<https://developers.google.com/speed/webp/docs/riff_container>): chunks of type, length and content, one of them
//! EXIF, which is a TIFF.

use super::Texts;
use super::reader::Reader;

/// What stands before the first chunk: `RIFF`, the file's length, `WEBP`.
const HEADER: usize = 12;
/// What some writers put before the TIFF.
const EXIF_MARK: &[u8] = b"Exif\0\0";
/// Where the colon behind a name is looked for: the longest name has eight bytes.
const LONGEST_NAME: usize = 16;
/// A text, in TIFF.
const ASCII: u16 = 2;

pub(super) fn read(content: &[u8], texts: &mut Texts) -> Option<()> {
    let mut chunks = Reader(content.get(HEADER..)?);
    while !chunks.is_empty() {
        let kind: [u8; 4] = chunks.array()?;
        let length = usize::try_from(u32::from_le_bytes(chunks.array()?)).ok()?;
        let chunk = chunks.take_up_to(length);
        if &kind == b"EXIF" {
            let tiff = chunk.strip_prefix(EXIF_MARK).unwrap_or(chunk);
            return first_directory(tiff, texts);
        }
        // Of an odd length, a chunk is filled up.
        chunks.take_up_to(length % 2);
    }
    None
}

/// The texts of the first directory: each begins with its name and a colon, whatever its tag.
fn first_directory(tiff: &[u8], texts: &mut Texts) -> Option<()> {
    let is_little = match tiff.get(..2)? {
        b"II" => true,
        b"MM" => false,
        _ => return None,
    };
    let short = |at: usize| -> Option<u16> {
        let bytes = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if is_little {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        })
    };
    let long = |at: usize| -> Option<usize> {
        let bytes = tiff.get(at..at.checked_add(4)?)?.try_into().ok()?;
        let long = if is_little {
            u32::from_le_bytes(bytes)
        } else {
            u32::from_be_bytes(bytes)
        };
        usize::try_from(long).ok()
    };
    let directory = long(4)?;
    for entry in 0..usize::from(short(directory)?) {
        let at = directory.checked_add(2 + entry * 12)?;
        let (kind, count) = (short(at.checked_add(2)?)?, long(at.checked_add(4)?)?);
        // Texts of up to four bytes stand in the entry itself, and are none of ours.
        if kind != ASCII || count <= 4 {
            continue;
        }
        let begin = long(at.checked_add(8)?)?;
        let Some(text) = tiff.get(begin..begin.saturating_add(count)) else {
            continue;
        };
        if let Some(colon) = memchr::memchr(b':', &text[..text.len().min(LONGEST_NAME)]) {
            texts.add(&String::from_utf8_lossy(&text[..colon]), &text[colon + 1..]);
        }
    }
    Some(())
}
