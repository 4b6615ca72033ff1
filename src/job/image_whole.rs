//! Whether an image is all there, told by its structure: the lengths of its parts, and the mark at its end. ComfyUI's loader
//! makes black or grey of what is missing and says nothing.

use memchr::memmem;

use super::image_parts::{Bmp, SCAN, Tiff, bytes_at, segments};
use super::image_scan::all_pixels;

/// Whether the end of an image is missing. What comes after it is no concern. Formats that say nothing of their length are
/// taken as they are.
pub(super) fn is_cut_off(media_type: &str, content: &[u8], width: usize, height: usize) -> bool {
    match media_type {
        "image/png" => png(content),
        "image/jpeg" => jpeg(content),
        "image/webp" => webp(content).unwrap_or(true),
        "image/gif" => !Gif::read(content).is_some_and(|gif| gif.is_whole),
        "image/bmp" => Bmp::read(content)
            .and_then(|bmp| bmp.length())
            .is_some_and(|length| content.len() < length),
        "image/tiff" => match Tiff::read(content) {
            Some(tiff) => tiff.is_cut_off(),
            // Its directory is not whole, unless it is of the larger kind.
            None => matches!(content.get(..4), Some(b"II\x2a\0" | b"MM\0\x2a")),
        },
        "image/avif" => boxes(content),
        "image/x-portable-anymap" => pnm(content, width, height),
        // The mark at its end.
        "image/qoi" => memmem::rfind(content, b"\0\0\0\0\0\0\0\x01").is_none(),
        "image/x-tga" => tga(content).is_some_and(|length| content.len() < length),
        _ => false,
    }
}

/// Each chunk says its length; the last one is empty (PNG 3rd edition, section 5.3).
fn png(content: &[u8]) -> bool {
    let mut at = 8_usize;
    loop {
        let (Some(length), Some(name)) = (bytes_at(content, at), bytes_at::<4>(content, at + 4)) else {
            return true;
        };
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        // The length itself, the name and a checksum.
        at = at.saturating_add(length).saturating_add(12);
        if at > content.len() {
            return true;
        }
        if name == *b"IEND" {
            return false;
        }
    }
}

/// The data end with a mark that they cannot hold (ITU-T T.81, section B.1.1.5).
fn jpeg(content: &[u8]) -> bool {
    const END: &[u8] = b"\xff\xd9";
    let Some((_, scan)) = segments(content).find(|(marker, _)| *marker == SCAN) else {
        return true;
    };
    let data = content.get(scan.end..).unwrap_or_default();
    // Most files have nothing behind it.
    !data.ends_with(END) && memmem::find(data, END).is_none() && all_pixels(content).is_none()
}

/// The first chunk holds all others (RFC 9649, section 2.4).
fn webp(content: &[u8]) -> Option<bool> {
    let length = usize::try_from(u32::from_le_bytes(bytes_at(content, 4)?)).ok()?;
    Some(content.len() < length.checked_add(8)?)
}

/// What the blocks of a GIF say (`GIF89a`, sections 15 to 27).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gif {
    /// Pictures in it. A file that breaks off has those before.
    pub(super) frames: usize,
    /// Whether its last block is all there. The mark at the end is not asked for: decoders do without it.
    pub(super) is_whole: bool,
}

impl Gif {
    pub(super) fn read(content: &[u8]) -> Option<Self> {
        let table = |packed: u8| if packed & 0x80 == 0 { 0 } else { 3 << ((packed & 7) + 1) };
        let mut at = 13 + table(*content.get(10)?);
        let mut gif = Self {
            frames: 0,
            is_whole: false,
        };
        loop {
            match content.get(at) {
                // An extension: its label, then blocks of data.
                Some(0x21) => at += 2,
                Some(0x2c) => {
                    gif.frames += 1;
                    let Some(&packed) = content.get(at + 9) else {
                        return Some(gif);
                    };
                    at += 11 + table(packed);
                }
                _ => {
                    gif.is_whole = gif.frames > 0 && at <= content.len();
                    return Some(gif);
                }
            }
            loop {
                let Some(&length) = content.get(at) else {
                    return Some(gif);
                };
                at += 1 + usize::from(length);
                if length == 0 {
                    break;
                }
            }
        }
    }
}

/// Each box says its length (ISO/IEC 14496-12, section 4.2), and the picture's data lie in one, or beside its description.
fn boxes(content: &[u8]) -> bool {
    let (mut at, mut has_data) = (0_usize, false);
    loop {
        let (Some(length), Some(name)) = (bytes_at(content, at), bytes_at::<4>(content, at + 4)) else {
            return !has_data && memmem::find(content, b"idat").is_none();
        };
        if !matches!(
            &name,
            b"ftyp" | b"meta" | b"mdat" | b"moov" | b"free" | b"skip" | b"uuid"
        ) {
            return false;
        }
        let length = match u32::from_be_bytes(length) {
            // To the end.
            0 => return false,
            1 => bytes_at(content, at + 8).map_or(u64::MAX, u64::from_be_bytes),
            length => u64::from(length),
        };
        has_data |= name == *b"mdat";
        at = at.saturating_add(usize::try_from(length).unwrap_or(usize::MAX).max(8));
        if at > content.len() {
            return true;
        }
    }
}

/// The header says how many pixels follow. Those that are text say nothing of their length.
fn pnm(content: &[u8], width: usize, height: usize) -> bool {
    let (numbers, samples) = match content.get(..2) {
        Some(b"P4") => (2, 0),
        Some(b"P5") => (3, 1),
        Some(b"P6") => (3, 3),
        _ => return false,
    };
    let Some((last, at)) = last_number(content, numbers) else {
        return true;
    };
    let row = match samples {
        0 => width.div_ceil(8),
        // The last number is the largest value of a sample.
        samples => width * samples * if last > 255 { 2 } else { 1 },
    };
    content.len() < at + 1 + row * height
}

/// The last of so many numbers after the first two bytes, and where it ends. Comments go to the end of their line.
fn last_number(content: &[u8], count: usize) -> Option<(usize, usize)> {
    let (mut at, mut last) = (2, 0);
    for _ in 0..count {
        while content.get(at)?.is_ascii_whitespace() || content[at] == b'#' {
            let is_comment = content[at] == b'#';
            at += 1;
            while is_comment && *content.get(at)? != b'\n' {
                at += 1;
            }
        }
        last = 0;
        while content.get(at)?.is_ascii_digit() {
            last = usize::min(last * 10 + usize::from(content[at] - b'0'), 1 << 16);
            at += 1;
        }
    }
    Some((last, at))
}

/// The length of a file whose pixels are not packed.
fn tga(content: &[u8]) -> Option<usize> {
    let header: &[u8; 18] = content.first_chunk()?;
    let short = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let colours = short(5) * usize::from(header[7]).div_ceil(8);
    let pixels = short(12) * short(14) * usize::from(header[16]).div_ceil(8);
    matches!(header[2], 1..=3).then(|| 18 + usize::from(header[0]) + colours + pixels)
}

#[cfg(test)]
#[path = "image_whole_tests.rs"]
mod tests;
