//! What the ComfyUIs of a fleet's workers tell of their node classes: one object, put by the worker that was started last. The workers
//! of a fleet are to have the same.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

/// The name of the object, which is no job's id.
pub const DESCRIBED: &str = "object-info";
/// The most bytes that it may have unpacked.
const LARGEST: u64 = 64 * 1024 * 1024;

/// What a ComfyUI tells, word for word: it need not be JSON in all its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classes {
    /// `/object_info`.
    pub object_info: String,
    /// `/node_replacements`, where ComfyUI has that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_replacements: Option<String>,
}

impl Classes {
    /// As it is put there. Takes some milliseconds for each megabyte.
    pub fn packed(&self) -> Vec<u8> {
        let mut packing = GzEncoder::new(Vec::new(), Compression::default());
        let text = serde_json::to_vec(self).unwrap_or_default();
        // Nothing fails that is written into memory.
        let _ = packing.write_all(&text);
        packing.finish().unwrap_or_default()
    }

    /// Reads it back; [`None`]: it is something else.
    pub fn unpacked(packed: &[u8]) -> Option<Self> {
        let mut text = Vec::new();
        GzDecoder::new(packed).take(LARGEST).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_read_back() {
        let classes = Classes {
            object_info: r#"{"A": {"max": NaN}}"#.to_owned(),
            node_replacements: None,
        };
        assert_eq!(Classes::unpacked(&classes.packed()), Some(classes));
        assert_eq!(Classes::unpacked(b"something else"), None);
    }
}
