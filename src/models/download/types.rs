//! What is asked of downloads, and what they tell.

use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::error::FetchError;
use crate::config::{Origin, Secret};
use crate::net::guard::AddressGuard;
use crate::net::retry::RetryPolicy;

/// How files are fetched.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The Hub, or a mirror (`HF_ENDPOINT`).
    pub endpoint: Url,
    /// The user's token for the Hub; sent there and nowhere else.
    pub token: Option<Secret>,
    /// Several files, and several ranges of a file, at once.
    pub parallel: bool,
    /// The most connections at once.
    pub connections: usize,
    /// How long a connection may bring no byte.
    pub stall: Duration,
    /// Waits between tries of one range.
    pub retry: RetryPolicy,
    /// The smallest range worth a connection, in bytes.
    pub smallest_range: u64,
    /// Judges each address before it is reached, where users name them. Proxies are not used then.
    pub guard: Option<AddressGuard>,
}

/// Where a file is fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The Hub, or the address on another server.
    pub origin: Origin,
    /// Sent as `Authorization: Bearer` to that other server alone.
    pub token: Option<Secret>,
}

/// A file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where from.
    pub source: Source,
    /// Where to; its folder is made if it is not there.
    pub target: PathBuf,
    /// The size it must have, in bytes, where it is known.
    pub size: Option<u64>,
    /// The SHA-256 it must have, in lowercase hexadecimal, where it is known.
    pub sha256: Option<String>,
}

/// A file that is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256, where it was computed.
    pub sha256: Option<String>,
    /// Whether that was compared with the one it should have.
    pub verified: bool,
    /// The commit it is from, where the Hub said it.
    pub commit: Option<String>,
    /// Bytes that came over the network for it now.
    pub received: u64,
}

/// How far one file is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Which of the wanted files.
    pub index: usize,
    /// Its target.
    pub target: &'a Path,
    /// Bytes that are on the disk, those of earlier runs included.
    pub bytes: u64,
    /// Its size, once it is known.
    pub total: Option<u64>,
    /// Whether another process fetches it and this one waits.
    pub waiting: bool,
}

/// Hears how a batch of files gets on. Any `Fn(Progress<'_>)` is one that hears the progress alone.
pub trait Watcher: Send + Sync {
    /// How far a file is: at the begin, a few times a second, and at the end.
    fn progress(&self, progress: Progress<'_>);

    /// A file is there, or it is settled that it will not be. Once for each file, before the batch has ended.
    fn settled(&self, index: usize, result: &Result<Fetched, FetchError>) {
        let _ = (index, result);
    }
}

impl<F: Fn(Progress<'_>) + Send + Sync> Watcher for F {
    fn progress(&self, progress: Progress<'_>) {
        self(progress);
    }
}

/// What a server says about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its size in bytes.
    pub size: Option<u64>,
    /// Its SHA-256 in lowercase hexadecimal.
    pub sha256: Option<String>,
}

impl Settings {
    /// The settings for a Hub: 64 connections, 15 s without a byte, five more tries from half a second to 20 s, ranges of
    /// at least 8 MB.
    pub fn new(endpoint: Url, token: Option<Secret>) -> Self {
        Self {
            endpoint,
            token,
            parallel: true,
            connections: 64,
            stall: Duration::from_secs(15),
            retry: RetryPolicy {
                initial: Duration::from_millis(500),
                longest: Duration::from_secs(20),
                attempts: Some(5),
                ..RetryPolicy::default()
            },
            smallest_range: 8_000_000,
            guard: None,
        }
    }
}
