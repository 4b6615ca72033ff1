//! Whether an image is all there, told by its structure: the lengths of its parts, and the mark at its end. ComfyUI's loader
//! makes black or grey of what is missing and says nothing.

use memchr::memmem;

use super::image_parts::{Bmp, SCAN, Tiff, boxes, bytes_at, chunks, segments};

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
        "image/avif" => avif(content),
        "image/x-portable-anymap" => pnm(content, width, height),
        // The mark at its end.
        "image/qoi" => memmem::rfind(content, b"\0\0\0\0\0\0\0\x01").is_none(),
        "image/x-tga" => tga(content).is_some_and(|length| content.len() < length),
        _ => false,
    }
}

/// The last chunk is an empty one of that name.
fn png(content: &[u8]) -> bool {
    let mut whole = chunks(content).take_while(|(.., end)| *end <= content.len());
    !whole.any(|(name, ..)| name == *b"IEND")
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

/// Each box says its length, and the picture's data lie in one, or beside its description.
fn avif(content: &[u8]) -> bool {
    let mut has_data = false;
    for (name, end) in boxes(content) {
        if !matches!(
            &name,
            b"ftyp" | b"meta" | b"mdat" | b"moov" | b"free" | b"skip" | b"uuid"
        ) {
            return false;
        }
        match end {
            None => return false,
            Some(end) if end > content.len() => return true,
            Some(_) => has_data |= name == *b"mdat",
        }
    }
    !has_data && memmem::find(content, b"idat").is_none()
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

/// The most bytes of data that are looked through: it takes some milliseconds a megabyte.
const MOST_BYTES: usize = 8_000_000;

/// Codes of one table, by their lengths (ITU-T T.81, section F.2.2.3).
#[derive(Debug, Clone, Copy, Default)]
struct Codes<'a> {
    /// How many there are of each length, 1 to 16 bits.
    counts: &'a [u8],
    /// What they mean, in their order.
    meanings: &'a [u8],
}

/// A part of the picture's colours, as the frame and the scan say.
#[derive(Debug, Clone, Copy)]
struct Component<'a> {
    /// Its blocks in a unit.
    blocks: u8,
    first: Codes<'a>,
    others: Codes<'a>,
}

/// Bits of the data, from the highest of each byte.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    byte: u8,
    left: u8,
}

impl Bits<'_> {
    fn next(&mut self) -> Option<u16> {
        if self.left == 0 {
            self.byte = *self.data.get(self.at)?;
            self.at += 1;
            if self.byte == 0xff {
                // A zero follows one that is of the data; anything else is a mark.
                if *self.data.get(self.at)? != 0 {
                    return None;
                }
                self.at += 1;
            }
            self.left = 8;
        }
        self.left -= 1;
        Some(u16::from(self.byte >> self.left & 1))
    }

    fn skip(&mut self, bits: u8) -> Option<()> {
        (0..bits).try_for_each(|_| self.next().map(drop))
    }

    /// What the next code means.
    fn code(&mut self, codes: Codes<'_>) -> Option<u8> {
        let (mut code, mut first, mut index) = (0_u32, 0_u32, 0_u32);
        for count in codes.counts {
            code |= u32::from(self.next()?);
            let count = u32::from(*count);
            if code < first + count {
                let at = usize::try_from(index + code - first).ok()?;
                return codes.meanings.get(at).copied();
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }

    /// Goes past a block of 64 numbers.
    fn block(&mut self, component: &Component<'_>) -> Option<()> {
        let bits = self.code(component.first)?;
        self.skip(bits)?;
        let mut number = 1;
        while number < 64 {
            let (zeros, bits) = match self.code(component.others)? {
                0 => break,
                meaning => (meaning >> 4, meaning & 15),
            };
            number += zeros + 1;
            self.skip(bits)?;
        }
        Some(())
    }

    /// Goes past a mark at which decoders begin again.
    fn restart(&mut self) -> Option<()> {
        self.left = 0;
        let mark = self.data.get(self.at..self.at + 2)?;
        self.at += 2;
        matches!(mark, [0xff, 0xd0..=0xd7]).then_some(())
    }
}

/// Whether a JPEG of one scan has the data of all its pixels. Some cameras leave the mark at its end out, and ComfyUI's loader does
/// without it; it does without half of the picture as well. [`None`]: they break off, or that cannot be told.
fn all_pixels(content: &[u8]) -> Option<()> {
    let mut tables = [[Codes::default(); 4]; 2];
    let mut frame = None;
    let mut interval = 0;
    for (marker, part) in segments(content) {
        let end = part.end;
        let part = content.get(part)?;
        match marker {
            // Tables of codes: the kind and the number, the counts, the meanings.
            0xc4 => {
                let mut rest = part;
                while let Some((&[place], more)) = rest.split_first_chunk() {
                    let (counts, more) = more.split_at_checked(16)?;
                    let length = counts.iter().map(|count| usize::from(*count)).sum();
                    let (meanings, more) = more.split_at_checked(length)?;
                    let table = tables
                        .get_mut(usize::from(place >> 4))?
                        .get_mut(usize::from(place & 15))?;
                    *table = Codes { counts, meanings };
                    rest = more;
                }
            }
            // The frame, of a kind that has one scan.
            0xc0 | 0xc1 => frame = Some(part),
            0xdd => interval = usize::from(u16::from_be_bytes(*part.first_chunk()?)),
            SCAN => return scan(frame?, part, &tables, interval, content.get(end..)?),
            _ => {}
        }
    }
    None
}

fn scan(frame: &[u8], header: &[u8], tables: &[[Codes<'_>; 4]; 2], interval: usize, data: &[u8]) -> Option<()> {
    let side = |at: usize| Some(usize::from(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?)));
    let (height, width) = (side(1)?, side(3)?);
    let parts = frame.get(6..)?.chunks_exact(3);
    if data.len() > MOST_BYTES || parts.len() != usize::from(*header.first()?) || parts.len() != usize::from(frame[5]) {
        return None;
    }
    let sampling: Vec<(u8, u8)> = parts.clone().map(|part| (part[1] >> 4, part[1] & 15)).collect();
    let most_across = sampling.iter().map(|(across, _)| *across).max()?;
    let most_down = sampling.iter().map(|(_, down)| *down).max()?;
    let is_alone = sampling.len() == 1;
    let mut components = Vec::with_capacity(sampling.len());
    for (part, (across, down)) in parts.zip(&sampling) {
        let chosen = header[1..].chunks_exact(2).find(|chosen| chosen[0] == part[0])?[1];
        components.push(Component {
            // One that is alone goes block by block.
            blocks: if is_alone { 1 } else { across * down },
            first: *tables[0].get(usize::from(chosen >> 4))?,
            others: *tables[1].get(usize::from(chosen & 15))?,
        });
    }
    let unit = |side: u8| 8 * usize::from(if is_alone { 1 } else { side });
    if most_across == 0 || most_down == 0 {
        return None;
    }
    let units = width.div_ceil(unit(most_across)) * height.div_ceil(unit(most_down));
    let mut bits = Bits {
        data,
        at: 0,
        byte: 0,
        left: 0,
    };
    for done in 0..units {
        if interval > 0 && done > 0 && done % interval == 0 {
            bits.restart()?;
        }
        for component in &components {
            for _ in 0..component.blocks {
                bits.block(component)?;
            }
        }
    }
    Some(())
}

#[cfg(test)]
#[path = "image_whole_tests.rs"]
mod tests;
