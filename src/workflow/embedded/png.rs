//! PNG (<https://www.w3.org/TR/png-3/>): chunks of length, type, content and checksum.

use std::io::Read as _;

use flate2::read::ZlibDecoder;

use super::Texts;
use super::reader::Reader;

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
    unpack(&String::from_utf8_lossy(keyword), chunk.0, method, texts)
}

/// Keyword, whether and how it is compressed, language, keyword in that language, and text.
fn international(mut chunk: Reader<'_>, texts: &mut Texts) -> Option<()> {
    let keyword = chunk.until(0)?;
    let [is_compressed, method] = chunk.array()?;
    chunk.until(0)?;
    chunk.until(0)?;
    let keyword = String::from_utf8_lossy(keyword);
    if is_compressed != 0 {
        return unpack(&keyword, chunk.0, method, texts);
    }
    texts.add(&keyword, chunk.0);
    Some(())
}

/// Keeps a text that is no longer than is read. One that is, or that is damaged, counts for what was unpacked of it.
fn unpack(keyword: &str, compressed: &[u8], method: u8, texts: &mut Texts) -> Option<()> {
    Texts::wanted(keyword).filter(|_| method == DEFLATE)?;
    let room = texts.room();
    let mut text = Vec::new();
    let limit = u64::try_from(room).ok()?.saturating_add(1);
    let read = ZlibDecoder::new(compressed).take(limit).read_to_end(&mut text);
    if read.is_err() || text.len() > room {
        texts.count(text.len());
        return None;
    }
    texts.add(keyword, &text);
    Some(())
}
