//! A git repository and a server for it, for tests: git's own `git http-backend` behind a small HTTP server, which also
//! gives archives of commits as hosts do.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;

use crate::net::testing::serve;

/// A repository `work` with its files; it is served by its folder's name.
pub(super) struct Repository {
    temp: tempfile::TempDir,
}

impl Repository {
    pub(super) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let repository = Self { temp };
        std::fs::create_dir(repository.path()).unwrap();
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    /// Its work tree.
    pub(super) fn path(&self) -> PathBuf {
        self.temp.path().join("work")
    }

    /// What git prints, run in the work tree with a configuration of its own.
    pub(super) fn git(&self, arguments: &[&str]) -> String {
        self.run(Stdio::null(), arguments)
    }

    /// The same, of a git that reads a file of the work tree.
    pub(super) fn git_reading(&self, name: &str, arguments: &[&str]) -> String {
        let file = std::fs::File::open(self.path().join(name)).unwrap();
        self.run(file.into(), arguments)
    }

    fn run(&self, stdin: Stdio, arguments: &[&str]) -> String {
        let mut command = git(&self.path());
        let output = command.args(arguments).stdin(stdin).output().expect(MISSING);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(super) fn write(&self, name: &str, content: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Commits all there is; answers the commit.
    pub(super) fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Its address on the disk.
    pub(super) fn file_url(&self) -> String {
        format!("file://{}", self.path().display())
    }
}

const MISSING: &str = "these tests need git: install it (apt install git)";

/// git without its user's settings.
fn git(folder: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env_remove("GIT_DIR");
    for role in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{role}_NAME"), "A Tester")
            .env(format!("GIT_{role}_EMAIL"), "tester@example.com")
            .env(format!("GIT_{role}_DATE"), "2026-01-01T00:00:00Z");
    }
    command
}

/// How a server behaves.
#[derive(Clone, Default)]
pub(super) struct Manners {
    /// It speaks the protocol of before 2018: what a client says of versions is not passed on.
    pub(super) is_old: bool,
    /// It wants this word as a password.
    pub(super) password: Option<&'static str>,
    /// What its archives hold instead of the commit asked for.
    pub(super) archived: Option<String>,
    /// It has no archives.
    pub(super) no_archives: bool,
    /// It sends the first bytes of an archive, says so here, and then sends no more for ever.
    pub(super) stalls: Option<Arc<Notify>>,
}

/// A server on loopback; it ends with the test's runtime. What is asked of `/moved/` it has at `/team/`.
pub(super) struct Server {
    /// The repository's address.
    pub(super) url: String,
}

struct Served {
    folder: PathBuf,
    manners: Manners,
}

impl Server {
    /// Serves the repository; `settings` are put into its configuration.
    pub(super) async fn start(repository: &Repository, manners: Manners, settings: &[&str]) -> Self {
        for setting in settings {
            let (name, value) = setting.split_once('=').unwrap();
            repository.git(&["config", name, value]);
        }
        let served = Arc::new(Served {
            folder: repository.path(),
            manners,
        });
        let app = axum::Router::new().fallback(answer).with_state(served);
        Self {
            url: serve(app).await + "/team/source.git",
        }
    }
}

async fn answer(
    State(served): State<Arc<Served>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(password) = served.manners.password {
        use base64::Engine as _;
        let expected = base64::engine::general_purpose::STANDARD.encode(format!("me:{password}"));
        let given = headers.get("authorization").and_then(|given| given.to_str().ok());
        if given != Some(&format!("Basic {expected}")) {
            let response = Response::builder().status(StatusCode::UNAUTHORIZED);
            return response
                .header("WWW-Authenticate", "Basic realm=\"git\"")
                .body(Body::empty())
                .unwrap();
        }
    }
    if let Some(rest) = uri.path().strip_prefix("/moved/") {
        let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
        let response = Response::builder().status(StatusCode::MOVED_PERMANENTLY);
        let response = response.header("Location", format!("/team/{rest}{query}"));
        return response.body(Body::empty()).unwrap();
    }
    let archived = uri
        .path()
        .strip_prefix("/team/source/archive/")
        .and_then(|name| name.strip_suffix(".tar.gz"));
    if let Some(commit) = archived {
        return archive(&served, commit);
    }
    match uri.path().strip_prefix("/team/source.git") {
        Some(path) => backend(&served, path, &method, &uri, &headers, &body).await,
        None => empty(StatusCode::NOT_FOUND),
    }
}

fn empty(status: StatusCode) -> Response {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

/// The archive as GitHub makes it: by `git archive`, in a folder of the repository's name and the commit.
fn archive(served: &Served, commit: &str) -> Response {
    let manners = &served.manners;
    let tree = manners.archived.as_deref().unwrap_or(commit);
    let prefix = format!("--prefix=work-{commit}/");
    let output = git(&served.folder)
        .args(["archive", "--format=tar.gz", &prefix, tree])
        .output()
        .expect(MISSING);
    if manners.no_archives || !output.status.success() {
        return empty(StatusCode::NOT_FOUND);
    }
    let Some(stalls) = manners.stalls.clone() else {
        return Response::new(Body::from(output.stdout));
    };
    let first = Bytes::from(output.stdout).slice(..100);
    let pieces =
        futures_util::stream::iter([Ok::<_, Infallible>(first)]).chain(futures_util::stream::once(async move {
            stalls.notify_one();
            std::future::pending().await
        }));
    Response::new(Body::from_stream(pieces))
}

/// Asks `git http-backend`, a CGI program: git-http-backend(1), RFC 3875.
async fn backend(
    served: &Served,
    path: &str,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let mut command = tokio::process::Command::from(git(&served.folder));
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", served.folder.join(".git"))
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", uri.query().unwrap_or_default())
        .env("REQUEST_METHOD", method.as_str())
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    if !served.manners.is_old {
        command.env("GIT_PROTOCOL", header("git-protocol"));
    }
    let mut child = command.spawn().expect(MISSING);
    let (mut stdin, body) = (child.stdin.take().unwrap(), body.clone());
    // It may answer without having read all.
    tokio::spawn(async move { stdin.write_all(&body).await });
    let output = child.wait_with_output().await.unwrap().stdout;

    let end = output.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let Some(end) = end else {
        return empty(StatusCode::INTERNAL_SERVER_ERROR);
    };
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(value.split(' ').next().unwrap()),
            _ => response.header(name, value),
        };
    }
    response.body(Body::from(output[end + 4..].to_vec())).unwrap()
}
