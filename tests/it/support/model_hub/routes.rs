//! What each server answers when nothing is done wrong.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::wire::{Connection, Head};
use super::fault::{Fault, Host};
use super::link::{Pace, Paces};
use super::reply::Reply;
use super::shelf::{Access, Commit, Entry};
use super::{Busy, Request, STRANGER, Shared, State, TOKEN};

/// Answers one request after another.
pub(super) async fn serve(host: Host, mut connection: Connection, shared: Arc<Shared>) {
    let mut paces = Paces {
        own: Pace::default(),
        all: Arc::clone(&shared.pace),
    };
    let mut is_new = true;
    while let Some(head) = connection.head().await {
        let (reply, fault, link, sent) = {
            let mut state = shared.state();
            let (request, mut reply) = shared.answer(&mut state, host, &head);
            let fault = state
                .rules
                .iter_mut()
                .find_map(|rule| rule.meet(host, &head.method, &request.file, reply.from..reply.to));
            match &fault {
                Some(Fault::Answer(status, headers)) => {
                    reply = Reply::text(*status, "as told");
                    reply.headers.clone_from(headers);
                }
                Some(Fault::Page) => reply = Reply::page(),
                Some(Fault::Redirect(to)) => {
                    reply = Reply::text(302, "");
                    let own = format!("http://{}{}", head.header("host"), head.path);
                    reply.headers.push(("Location", to.replace("{}", &own)));
                }
                _ => {}
            }
            let status = match fault {
                Some(Fault::Silence | Fault::HangUp) => 0,
                Some(Fault::Whole | Fault::Unsized) => 200,
                _ => reply.status,
            };
            let sent = Arc::clone(&request.sent);
            state.requests.push(Request { status, ..request });
            (reply, fault, state.link, sent)
        };
        if !link.round_trip.is_zero() {
            // That of the connection itself comes with its first answer.
            tokio::time::sleep(link.round_trip * (1 + u32::from(is_new))).await;
        }
        is_new = false;
        let _busy = Busy::new(&shared, host);
        let same = reply.send(connection, &head, fault, (link, &mut paces), &sent).await;
        let Some(same) = same else { return };
        connection = same;
    }
}

impl Shared {
    /// The request as it is kept, and what is answered.
    fn answer(&self, state: &mut State, host: Host, head: &Head) -> (Request, Reply) {
        let path = head.path.trim_start_matches('/');
        // The same Hub answers for a mirror of it that lies below a path.
        let path = path.strip_prefix("mirror/").unwrap_or(path);
        let parts: Vec<String> = path.split('/').map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let mut request = Request {
            host,
            method: head.method.clone(),
            file: parts.join("/"),
            revision: String::new(),
            range: head.header("range").to_owned(),
            token: head.header("authorization").trim_start_matches("Bearer ").to_owned(),
            status: 0,
            sent: Arc::default(),
        };
        let reply = match (host, parts.as_slice()) {
            (_, _) if !["GET", "HEAD"].contains(&head.method.as_str()) => Reply::text(405, "GET and HEAD only"),
            (Host::Hub, [owner, name, "resolve", revision, file @ ..]) => {
                request.file = file.join("/");
                (*revision).clone_into(&mut request.revision);
                self.resolve(state, &request, &format!("{owner}/{name}"))
            }
            (Host::Hub, ["api", "resolve-cache", "models", owner, name, commit, file @ ..]) => {
                request.file = file.join("/");
                (*commit).clone_into(&mut request.revision);
                let found = state.find(&format!("{owner}/{name}"), commit, &request.file);
                found.map_or_else(missing, |entry| {
                    let mut reply = Reply::file(head, &entry.content, Some(&format!("\"{}\"", entry.etag)), None);
                    reply.headers.push(("X-Repo-Commit", (*commit).to_owned()));
                    reply
                })
            }
            (Host::Hub, ["api", "models", owner, name, "revision", revision]) => {
                state.description(&format!("{owner}/{name}"), revision)
            }
            (Host::Hub, ["api", "models", owner, name, "tree", revision]) => {
                state.tree(&format!("{owner}/{name}"), revision)
            }
            (Host::Cdn, ["plain", file @ ..]) => {
                request.file = file.join("/");
                let file = state.plain.get(&request.file).cloned();
                match file {
                    Some(file) if state.is_signed(head) => {
                        Reply::file(head, &file.content, file.etag.as_deref(), file.last_modified.as_deref())
                    }
                    _ => expired(),
                }
            }
            (Host::Cdn, ["repos", owner, name, commit, file @ ..]) => {
                request.file = file.join("/");
                (*commit).clone_into(&mut request.revision);
                let found = state.find(&format!("{owner}/{name}"), commit, &request.file).cloned();
                match found {
                    Some(entry) if state.is_signed(head) => {
                        Reply::file(head, &entry.content, Some(&format!("\"{}\"", &entry.etag[..32])), None)
                    }
                    _ => expired(),
                }
            }
            (Host::Files, _) => self.plain(state, &request, head),
            _ => missing(),
        };
        (request, reply)
    }

    fn resolve(&self, state: &mut State, request: &Request, name: &str) -> Reply {
        let known = ["", TOKEN, STRANGER].contains(&request.token.as_str());
        if !known {
            return refused(401, None, "Invalid credentials in Authorization header");
        }
        let anonymous = request.token.is_empty();
        let allowed = request.token == TOKEN;
        let access = state.repos.get(name).map(|repo| repo.access);
        match access {
            Some(Access::Public) => {}
            Some(_) if allowed => {}
            Some(Access::Gated) if anonymous => {
                let text = format!(
                    "Access to model {name} is restricted. You must have access to it and be authenticated to access it. \
                     Please log in."
                );
                return refused(401, Some("GatedRepo"), &text);
            }
            Some(Access::Gated) => {
                let text = format!(
                    "Access to model {name} is restricted and you are not in the authorized list. Visit \
                     https://huggingface.co/{name} to ask for access."
                );
                return refused(403, Some("GatedRepo"), &text);
            }
            None | Some(Access::Private) if anonymous => {
                return refused(401, Some("RepoNotFound"), "Invalid username or password.");
            }
            None | Some(Access::Private) => return refused(404, Some("RepoNotFound"), "Repository not found"),
        }
        let repo = state.repos.get_mut(name).expect("it was there");
        let path: Vec<String> = request.file.split('/').map(qwen_image_worker::net::segment).collect();
        let path = path.join("/");
        if let Some(now) = &repo.renamed {
            let mut reply = Reply::text(307, "");
            let revision = &request.revision;
            reply
                .headers
                .push(("Location", format!("/{now}/resolve/{revision}/{path}")));
            return reply;
        }
        let Some(commit) = repo.resolve(&request.revision) else {
            let text = format!("Invalid rev id: {}", request.revision);
            return refused(404, Some("RevisionNotFound"), &text);
        };
        let Some(entry) = repo.commits[&commit].get(&request.file).cloned() else {
            let mut reply = refused(404, Some("EntryNotFound"), "Entry not found");
            reply.headers.push(("X-Repo-Commit", commit));
            return reply;
        };
        if !entry.large {
            let mut reply = Reply::text(307, "");
            let to = format!("/api/resolve-cache/models/{name}/{commit}/{path}");
            reply.headers.push(("X-Repo-Commit", commit));
            reply.headers.push(("Location", to));
            return reply;
        }
        let query = state.sign();
        let to = format!("http://{}/repos/{name}/{commit}/{path}?{query}", self.cdn);
        // The body is there, as the real one's is: it is not the file.
        let mut reply = Reply::text(302, "Found. Redirecting to the CDN");
        reply.headers.extend([
            ("X-Repo-Commit", commit),
            ("X-Linked-Etag", format!("\"{}\"", entry.etag)),
            ("X-Linked-Size", entry.content.size().to_string()),
            ("Accept-Ranges", "bytes".to_owned()),
            ("Location", to),
        ]);
        reply
    }

    fn plain(&self, state: &mut State, request: &Request, head: &Head) -> Reply {
        let Some(file) = state.plain.get(&request.file).cloned() else {
            return missing();
        };
        if file.token.is_some_and(|token| token != request.token) {
            return Reply::text(401, "a token, please");
        }
        if file.redirects {
            let mut reply = Reply::text(307, "");
            let to = format!("http://{}/plain/{}?{}", self.cdn, request.file, state.sign());
            reply.headers.push(("Location", to));
            return reply;
        }
        Reply::file(head, &file.content, file.etag.as_deref(), file.last_modified.as_deref())
    }
}

impl State {
    fn find(&self, repo: &str, commit: &str, file: &str) -> Option<&Entry> {
        self.repos.get(repo)?.commits.get(commit)?.get(file)
    }

    /// What the Hub's API says of a repository; just enough for its own command line.
    fn description(&mut self, name: &str, revision: &str) -> Reply {
        let Some((commit, files)) = self.commit(name, revision) else {
            return missing();
        };
        let files: Vec<_> = files.keys().map(|path| json!({"rfilename": path})).collect();
        api(&json!({"id": name, "modelId": name, "sha": commit, "private": false, "siblings": files}))
    }

    /// The API's list of a commit's files.
    fn tree(&mut self, name: &str, revision: &str) -> Reply {
        let Some((_, files)) = self.commit(name, revision) else {
            return missing();
        };
        let files = files.iter().map(|(path, entry)| {
            let (oid, size) = (&entry.etag, entry.content.size());
            let large = json!({"oid": oid, "size": size, "pointerSize": 134});
            json!({"type": "file", "oid": &oid[..40], "size": size, "path": path, "lfs": large})
        });
        api(&json!(files.collect::<Vec<_>>()))
    }

    fn commit(&mut self, name: &str, revision: &str) -> Option<(String, &Commit)> {
        let repo = self.repos.get_mut(name)?;
        let commit = repo.resolve(revision)?;
        let files = repo.commits.get(&commit)?;
        Some((commit, files))
    }

    /// A new signature, as part of a URL.
    fn sign(&mut self) -> String {
        let signature = format!("s1gn3d{:06}", self.signatures.len());
        self.signatures
            .insert(signature.clone(), self.serves.unwrap_or(usize::MAX));
        format!("Expires=1900000000&Signature={signature}&Key-Pair-Id=K1")
    }

    /// Whether a request has a signature that is still good.
    fn is_signed(&mut self, head: &Head) -> bool {
        let left = self.signatures.get_mut(head.query("Signature"));
        left.is_some_and(|left| {
            let good = *left > 0;
            *left = left.saturating_sub(1);
            good
        })
    }
}

/// An answer of the API.
fn api(said: &Value) -> Reply {
    let mut reply = Reply::text(200, said.to_string());
    reply.headers = vec![("Content-Type", "application/json".to_owned())];
    reply
}

fn missing() -> Reply {
    Reply::text(404, "not here")
}

/// The CDN's answer to a signature that is too old, or none.
fn expired() -> Reply {
    let mut reply = Reply::text(
        403,
        "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
    );
    reply.headers = vec![("Content-Type", "application/xml".to_owned())];
    reply
}

/// An error as the Hub tells it.
fn refused(status: u16, code: Option<&str>, text: &str) -> Reply {
    let mut reply = Reply::text(status, text);
    reply.headers.push(("X-Error-Message", text.to_owned()));
    reply.headers.extend(code.map(|code| ("X-Error-Code", code.to_owned())));
    reply
}

/// A segment of a path without its percent signs.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        let escaped = others.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &others[2..];
            }
            _ => {
                bytes.push(first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
