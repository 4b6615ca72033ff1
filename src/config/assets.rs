//! What clients of Comfy API v2 may upload.

use super::variable::{Reader, Variable, switch, whole};

/// What clients of Comfy API v2 may upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssetsConfig {
    /// The most bytes of all uploaded files together; 0: no limit.
    pub max_bytes: u64,
    /// Whether files of models may be uploaded by those who have a key.
    pub models: bool,
}

const ASSETS_MAX_BYTES: Variable<u64> = whole("ASSETS_MAX_BYTES", "bytes", 0..=u64::MAX)
    .default_and_example("20000000000", "5000000000")
    .meaning("Most bytes of all files that clients of Comfy API v2 uploaded. Where one does not fit, those go that were not uploaded anew for longest and that no unfinished job needs. A file that is larger by itself is refused. `0`: no limit.");
const ASSET_MODELS: Variable<bool> = switch("ASSET_MODELS", false).meaning("Whether clients of Comfy API v2 may upload files of models (`models/FOLDER/NAME.safetensors` or `.gguf`) for the loaders of their graphs. Only where `API_KEY` is set.");

pub(super) fn read(reader: &mut Reader) -> AssetsConfig {
    AssetsConfig {
        max_bytes: reader.value(&ASSETS_MAX_BYTES),
        models: reader.value(&ASSET_MODELS),
    }
}
