//! PNG (<https://www.w3.org/TR/png-3/>): chunks of length, type, content and checksum.

use std::io::Read as _;

use flate2::read::ZlibDecoder;

use super::reader::Reader;
use super::{LONGEST_TEXT, Texts};

/// The signature's length.
const SIGNATURE: usize = 8;
/// The only way in which PNG compresses texts.
const DEFLATE: u8 = 0;

pub(super) fn read(content: &[u8], texts: &mut Texts) -> Option<()> {
    let mut chunks = Reader(content.get(SIGNATURE..)?);
    while !chunks.is_empty() {
        let length = chunks.length()?;
        let kind: [u8; 4] = chunks.array()?;
        let content = Reader(chunks.take(length)?);
        // The texts of a damaged chunk are seen to be none by themselves.
        chunks.take(4)?;
        match &kind {
            b"IEND" => break,
            b"tEXt" | b"comf" => plain(content, texts),
            b"zTXt" => compressed(content, texts),
            b"iTXt" => international(content, texts),
            _ => None,
        };
    }
    Some(())
}

/// Keyword and text. `comf` is ComfyUI's own, of the same form.
fn plain(mut chunk: Reader<'_>, texts: &mut Texts) -> Option<()> {
    let keyword = chunk.until(0)?;
    texts.add(&String::from_utf8_lossy(keyword), chunk.0);
    Some(())
}

/// Keyword, method and compressed text.
fn compressed(mut chunk: Reader<'_>, texts: &mut Texts) -> Option<()> {
    let keyword = chunk.until(0)?;
    let [method] = chunk.array()?;
    let text = inflated(chunk.0, method)?;
    texts.add(&String::from_utf8_lossy(keyword), &text);
    Some(())
}

/// Keyword, whether and how it is compressed, language, keyword in that language, and text.
fn international(mut chunk: Reader<'_>, texts: &mut Texts) -> Option<()> {
    let keyword = chunk.until(0)?;
    let [is_compressed, method] = chunk.array()?;
    chunk.until(0)?;
    chunk.until(0)?;
    let keyword = String::from_utf8_lossy(keyword);
    if is_compressed == 0 {
        texts.add(&keyword, chunk.0);
    } else {
        texts.add(&keyword, &inflated(chunk.0, method)?);
    }
    Some(())
}

/// The text, as far as it is no longer than is read.
fn inflated(compressed: &[u8], method: u8) -> Option<Vec<u8>> {
    if method != DEFLATE {
        return None;
    }
    let mut text = Vec::new();
    let limit = u64::try_from(LONGEST_TEXT).ok()?.saturating_add(1);
    ZlibDecoder::new(compressed).take(limit).read_to_end(&mut text).ok()?;
    Some(text)
}
