//! Files that a graph loads and that are no pictures, by what is in them: audio, video, 3D models, latents.

use std::borrow::Cow;
use std::collections::BTreeMap;

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::media::audio_or_video;

/// As much of a text as tells its format.
const HEAD: usize = 64 * 1024;
/// Records of a `.splat` that are looked at, and the bytes of each: position and scale (six floats), colour, rotation.
const SPLATS: usize = 256;
const SPLAT_BYTES: usize = 32;

/// How a graph's loaders are told of in errors: what they take beside pictures.
pub(super) const TAKEN: &str = "A graph takes these too: audio (WAV, MP3, FLAC, OGG, M4A), video (MP4, MOV, WebM, MKV, GIF), \
    3D models (GLB, glTF, OBJ, FBX, STL, PLY, SPLAT, SPZ) and latents (.latent).";

/// What a file is, if it is no picture and a graph may load it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Medium {
    /// What to call it: `an audio file`.
    pub what: &'static str,
    /// The name of its format.
    pub format: &'static str,
    /// Its media type.
    pub media_type: &'static str,
    /// The ending of its name, without the point. Empty where there are several to choose from.
    pub ending: &'static str,
}

impl Medium {
    /// What the bytes of a file say; [`None`] for pictures, and for what nobody loads.
    pub fn of(content: &[u8]) -> Option<Self> {
        if let Some((what, media_type)) = audio_or_video(content) {
            return Some(Self {
                what,
                format: media_type,
                media_type,
                ending: ending_of(media_type),
            });
        }
        let model = |format, media_type, ending| {
            Some(Self {
                what: "a 3D model",
                format,
                media_type,
                ending,
            })
        };
        let unnamed = "application/octet-stream";
        match content {
            [b'g', b'l', b'T', b'F', 1 | 2, 0, 0, 0, ..] => return model("GLB", "model/gltf-binary", "glb"),
            [b'p', b'l', b'y', b'\n', ..] | [b'p', b'l', b'y', b'\r', b'\n', ..] => {
                return model("PLY", unnamed, "ply");
            }
            _ => {}
        }
        if content.starts_with(b"Kaydara FBX Binary  \0") || content.starts_with(b"; FBX ") {
            model("FBX", unnamed, "fbx")
        } else if is_stl(content) {
            model("STL", "model/stl", "stl")
        } else if is_gltf(content) {
            model("glTF", "model/gltf+json", "gltf")
        } else if is_obj(content) {
            model("OBJ", "model/obj", "obj")
        } else if is_spz(content) {
            model("SPZ", unnamed, "spz")
        } else if is_splat(content) {
            model("SPLAT", unnamed, "splat")
        } else if latent(content).is_some() {
            Some(Self {
                what: "a latent",
                format: "safetensors",
                media_type: unnamed,
                ending: "latent",
            })
        } else {
            None
        }
    }

    /// Whether the file says of itself that it is longer than it is.
    pub(super) fn is_cut_off(&self, content: &[u8]) -> bool {
        match self.ending {
            "glb" => {
                let length = content.get(8..12).and_then(<[u8]>::first_chunk).copied();
                length.is_none_or(|length| u64::from(u32::from_le_bytes(length)) > content.len() as u64)
            }
            "latent" => latent(content).is_some_and(|end| end > content.len() as u64),
            _ => false,
        }
    }
}

fn ending_of(media_type: &str) -> &'static str {
    match media_type {
        "audio/x-wav" => "wav",
        "audio/mpeg" => "mp3",
        "audio/aac" => "aac",
        "audio/x-flac" => "flac",
        "audio/ogg" => "ogg",
        "audio/mp4" => "m4a",
        "video/mp4" => "mp4",
        "video/quicktime" => "mov",
        "video/webm" => "webm",
        "video/x-matroska" => "mkv",
        "video/x-msvideo" => "avi",
        "video/mpeg" => "mpg",
        "video/mp2t" => "ts",
        _ => "",
    }
}

/// A binary STL has no mark, but its length is exactly that of its triangles; one in text has words.
fn is_stl(content: &[u8]) -> bool {
    let count = content.get(80..84).and_then(<[u8]>::first_chunk).copied();
    if let Some(count) = count.map(u32::from_le_bytes)
        && count > 0
        && content.len() as u64 == 84 + 50 * u64::from(count)
    {
        return true;
    }
    let head = head(content);
    head.trim_ascii_start().starts_with(b"solid")
        && (memmem::find(head, b"facet normal").is_some() || memmem::find(head, b"endsolid").is_some())
}

/// A JSON object with `asset`, which has a `version` (glTF 2.0, section 5.9).
fn is_gltf(content: &[u8]) -> bool {
    let begins = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    if !begins.trim_ascii_start().starts_with(b"{") {
        return false;
    }
    let Some(at) = memmem::find(content, b"\"asset\"") else {
        return false;
    };
    let rest = &content[at + b"\"asset\"".len()..];
    let asset = rest.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start);
    asset.is_some_and(|asset| {
        let end = memchr::memchr(b'}', asset).unwrap_or(asset.len());
        asset.starts_with(b"{") && memmem::find(&asset[..end], b"\"version\"").is_some()
    })
}

/// Lines of the words that an OBJ has, one of them a vertex of three numbers.
fn is_obj(content: &[u8]) -> bool {
    const WORDS: [&str; 16] = [
        "v", "vt", "vn", "vp", "f", "l", "p", "g", "o", "s", "mtllib", "usemtl", "mg", "cstype", "deg", "lod",
    ];
    let head = head(content);
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // Cut in the midst of a character.
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or(""),
        Err(_) => return false,
    };
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("v") => return words.filter(|word| word.parse::<f32>().is_ok()).count() >= 3,
            Some(word) if WORDS.contains(&word) => {}
            _ => return false,
        }
    }
    false
}

/// Packed splats: gzip, and within it their mark (`NGSP`).
fn is_spz(content: &[u8]) -> bool {
    use std::io::Read as _;
    let mut mark = [0; 4];
    content.starts_with(&[0x1f, 0x8b])
        && flate2::read::GzDecoder::new(content).read_exact(&mut mark).is_ok()
        && mark == *b"NGSP"
}

/// Splats have no mark: they are records of 32 bytes, each with finite numbers and a rotation of length one.
fn is_splat(content: &[u8]) -> bool {
    let is_one = |record: &[u8]| {
        let number = |at: usize| {
            record[at..]
                .first_chunk()
                .map_or(f32::NAN, |bytes| f32::from_le_bytes(*bytes))
        };
        let place = (0..3).map(|axis| number(4 * axis));
        let scale = (3..6).map(|axis| number(4 * axis));
        let turn = record[28..32].iter().map(|byte| (f32::from(*byte) - 128.0) / 128.0);
        let length = turn.map(|part| part * part).sum::<f32>().sqrt();
        place.into_iter().all(|at| at.abs() < 1e6)
            && scale.into_iter().all(|size| (0.0..1e5).contains(&size))
            && (0.9..1.1).contains(&length)
    };
    !content.is_empty()
        && content.len().is_multiple_of(SPLAT_BYTES)
        && content.chunks_exact(SPLAT_BYTES).take(SPLATS).all(is_one)
}

/// How long a latent as ComfyUI saves it must be; [`None`] for weights, and for what is no safetensors file.
fn latent(content: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Tensor {
        data_offsets: (u64, u64),
    }
    let (length, rest) = content.split_first_chunk()?;
    let length = u64::from_le_bytes(*length);
    let header = rest.get(..usize::try_from(length).ok()?)?;
    if !header.starts_with(b"{") || memmem::find(header, b"\"latent_tensor\"").is_none() {
        return None;
    }
    let tensors: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(header).ok()?;
    tensors.get("latent_tensor")?;
    let ends = tensors.iter().filter(|(name, _)| *name != "__metadata__");
    let ends = ends.map(|(_, tensor)| serde_json::from_str::<Tensor>(tensor.get()).map(|tensor| tensor.data_offsets.1));
    let end = ends.collect::<Result<Vec<_>, _>>().ok()?.into_iter().max()?;
    8_u64.checked_add(length)?.checked_add(end)
}

fn head(content: &[u8]) -> &[u8] {
    &content[..content.len().min(HEAD)]
}

#[cfg(test)]
#[path = "medium_tests.rs"]
mod tests;
