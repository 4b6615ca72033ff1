//! Both ways, with git and without, against a real git server on a real socket.

mod trust;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::testing::{Manners, Repository, Server};
use super::*;
use crate::comfy::install::Pins;
use crate::telemetry::report::{Meter, Reporter, SilentReporter, Unit};

/// Keeps what is said.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Reporter for Notes {
    fn begin(&self, title: &str, total: Option<u64>, unit: Unit) -> Box<dyn Meter> {
        SilentReporter.begin(title, total, unit)
    }

    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

/// A machine that fetches, with git or without.
struct Bench {
    temp: tempfile::TempDir,
    pins: Pins,
    notes: Notes,
    lock: fs::File,
    search_path: OsString,
}

impl Bench {
    fn new(with_git: bool) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let path = std::env::var_os("PATH").unwrap();
        fs::create_dir(temp.path().join("work")).unwrap();
        Self {
            pins: Pins::default(),
            notes: Notes::default(),
            lock: fs::File::create(temp.path().join("lock")).unwrap(),
            search_path: if with_git { path } else { OsString::new() },
            temp,
        }
    }

    /// A git that begins with lines of a shell.
    fn with_git(self, lines: &str) -> Self {
        let bin = self.temp.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let real = crate::comfy::install::python::all_on_path("git", &self.search_path);
        let real = real
            .first()
            .expect("these tests need git: install it (apt install git)");
        let script = format!("#!/bin/sh\n{lines}\nexec {} \"$@\"\n", real.display());
        fs::write(bin.join("git"), script).unwrap();
        fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut search_path = bin.into_os_string();
        search_path.push(":");
        search_path.push(&self.search_path);
        Self { search_path, ..self }
    }

    /// A git whose user has these settings for all repositories.
    fn with_settings(self, repository: &Repository, settings: &[(&str, &str)]) -> Self {
        let config = self.temp.path().join("gitconfig");
        for (name, value) in settings {
            repository.git(&["config", "--file", config.to_str().unwrap(), name, value]);
        }
        // A test cannot change its own environment.
        self.with_git(&format!("export GIT_CONFIG_GLOBAL={}", config.display()))
    }

    fn target(&self) -> PathBuf {
        self.temp.path().join("out/tree")
    }

    /// What is in the target's folder.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.temp.path().join("out")).into_iter().flatten();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    async fn with<T>(&self, work: impl AsyncFnOnce(&Runner<'_>) -> T) -> T {
        let runner = Runner {
            pins: &self.pins,
            reporter: &self.notes,
            lock: &self.lock,
            dir: &self.temp.path().join("work"),
            cache: &self.temp.path().join("cache"),
            search_path: &self.search_path,
        };
        work(&runner).await
    }

    async fn resolve(&self, url: &str, reference: Option<&str>) -> Result<Commit, GitError> {
        self.with(async |runner| resolve(runner, url, reference).await).await
    }

    async fn checkout(&self, url: &str, commit: &str) -> Result<PathBuf, GitError> {
        let (target, commit) = (self.target(), commit.parse().unwrap());
        self.with(async |runner| checkout(runner, url, &commit, &target).await)
            .await
            .map(|()| target)
    }
}

/// A file, one that can be executed, one in a folder, a link, one with line ends that git could change.
fn filled() -> Repository {
    let repository = Repository::new();
    repository.write("main.py", "print()\n");
    repository.write("run.sh", "#!/bin/sh\n");
    fs::set_permissions(repository.path().join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    repository.write("a/b.py", "b\n");
    repository.write("a.py", "sorts between the folder and what is in it\n");
    repository.write("windows.bat", "rem\r\n");
    symlink("../main.py", repository.path().join("a/link.py")).unwrap();
    repository
}

fn is_whole(tree: &Path) {
    assert_eq!(fs::read_to_string(tree.join("main.py")).unwrap(), "print()\n");
    assert_eq!(fs::read_to_string(tree.join("a/link.py")).unwrap(), "print()\n");
    assert_eq!(fs::read_to_string(tree.join("windows.bat")).unwrap(), "rem\r\n");
    let mode = |name: &str| tree.join(name).metadata().unwrap().permissions().mode() & 0o100;
    assert_eq!((mode("run.sh"), mode("main.py")), (0o100, 0));
    assert!(!tree.join(".git").exists());
}

#[tokio::test]
async fn tags_branches_and_commits_are_resolved_both_ways() {
    let repository = filled();
    let first = repository.commit("first");
    repository.git(&["tag", "v0.1"]);
    repository.git(&["branch", "old"]);
    repository.write("main.py", "print(2)\n");
    let second = repository.commit("second");
    repository.git(&["tag", "--annotate", "--message=annotated", "v0.2"]);
    let server = Server::start(&repository, Manners::default(), &[]).await;
    for with_git in [true, false] {
        let bench = Bench::new(with_git);
        let upper = first.to_uppercase();
        for (reference, commit) in [
            (None, &second),
            (Some("v0.1"), &first),
            (Some("0.1"), &first),
            (Some("v0.2"), &second),
            (Some("main"), &second),
            (Some("old"), &first),
            (Some(upper.as_str()), &first),
        ] {
            let found = bench.resolve(&server.url, reference).await.unwrap();
            assert_eq!(found.as_str(), commit, "{reference:?}, git: {with_git}");
        }
        let found = bench
            .with(async |runner| tags(runner, &server.url).await)
            .await
            .unwrap();
        assert_eq!(found, ["v0.1", "v0.2"]);

        let error = bench.resolve(&server.url, Some("v0.3")).await.unwrap_err();
        assert!(error.to_string().contains("there is v0.2, v0.1"), "{error}");
        let error = bench.resolve(&server.url, Some(&first[..10])).await.unwrap_err();
        assert!(matches!(error, GitError::Abbreviated { .. }), "{error}");
        let left = fs::read_dir(bench.temp.path().join("work")).unwrap().count();
        assert_eq!(left, 0, "nothing is left of the question");
    }
}

#[tokio::test]
async fn a_commit_is_checked_out_both_ways() {
    let repository = filled();
    let commit = repository.commit("first");
    repository.write("main.py", "print(2)\n");
    repository.commit("second");
    let server = Server::start(&repository, Manners::default(), &["uploadpack.allowFilter=true"]).await;
    for with_git in [true, false] {
        let bench = Bench::new(with_git);
        let tree = bench.checkout(&server.url, &commit).await.unwrap();
        is_whole(&tree);
        assert_eq!(bench.left(), ["tree"]);
        assert_eq!(
            tree::hash(&tree).unwrap(),
            repository.git(&["rev-parse", &format!("{commit}^{{tree}}")])
        );
        let again = bench.checkout(&server.url, &commit).await.unwrap_err();
        assert!(again.to_string().starts_with("cannot create"), "{again}");
        is_whole(&tree);
    }
}

#[tokio::test]
async fn a_repository_on_the_disk_needs_git() {
    let repository = filled();
    let commit = repository.commit("first");
    let url = repository.file_url();
    let bench = Bench::new(true);
    assert_eq!(bench.resolve(&url, Some("main")).await.unwrap().as_str(), commit);
    is_whole(&bench.checkout(&url, &commit).await.unwrap());

    let bench = Bench::new(false);
    for error in [
        bench.resolve(&url, Some("main")).await.unwrap_err(),
        bench.checkout(&url, &commit).await.unwrap_err(),
    ] {
        assert!(matches!(error, GitError::NeedsGit { .. }), "{error}");
        assert!(error.hint().contains("apt install git"));
    }
    assert_eq!(bench.left(), [""; 0]);
}

#[tokio::test]
async fn a_server_that_refuses_filters_gives_commits_all_the_same() {
    let repository = filled();
    let commit = repository.commit("first");
    let server = Server::start(&repository, Manners::default(), &["uploadpack.allowFilter=false"]).await;
    is_whole(&Bench::new(false).checkout(&server.url, &commit).await.unwrap());
}

#[tokio::test]
async fn an_old_server_gives_its_history_to_git_and_nothing_without() {
    let repository = filled();
    let commit = repository.commit("first");
    repository.write("main.py", "print(2)\n");
    repository.commit("second");
    let manners = Manners {
        is_old: true,
        ..Manners::default()
    };
    let server = Server::start(&repository, manners, &[]).await;
    let bench = Bench::new(true);
    is_whole(&bench.checkout(&server.url, &commit).await.unwrap());
    let notes = bench.notes.0.lock().unwrap().concat();
    assert!(notes.contains("fetching its whole history"), "{notes}");
    let absent = Bench::new(true)
        .checkout(&server.url, &"1".repeat(40))
        .await
        .unwrap_err();
    assert!(matches!(absent, GitError::CommitNotThere { .. }), "{absent}");

    let bench = Bench::new(false);
    assert!(bench.resolve(&server.url, Some("main")).await.is_ok());
    let error = bench.checkout(&server.url, &commit).await.unwrap_err();
    assert!(matches!(error, GitError::NeedsGit { .. }), "{error}");
}

#[tokio::test]
async fn files_left_out_of_archives_are_a_mismatch_without_git_and_there_with_it() {
    let repository = filled();
    repository.write(".gitattributes", "a export-ignore\n");
    let commit = repository.commit("first");
    let server = Server::start(&repository, Manners::default(), &[]).await;
    let error = Bench::new(false).checkout(&server.url, &commit).await.unwrap_err();
    assert!(matches!(error, GitError::HashMismatch { .. }), "{error}");
    is_whole(&Bench::new(true).checkout(&server.url, &commit).await.unwrap());
}

#[tokio::test]
async fn a_host_without_archives_or_a_repository_that_is_not_there_is_told() {
    let repository = filled();
    let commit = repository.commit("first");
    let manners = Manners {
        no_archives: true,
        ..Manners::default()
    };
    let server = Server::start(&repository, manners, &[]).await;
    let error = Bench::new(false).checkout(&server.url, &commit).await.unwrap_err();
    assert!(matches!(error, GitError::NeedsGit { .. }), "{error}");

    let elsewhere = server.url.replace("/team/", "/other/");
    for with_git in [true, false] {
        let bench = Bench::new(with_git);
        for error in [
            bench.resolve(&elsewhere, None).await.unwrap_err(),
            bench.checkout(&elsewhere, &commit).await.unwrap_err(),
        ] {
            assert!(matches!(error, GitError::NotFound { .. }), "git: {with_git}: {error}");
        }
        let absent = bench.checkout(&server.url, &"1".repeat(40)).await.unwrap_err();
        assert!(
            matches!(absent, GitError::CommitNotThere { .. }),
            "git: {with_git}: {absent}"
        );
        assert_eq!(bench.left(), [""; 0]);

        // Port 9 is kept for what throws all away, and nothing listens there.
        let nobody = bench.resolve("http://127.0.0.1:9/a/b", None).await.unwrap_err();
        assert!(
            matches!(nobody, GitError::Unreachable { .. }),
            "git: {with_git}: {nobody}"
        );
        assert!(nobody.may_pass());
    }
    let error = Bench::new(true).resolve("file:///not/there", None).await.unwrap_err();
    assert!(matches!(error, GitError::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn a_checkout_that_is_stopped_leaves_no_target_and_the_next_one_cleans_up() {
    let repository = filled();
    let commit = repository.commit("first");
    let stalled = Arc::new(Notify::new());
    let manners = Manners {
        stalls: Some(stalled.clone()),
        ..Manners::default()
    };
    let server = Server::start(&repository, manners, &[]).await;
    let bench = Bench::new(false);
    tokio::select! {
        done = bench.checkout(&server.url, &commit) => panic!("half an archive will do: {done:?}"),
        () = stalled.notified() => {}
    }
    assert_eq!(bench.left(), [""; 0]);

    // As a process that was killed leaves it.
    let out = bench.temp.path().join("out");
    for folder in [
        ".tree.Ab12Cd.part/repository",
        ".tree.Ab12Cd.part/tree",
        ".tree.b.Ab12Cd.part",
    ] {
        fs::create_dir_all(out.join(folder)).unwrap();
    }
    fs::write(out.join(".tree.Ab12Cd.part/tree/main.py"), "half").unwrap();
    assert!(!bench.target().exists());
    let bench = Bench {
        search_path: std::env::var_os("PATH").unwrap(),
        ..bench
    };
    is_whole(&bench.checkout(&server.url, &commit).await.unwrap());
    let mut left = bench.left();
    left.sort();
    assert_eq!(left, [".tree.b.Ab12Cd.part", "tree"], "another target's is not ours");
}

#[tokio::test]
async fn a_git_that_is_killed_while_it_writes_leaves_nothing() {
    let repository = filled();
    let commit = repository.commit("first");
    let bench = Bench::new(true).with_git("case \"$*\" in *--work-tree*) echo half > main.py; kill -9 $$;; esac");
    let error = bench.checkout(&repository.file_url(), &commit).await.unwrap_err();
    assert!(matches!(error, GitError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("signal: 9"), "{error}");
    assert_eq!(bench.left(), [""; 0]);
}

#[tokio::test]
async fn a_repository_that_has_moved_is_followed_both_ways() {
    let repository = filled();
    let commit = repository.commit("first");
    let server = Server::start(&repository, Manners::default(), &[]).await;
    let moved = server.url.replace("/team/", "/moved/");
    for with_git in [true, false] {
        let bench = Bench::new(with_git);
        assert_eq!(bench.resolve(&moved, Some("main")).await.unwrap().as_str(), commit);
        is_whole(&bench.checkout(&moved, &commit).await.unwrap());
    }
}
