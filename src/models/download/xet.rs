//! Xet: files put together from chunks of the Hub's own storage, by `hf-xet`, Hugging Face's crate.
//!
//! The crate asks the Hub for a token (`/api/models/{repo}/xet-read-token/{commit}`), the storage for the parts of the
//! file, and fetches them. It checks no hash of the whole: that is for the caller, as is going on with ranges when
//! this fails. Its tasks run on our runtime where that has several threads, and on threads of its own elsewhere.
//!
//! It is bounded here: its defaults buffer gigabytes, and wait five minutes for a silent connection. Its own variables
//! (`HF_XET_*`) are not read, since `HF_XET_HIGH_PERFORMANCE` would lift the bounds; its reports to Hugging Face are
//! off.

use std::env;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use ::xet::xet_session::{
    HeaderMap, HeaderValue, XetConfig, XetDownloadStream, XetFileInfo, XetSession, XetSessionBuilder, header,
};
use bytes::Bytes;
use tokio::time::timeout;
use url::Url;

use super::Settings;
use crate::config::Secret;

/// The most bytes of all files together that have been asked for and not yet been taken. A part is up to 64 MiB and is
/// held as a whole, so this is also what bounds the connections: three or four of whole parts.
const BUFFER: u64 = 192 * 1024 * 1024;

/// How many stalls without anything to hand on are the end. A part is handed on when it is complete, which on a slow
/// link takes longer than one silent connection may.
const PATIENCE: u32 = 4;

/// Tries of one request, the first included.
const TRIES: usize = 3;

/// The first wait between them.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Why Xet did not bring a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum XetError {
    /// The crate's own reasons.
    #[error(transparent)]
    Transfer(#[from] ::xet::XetError),
    /// A token that no header can carry.
    #[error("the token has characters that no HTTP header can have")]
    Token,
    /// Nothing came.
    #[error("nothing came for {} s", .0.as_secs())]
    Stalled(Duration),
    /// Fewer bytes came than were asked for.
    #[error("the file ended {0} bytes early")]
    Short(u64),
    /// More bytes came than were asked for.
    #[error("more came than was asked for")]
    Long,
}

/// Fetches by Xet. Clones share buffers and connections.
#[derive(Clone)]
pub(super) struct Xet {
    session: XetSession,
    endpoint: Url,
    token: Option<Secret>,
    stall: Duration,
}

/// A file that Xet has.
#[derive(Debug, Clone, Copy)]
pub(super) struct XetFile<'a> {
    /// `owner/name`.
    pub(super) repo: &'a str,
    /// The commit.
    pub(super) commit: &'a str,
    /// As `X-Xet-Hash` has it.
    pub(super) hash: &'a str,
    /// The size in bytes.
    pub(super) size: u64,
}

impl fmt::Debug for Xet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Xet").finish_non_exhaustive()
    }
}

impl Xet {
    /// Makes ready; nothing is fetched yet.
    pub(super) fn new(settings: &Settings) -> Result<Self, XetError> {
        let session = XetSessionBuilder::new_with_config(config(settings))
            // Folders for what uploads keep; they stay empty.
            .with_cache_dir(env::temp_dir().join("xet"))
            .build()?;
        Ok(Self {
            session,
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
            stall: settings.stall,
        })
    }

    /// Begins to fetch a range of a file.
    pub(super) async fn open(&self, file: &XetFile<'_>, range: Range<u64>) -> Result<Pieces, XetError> {
        let patience = self.stall * PATIENCE;
        timeout(patience, self.begin(file, range, patience))
            .await
            .unwrap_or(Err(XetError::Stalled(patience)))
    }

    async fn begin(&self, file: &XetFile<'_>, range: Range<u64>, patience: Duration) -> Result<Pieces, XetError> {
        let group = self
            .session
            .new_download_stream_group()?
            .with_token_refresh_url(self.token_route(file), self.headers()?)
            .build()
            .await?;
        let info = XetFileInfo::new(file.hash.to_owned(), file.size);
        let left = range.end.saturating_sub(range.start);
        let stream = group.download_stream(info, Some(range)).await?;
        Ok(Pieces { stream, patience, left })
    }

    fn token_route(&self, file: &XetFile<'_>) -> Url {
        let mut url = self.endpoint.clone();
        // Fails for URLs that cannot have a path, which no endpoint is.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "models"]);
            segments.extend(file.repo.split('/'));
            segments.extend(["xet-read-token", file.commit]);
        }
        url
    }

    /// The headers of the token route, and of no other: the storage has its own tokens.
    fn headers(&self) -> Result<HeaderMap, XetError> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.token {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {}", token.reveal())).map_err(|_| XetError::Token)?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(headers)
    }
}

fn config(settings: &Settings) -> XetConfig {
    let mut config = XetConfig::default();
    config.reconstruction.download_buffer_size = BUFFER.into();
    config.reconstruction.download_buffer_perfile_size = 0.into();
    config.reconstruction.download_buffer_limit = BUFFER.into();
    let connections = if settings.parallel {
        settings.connections.max(1)
    } else {
        1
    };
    config.client.ac_max_download_concurrency = connections;
    config.client.ac_initial_download_concurrency = connections.min(16);
    config.client.connect_timeout = settings.stall;
    config.client.read_timeout = settings.stall;
    config.client.retry_max_attempts = TRIES;
    config.client.retry_base_delay = RETRY_DELAY;
    config.client.retry_max_duration = settings.stall;
    config.telemetry.enabled = false;
    config
}

/// The bytes of a range, as they come. Dropped, it ends the transfer; parts that are on their way still come, or time
/// out.
pub(super) struct Pieces {
    stream: XetDownloadStream,
    patience: Duration,
    left: u64,
}

impl Pieces {
    /// The next bytes, up to 64 MiB; [`None`] when the range is complete. After an error there is nothing more.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, XetError> {
        let Ok(next) = timeout(self.patience, self.stream.next()).await else {
            return Err(XetError::Stalled(self.patience));
        };
        match (next?, self.left) {
            (Some(bytes), left) => {
                self.left = left.checked_sub(bytes.len() as u64).ok_or(XetError::Long)?;
                Ok(Some(bytes))
            }
            (None, 0) => Ok(None),
            // The crate may also end so when a request failed.
            (None, left) => Err(XetError::Short(left)),
        }
    }
}

#[cfg(test)]
#[path = "xet_testing.rs"]
pub(super) mod testing;
#[cfg(test)]
#[path = "xet_tests.rs"]
mod tests;
