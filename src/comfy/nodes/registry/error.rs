//! What is told where the Registry gives no pack, and what to do then.

/// Why the Registry does not say where a pack is downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// There is no such pack.
    #[error("the Comfy Registry knows no pack `{id}`{}", did_you_mean(near))]
    UnknownPack {
        /// The id.
        id: String,
        /// Ids that come near it.
        near: Vec<String>,
    },
    /// The pack has no such version.
    #[error(
        "the pack `{id}` has no version {version} in the Comfy Registry; {}",
        there_are(versions)
    )]
    UnknownVersion {
        /// The id.
        id: String,
        /// The version that was asked for.
        version: String,
        /// The newest of those that there are, newest first.
        versions: Vec<String>,
    },
    /// The Registry does not give the pack away: it was banned, or is flagged.
    #[error("the Comfy Registry does not give `{id}` away: {said}")]
    Refused {
        /// The id.
        id: String,
        /// What the Registry says.
        said: String,
    },
    /// The Registry could not be asked.
    #[error(
        "the Comfy Registry at {url} cannot be asked for `{id}`: {reason}; see that COMFY_REGISTRY_URL is right and can be reached, or name the pack by its repository: https://…@COMMIT"
    )]
    Unreachable {
        /// The id.
        id: String,
        /// The Registry.
        url: String,
        /// Why.
        reason: String,
    },
    /// What answers is no Comfy Registry, or a newer one.
    #[error(
        "what answers at {url} for `{id}` is no answer of the Comfy Registry: {reason}; COMFY_REGISTRY_URL names the Registry"
    )]
    Strange {
        /// The id.
        id: String,
        /// The Registry.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl RegistryError {
    /// Whether the same question may be answered later.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

fn did_you_mean(near: &[String]) -> String {
    if near.is_empty() {
        return "; registry.comfy.org lists them".to_owned();
    }
    format!(" (did you mean {}?)", near.join(" or "))
}

fn there_are(versions: &[String]) -> String {
    if versions.is_empty() {
        return "it has none that can be installed: name its repository and a commit".to_owned();
    }
    format!("there are {}", versions.join(", "))
}
