//! Other versions of ComfyUI: from a git server on loopback, with real packages, installed, started, and left again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::process::Command;

use crate::support::binary::{Served, binary};
use crate::support::clients::{path_with_uv, uv_alone};
use crate::support::git_server::{BROKEN, FIRST, GitServer, NEW_PACKAGE, NO_PACKAGE, SECOND};
use crate::support::{PATIENCE, fresh_data, install_dir, installed, until};

/// A worker that installs its ComfyUI from a server, in a folder of its own.
struct Place {
    _data: TempDir,
    installations: TempDir,
    vars: BTreeMap<String, String>,
}

impl Place {
    async fn new(repository: String) -> Self {
        // From then on the packages are in uv's cache.
        installed().await;
        let (data, mut vars) = fresh_data();
        // On the disk of uv's cache, from which it links.
        let beside = install_dir().join("..");
        let installations = tempfile::tempdir_in(beside).expect("a folder");
        let folder = installations.path().canonicalize().expect("a folder");
        vars.insert("COMFYUI_INSTALL_DIR".into(), folder.display().to_string());
        vars.insert("COMFYUI_REPOSITORY".into(), repository);
        vars.insert("PATH".into(), path_with_uv().await);
        Self {
            _data: data,
            installations,
            vars,
        }
    }

    fn version(&mut self, version: &str) {
        self.vars.insert("COMFYUI_VERSION".into(), version.into());
    }

    /// A command that comes to its end: its exit code, and all that it said.
    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let done = binary(&self.vars).args(arguments).output();
        let done = tokio::time::timeout(PATIENCE, done).await.expect("in time");
        let done = done.expect("the binary runs");
        let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (done.status.code(), said.concat())
    }

    /// `setup`, which succeeds; gives its log.
    async fn set_up(&self) -> String {
        let (code, said) = self.run(&["setup"]).await;
        assert_eq!(code, Some(0), "{said}");
        said
    }

    /// `setup`, which fails; gives the error.
    async fn fails(&self) -> String {
        let (code, said) = self.run(&["setup"]).await;
        assert_eq!(code, Some(1), "{said}");
        let error = said.split("error: ").last().expect("an error");
        error.to_owned()
    }

    /// Starts `setup` and kills it with `kill -9` once an installation holds the path.
    async fn kill_once_there(&self, path: &str) {
        let mut setup = binary(&self.vars).arg("setup").spawn().expect("the binary runs");
        until(path, async || {
            assert!(
                setup.try_wait().expect("a process").is_none(),
                "it ended before there was {path}"
            );
            self.found(path).is_some()
        })
        .await;
        setup.kill().await.expect("it runs");
        assert_eq!(self.found("installed.json"), None, "it was done before it was killed");
    }

    /// The path of something in one of the installations; `*` stands for any name.
    fn found(&self, path: &str) -> Option<PathBuf> {
        let mut folders = vec![self.installations.path().to_owned()];
        for part in ["*"].into_iter().chain(path.split('/')) {
            let inner = |folder: &PathBuf| match part {
                "*" => entries(folder),
                name => vec![folder.join(name)],
            };
            folders = folders.iter().flat_map(inner).filter(|path| path.exists()).collect();
        }
        folders.pop()
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[tokio::test]
async fn a_release_is_installed_through_kills_and_run_and_going_back_needs_no_network() {
    let server = GitServer::start().await;
    let mut place = Place::new(server.comfyui()).await;
    place.version(FIRST);
    for moment in ["ComfyUI/main.py", "venv/lib/*/site-packages/torch/__init__.py"] {
        place.kill_once_there(moment).await;
    }
    place.set_up().await;
    assert!(place.found("installed.json").is_some());

    place.version(SECOND);
    let mut worker = Served::start(&place.vars).await;
    worker.comfy_pid().await;
    let health = worker.ask("/health").await.body;
    let told = health["comfyui"].to_string();
    let commit = server.commit("ComfyUI", SECOND);
    assert!(told.contains("0.30.1") && told.contains(commit), "{health:#}");
    assert!(
        place
            .found(&format!("venv/lib/*/site-packages/{NEW_PACKAGE}"))
            .is_some()
    );
    let job = include_str!("../../test_input.json").to_owned();
    let answer = worker.send(reqwest::Method::POST, "/runsync", job).await.completed();
    assert_eq!(answer.images().len(), 1, "{:#}", answer.body);
    worker.terminate();
    assert_eq!(worker.exit_code().await, Some(0));

    // Nobody listens there any more, nor is there an index of packages.
    drop(server);
    for name in ["UV_DEFAULT_INDEX", "PIP_INDEX_URL"] {
        place.vars.insert(name.into(), "http://127.0.0.1:9/simple".into());
    }
    for version in [FIRST, SECOND] {
        place.version(version);
        let said = place.set_up().await;
        assert!(
            !said.contains("Python packages"),
            "{version} is installed again: {said}"
        );
    }
    let (_, said) = place.run(&["check"]).await;
    assert!(said.contains("0.30.1"), "{said}");

    let (code, said) = place.run(&["setup", "--prune"]).await;
    assert_eq!(code, Some(0), "{said}");
    let left = entries(place.installations.path());
    let left: Vec<_> = left
        .iter()
        .filter(|path| path.join("installed.json").is_file())
        .collect();
    assert_eq!(left.len(), 1, "{said}");
    let version = std::fs::read_to_string(left[0].join("ComfyUI/comfyui_version.py")).expect("a version");
    assert!(version.contains("0.30.1"), "the one in force stays: {version}");
}

#[tokio::test]
async fn what_cannot_be_installed_is_told_with_its_name() {
    let server = GitServer::start().await;
    let mut place = Place::new(server.comfyui()).await;
    place.version("v9.9.9");
    let error = place.fails().await;
    assert!(error.contains("v9.9.9") && error.contains("COMFYUI_VERSION"), "{error}");

    place.version(&"0123456789abcdef".repeat(3)[..40]);
    let error = place.fails().await;
    assert!(error.contains("0123456789abcdef"), "{error}");

    place.version(BROKEN);
    let error = place.fails().await;
    assert!(error.contains(NO_PACKAGE), "{error}");

    place.version(SECOND);
    let nobody = "http://me:s3cret@127.0.0.1:9/ComfyUI";
    place.vars.insert("COMFYUI_REPOSITORY".into(), nobody.into());
    let error = place.fails().await;
    assert!(error.contains("127.0.0.1:9") && !error.contains("s3cret"), "{error}");
}

/// A folder for `PATH` that has Python alone, no git.
async fn python_alone() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let program = "import sys; print(sys.executable)";
    let python = Command::new("python3")
        .args(["-c", program])
        .output()
        .await
        .expect("Python");
    let python = String::from_utf8(python.stdout).expect("UTF-8");
    std::os::unix::fs::symlink(python.trim(), folder.path().join("python3")).expect("a link");
    folder
}

#[tokio::test]
async fn without_git_an_archive_with_other_files_is_refused() {
    let server = GitServer::with_wrong_archives().await;
    let mut place = Place::new(server.comfyui()).await;
    let folder = python_alone().await;
    let path = format!("{}:{}", folder.path().display(), uv_alone().await.display());
    place.vars.insert("PATH".into(), path);
    place.version(SECOND);
    let error = place.fails().await;
    let commit = server.commit("ComfyUI", SECOND);
    assert!(error.contains(commit), "{error}");
    assert!(
        server.asked().iter().any(|path| path.starts_with("/codeload/")),
        "{:?}",
        server.asked()
    );
    assert_eq!(place.found("ComfyUI/main.py"), None, "files of it were kept");
}

#[tokio::test]
async fn the_git_server_is_one_for_git_itself() {
    let server = GitServer::start().await;
    let mut git = Command::new("git");
    let listed = git.args(["ls-remote", "--tags", &server.comfyui()]).output().await;
    let listed = String::from_utf8(listed.expect("git").stdout).expect("UTF-8");
    assert!(listed.contains(FIRST) && listed.contains(SECOND), "{listed}");
    let folder = tempfile::tempdir().expect("a folder");
    let script = format!(
        "git init -q . && git fetch -q --depth=1 {} {} && git checkout -q FETCH_HEAD && cat comfyui_version.py",
        server.comfyui(),
        server.commit("ComfyUI", SECOND),
    );
    let shell = Command::new("sh")
        .args(["-c", &script])
        .current_dir(&folder)
        .output()
        .await;
    let shell = shell.expect("sh");
    assert!(String::from_utf8_lossy(&shell.stdout).contains("0.30.1"), "{shell:?}");
}
