//! The header of a safetensors file, which says all that is in it: read before the rest of the file is taken, and believed in
//! nothing.
//!
//! The format (`safetensors`, section "Format" of its README): eight bytes with the length of the header, little-endian;
//! the header, a JSON object that gives each tensor's place; the tensors, without a gap to the end of the file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::echo::cut;

/// The longest header that is read, in bytes. The format's own reader takes 100 MB; the largest models have some MB, and one
/// that a user names must not take the worker's memory.
const LONGEST: u64 = 32_000_000;
/// The bytes before the header.
const BEFORE: u64 = 8;

/// What is in a safetensors file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// The tensors by their names.
    pub(super) tensors: BTreeMap<String, Tensor>,
    /// The length of the whole file in bytes.
    pub(super) file_length: u64,
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Tensor {
    /// The type of its numbers: `BF16`.
    pub(super) dtype: String,
    /// How many there are in each direction.
    pub(super) shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Tensor {
    /// Its length in bytes, as type and shape have it.
    fn length(&self) -> Option<u64> {
        let bits: u64 = match self.dtype.as_str() {
            "F4" => 4,
            "F6_E2M3" | "F6_E3M2" => 6,
            "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E5M2FNUZ" | "F8_E4M3FNUZ" => 8,
            "I16" | "U16" | "F16" | "BF16" => 16,
            "I32" | "U32" | "F32" => 32,
            "I64" | "U64" | "F64" | "C64" => 64,
            _ => return None,
        };
        let count = self
            .shape
            .iter()
            .try_fold(1_u64, |count, side| count.checked_mul(*side))?;
        let bits = count.checked_mul(bits)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

/// What each tensor says of itself, in a file that names each once.
struct Tensors(BTreeMap<String, Tensor>);

impl<'de> Deserialize<'de> for Tensors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Tensors;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with the tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tensors, A::Error> {
                let mut tensors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else if let Some(twice) = tensors.insert(name.clone(), map.next_value()?) {
                        let _: Tensor = twice;
                        return Err(A::Error::custom(format!("`{}` is there twice", cut(&name))));
                    }
                }
                Ok(Tensors(tensors))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// How many bytes of a file are wanted to read its header, by the first ones; or why it is no safetensors file.
pub(super) fn wanted(front: &[u8]) -> Result<u64, String> {
    if let Some(other) = other_kind(front) {
        return Err(format!("is no safetensors file but {other}"));
    }
    let Some(length) = front.first_chunk::<8>() else {
        return Err(format!("has {} bytes, and is no safetensors file", front.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > LONGEST || front.get(8).is_some_and(|first| *first != b'{') {
        return Err(if length > LONGEST && front.get(8) == Some(&b'{') {
            format!("says that its header has {length} bytes; the most is {LONGEST}")
        } else {
            "is no safetensors file".to_owned()
        });
    }
    Ok(BEFORE + length)
}

/// Reads the header that a file begins with. `size` is the whole file's, where that is known.
pub(super) fn parse(front: &[u8], size: Option<u64>) -> Result<Header, String> {
    let wanted = wanted(front)?;
    let end = usize::try_from(wanted).unwrap_or(usize::MAX);
    let Some(text) = front.get(8..end) else {
        return Err(format!(
            "ends within its header, which should have {} bytes",
            wanted - BEFORE
        ));
    };
    let Tensors(tensors) =
        serde_json::from_slice(text).map_err(|error| format!("has a header that is none: {error}"))?;
    let mut places: Vec<(&String, &Tensor)> = tensors.iter().collect();
    places.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut at = 0;
    for (name, tensor) in places {
        let (begin, end) = tensor.data_offsets;
        let Some(length) = tensor.length() else {
            return Err(format!(
                "has a header that cannot be right: `{}` is of the type `{}`, or its size is none",
                cut(name),
                cut(&tensor.dtype)
            ));
        };
        if begin != at || end.checked_sub(begin) != Some(length) {
            return Err(format!(
                "has a header that cannot be right: `{}` of {length} bytes would be at {begin} to {end}, and the one before it ends at {at}",
                cut(name)
            ));
        }
        at = end;
    }
    let file_length = wanted
        .checked_add(at)
        .ok_or_else(|| "has a header that cannot be right".to_owned())?;
    match size {
        Some(size) if size != file_length => Err(format!(
            "has a header that lies: by it the file has {file_length} bytes, and it has {size}"
        )),
        _ => Ok(Header { tensors, file_length }),
    }
}

/// The header of a file on the disk, and whether it fits the file. Blocking.
pub(super) fn of_file(path: &Path) -> Result<Header, String> {
    let unread = |error: std::io::Error| format!("cannot be read: {error}");
    let mut file = File::open(path).map_err(unread)?;
    let size = file.metadata().map_err(unread)?.len();
    let mut front = Vec::new();
    file.by_ref().take(BEFORE + 1).read_to_end(&mut front).map_err(unread)?;
    let rest = wanted(&front)?.saturating_sub(front.len() as u64);
    file.take(rest).read_to_end(&mut front).map_err(unread)?;
    parse(&front, Some(size))
}

/// What a file is that is no safetensors file, where its begin says so.
fn other_kind(front: &[u8]) -> Option<&'static str> {
    let is_page = || {
        let text = String::from_utf8_lossy(&front[..front.len().min(256)])
            .trim_start()
            .to_ascii_lowercase();
        text.starts_with("<!doctype html") || text.starts_with("<html")
    };
    Some(match front {
        [b'P', b'K', 3 | 5, 4 | 6, ..] => "a zip archive, or a pickle, which may run any code when it is loaded",
        [0x80, 2..=5, ..] => "a pickle, which may run any code when it is loaded",
        [0x1f, 0x8b, ..] => "a gzip archive",
        [b'G', b'G', b'U', b'F', ..] => "a GGUF file",
        _ if front.starts_with(b"version https://git-lfs") => "the pointer to a file in Git LFS",
        _ if front.get(257..262) == Some(b"ustar") => "a tar archive",
        _ if is_page() => "a web page",
        _ => return None,
    })
}

#[cfg(test)]
pub(super) mod testing {
    use serde_json::{Map, Value, json};

    /// A safetensors file with tensors of zeros.
    pub(crate) fn file(tensors: &[(&str, &str, &[u64])]) -> Vec<u8> {
        let mut header = Map::new();
        let mut at = 0;
        for (name, dtype, shape) in tensors {
            let size = match *dtype {
                "F32" => 4,
                "F8_E4M3" | "I8" => 1,
                _ => 2,
            };
            let end = at + size * shape.iter().product::<u64>();
            header.insert(
                (*name).to_owned(),
                json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]}),
            );
            at = end;
        }
        with_header(&Value::Object(header).to_string(), usize::try_from(at).unwrap())
    }

    /// A file with this header and so many bytes behind it.
    pub(crate) fn with_header(header: &str, behind: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend(vec![0; behind]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{file, with_header};
    use super::*;

    #[test]
    fn a_good_header_tells_what_is_there() {
        let bytes = file(&[("a", "F32", &[2, 3]), ("b", "BF16", &[4]), ("none", "F32", &[0])]);
        let header = parse(&bytes, Some(bytes.len() as u64)).unwrap();
        assert_eq!(header.tensors["a"].shape, [2, 3]);
        assert_eq!(header.file_length, bytes.len() as u64);
        // The server need not say how long the file is.
        assert_eq!(parse(&bytes, None).unwrap(), header);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(of_file(&path).unwrap(), header);
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(of_file(&path).unwrap_err().contains("lies"));
    }

    #[test]
    fn lies_are_told() {
        let said = |header: &str, behind, size| parse(&with_header(header, behind), size).unwrap_err();
        for (header, word) in [
            (
                r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,9]}}"#,
                "cannot be right",
            ),
            (
                r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                "cannot be right",
            ),
            (
                r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
                "cannot be right",
            ),
            (r#"{"w":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#, "F33"),
            (
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                "cannot be right",
            ),
            (
                r#"{"w":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8]}}"#,
                "cannot be right",
            ),
            (
                r#"{"w":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}}"#,
                "cannot be right",
            ),
            (
                r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
                "twice",
            ),
            (r#"{"w":1}"#, "header that is none"),
            ("{", "header that is none"),
        ] {
            let reason = said(header, 8, None);
            assert!(reason.contains(word), "{header}: {reason}");
        }
        let good = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let size = 8 + good.len() as u64 + 9;
        assert!(said(good, 9, Some(size)).contains("lies"));
        let mut huge = (LONGEST + 1).to_le_bytes().to_vec();
        huge.push(b'{');
        assert!(wanted(&huge).unwrap_err().contains("the most is"));
        let short = with_header(good, 0);
        assert!(parse(&short[..20], None).unwrap_err().contains("ends within"));
    }

    #[test]
    fn other_files_are_called_by_their_names() {
        let mut tar = vec![b'a'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (bytes, word) in [
            (&b"PK\x03\x04 something else"[..], "pickle"),
            (b"\x80\x02}q\x00.", "pickle"),
            (b"\x1f\x8b\x08 something", "gzip"),
            (b"GGUF\x03\0\0\0 something", "GGUF"),
            (b"version https://git-lfs.github.com/spec/v1", "LFS"),
            (b"  <!DOCTYPE html><html>", "web page"),
            (&tar, "tar"),
            (b"abc", "3 bytes"),
            (b"something else that is long", "no safetensors"),
        ] {
            let reason = wanted(bytes).unwrap_err();
            assert!(reason.contains(word), "{reason}");
        }
    }
}
