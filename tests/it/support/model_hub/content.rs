//! What files hold: bytes that look random, the same in each run, at any place and of any length without being kept.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

/// The bytes behind all files. A prime: no offset that a downloader may mistake for another has the same bytes.
const NOISE_BYTES: usize = 16_777_213;

static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut noise = Vec::with_capacity(NOISE_BYTES + 8);
    let mut state = 4711_u64;
    while noise.len() < NOISE_BYTES {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        noise.extend_from_slice(&(mixed ^ (mixed >> 29)).to_le_bytes());
    }
    noise.truncate(NOISE_BYTES);
    noise
});

/// Larger files are not hashed.
const LARGEST_HASHED: u64 = 1 << 40;

/// What comes before the tensors of our safetensors files, in bytes.
const SAFETENSORS_HEAD: usize = 128;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    head: Vec<u8>,
    /// Where in the noise the rest begins.
    shift: usize,
    size: u64,
}

impl Content {
    /// A file of noise.
    pub(crate) fn noise(seed: u64, size: u64) -> Self {
        let shift = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % NOISE_BYTES as u64;
        Self {
            head: Vec::new(),
            shift: shift.try_into().expect("an index"),
            size,
        }
    }

    /// The bytes themselves.
    pub(crate) fn literal(bytes: impl Into<Vec<u8>>) -> Self {
        let head = bytes.into();
        Self {
            size: head.len() as u64,
            head,
            shift: 0,
        }
    }

    /// A safetensors file of this size, with one tensor.
    pub(crate) fn safetensors(seed: u64, size: u64) -> Self {
        Self::safetensors_that_says(seed, size, 0)
    }

    /// The same with a header that says more than there is, by this.
    pub(crate) fn safetensors_that_says(seed: u64, size: u64, more: i64) -> Self {
        let tensor = size
            .checked_sub(SAFETENSORS_HEAD as u64)
            .expect("room for the header")
            .saturating_add_signed(more);
        let header = format!(r#"{{"weight":{{"dtype":"U8","shape":[{tensor}],"data_offsets":[0,{tensor}]}}}}"#);
        let length = SAFETENSORS_HEAD - 8;
        // Spaces at the end are allowed, so that the rest lies where it is wanted.
        let header = format!("{header:length$}");
        Self {
            head: [&(length as u64).to_le_bytes(), header.as_bytes()].concat(),
            ..Self::noise(seed, size)
        }
    }

    /// A file of this size as its name wants it.
    pub(crate) fn named(name: &str, seed: u64, size: u64) -> Self {
        if name.ends_with(".safetensors") {
            Self::safetensors(seed, size)
        } else {
            Self::noise(seed, size)
        }
    }

    /// In bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// At most `most` bytes from a place on, and at least one but at the end.
    pub(crate) fn piece(&self, from: u64, most: u64) -> &[u8] {
        let most = usize::try_from(most.min(self.size.saturating_sub(from))).unwrap_or(usize::MAX);
        let head = self.head.len() as u64;
        if from < head {
            let rest = &self.head[usize::try_from(from).expect("an index")..];
            return &rest[..most.min(rest.len())];
        }
        let begin = (self.shift as u64 + (from - head)) % NOISE_BYTES as u64;
        let rest = &NOISE[usize::try_from(begin).expect("an index")..];
        &rest[..most.min(rest.len())]
    }

    /// Whole, for small ones.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.pieces().flatten().copied().collect()
    }

    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let piece = self.piece(at, u64::MAX);
            at += piece.len() as u64;
            (!piece.is_empty()).then_some(piece)
        })
    }

    /// In lowercase hexadecimal; made up for a file that no disk holds.
    pub(crate) fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        if self.size > LARGEST_HASHED {
            return hex(&hash.finalize());
        }
        self.pieces().for_each(|piece| hash.update(piece));
        hex(&hash.finalize())
    }

    /// Where a file's bytes begin to differ from these; [`None`]: it is this content.
    pub(crate) fn differs(&self, path: &Path) -> Option<String> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) => return Some(format!("{}: {error}", path.display())),
        };
        let length = file.metadata().expect("an open file").len();
        if length != self.size {
            return Some(format!("{} has {length} bytes, not {}", path.display(), self.size));
        }
        let (mut at, mut buffer) = (0_u64, vec![0; 256 * 1024]);
        while at < self.size {
            let piece = self.piece(at, buffer.len() as u64);
            let read = &mut buffer[..piece.len()];
            file.read_exact(read).expect("a file of this length");
            if let Some(place) = read.iter().zip(piece).position(|(is, should)| is != should) {
                return Some(format!("{} differs at byte {}", path.display(), at + place as u64));
            }
            at += piece.len() as u64;
        }
        None
    }
}

/// Bytes in lowercase hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
