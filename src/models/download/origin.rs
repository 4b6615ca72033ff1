//! Where a file comes from: asked once, and again when the address it gave is no longer taken.

use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, RANGE};
use reqwest::{Client, Response};
use tokio::time::sleep;
use url::Url;

use super::answer::{
    MOST_REDIRECTS, Resolved, content_range, is_web_page, length, redirect, refusal, same_server, send, validator,
};
use super::error::{FetchError, Trouble};
use super::hub::Hub;
use super::types::{Settings, Source};
use crate::config::Secret;
use crate::display::redacted;

/// The longest that a server's wish to be left alone is heeded. The Hub's limits are per five minutes.
const LONGEST_REST: Duration = Duration::from_mins(5);

/// Asks servers about files.
#[derive(Debug, Clone)]
pub(super) struct Origins {
    hub: Hub,
}

impl Origins {
    pub(super) fn new(settings: &Settings, client: Client) -> Self {
        Self {
            hub: Hub {
                client,
                endpoint: settings.endpoint.clone(),
                token: settings.token.clone(),
                stall: settings.stall,
            },
        }
    }

    /// The address of a file as errors name it.
    pub(super) fn label(&self, source: &Source) -> String {
        match source {
            Source::Hub(file) => redacted(&self.hub.address(file, &file.revision)),
            Source::Url { url, .. } => redacted(url),
        }
    }

    /// Asks once about a file. `commit` is what an earlier answer named.
    pub(super) async fn ask(&self, source: &Source, commit: Option<&str>) -> Result<Resolved, Trouble> {
        match source {
            Source::Hub(file) => self.hub.resolve(file, commit.unwrap_or(&file.revision)).await,
            Source::Url { url, token } => self.ask_url(url, token.as_ref()).await,
        }
    }

    /// Asks about a file as often as is sensible.
    pub(super) async fn resolve(
        &self,
        source: &Source,
        commit: Option<&str>,
        settings: &Settings,
    ) -> Result<Resolved, FetchError> {
        let mut delays = settings.retry.delays();
        loop {
            let trouble = match self.ask(source, commit).await {
                Ok(resolved) => return Ok(resolved),
                Err(trouble) => trouble,
            };
            let Trouble::Again { error, after, .. } = trouble else {
                return Err(trouble.into_error());
            };
            let Some(delay) = delays.next() else { return Err(error) };
            tracing::debug!("{error}; asked again");
            sleep(rest(delay, after)).await;
        }
    }

    /// Follows a URL to a file. Asked with HEAD, or for the first byte where a server has no HEAD: signed addresses are
    /// often good for GET alone.
    async fn ask_url(&self, first: &Url, token: Option<&Secret>) -> Result<Resolved, Trouble> {
        let mut url = first.clone();
        let mut token = token;
        let mut head = true;
        let mut hops = 0;
        loop {
            let request = if head {
                self.hub.client.head(url.clone())
            } else {
                self.hub.client.get(url.clone()).header(RANGE, "bytes=0-0")
            };
            let mut request = request.header(ACCEPT_ENCODING, "identity");
            if let Some(token) = token {
                request = request.bearer_auth(token.reveal());
            }
            let response = send(request, &url, self.hub.stall).await?;
            if let Some(target) = redirect(&response) {
                let target = target?;
                hops += 1;
                if hops > MOST_REDIRECTS {
                    return Err(Trouble::Final(FetchError::Redirect {
                        url: redacted(first),
                        why: "leads to another one, and so on",
                    }));
                }
                // Once it has left its server, the token does not come back into play.
                token = token.filter(|_| same_server(&target, &url));
                url = target;
                continue;
            }
            let status = response.status().as_u16();
            let busy = matches!(status, 408 | 425 | 429 | 500 | 502..=599);
            if head && !busy && (!response.status().is_success() || length(response.headers()).is_none()) {
                head = false;
                continue;
            }
            return read_url(&response, url, first, token);
        }
    }
}

/// Reads the last answer on the way to a file: of HEAD, or of GET for its first byte.
fn read_url(response: &Response, url: Url, first: &Url, token: Option<&Secret>) -> Result<Resolved, Trouble> {
    let headers = response.headers();
    let size = match response.status().as_u16() {
        206 => content_range(headers).and_then(|range| range.total),
        // There is no first byte.
        416 if content_range(headers).is_some_and(|range| range.total == Some(0)) => Some(0),
        200 => length(headers),
        _ => return Err(refusal(response.status(), headers, &url, token.is_some())),
    };
    if is_web_page(headers) {
        return Err(Trouble::Final(FetchError::WebPage {
            url: redacted(first),
            token: token.is_some(),
        }));
    }
    Ok(Resolved {
        signed: url != *first,
        url,
        token: token.cloned(),
        size,
        sha256: None,
        commit: None,
        validator: validator(headers),
    })
}

/// How long to wait: at least our own delay, and as long as the server wants within reason.
pub(super) fn rest(delay: Duration, after: Option<Duration>) -> Duration {
    delay.max(after.unwrap_or_default().min(LONGEST_REST))
}
