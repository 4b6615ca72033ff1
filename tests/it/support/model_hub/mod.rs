//! The Hugging Face Hub, its CDN, and a server of files that is no Hub, each on a real socket. They do wrong what they are
//! told to do wrong.
//!
//! Headers, statuses and texts are the real Hub's, as `huggingface_hub` 1.x reads them (`file_download.py`,
//! `utils/_http.py`).

mod content;
mod fault;
mod link;
mod reply;
mod routes;
mod shelf;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use url::Url;

use super::wire::Connection;

pub(crate) use content::Content;
pub(crate) use fault::{Fault, Host, Rule};
pub(crate) use link::Link;
pub(crate) use shelf::{Access, Plain};

/// The token of somebody who may have everything.
pub(crate) const TOKEN: &str = "hf_THE-TOKEN-OF-THE-TESTS";
/// The token of somebody who accepted no licence and owns nothing.
pub(crate) const STRANGER: &str = "hf_THE-TOKEN-OF-A-STRANGER";

/// The servers. They end when it is dropped.
pub(crate) struct ModelHub {
    /// The Hub.
    pub(crate) url: Url,
    /// The server of files.
    pub(crate) files: Url,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) host: Host,
    pub(crate) method: String,
    /// The file that it is for, or the whole path.
    pub(crate) file: String,
    /// The revision in it.
    pub(crate) revision: String,
    pub(crate) range: String,
    /// `Authorization`, without the word `Bearer`.
    pub(crate) token: String,
    /// The answer's status; 0: none.
    pub(crate) status: u16,
    /// Bytes of the body that were sent.
    sent: Arc<AtomicU64>,
}

impl Request {
    /// Bytes of the answer's body that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// What the servers share.
struct Shared {
    hub: SocketAddr,
    cdn: SocketAddr,
    files: SocketAddr,
    state: Mutex<State>,
    pace: Arc<Mutex<link::Pace>>,
}

#[derive(Default)]
struct State {
    repos: BTreeMap<String, shelf::Repo>,
    plain: BTreeMap<String, Plain>,
    rules: Vec<Rule>,
    requests: Vec<Request>,
    link: Link,
    /// How many requests each signature is still good for.
    signatures: BTreeMap<String, usize>,
    /// How many requests a new signature is good for.
    serves: Option<usize>,
    /// Requests that are being answered, by server.
    busy: BTreeMap<Host, usize>,
    /// The most that there ever were.
    busiest: BTreeMap<Host, usize>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }
}

/// A request that is being answered, until this is dropped.
struct Busy<'a>(&'a Shared, Host);

impl<'a> Busy<'a> {
    fn new(shared: &'a Shared, host: Host) -> Self {
        let mut state = shared.state();
        let busy = state.busy.entry(host).or_default();
        *busy += 1;
        let now = *busy;
        let busiest = state.busiest.entry(host).or_default();
        *busiest = now.max(*busiest);
        Self(shared, host)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if let Some(busy) = self.0.state().busy.get_mut(&self.1) {
            *busy -= 1;
        }
    }
}

impl ModelHub {
    pub(crate) async fn start() -> Self {
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for host in [Host::Hub, Host::Cdn, Host::Files] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            addresses.push(listener.local_addr().expect("an address"));
            listeners.push((host, listener));
        }
        let shared = Arc::new(Shared {
            hub: addresses[0],
            cdn: addresses[1],
            files: addresses[2],
            state: Mutex::default(),
            pace: Arc::default(),
        });
        let mut serving = JoinSet::new();
        for (host, listener) in listeners {
            serving.spawn(accept(host, listener, Arc::clone(&shared)));
        }
        let url = |address| format!("http://{address}").parse().expect("a URL");
        Self {
            url: url(shared.hub),
            files: url(shared.files),
            shared,
            _serving: serving,
        }
    }

    /// Adds a commit to a branch, which is made if it is not there: the files of the commit before it, with these large
    /// files new or changed. Gives its name.
    pub(crate) fn push<'a>(
        &self,
        repo: &str,
        branch: &str,
        files: impl IntoIterator<Item = (&'a str, &'a Content)>,
    ) -> String {
        let commit = self.prepare(repo, branch, files);
        let mut state = self.shared.state();
        let branches = &mut state.repos.entry(repo.to_owned()).or_default().branches;
        branch_of(branches, branch).commit.clone_from(&commit);
        commit
    }

    /// The same, but the branch moves only after it was named this many times more.
    pub(crate) fn push_after<'a>(
        &self,
        requests: usize,
        repo: &str,
        branch: &str,
        files: impl IntoIterator<Item = (&'a str, &'a Content)>,
    ) -> String {
        let commit = self.prepare(repo, branch, files);
        let mut state = self.shared.state();
        let branches = &mut state.repos.entry(repo.to_owned()).or_default().branches;
        branch_of(branches, branch).then = Some((requests, commit.clone()));
        commit
    }

    fn prepare<'a>(&self, repo: &str, branch: &str, files: impl IntoIterator<Item = (&'a str, &'a Content)>) -> String {
        let entries: Vec<_> = files
            .into_iter()
            .map(|(path, content)| (path.to_owned(), shelf::Entry::new(content.clone(), true)))
            .collect();
        let mut state = self.shared.state();
        let repo = state.repos.entry(repo.to_owned()).or_default();
        let before = repo
            .branches
            .get(branch)
            .and_then(|branch| repo.commits.get(&branch.commit));
        let mut commit = before.cloned().unwrap_or_default();
        commit.extend(entries);
        repo.commit(commit)
    }

    /// Makes every file of a repository one that git itself keeps: the Hub gives it, after a redirect to itself.
    pub(crate) fn keep_in_git(&self, repo: &str) {
        self.change(repo, |repo| {
            for entry in repo.commits.values_mut().flat_map(BTreeMap::values_mut) {
                *entry = shelf::Entry::new(entry.content.clone(), false);
            }
        });
    }

    /// Says who may have a repository.
    pub(crate) fn restrict(&self, repo: &str, access: Access) {
        self.change(repo, |repo| repo.access = access);
    }

    /// Gives a repository another name; the old one leads there.
    pub(crate) fn rename(&self, repo: &str, name: &str) {
        let mut state = self.shared.state();
        let moved = state.repos.remove(repo).expect("a repository");
        let old = shelf::Repo {
            renamed: Some(name.to_owned()),
            ..shelf::Repo::default()
        };
        state.repos.insert(repo.to_owned(), old);
        state.repos.insert(name.to_owned(), moved);
    }

    fn change(&self, repo: &str, change: impl FnOnce(&mut shelf::Repo)) {
        change(self.shared.state().repos.get_mut(repo).expect("a repository"));
    }

    /// Puts a file on the server that is no Hub; gives its URL.
    pub(crate) fn put(&self, name: &str, file: Plain) -> Url {
        self.shared.state().plain.insert(name.to_owned(), file);
        self.files.join(name).expect("a URL")
    }

    /// Has something done wrong. The first rule that a request meets counts.
    pub(crate) fn fault(&self, rule: Rule) {
        self.shared.state().rules.push(rule);
    }

    /// Puts an end to all rules.
    pub(crate) fn forgive(&self) {
        self.shared.state().rules.clear();
    }

    /// Each rule was met as often as it should be.
    #[track_caller]
    pub(crate) fn settled(&self) {
        let state = self.shared.state();
        let open: Vec<_> = state.rules.iter().filter(|rule| !rule.is_spent()).collect();
        assert!(open.is_empty(), "not met: {open:#?}\n{:#?}", state.requests);
    }

    /// Every signature that was given so far is too old from now on.
    pub(crate) fn expire(&self) {
        self.shared.state().signatures.values_mut().for_each(|left| *left = 0);
    }

    /// Each signature that is given from now on is good for this many requests.
    pub(crate) fn signatures_serve(&self, requests: usize) {
        self.shared.state().serves = Some(requests);
    }

    /// Every signature that was given.
    pub(crate) fn signatures(&self) -> Vec<String> {
        self.shared.state().signatures.keys().cloned().collect()
    }

    /// How fast the servers are from now on.
    pub(crate) fn link(&self, link: Link) {
        self.shared.state().link = link;
    }

    /// Every request in the order in which they came.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// How many requests of a method came to a server.
    pub(crate) fn count(&self, host: Host, method: &str) -> usize {
        let state = self.shared.state();
        let requests = state.requests.iter();
        requests
            .filter(|request| request.host == host && request.method == method)
            .count()
    }

    /// The most requests that a server was answering at once.
    pub(crate) fn busiest(&self, host: Host) -> usize {
        self.shared.state().busiest.get(&host).copied().unwrap_or_default()
    }

    /// Forgets the requests so far.
    pub(crate) fn forget(&self) {
        self.shared.state().requests.clear();
    }

    /// Bytes of files that were sent by all servers.
    pub(crate) fn sent(&self) -> u64 {
        let state = self.shared.state();
        let good = state
            .requests
            .iter()
            .filter(|request| matches!(request.status, 200 | 206));
        good.map(Request::sent).sum()
    }
}

fn branch_of<'a>(branches: &'a mut BTreeMap<String, shelf::Branch>, name: &str) -> &'a mut shelf::Branch {
    branches.entry(name.to_owned()).or_default()
}

/// Serves connections, which end with it.
async fn accept(host: Host, listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(routes::serve(host, Connection::new(stream), Arc::clone(&shared)));
                }
            }
            Some(ended) = connections.join_next() => ended.expect("the servers themselves do not fail"),
        }
    }
}
