//! The beginning of a file, read before the rest is taken.

use std::ops::Range;

#[cfg(test)]
use url::Url;

use super::Downloader;
use super::answer::{Resolved, content_range, is_web_page, length, refusal, within};
use super::error::{Failure, FetchError};
use super::pool::Answer;
use super::types::Source;

/// What is read at first, in bytes: small models have their whole header there.
const FIRST: u64 = 64 << 10;

/// What is read at once, in bytes.
const AT_ONCE: usize = 64 << 10;

/// What a server says about a file, and where it has it.
#[derive(Debug, Clone)]
pub struct Located(Resolved);

impl Located {
    /// Of a file that nobody asks for.
    #[cfg(test)]
    pub(in crate::models) fn nowhere() -> Self {
        Self(Resolved {
            url: Url::parse("https://models.example.com/x").unwrap(),
            token: None,
            signed: false,
            size: None,
            sha256: None,
            commit: None,
            validator: None,
        })
    }

    /// Its size in bytes, where that is told.
    pub fn size(&self) -> Option<u64> {
        self.0.size
    }

    /// Its SHA-256 in lowercase hexadecimal, where that is told.
    pub fn sha256(&self) -> Option<&str> {
        self.0.sha256.as_deref()
    }

    /// What tells it from another version at the same address, where that is told.
    pub fn version(&self) -> Option<&str> {
        self.0.commit.as_deref().or(self.0.validator.as_deref())
    }
}

impl Downloader {
    /// Asks where a file is, and what its server says about it. A server that wants to be left alone for minutes keeps no
    /// connection from others.
    pub async fn locate(&self, source: &Source) -> Result<Located, FetchError> {
        self.engine.origins.resolve(source, None).await.map(Located)
    }

    /// The beginning of a file. `enough` looks at what is there, and says how many bytes from its begin on are wanted in all.
    pub async fn front<E: From<FetchError>>(
        &self,
        source: &Source,
        located: &Located,
        enough: impl Fn(&[u8]) -> Result<u64, E>,
    ) -> Result<Vec<u8>, E> {
        let mut front = self.begin(source, located, FIRST).await?;
        let wanted = enough(&front)?;
        if (front.len() as u64) < wanted {
            front = self.begin(source, located, wanted).await?;
        }
        front.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        Ok(front)
    }

    /// So many bytes from the begin of a file, or all if it has fewer.
    async fn begin(&self, source: &Source, located: &Located, most: u64) -> Result<Vec<u8>, FetchError> {
        let mut delays = self.engine.settings.retry.delays();
        let mut resolved = located.0.clone();
        loop {
            let failure = match self.read(source, &resolved, 0..most).await {
                Ok(front) => return Ok(front),
                Err(Failure::Final(error)) => return Err(error),
                Err(failure) => failure,
            };
            if !delays.wait().await {
                return Err(failure.into_error());
            }
            if matches!(failure, Failure::Expired(_)) {
                resolved = self.engine.origins.resolve(source, located.0.commit.as_deref()).await?;
            }
        }
    }

    /// Whether a file has this byte too, where its server gives ranges and answers at once.
    pub async fn has_byte(&self, source: &Source, located: &Located, at: u64) -> bool {
        let label = self.engine.origins.label(source);
        let answer = self.ask(&located.0, at..at.saturating_add(1), &label).await;
        answer.is_ok_and(|answer| {
            let range = content_range(&answer.headers).and_then(|range| range.part);
            answer.status.as_u16() == 206 && range.is_some_and(|(begin, _)| begin == at)
        })
    }

    /// Asks for a range of a file.
    async fn ask(&self, resolved: &Resolved, range: Range<u64>, label: &str) -> Result<Answer, Failure> {
        let headers = resolved.asking_for(&range);
        let (pool, stall) = (&self.engine.pool, self.engine.settings.stall);
        pool.get(&resolved.url, headers, label, stall).await
    }

    async fn read(&self, source: &Source, resolved: &Resolved, range: Range<u64>) -> Result<Vec<u8>, Failure> {
        let engine = &self.engine;
        let label = engine.origins.label(source);
        let _permit = engine.limiter.enter().await;
        let stall = engine.settings.stall;
        let mut answer = self.ask(resolved, range.clone(), &label).await?;
        let whole = match answer.status.as_u16() {
            206 => content_range(&answer.headers).and_then(|range| range.total),
            200 => length(&answer.headers),
            code => {
                let failure = refusal(answer.status, &answer.headers, &label, resolved.token.is_some());
                let expires = resolved.signed && matches!(code, 400 | 401 | 403 | 404 | 410);
                return Err(match failure {
                    Failure::Final(error) if expires => Failure::Expired(error),
                    other => other,
                });
            }
        };
        if is_web_page(&answer.headers) {
            return Err(FetchError::web_page(&label, resolved.token.is_some()).into());
        }
        let end = whole.or(resolved.size).map_or(range.end, |whole| whole.min(range.end));
        let mut front = Vec::new();
        while (front.len() as u64) < end {
            let room = usize::try_from(end - front.len() as u64).unwrap_or(usize::MAX);
            match within(stall, &label, answer.read(&mut front, room.min(AT_ONCE))).await? {
                Ok(0) => break,
                Ok(_) => {}
                Err(why) => return Err(Failure::broken(&label, &why)),
            }
        }
        front.truncate(usize::try_from(end).unwrap_or(usize::MAX));
        Ok(front)
    }
}
