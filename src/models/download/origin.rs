//! Where a file comes from: asked once, and again when the address it gave is no longer taken.
//!
//! The Hugging Face Hub tells facts with the answer to `HEAD {endpoint}/{repo}/resolve/{revision}/{path}`, as
//! `huggingface_hub` reads them: the commit, the size, the SHA-256 of a large file, and a redirect to the CDN with a
//! signature in it that expires. Redirects within the Hub are followed (a repository was renamed), the one to the CDN is the
//! answer.

use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, ETAG, HeaderMap, RANGE};
use reqwest::{Client, RequestBuilder, Response};
use tokio::time::sleep;
use url::Url;

use super::answer::{
    Resolved, as_sha256, content_range, is_web_page, length, own, redirect, refusal, same_server, send, validator,
};
use super::error::{Failure, FetchError, forbidden};
use super::types::{Settings, Source};
use crate::config::{Origin, Secret};
use crate::display::redacted;
use crate::net::segment;

/// The most redirects that are followed for one file.
const MOST_REDIRECTS: usize = 10;

/// The longest that a server's wish to be left alone is heeded. The Hub's limits are per five minutes.
const LONGEST_REST: Duration = Duration::from_mins(5);

/// Asks servers about files.
pub(super) struct Origins {
    settings: Settings,
    /// Follows no redirects.
    client: Client,
}

impl Origins {
    pub(super) fn new(settings: Settings, client: Client) -> Self {
        Self { settings, client }
    }

    /// The address of a file as errors name it.
    pub(super) fn label(&self, source: &Source) -> String {
        match &source.origin {
            Origin::Hub { repo, revision, path } => redacted(&self.address(repo, revision, path)),
            Origin::Url(url) => redacted(url),
        }
    }

    /// Asks about a file as often as is sensible. `commit` is what an earlier answer named: with it, it is the same version.
    pub(super) async fn resolve(&self, source: &Source, commit: Option<&str>) -> Result<Resolved, FetchError> {
        let mut delays = self.settings.retry.delays();
        loop {
            let asked = match &source.origin {
                Origin::Hub { repo, revision, path } => self.ask_hub(repo, commit.unwrap_or(revision), path).await,
                Origin::Url(url) => self.ask_url(url, source.token.as_ref()).await,
            };
            let (error, after) = match asked {
                Ok(resolved) => return Ok(resolved),
                Err(Failure::Again { error, after, .. }) => (error, after),
                Err(failure) => return Err(failure.into_error()),
            };
            let Some(delay) = delays.next() else { return Err(error) };
            tracing::debug!("{error}; asked again");
            sleep(rest(delay, after)).await;
        }
    }

    /// The address of a file of the Hub.
    fn address(&self, repo: &str, revision: &str, path: &str) -> Url {
        let escaped = |text: &str| text.split('/').map(segment).collect::<Vec<_>>().join("/");
        let (repo, revision, path) = (escaped(repo), segment(revision), escaped(path));
        self.at_hub(&format!("{repo}/resolve/{revision}/{path}"))
    }

    fn at_hub(&self, path: &str) -> Url {
        let mut url = self.settings.endpoint.clone();
        url.set_path(&format!("{}/{path}", url.path().trim_end_matches('/')));
        url
    }

    async fn send(&self, request: RequestBuilder, url: &Url, token: Option<&Secret>) -> Result<Response, Failure> {
        if let Some(guard) = &self.settings.guard {
            guard.check_url(url).map_err(|error| forbidden(&error))?;
        }
        let mut request = request.header(ACCEPT_ENCODING, "identity");
        if let Some(token) = token {
            request = request.bearer_auth(token.reveal());
        }
        send(request, &redacted(url), self.settings.stall).await
    }

    /// Asks the Hub once where a file is.
    async fn ask_hub(&self, repo: &str, revision: &str, path: &str) -> Result<Resolved, Failure> {
        let first = self.address(repo, revision, path);
        let token = self.settings.token.as_ref();
        let mut resolved = Resolved {
            url: first.clone(),
            token: None,
            signed: false,
            size: None,
            sha256: None,
            commit: None,
            // The CDN's own ETag is another one than the Hub's; the address itself names the version.
            validator: None,
        };
        for _ in 0..=MOST_REDIRECTS {
            let url = resolved.url.clone();
            let response = self.send(self.client.head(url.clone()), &url, token).await?;
            let headers = response.headers();
            note(&mut resolved, headers);
            match redirect(&response) {
                Some(target) => {
                    resolved.url = target?;
                    resolved.signed = !same_server(&resolved.url, &self.settings.endpoint);
                    if resolved.signed {
                        return Ok(resolved);
                    }
                }
                None if response.status().is_success() => {
                    if is_web_page(headers) && !is_page_name(path) {
                        return Err(web_page(&url, token));
                    }
                    let etag = || own(headers, ETAG.as_str()).and_then(as_sha256);
                    resolved.size = resolved.size.or_else(|| length(headers));
                    resolved.sha256 = resolved.sha256.or_else(etag);
                    resolved.token = token.cloned();
                    // What is fetched is the commit that was spoken of, even if the branch moves meanwhile.
                    if let Some(commit) = resolved.commit.as_ref().filter(|_| url == first) {
                        resolved.url = self.address(repo, commit, path);
                    }
                    return Ok(resolved);
                }
                None => return Err(self.refusal(&response, repo, revision, path)),
            }
        }
        Err(endless(&first))
    }

    /// What an answer of the Hub's means that has no file. Its codes are those that `huggingface_hub` knows
    /// (`hf_raise_for_status`).
    fn refusal(&self, response: &Response, repo: &str, revision: &str, path: &str) -> Failure {
        let (status, headers) = (response.status(), response.headers());
        let token = self.settings.token.is_some();
        let page = redacted(&self.at_hub(repo));
        let said = own(headers, "x-error-message").unwrap_or_default();
        let (message, hint) = match own(headers, "x-error-code") {
            _ if status == 401 && token && said.starts_with("Invalid ") => {
                let endpoint = redacted(&self.settings.endpoint);
                let endpoint = endpoint.trim_end_matches('/');
                (
                    format!("{endpoint} does not accept HF_TOKEN: it is wrong or no longer valid"),
                    format!("Make a token at {endpoint}/settings/tokens, or unset HF_TOKEN for public models."),
                )
            }
            Some("GatedRepo") if token => (
                format!("the repository {page} is gated: HF_TOKEN's account has no access to it"),
                format!("Accept the licence at {page} with the account that HF_TOKEN belongs to."),
            ),
            Some("GatedRepo") => (
                format!("the repository {page} is gated: it wants a token"),
                format!("Accept the licence at {page}, then set HF_TOKEN to a token of that account."),
            ),
            Some("RevisionNotFound") => (
                format!("the repository {page} has no revision {revision}"),
                format!("See {page}/commits/main for the revisions there are."),
            ),
            Some("EntryNotFound") => (
                format!("the repository {page} has no file {path} at revision {revision}"),
                format!("See {page}/tree/{revision} for the files there are."),
            ),
            // The Hub does not tell whether there is no such repository or it is private; without a token it says 401 of
            // both.
            code if status == 401 || code == Some("RepoNotFound") => {
                let message = format!("the repository {page} does not exist, or it is private");
                if token {
                    (
                        format!("{message} and HF_TOKEN's account has no access to it"),
                        "Check the name, and that HF_TOKEN may read this repository.".to_owned(),
                    )
                } else {
                    let hint = "Check the name; for a private repository, set HF_TOKEN to a token that may read it.";
                    (message, hint.to_owned())
                }
            }
            _ => return refusal(status, headers, &redacted(&self.address(repo, revision, path)), token),
        };
        FetchError::told(message, Some(&hint)).into()
    }

    /// Follows a URL to a file. Asked with HEAD, or for the first byte where a server has no HEAD: signed addresses are
    /// often good for GET alone.
    async fn ask_url(&self, first: &Url, mut token: Option<&Secret>) -> Result<Resolved, Failure> {
        let mut url = first.clone();
        let mut head = true;
        let mut hops = 0;
        while hops <= MOST_REDIRECTS {
            let request = if head {
                self.client.head(url.clone())
            } else {
                self.client.get(url.clone()).header(RANGE, "bytes=0-0")
            };
            let response = self.send(request, &url, token).await?;
            if let Some(target) = redirect(&response) {
                let target = target?;
                hops += 1;
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
        Err(endless(first))
    }
}

/// Notes what an answer on the way to a file of the Hub says; later ones count more.
fn note(resolved: &mut Resolved, headers: &HeaderMap) {
    if let Some(commit) = own(headers, "x-repo-commit") {
        resolved.commit = Some(commit.to_owned());
    }
    if let Some(etag) = own(headers, "x-linked-etag") {
        resolved.sha256 = as_sha256(etag);
    }
    if let Some(size) = own(headers, "x-linked-size").and_then(|size| size.parse().ok()) {
        resolved.size = Some(size);
    }
}

/// Reads the last answer on the way to a file: of HEAD, or of GET for its first byte.
fn read_url(response: &Response, url: Url, first: &Url, token: Option<&Secret>) -> Result<Resolved, Failure> {
    let (status, headers) = (response.status(), response.headers());
    let size = match status.as_u16() {
        206 => content_range(headers).and_then(|range| range.total),
        // There is no first byte.
        416 if content_range(headers).is_some_and(|range| range.total == Some(0)) => Some(0),
        200 => length(headers),
        _ => return Err(refusal(status, headers, &redacted(&url), token.is_some())),
    };
    if is_web_page(headers) {
        return Err(web_page(first, token));
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

fn endless(url: &Url) -> Failure {
    let message = format!("a redirect at {} leads to another one, and so on", redacted(url));
    FetchError::told(message, None).into()
}

fn web_page(url: &Url, token: Option<&Secret>) -> Failure {
    FetchError::web_page(&redacted(url), token.is_some()).into()
}

fn is_page_name(path: &str) -> bool {
    let extension = path.rsplit('.').next().unwrap_or_default();
    extension.eq_ignore_ascii_case("html") || extension.eq_ignore_ascii_case("htm")
}

/// How long to wait: at least our own delay, and as long as the server wants within reason.
pub(super) fn rest(delay: Duration, after: Option<Duration>) -> Duration {
    delay.max(after.unwrap_or_default().min(LONGEST_REST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_an_address_is_escaped() {
        let endpoint = "https://hub.example.com/mirror/".parse().unwrap();
        let origins = Origins::new(Settings::new(endpoint, None), Client::new());
        let address = origins.address("org/repo", "refs/pr/1", "split files/vae?.safetensors");
        assert_eq!(
            address.as_str(),
            "https://hub.example.com/mirror/org/repo/resolve/refs%2Fpr%2F1/split%20files/vae%3F.safetensors"
        );
    }
}
