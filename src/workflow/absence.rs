//! What is known of a class that ComfyUI does not have.

/// Why ComfyUI lacks a class: what is known of the pack of custom nodes that brings it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// The pack is there, or was asked for, and its classes are not.
    Broken {
        /// Its name.
        pack: String,
        /// Whether the class is the pack's, by all that is known; else its sources have the name somewhere.
        sure: bool,
        /// Goes on after `which `: `failed to load: No module named 'x'`.
        failure: String,
        /// What to do, as a sentence.
        step: Option<String>,
    },
    /// The pack is loaded, and did not bring this class.
    LeftOut {
        /// Its name.
        pack: String,
        /// Its version, where it is known.
        version: Option<String>,
        /// Whether the class is the pack's, by all that is known; else its sources have the name.
        sure: bool,
    },
    /// Nobody has asked for the pack.
    NotAsked {
        /// Its name in the registry.
        pack: String,
        /// The newest version there, where it could be asked for.
        version: Option<String>,
        /// Whether ComfyUI is somebody else's, where we install nothing.
        attached: bool,
    },
}
