//! What a repository's server says over HTTP, where there is no git program: its references, and what a commit's tree is.
//! See gitprotocol-http(5), gitprotocol-pack(5) and gitprotocol-v2(5).

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use url::Url;

use super::address::Address;
use super::pack::{self, Found};
use super::pkt_line::{self, Packet};
use super::refs::Refs;
use super::{Commit, GitError};
use crate::display::error_chain;
use crate::net::guard::{ReadError, read_limited};
use crate::net::retry::RetryPolicy;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_mins(1);

/// The longest list of references that is read, in bytes. A large repository has 1 MB, with its pull requests.
const LONGEST_LIST: usize = 64 * 1024 * 1024;

/// How much of a pack is read to find the commit at its beginning, in bytes.
const LONGEST_HEAD: usize = 2 * 1024 * 1024;

/// The path that lists references, below the repository's.
const INFO: &str = "/info/refs";

/// A repository's server.
pub(super) struct Server<'a> {
    address: &'a Address,
    http: Client,
}

impl<'a> Server<'a> {
    /// Fails where the address is none of the web.
    pub(super) fn new(address: &'a Address) -> Result<Self, GitError> {
        let scheme = address.url.scheme();
        if !matches!(scheme, "http" | "https") {
            return Err(GitError::NeedsGit {
                repository: address.to_string(),
                reason: format!("{scheme}:// is git's own"),
            });
        }
        let http = Client::builder()
            // Hosts tell git by this word from people, who get pages at the same addresses.
            .user_agent(concat!("git/", env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .build()
            .map_err(|error| unreachable(address, error))?;
        Ok(Self { address, http })
    }

    /// All references of the repository.
    pub(super) async fn refs(&self) -> Result<Refs, GitError> {
        let (_, list) = self.list(None).await?;
        let packets = pkt_line::all(&list).map_err(|_| self.no_answer())?;
        let mut refs = Refs::default();
        for line in packets.into_iter().filter_map(Packet::line) {
            if let Some(error) = line.strip_prefix("ERR ") {
                return Err(self.broken(error));
            }
            // The first line has the server's abilities too.
            let line = line.split('\0').next().unwrap_or_default();
            if let Some((commit, name)) = line.split_once(' ')
                && let Ok(commit) = commit.parse()
                // So an empty repository says it has none.
                && name != "capabilities^{}"
            {
                refs.add(name, commit);
            }
        }
        Ok(refs)
    }

    /// The hash of the commit's tree, 40 hexadecimal digits, out of the commit itself. The server's word is not needed
    /// for that: what is not the commit has another hash than its name.
    pub(super) async fn tree_of(&self, commit: &Commit) -> Result<String, GitError> {
        let (base, list) = self.list(Some("version=2")).await?;
        let packets = pkt_line::all(&list).map_err(|_| self.no_answer())?;
        let lines: Vec<&str> = packets.into_iter().filter_map(Packet::line).collect();
        if !lines.contains(&"version 2") {
            return Err(self.needs_git("its server does not speak version 2 of git's protocol"));
        }
        let fetch = lines.iter().find_map(|line| line.strip_prefix("fetch="));
        let can = |what: &str| fetch.is_some_and(|fetch| fetch.split(' ').any(|ability| ability == what));
        if !can("shallow") {
            return Err(self.needs_git("its server does not give single commits"));
        }

        let want = format!("want {commit}");
        let mut body = vec!["no-progress", want.as_str(), "deepen 1"];
        if can("filter") {
            // The commit, and nothing that is in it. Without that all of it begins to come, and is not read on.
            body.push("filter tree:0");
        }
        body.push("done");
        let mut url = base;
        url.set_path(&format!("{}/git-upload-pack", url.path()));
        let request = self
            .http
            .post(url)
            .header("Git-Protocol", "version=2")
            .header(CONTENT_TYPE, "application/x-git-upload-pack-request")
            .header("Accept", "application/x-git-upload-pack-result")
            .body(pkt_line::message(&["command=fetch", "object-format=sha1"], &body));
        let mut response = self.send(request).await?;

        let mut answer = Answer::default();
        let mut read = 0;
        while let Some(piece) = response.chunk().await.map_err(|error| self.unreachable(error))? {
            read += piece.len();
            if let Some(found) = answer.take(&piece, commit) {
                return self.outcome(commit, found);
            }
            if read > LONGEST_HEAD {
                break;
            }
        }
        Err(self.needs_git("its server does not send the commit before all else"))
    }

    fn outcome(&self, commit: &Commit, found: Result<Found, String>) -> Result<String, GitError> {
        let absent = GitError::CommitNotThere {
            repository: self.address.to_string(),
            commit: commit.clone(),
        };
        match found {
            Ok(Found::Tree(tree)) => Ok(tree),
            Ok(Found::Missing) => Err(absent),
            Ok(Found::Incomplete | Found::Malformed) => Err(self.no_answer()),
            Err(error) if error.contains("not our ref") => Err(absent),
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// What the server lists for a version of the protocol, and the repository's address, to which it may have led us.
    async fn list(&self, protocol: Option<&str>) -> Result<(Url, Vec<u8>), GitError> {
        let mut url = self.address.url.clone();
        url.set_path(&format!("{}{INFO}", url.path().trim_end_matches('/')));
        url.set_query(Some("service=git-upload-pack"));
        url.set_fragment(None);
        let mut request = self.http.get(url);
        if let Some(protocol) = protocol {
            request = request.header("Git-Protocol", protocol);
        }
        let response = self.send(request).await?;
        let form = response.headers().get(CONTENT_TYPE);
        if form.is_none_or(|form| form != "application/x-git-upload-pack-advertisement") {
            return Err(self.no_answer());
        }
        let mut base = response.url().clone();
        let path = base.path().strip_suffix(INFO).map(str::to_owned);
        base.set_path(&path.ok_or_else(|| self.no_answer())?);
        base.set_query(None);
        let given = &self.address.url;
        let is_safe = base.scheme() == "https" || base.origin() == given.origin();
        if is_safe && base.host_str() == given.host_str() {
            // Where it led us elsewhere, the password is not for there.
            let _ = base.set_username(given.username());
            let _ = base.set_password(given.password());
        }
        let list = read_limited(response, LONGEST_LIST)
            .await
            .map_err(|error| match error {
                ReadError::Broken { source } => self.unreachable(source),
                too_large @ ReadError::TooLarge { .. } => self.broken(&too_large.to_string()),
            })?;
        Ok((base, list.to_vec()))
    }

    /// Asks for a file of the host; [`None`] where there is none.
    pub(super) async fn file(&self, url: Url) -> Result<Option<Response>, GitError> {
        match self.send(self.http.get(url)).await {
            Ok(response) => Ok(Some(response)),
            Err(GitError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a request, some times where the failure may pass.
    async fn send(&self, request: RequestBuilder) -> Result<Response, GitError> {
        let mut delays = RetryPolicy::BRIEF.delays();
        loop {
            // A body of bytes can be sent again; there is no other here.
            let Some(again) = request.try_clone() else {
                return Err(self.broken("the question cannot be asked twice"));
            };
            let error = match again.send().await {
                Ok(response) => match response.status() {
                    status if status.is_success() => return Ok(response),
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                        let repository = self.address.to_string();
                        return Err(GitError::NeedsCredentials { repository });
                    }
                    StatusCode::NOT_FOUND | StatusCode::GONE => {
                        let repository = self.address.to_string();
                        return Err(GitError::NotFound { repository });
                    }
                    status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                        self.broken(&status.to_string())
                    }
                    status => return Err(self.broken(&status.to_string())),
                },
                Err(error) => self.unreachable(error),
            };
            if !delays.wait().await {
                return Err(error);
            }
            tracing::warn!("asked again: {error}");
        }
    }

    pub(super) fn unreachable(&self, error: reqwest::Error) -> GitError {
        unreachable(self.address, error)
    }

    fn broken(&self, reason: &str) -> GitError {
        GitError::Unreachable {
            repository: self.address.to_string(),
            reason: format!("its server answers: {}", crate::echo::cut(reason)),
        }
    }

    pub(super) fn needs_git(&self, reason: &str) -> GitError {
        GitError::NeedsGit {
            repository: self.address.to_string(),
            reason: reason.to_owned(),
        }
    }

    fn no_answer(&self) -> GitError {
        self.needs_git("what is there does not answer as a git server that speaks HTTP")
    }
}

fn unreachable(address: &Address, error: reqwest::Error) -> GitError {
    GitError::Unreachable {
        repository: address.to_string(),
        reason: error_chain(&error.without_url()),
    }
}

/// The server's answer to a fetch: parts with a title, of which the last is the pack, in frames of three bands.
#[derive(Default)]
struct Answer {
    /// What is not yet a frame.
    rest: Vec<u8>,
    in_pack: bool,
    pack: Vec<u8>,
}

impl Answer {
    /// Takes the next bytes. Something comes back when the search is over; an error is what the server says.
    fn take(&mut self, bytes: &[u8], commit: &Commit) -> Option<Result<Found, String>> {
        self.rest.extend_from_slice(bytes);
        let rest = std::mem::take(&mut self.rest);
        let mut left = rest.as_slice();
        let mut is_over = false;
        loop {
            let packet = match pkt_line::next(left) {
                Ok(Some((packet, after))) => {
                    left = after;
                    packet
                }
                Ok(None) => break,
                Err(_) => return Some(Ok(Found::Malformed)),
            };
            match packet {
                Packet::Data([1, data @ ..]) if self.in_pack => self.pack.extend_from_slice(data),
                Packet::Data([3, error @ ..]) if self.in_pack => {
                    return Some(Err(String::from_utf8_lossy(error).trim().to_owned()));
                }
                Packet::Flush | Packet::End => is_over = true,
                packet if !self.in_pack => match packet.line() {
                    Some("packfile") => self.in_pack = true,
                    Some(line) => {
                        if let Some(error) = line.strip_prefix("ERR ") {
                            return Some(Err(error.to_owned()));
                        }
                    }
                    None => {}
                },
                _ => {}
            }
        }
        self.rest = left.to_vec();
        match pack::tree_of(commit, &self.pack) {
            Found::Incomplete if !is_over => None,
            found => Some(Ok(found)),
        }
    }
}
