//! A real git server on loopback: git's own `http-backend`, and the host's archives of commits for who has no git. It has
//! a repository of ComfyUI, made from the installed tree, with two releases, and one for each pack of custom nodes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{RUNTIME, installed, node_registry};

/// The release that is ComfyUI 0.30.0 as it is.
pub(crate) const FIRST: &str = "v0.30.0-test";
/// The release that says 0.30.1 and needs [`NEW_PACKAGE`].
pub(crate) const SECOND: &str = "v0.30.1-test";
/// A release that needs a package which nobody has.
pub(crate) const BROKEN: &str = "v0.30.2-test";
/// The package.
pub(crate) const NO_PACKAGE: &str = "qiw-nobody-has-this";
/// A small package that ComfyUI 0.30.0 does not need.
pub(crate) const NEW_PACKAGE: &str = "inflection";
/// The branch that stands at the second release.
pub(crate) const BRANCH: &str = "master";

/// Where the repositories lie, and their commits. Made once for all test runs.
struct Repositories {
    root: PathBuf,
    /// By repository and tag or branch: `ComfyUI v0.30.0-test`.
    commits: BTreeMap<String, String>,
}

/// The server. It ends when it is dropped.
pub(crate) struct GitServer {
    /// `http://127.0.0.1:PORT`.
    url: String,
    repositories: Arc<Repositories>,
    asked: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

/// What the routes have in common.
#[derive(Clone)]
struct Shared {
    repositories: Arc<Repositories>,
    asked: Arc<Mutex<Vec<String>>>,
    /// Whether archives hold one byte more than the commit that they are named by.
    wrong_archives: bool,
}

impl GitServer {
    pub(crate) async fn start() -> Self {
        Self::serving(false).await
    }

    /// A server whose archives are not those of their commits.
    pub(crate) async fn with_wrong_archives() -> Self {
        Self::serving(true).await
    }

    async fn serving(wrong_archives: bool) -> Self {
        // Its tree becomes a repository.
        let tree = installed().await.root;
        let repositories = tokio::task::spawn_blocking(move || Repositories::made(&tree)).await;
        let repositories = Arc::new(repositories.expect("no panic"));
        let asked = Arc::default();
        let shared = Shared {
            repositories: Arc::clone(&repositories),
            asked: Arc::clone(&asked),
            wrong_archives,
        };
        // Both live on beyond the test that starts them, where others use them too.
        let listener = RUNTIME.spawn(TcpListener::bind("127.0.0.1:0")).await;
        let listener = listener.expect("no panic").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = Router::new().fallback(answer).with_state(shared);
        let mut serving = JoinSet::new();
        serving.spawn_on(
            async move { axum::serve(listener, router).await.expect("it serves") },
            RUNTIME.handle(),
        );
        Self {
            url,
            repositories,
            asked,
            _serving: serving,
        }
    }

    /// ComfyUI's repository, for `COMFYUI_REPOSITORY`.
    pub(crate) fn comfyui(&self) -> String {
        format!("{}/Comfy-Org/ComfyUI", self.url)
    }

    /// The repository of a pack of custom nodes.
    pub(crate) fn pack(&self, name: &str) -> String {
        format!("{}/packs/{name}.git", self.url)
    }

    /// The commit of a release or a branch of `ComfyUI`, or of a pack by its name.
    pub(crate) fn commit(&self, repository: &str, reference: &str) -> &str {
        &self.repositories.commits[&format!("{repository} {reference}")]
    }

    /// The paths that were asked for so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

impl Repositories {
    /// Those of an earlier run, or new ones, ComfyUI's of this tree. Takes two or three seconds the first time.
    fn made(tree: &Path) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Another content is another folder; whoever runs the tests at the same time makes the same.
        let root = folder.join(format!("git-server-{}", node_registry::digest_of_packs()));
        let lock = File::create(root.with_extension("lock")).expect("a file");
        lock.lock().expect("a lock");
        let list = root.join("commits.json");
        if !list.is_file() {
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).expect("a folder");
            let mut commits = comfyui(&root.join("Comfy-Org/ComfyUI.git"), tree);
            for name in node_registry::PACKS {
                commits.append(&mut pack(&root.join(format!("packs/{name}.git")), name));
            }
            fs::write(&list, serde_json::to_vec(&commits).expect("JSON")).expect("a file");
        }
        let commits = serde_json::from_slice(&fs::read(&list).expect("a file")).expect("JSON");
        Self { root, commits }
    }
}

/// Makes ComfyUI's repository of the installed tree, without its bytecode.
fn comfyui(repository: &Path, tree: &Path) -> BTreeMap<String, String> {
    let git = Git::init(repository);
    git.add(tree);
    let first = git.commit("ComfyUI 0.30.0", None);
    git.run(&["tag", FIRST, &first]);
    let version = fs::read_to_string(tree.join("comfyui_version.py")).expect("a version");
    git.put("comfyui_version.py", &version.replace("0.30.0", "0.30.1"));
    let project = fs::read_to_string(tree.join("pyproject.toml")).expect("a file");
    git.put(
        "pyproject.toml",
        &project.replace("version = \"0.30.0\"", "version = \"0.30.1\""),
    );
    let requirements = fs::read_to_string(tree.join("requirements.txt")).expect("requirements");
    git.put("requirements.txt", &format!("{NEW_PACKAGE}>=0.5\n{requirements}"));
    let second = git.commit("ComfyUI 0.30.1", Some(&first));
    // As ComfyUI's are: a tag with a message is an object of its own.
    git.run(&["tag", "--annotate", "--message", "0.30.1", SECOND, &second]);
    git.run(&["update-ref", &format!("refs/heads/{BRANCH}"), &second]);
    git.put("requirements.txt", &format!("{NO_PACKAGE}==1.0\n{requirements}"));
    let broken = git.commit("ComfyUI 0.30.2", Some(&second));
    git.run(&["tag", BROKEN, &broken]);
    [
        (FIRST, first),
        (SECOND, second.clone()),
        (BRANCH, second),
        (BROKEN, broken),
    ]
    .map(|(reference, commit)| (format!("ComfyUI {reference}"), commit))
    .into()
}

/// Makes the repository of a pack, with one commit.
fn pack(repository: &Path, name: &str) -> BTreeMap<String, String> {
    let git = Git::init(repository);
    git.add(&node_registry::folder(name));
    let commit = git.commit(name, None);
    git.run(&["update-ref", &format!("refs/heads/{BRANCH}"), &commit]);
    [(format!("{name} {BRANCH}"), commit)].into()
}

/// Works on a bare repository.
struct Git<'a> {
    repository: &'a Path,
}

impl<'a> Git<'a> {
    fn init(repository: &'a Path) -> Self {
        fs::create_dir_all(repository).expect("a folder");
        let git = Self { repository };
        git.run(&["init", "--quiet", "--bare", "--initial-branch", BRANCH, "."]);
        // As the large hosts have it.
        git.run(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
        git.run(&["config", "uploadpack.allowFilter", "true"]);
        git
    }

    /// Puts all files of a folder into the index, but for Python's bytecode.
    fn add(&self, tree: &Path) {
        let tree = format!("--work-tree={}", tree.display());
        self.run(&[&tree, "add", "--force", "--", ".", ":(exclude,glob)**/__pycache__/**"]);
    }

    /// Puts one file into the index.
    fn put(&self, path: &str, content: &str) {
        let object = self.given(&["hash-object", "-w", "--stdin"], content);
        self.run(&[
            "update-index",
            "--add",
            "--cacheinfo",
            &format!("100644,{object},{path}"),
        ]);
    }

    /// Commits the index.
    fn commit(&self, message: &str, parent: Option<&str>) -> String {
        let tree = self.run(&["write-tree"]);
        let mut arguments = vec!["commit-tree", &tree, "-m", message];
        arguments.extend(parent.iter().flat_map(|parent| ["-p", parent]));
        self.run(&arguments)
    }

    fn run(&self, arguments: &[&str]) -> String {
        self.given(arguments, "")
    }

    /// What git prints when it is given a text.
    fn given(&self, arguments: &[&str], text: &str) -> String {
        let mut command = std::process::Command::new("git");
        // Always the same commits, whoever makes them.
        for (name, value) in [
            ("GIT_AUTHOR_NAME", "Tests"),
            ("GIT_AUTHOR_EMAIL", "tests@example.com"),
            ("GIT_AUTHOR_DATE", "2026-07-01T00:00:00Z"),
            ("GIT_COMMITTER_NAME", "Tests"),
            ("GIT_COMMITTER_EMAIL", "tests@example.com"),
            ("GIT_COMMITTER_DATE", "2026-07-01T00:00:00Z"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ] {
            command.env(name, value);
        }
        let git_dir = format!("--git-dir={}", self.repository.display());
        let is_init = arguments[0] == "init";
        command.args((!is_init).then_some(git_dir));
        command.args(arguments).current_dir(self.repository);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .expect("git; install it with: sudo apt-get install -y git");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(text.as_bytes()).expect("git reads");
        drop(input);
        let done = child.wait_with_output().expect("git ends");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "git {arguments:?}: {said}");
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }
}

/// Every request.
async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    shared.asked.lock().expect("no panic").push(path.clone());
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts[..] {
        // The large host sends who asks for one to another of its hosts.
        [owner, repository, "archive", file] if file.ends_with(".tar.gz") => {
            Redirect::temporary(&format!("/codeload/{owner}/{repository}/{file}")).into_response()
        }
        ["codeload", owner, repository, file] => {
            let commit = file.trim_end_matches(".tar.gz");
            archive(&shared, &bare(&shared, owner, repository), repository, commit).await
        }
        [owner, repository, ..] => {
            let inner = path.splitn(4, '/').nth(3).unwrap_or_default();
            let project = bare(&shared, owner, repository);
            backend(&project, inner, request).await
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The folder of a repository, which may be asked for with or without its `.git`.
fn bare(shared: &Shared, owner: &str, repository: &str) -> PathBuf {
    let name = repository.trim_end_matches(".git");
    shared.repositories.root.join(owner).join(format!("{name}.git"))
}

/// The archive of a commit; its folder is named as the large host names it.
async fn archive(shared: &Shared, project: &Path, repository: &str, commit: &str) -> Response {
    let prefix = format!("--prefix={}-{commit}/", repository.trim_end_matches(".git"));
    let mut git = tokio::process::Command::new("git");
    git.arg("--git-dir").arg(project);
    // git itself adds a file that the commit does not have.
    let more = shared.wrong_archives.then(|| {
        format!(
            "--add-virtual-file={}-{commit}/nodes_more.py:import os",
            repository.trim_end_matches(".git")
        )
    });
    git.args(["archive", "--format=tar.gz", &prefix]).args(more).arg(commit);
    let done = git.output().await.expect("git");
    if !done.status.success() {
        return StatusCode::NOT_FOUND.into_response();
    }
    done.stdout.into_response()
}

/// What `git http-backend` says to a request; `inner` is the path in the repository.
async fn backend(project: &Path, inner: &str, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
    let header = |name: &str| {
        head.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let mut git = tokio::process::Command::new("git");
    git.arg("http-backend")
        .env("GIT_PROJECT_ROOT", project)
        .env("PATH_INFO", format!("/{inner}"))
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", head.method.as_str())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child = git.spawn().expect("git");
    let mut input = child.stdin.take().expect("piped");
    // It does not read on where it has seen a mistake.
    let given = tokio::spawn(async move { input.write_all(&body).await });
    let done = child.wait_with_output().await.expect("git ends");
    given.await.expect("no panic").ok();
    cgi(done.stdout)
}

/// An answer as CGI has it: headers, an empty line, the body.
fn cgi(output: Vec<u8>) -> Response {
    let Some(end) = output.windows(4).position(|part| part == b"\r\n\r\n") else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").expect("a header");
        response = match name {
            "Status" => response.status(value.split(' ').next().expect("a status")),
            _ => response.header(name, value),
        };
    }
    let body = Bytes::from(output).slice(end + 4..);
    response.body(Body::from(body)).expect("an answer")
}
