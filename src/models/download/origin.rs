//! The Hugging Face Hub: what it says about a file, and where the file's bytes are.
//!
//! Facts come with the answer to `HEAD {endpoint}/{repo}/resolve/{revision}/{path}`, as `huggingface_hub` reads them: the
//! commit, the size, the SHA-256 of a large file, and a redirect to the CDN with a signature in it that expires. Redirects
//! within the Hub are followed (a repository was renamed), the one to the CDN is the answer.

use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, ETAG, HeaderMap};
use reqwest::{Client, Response};
use url::Url;

use super::answer::{
    MOST_REDIRECTS, Resolved, as_sha256, bare_etag, is_web_page, length, own, redirect, refusal, same_server, send,
};
use super::error::{FetchError, Trouble};
use super::types::HubFile;
use crate::config::Secret;
use crate::display::redacted;
use crate::net::path::segment;

/// A client for the Hub, or a mirror of it.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    /// Follows no redirects.
    pub(crate) client: Client,
    pub(crate) endpoint: Url,
    pub(crate) token: Option<Secret>,
    /// How long an answer may take.
    pub(crate) stall: Duration,
}

/// What the answers on the way to a file said; later ones count more.
#[derive(Default)]
struct Facts {
    commit: Option<String>,
    etag: Option<String>,
    size: Option<u64>,
}

impl Facts {
    fn read(&mut self, headers: &HeaderMap) {
        let note = |fact: &mut Option<String>, name| {
            if let Some(said) = own(headers, name) {
                *fact = Some(said.to_owned());
            }
        };
        note(&mut self.commit, "x-repo-commit");
        note(&mut self.etag, "x-linked-etag");
        if let Some(size) = own(headers, "x-linked-size").and_then(|size| size.parse().ok()) {
            self.size = Some(size);
        }
    }
}

impl Hub {
    /// The address of a file at a revision, which may be another than the one it names.
    pub(crate) fn address(&self, file: &HubFile, revision: &str) -> Url {
        let path = |text: &str| text.split('/').map(segment).collect::<Vec<_>>().join("/");
        let mut url = self.endpoint.clone();
        url.set_path(&format!(
            "{}/{}/resolve/{}/{}",
            self.endpoint.path().trim_end_matches('/'),
            path(&file.repo),
            segment(revision),
            path(&file.path),
        ));
        url
    }

    /// Asks once where a file is. With the commit of an earlier answer as `revision` it is the same version.
    pub(crate) async fn resolve(&self, file: &HubFile, revision: &str) -> Result<Resolved, Trouble> {
        let first = self.address(file, revision);
        let mut url = first.clone();
        let mut facts = Facts::default();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = self.client.head(url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = &self.token {
                request = request.bearer_auth(token.reveal());
            }
            let response = send(request, &url, self.stall).await?;
            facts.read(response.headers());
            match redirect(&response) {
                Some(Ok(target)) if same_server(&target, &self.endpoint) => url = target,
                Some(target) => return Ok(resolved(facts, target?, None, true)),
                None if response.status().is_success() => {
                    if is_web_page(response.headers()) && !is_page_name(&file.path) {
                        return Err(Trouble::Final(FetchError::WebPage {
                            url: redacted(&url),
                            token: self.token.is_some(),
                        }));
                    }
                    let headers = response.headers();
                    facts.size = facts.size.or_else(|| length(headers));
                    facts.etag = facts.etag.or_else(|| own(headers, ETAG.as_str()).map(str::to_owned));
                    // What is fetched is the commit that was spoken of, even if the branch moves meanwhile.
                    if url == first
                        && let Some(commit) = &facts.commit
                    {
                        url = self.address(file, commit);
                    }
                    return Ok(resolved(facts, url, self.token.clone(), false));
                }
                None => return Err(self.refusal(&response, file, revision)),
            }
        }
        Err(Trouble::Final(FetchError::Redirect {
            url: redacted(&first),
            why: "leads to another one, and so on",
        }))
    }

    /// What an answer of the Hub's means that has no file. Its codes are those that `huggingface_hub` knows
    /// (`hf_raise_for_status`).
    fn refusal(&self, response: &Response, file: &HubFile, revision: &str) -> Trouble {
        let headers = response.headers();
        let status = response.status().as_u16();
        let token = self.token.is_some();
        let page = {
            let mut page = self.endpoint.clone();
            page.set_path(&format!("{}/{}", self.endpoint.path().trim_end_matches('/'), file.repo));
            redacted(&page)
        };
        let said = own(headers, "x-error-message").unwrap_or_default();
        let error = match own(headers, "x-error-code") {
            _ if status == 401 && token && said.starts_with("Invalid ") => FetchError::BadToken {
                endpoint: redacted(&self.endpoint).trim_end_matches('/').to_owned(),
            },
            Some("GatedRepo") => FetchError::Gated { page, token },
            Some("RepoNotFound") => FetchError::NoRepository { page, token },
            Some("RevisionNotFound") => FetchError::NoRevision {
                page,
                revision: revision.to_owned(),
            },
            Some("EntryNotFound") => FetchError::NoEntry {
                page,
                revision: revision.to_owned(),
                path: file.path.clone(),
            },
            // Without a token the Hub says this of private repositories and of those that do not exist.
            _ if status == 401 => FetchError::NoRepository { page, token },
            _ => return refusal(response.status(), headers, &self.address(file, revision), token),
        };
        Trouble::Final(error)
    }
}

fn resolved(facts: Facts, url: Url, token: Option<Secret>, signed: bool) -> Resolved {
    let etag = facts.etag.as_deref().map(bare_etag);
    Resolved {
        url,
        token,
        signed,
        size: facts.size,
        sha256: etag.and_then(as_sha256),
        // The CDN's own ETag is another one; the address itself names the version.
        validator: None,
        commit: facts.commit,
    }
}

fn is_page_name(path: &str) -> bool {
    let extension = path.rsplit('.').next().unwrap_or_default();
    extension.eq_ignore_ascii_case("html") || extension.eq_ignore_ascii_case("htm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_an_address_is_escaped() {
        let hub = Hub {
            client: Client::new(),
            endpoint: "https://hub.example.com/mirror/".parse().unwrap(),
            token: None,
            stall: Duration::from_secs(1),
        };
        let file = HubFile {
            repo: "org/repo".to_owned(),
            revision: "refs/pr/1".to_owned(),
            path: "split files/vae?.safetensors".to_owned(),
        };
        assert_eq!(
            hub.address(&file, &file.revision).as_str(),
            "https://hub.example.com/mirror/org/repo/resolve/refs%2Fpr%2F1/split%20files/vae%3F.safetensors"
        );
    }
}
