//! Whether the data of a JPEG without the mark at its end hold all of its pixels. Some cameras leave the mark out, and
//! ComfyUI's loader does without it; it does without half of the picture as well.

use super::image_parts::{SCAN, segments};

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

/// Whether a JPEG of one scan has the data of all its pixels. [`None`]: they break off, or that cannot be told.
pub(super) fn all_pixels(content: &[u8]) -> Option<()> {
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
