//! The parts of files of pictures: what BMP, JPEG and TIFF say beside the size, the chunks of a PNG, the boxes of an AVIF.

use std::iter;
use std::ops::Range;

use memchr::memchr;

/// `N` bytes at a place.
pub(super) fn bytes_at<const N: usize>(content: &[u8], at: usize) -> Option<[u8; N]> {
    content.get(at..)?.first_chunk().copied()
}

/// The header of a BMP: the file's 14 bytes, and after them one whose first number is its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bmp {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Bits of a pixel.
    pub(super) bits: usize,
    /// Where the pixels begin.
    pub(super) pixels: usize,
    /// Whether they lie there row by row.
    pub(super) is_plain: bool,
}

impl Bmp {
    pub(super) fn read(content: &[u8]) -> Option<Self> {
        let short = |at| bytes_at(content, at).map(u16::from_le_bytes);
        let long = |at| bytes_at(content, at).map(u32::from_le_bytes);
        let pixels = usize::try_from(long(10)?).ok()?;
        // The oldest header has 16 bits for a side.
        if long(14)? == 12 {
            return Some(Self {
                width: short(18)?.into(),
                height: short(20)?.into(),
                bits: short(24)?.into(),
                pixels,
                is_plain: true,
            });
        }
        // A negative height: the rows go from top to bottom.
        let side = |at| Some(usize::try_from(long(at)?.cast_signed().unsigned_abs()).unwrap_or(usize::MAX));
        Some(Self {
            width: side(18)?,
            height: side(22)?,
            bits: short(28)?.into(),
            pixels,
            // 0, or 3 and 6: each pixel is masked.
            is_plain: matches!(long(30)?, 0 | 3 | 6),
        })
    }

    /// The length of a file that has all of its pixels, where that follows from the header. The last row may lack what only
    /// fills it up.
    pub(super) fn length(&self) -> Option<usize> {
        let row = self.width.checked_mul(self.bits)?;
        let rows = row
            .div_ceil(32)
            .checked_mul(4)?
            .checked_mul(self.height.checked_sub(1)?)?;
        let length = self.pixels.checked_add(rows)?.checked_add(row.div_ceil(8))?;
        self.is_plain.then_some(length)
    }
}

/// The chunks of a PNG (PNG 3rd edition, section 5.3): each name, where what follows it lies, and where the chunk ends, which
/// may be beyond the file's end.
pub(super) fn chunks(content: &[u8]) -> impl Iterator<Item = ([u8; 4], Range<usize>, usize)> {
    let mut at = 8_usize;
    iter::from_fn(move || {
        let length = usize::try_from(u32::from_be_bytes(bytes_at(content, at)?)).unwrap_or(usize::MAX);
        let (name, begin) = (bytes_at(content, at + 4)?, at + 8);
        let end = begin.saturating_add(length);
        // A checksum.
        at = end.saturating_add(4);
        Some((name, begin..end, at))
    })
}

/// The boxes of a file (ISO/IEC 14496-12, section 4.2): each name, and where the box ends, which may be beyond the file's end;
/// [`None`]: it goes to that end.
pub(super) fn boxes(content: &[u8]) -> impl Iterator<Item = ([u8; 4], Option<usize>)> {
    let mut next = Some(0_usize);
    iter::from_fn(move || {
        let at = next.take()?;
        let (length, name) = (bytes_at(content, at)?, bytes_at(content, at + 4)?);
        let length = match u32::from_be_bytes(length) {
            0 => return Some((name, None)),
            1 => bytes_at(content, at + 8).map_or(u64::MAX, u64::from_be_bytes),
            length => u64::from(length),
        };
        let end = at.saturating_add(usize::try_from(length).unwrap_or(usize::MAX).max(8));
        next = Some(end);
        Some((name, Some(end)))
    })
}

/// The marker at which a JPEG's data begin.
pub(super) const SCAN: u8 = 0xda;

/// The segments of a JPEG up to the first of its data (ITU-T T.81, section B.1.1): each marker, and where what follows it
/// lies, without its length. What stands between segments is passed over, as decoders do.
pub(super) fn segments(content: &[u8]) -> impl Iterator<Item = (u8, Range<usize>)> {
    let mut next = Some(2);
    iter::from_fn(move || {
        loop {
            let at = next.take()?;
            let at = at + memchr(0xff, content.get(at..)?)?;
            // Any number of these may come before a marker.
            let at = at + content[at..].iter().position(|byte| *byte != 0xff)?;
            let marker = content[at];
            if matches!(marker, 0x00 | 0x01 | 0xd0..=0xd9) {
                next = Some(at + 1);
                continue;
            }
            let length = usize::from(u16::from_be_bytes(bytes_at(content, at + 1)?)).max(2);
            let part = at + 3..at + 1 + length;
            if marker != SCAN {
                next = Some(part.end);
            }
            return Some((marker, part));
        }
    })
}

/// The first directory of a TIFF (TIFF 6.0, section 2).
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiff<'a> {
    content: &'a [u8],
    is_little: bool,
    entries: &'a [u8],
}

impl<'a> Tiff<'a> {
    /// [`None`] for a `BigTIFF`, and where the directory is not there.
    pub(super) fn read(content: &'a [u8]) -> Option<Self> {
        let is_little = match content.get(..4)? {
            b"II\x2a\0" => true,
            b"MM\0\x2a" => false,
            _ => return None,
        };
        let mut tiff = Self {
            content,
            is_little,
            entries: &[],
        };
        let at = tiff.number(content.get(4..8)?);
        let count = tiff.number(content.get(at..at.checked_add(2)?)?);
        tiff.entries = content.get(at + 2..at + 2 + 12 * count)?;
        Some(tiff)
    }

    /// A number of 1, 2 or 4 bytes.
    fn number(&self, bytes: &[u8]) -> usize {
        let add = |number: usize, byte: &u8| number << 8 | usize::from(*byte);
        if self.is_little {
            bytes.iter().rev().fold(0, add)
        } else {
            bytes.iter().fold(0, add)
        }
    }

    /// The whole numbers of an entry; [`None`]: it has none. They are fewer than it says where the file does not hold them.
    pub(super) fn numbers(&self, tag: usize) -> Option<impl ExactSizeIterator<Item = usize>> {
        let entry = self
            .entries
            .chunks_exact(12)
            .find(|entry| self.number(&entry[..2]) == tag)?;
        let size = match self.number(&entry[2..4]) {
            1 => 1,
            3 => 2,
            4 => 4,
            _ => return None,
        };
        let length = self.number(&entry[4..8]).checked_mul(size)?;
        let bytes = if length <= 4 {
            &entry[8..8 + length]
        } else {
            let at = self.number(&entry[8..]);
            self.content.get(at..at.checked_add(length)?).unwrap_or_default()
        };
        let tiff = *self;
        Some(bytes.chunks_exact(size).map(move |bytes| tiff.number(bytes)))
    }

    /// Whether parts of the picture lie beyond the file's end.
    pub(super) fn is_cut_off(&self) -> bool {
        // Strips, or tiles: where they lie, and their lengths.
        [(273, 279), (324, 325)].into_iter().any(|(offsets, lengths)| {
            let (Some(offsets), Some(lengths)) = (self.numbers(offsets), self.numbers(lengths)) else {
                return false;
            };
            offsets.len() == 0
                || lengths.len() == 0
                || offsets
                    .zip(lengths)
                    .any(|(at, length)| at + length > self.content.len())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bmp_may_go_from_top_to_bottom_and_be_very_old() {
        let bmp = |height: i32| {
            let mut content = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x07\0\0\0".to_vec();
            content.extend(height.to_le_bytes());
            content.extend([1, 0, 24, 0, 0, 0, 0, 0]);
            content
        };
        for height in [5, -5] {
            let read = Bmp::read(&bmp(height)).unwrap();
            assert_eq!(
                (read.width, read.height, read.bits, read.length()),
                (7, 5, 24, Some(54 + 4 * 24 + 21))
            );
        }
        assert_eq!(Bmp::read(&bmp(i32::MIN)).unwrap().height, 1 << 31);
        let mut old = b"BM\0\0\0\0\0\0\0\0\x1a\0\0\0\x0c\0\0\0\x03\0\x02\0\x01\0\x18\0".to_vec();
        let read = Bmp::read(&old).unwrap();
        assert_eq!((read.width, read.height, read.length()), (3, 2, Some(26 + 12 + 9)));
        old.truncate(22);
        assert_eq!(Bmp::read(&old), None);
    }

    #[test]
    fn segments_end_where_the_data_begin() {
        let content = b"\xff\xd8\xff\xe0\0\x04ab..\xff\xff\xc0\0\x03x\xff\xda\0\x02\xff\xe1data";
        let found: Vec<_> = segments(content)
            .map(|(marker, part)| (marker, &content[part]))
            .collect();
        assert_eq!(found, [(0xe0, &b"ab"[..]), (0xc0, b"x"), (SCAN, b"")]);
    }

    #[test]
    fn a_tiff_says_where_its_strips_lie() {
        // Two strips: their places stand elsewhere, their lengths are bytes in the entry itself.
        for is_little in [true, false] {
            let short = |number: u16| {
                if is_little {
                    number.to_le_bytes()
                } else {
                    number.to_be_bytes()
                }
            };
            let long = |number: u32| {
                if is_little {
                    number.to_le_bytes()
                } else {
                    number.to_be_bytes()
                }
            };
            let mut content = if is_little { b"II".to_vec() } else { b"MM".to_vec() };
            content.extend([&short(42)[..], &long(8), &short(2)].concat());
            content.extend([&short(273)[..], &short(4), &long(2), &long(40)].concat());
            content.extend([&short(279)[..], &short(3), &long(2), &short(5), &short(7)].concat());
            content.resize(40, 0);
            content.extend([long(48), long(53)].concat());
            content.extend([1; 12]);
            let tiff = Tiff::read(&content).unwrap();
            assert_eq!(tiff.numbers(273).unwrap().collect::<Vec<_>>(), [48, 53]);
            assert_eq!(tiff.numbers(279).unwrap().collect::<Vec<_>>(), [5, 7]);
            assert!(!tiff.is_cut_off());
            for length in [59, 47, 41] {
                assert!(Tiff::read(&content[..length]).unwrap().is_cut_off(), "{length}");
            }
            assert!(Tiff::read(&content[..30]).is_none());
        }
    }
}
