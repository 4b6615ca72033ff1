//! The name of a file's content.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The BLAKE3 hash of a file's content. Written `blake3:` and 64 hexadecimal digits, as Comfy API v2 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; 32]);

/// What stands before the digits.
const SCHEME: &str = "blake3:";

impl ContentHash {
    /// The hash of this content.
    pub fn of(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }

    /// What a hasher came to.
    pub fn finished(hasher: &blake3::Hasher) -> Self {
        Self(*hasher.finalize().as_bytes())
    }

    /// Reads `blake3:` and 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_hex(text.strip_prefix(SCHEME)?)
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(digits: &str) -> Option<Self> {
        let mut hash = [0; 32];
        hex::decode_to_slice(digits, &mut hash).ok()?;
        Some(Self(hash))
    }

    /// The digits alone.
    pub fn hex(self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.hex())
    }
}

impl Serialize for ContentHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("no hash of a content"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_it_is_read() {
        // The first of the official test vectors.
        let text = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        let hash = ContentHash::of(b"");
        assert_eq!(hash.to_string(), text);
        assert_eq!(ContentHash::parse(text), Some(hash));
        for wrong in [
            &text[7..],
            "blake3:",
            "blake3:00",
            &text[..70],
            "sha256:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
            "",
        ] {
            assert_eq!(ContentHash::parse(wrong), None, "{wrong}");
        }
    }
}
