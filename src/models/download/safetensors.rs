//! The header of a safetensors file, and whether it fits the file.
//!
//! The format (`safetensors`, section "Format" of its README): eight bytes with the length of the header, little-endian;
//! the header, a JSON object that gives each tensor's place; the tensors, without a gap to the end of the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::{self, FetchError};

/// The longest header that the format's own reader takes, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;

#[derive(Deserialize)]
struct Tensor {
    data_offsets: (u64, u64),
}

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    _metadata: Option<IgnoredAny>,
    #[serde(flatten)]
    tensors: BTreeMap<String, Tensor>,
}

/// Checks that the header of a safetensors file is whole and fits the file's size. Files of other kinds, by their names,
/// are fine. Blocks.
pub fn check_header(path: &Path) -> Result<(), FetchError> {
    if !is_safetensors(path) {
        return Ok(());
    }
    let file = File::open(path).map_err(error::file("open", path))?;
    check(&file, path)
}

/// Whether a file is said to be one by its name.
pub(super) fn is_safetensors(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    ["safetensors", "sft"]
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

/// Checks an open safetensors file that is, or will be, at `path`. Blocks.
pub(super) fn check(file: &File, path: &Path) -> Result<(), FetchError> {
    let damaged = |why: String| FetchError::Damaged {
        file: path.to_owned(),
        why,
    };
    let size = file.metadata().map_err(error::file("look at", path))?.len();
    let mut length = [0; 8];
    if size < 8 {
        return Err(damaged(format!("it has {size} bytes")));
    }
    file.read_exact_at(&mut length, 0).map_err(error::file("read", path))?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER || 8 + length > size {
        return Err(damaged(format!(
            "its header would have {length} bytes, and the file has {size}"
        )));
    }
    let mut header = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut header, 8).map_err(error::file("read", path))?;
    let header: Header = serde_json::from_slice(&header).map_err(|error| damaged(format!("its header: {error}")))?;
    let end = header
        .tensors
        .values()
        .map(|tensor| tensor.data_offsets.1)
        .max()
        .unwrap_or(0);
    if end != size - 8 - length {
        return Err(damaged(format!(
            "its header speaks of {end} bytes of tensors, and there are {}",
            size - 8 - length
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn check_bytes(bytes: &[u8]) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        fs::write(&path, bytes).unwrap();
        check_header(&path).map_err(|error| match error {
            FetchError::Damaged { why, .. } => why,
            other => panic!("{other}"),
        })
    }

    fn with_header(header: &str, tensors: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend(vec![0; tensors]);
        bytes
    }

    #[test]
    fn a_header_fits_its_file_or_is_damaged() {
        let header = r#"{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        check_bytes(&with_header(header, 8)).unwrap();
        check_bytes(&with_header("{}", 0)).unwrap();
        let wrong = [
            with_header(header, 7),
            with_header(header, 9),
            with_header("{", 0),
            with_header("[]", 0),
            b"<!DOCTYPE html><html>".to_vec(),
            b"abc".to_vec(),
        ];
        for bytes in wrong {
            check_bytes(&bytes).unwrap_err();
        }
    }
}
