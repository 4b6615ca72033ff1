//! What is to be installed, where, and with what.

use std::ffi::OsString;
use std::path::PathBuf;

use url::Url;

use super::error::{InstallError, io};
use super::pins::Pins;
use super::release::Release;
use crate::config::{ComfyConfig, VersionChoice};

/// What an installation takes with uv, in bytes: 7.4 GB measured on Linux with Python 3.11 (of it NVIDIA's libraries 4.2,
/// torch 1.7), and some air. uv unpacks into its cache and links from there, so that nothing lies there twice.
const NEEDED: u64 = 8_000_000_000;

/// What one takes whose torch is for the CPU: no NVIDIA libraries, and a torch of 0.9 GB.
const NEEDED_FOR_CPU: u64 = 3_000_000_000;

/// Where and with what to install.
#[derive(Debug, Clone)]
pub struct InstallOptions {
    /// The folder that holds the managed installations.
    pub dir: PathBuf,
    /// The interpreter to build on (`COMFYUI_PYTHON`); without one it is looked for.
    pub python: Option<PathBuf>,
    /// Where Python and uv are looked for, in the form of `PATH`.
    pub search_path: OsString,
    /// Do not begin with less free space than this, in bytes. When pip must do uv's work, half as much again: it keeps
    /// all the downloaded packages, 3.9 GB, until all are unpacked.
    pub free_bytes_needed: u64,
    /// Which version.
    pub version: VersionChoice,
    /// The git repository of a version that is not the pinned one. May hold a password.
    pub repository: String,
    /// Where torch, torchvision and torchaudio come from (`TORCH_INDEX_URL`), if not from the usual index.
    pub torch_index: Option<Url>,
    pub(super) pins: Pins,
}

impl InstallOptions {
    /// Installs the pinned version into `dir` with what is found on `PATH`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            python: None,
            search_path: std::env::var_os("PATH").unwrap_or_default(),
            free_bytes_needed: NEEDED,
            version: VersionChoice::Pinned,
            repository: String::new(),
            torch_index: None,
            pins: Pins::default(),
        }
    }

    /// Installs into `dir` what the configuration asks for.
    pub fn configured(dir: impl Into<PathBuf>, config: &ComfyConfig) -> Self {
        Self {
            python: config.python.clone(),
            version: config.version.clone(),
            repository: config.repository.clone(),
            torch_index: config.torch_index.clone(),
            ..Self::new(dir)
        }
    }

    /// What is asked for, as people read it: `0.30.0`, `v0.46.0`.
    pub fn wanted(&self) -> &str {
        match &self.version {
            VersionChoice::Pinned => &self.pins.version,
            VersionChoice::Reference(reference) => reference,
        }
    }

    /// The same, for programs that run in other folders than ours.
    pub(super) fn absolute(&self) -> Result<Self, InstallError> {
        Ok(Self {
            dir: std::path::absolute(&self.dir).map_err(io("find", &self.dir))?,
            ..self.clone()
        })
    }

    /// Whether `release` gets the very packages of the pins.
    pub(super) fn installs_pins(&self, release: &Release) -> bool {
        *release == Release::Pinned && self.torch_index.is_none()
    }

    fn is_for_cpu(&self) -> bool {
        let index = self.torch_index.as_ref();
        index.is_some_and(|index| index.path().trim_end_matches('/').ends_with("/cpu"))
    }

    /// What the installation takes, about, in bytes.
    pub(super) fn bytes_taken(&self) -> u64 {
        if self.is_for_cpu() { NEEDED_FOR_CPU } else { NEEDED }
    }

    /// What must be free, in bytes.
    pub(super) fn bytes_needed(&self) -> u64 {
        if self.is_for_cpu() {
            self.free_bytes_needed.min(NEEDED_FOR_CPU)
        } else {
            self.free_bytes_needed
        }
    }
}
