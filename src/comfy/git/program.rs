//! The git program.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::address::Address;
use super::error::io;
use super::refs::Refs;
use super::words::meaning;
use super::{Commit, GitError};
use crate::comfy::install::python::all_on_path;
use crate::comfy::install::{Event, InstallError, Runner};
use crate::disk::blocking;
use crate::telemetry::report::Unit;

/// How long a server may take to list its references, or git to do something that needs no network.
const QUESTION: Duration = Duration::from_mins(2);

/// How long a commit may take to come.
const FETCH: Duration = Duration::from_hours(1);

/// Variables that would have git work in another repository than ours. A worker that was started by a hook has them.
const UNWANTED: &str = "GIT_ALTERNATE_OBJECT_DIRECTORIES GIT_ATTR_SOURCE GIT_COMMON_DIR GIT_CONFIG GIT_DIR GIT_GRAFT_FILE \
                        GIT_IMPLICIT_WORK_TREE GIT_INDEX_FILE GIT_NAMESPACE GIT_OBJECT_DIRECTORY GIT_PREFIX \
                        GIT_QUARANTINE_PATH GIT_REPLACE_REF_BASE GIT_SHALLOW_FILE GIT_TEMPLATE_DIR GIT_WORK_TREE GIT_EXTERNAL_DIFF \
                        GIT_TRACE GIT_TRACE_PACKET GIT_TRACE_CURL GIT_CURL_VERBOSE";

/// What its user's configuration must not change. All else in it stays: proxies, certificates, helpers that know
/// passwords, other addresses for hosts.
const SETTINGS: [&str; 22] = [
    // Nothing but git runs.
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "gc.auto=0",
    "maintenance.auto=false",
    // Files are as they are in the commit.
    "core.autocrlf=false",
    "core.sparseCheckout=false",
    "core.symlinks=true",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    // Objects are well-formed, but for what old programs wrote and does no harm.
    "fetch.fsckObjects=true",
    "fetch.fsck.zeroPaddedFilemode=ignore",
    "fetch.fsck.missingSpaceBeforeDate=ignore",
    "fetch.fsck.missingNameBeforeEmail=ignore",
    "fetch.fsck.missingEmail=ignore",
    "fetch.fsck.badEmail=ignore",
    "fetch.fsck.badTimezone=ignore",
    "fetch.fsck.zeroPaddedDate=ignore",
    // The size of one file tells how much has come.
    "fetch.unpackLimit=1",
    // A server that is silent for a minute is given up.
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=60",
    "http.followRedirects=initial",
];

/// The strongest attributes there are: a file is written as it is in the commit, and no filter of the user's, such as
/// that of git LFS, runs because the repository says so.
const ATTRIBUTES: &str = "* -text -ident !filter !working-tree-encoding\n";

/// The name that a repository's address has in ours: not `origin`, for which people have settings.
const REMOTE: &str = "wanted";

/// git says so when an old server gives nothing but the tips of its references.
const NOT_SINGLY: &str = "does not allow request for unadvertised object";

/// How much of what was fetched is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    /// That each object has its hash, and the form that it should have.
    Strict,
    /// That each object has its hash.
    HashesOnly,
}

/// The git program of a machine that has one.
pub(super) struct Git<'a> {
    runner: &'a Runner<'a>,
    program: PathBuf,
}

impl<'a> Git<'a> {
    /// The first on the runner's search path that runs.
    pub(super) async fn find(runner: &'a Runner<'a>) -> Option<Self> {
        for program in all_on_path("git", runner.search_path) {
            let git = Self { runner, program };
            let mut command = git.command(Path::new("none"));
            command.arg("--version");
            if matches!(
                git.run("ask git for its version", command, QUESTION, |_| {}).await,
                Ok(Ok(_))
            ) {
                return Some(git);
            }
        }
        None
    }

    /// What the server says of its branches and tags, and of the reference `wanted`, if that is a full name.
    pub(super) async fn refs(&self, address: &Address, wanted: Option<&str>) -> Result<Refs, GitError> {
        let folder = tempfile::tempdir_in(self.runner.dir).map_err(io("create a folder in", self.runner.dir))?;
        let repository = self.repository(address, folder.path()).await?;
        let mut command = self.command(&repository);
        command.args(["ls-remote", REMOTE, "HEAD", "refs/heads/*", "refs/tags/*"]);
        command.args(wanted.filter(|name| name.starts_with("refs/")));
        let step = "list the references of the repository";
        let lines = self.run(step, command, QUESTION, |_| {}).await?;
        let lines = lines.map_err(|output| meaning(step, address, None, &output))?;
        let mut refs = Refs::default();
        for line in lines {
            if let Some((commit, name)) = line.split_once('\t')
                && let Ok(commit) = commit.parse()
            {
                refs.add(name, commit);
            }
        }
        Ok(refs)
    }

    /// Fetches `commit` and writes its files to a folder in `partial`, which it names.
    pub(super) async fn checkout(
        &self,
        address: &Address,
        commit: &Commit,
        partial: &Path,
    ) -> Result<PathBuf, GitError> {
        let repository = self.repository(address, partial).await?;
        self.fetch(address, commit, &repository).await?;
        let tree = partial.join("tree");
        std::fs::create_dir(&tree).map_err(io("create", &tree))?;
        let step = "check out the commit";
        let mut command = self.command(&repository);
        command.current_dir(&tree).arg("--work-tree").arg(&tree).args([
            "checkout",
            "--quiet",
            "--force",
            "--detach",
            commit.as_str(),
        ]);
        let done = self.run(step, command, FETCH, |_| {}).await?;
        done.map_err(|output| meaning(step, address, Some(commit), &output))?;
        Ok(tree)
    }

    /// A new, bare repository in `folder`, which knows the address: on a command line everybody could read the password,
    /// and so could the log.
    async fn repository(&self, address: &Address, folder: &Path) -> Result<PathBuf, GitError> {
        let repository = folder.join("repository");
        let step = "make a git repository";
        let mut command = self.command(&repository);
        command.args(["init", "--quiet", "--bare", "--template="]);
        let done = self.run(step, command, QUESTION, |_| {}).await?;
        done.map_err(|output| meaning(step, address, None, &output))?;

        let value = address.secret().replace('\\', "\\\\").replace('"', "\\\"");
        let remote = format!("[remote \"{REMOTE}\"]\n\turl = \"{value}\"\n");
        let made = repository.clone();
        blocking(move || {
            let config = made.join("config");
            let mut text = std::fs::read_to_string(&config).map_err(io("read", &config))?;
            text.push_str(&remote);
            // For our user alone.
            crate::disk::write_atomically(&config, |file| std::io::Write::write_all(file, text.as_bytes()))
                .map_err(io("write", &config))?;
            let info = made.join("info");
            std::fs::create_dir_all(&info).map_err(io("create", &info))?;
            let attributes = info.join("attributes");
            std::fs::write(&attributes, ATTRIBUTES).map_err(io("write", &attributes))
        })
        .await?;
        Ok(repository)
    }

    async fn fetch(&self, address: &Address, commit: &Commit, repository: &Path) -> Result<(), GitError> {
        let singly = ["--depth=1", REMOTE, commit.as_str()];
        match self.fetch_some(address, repository, Check::Strict, &singly).await? {
            Ok(()) => {}
            Err(output) if output.contains(NOT_SINGLY) => {
                self.runner.reporter.note(&format!(
                    "{address} does not give single commits; fetching its whole history"
                ));
                // Nobody wrote all of an old history with today's care, and none of it is written to files.
                let everything = [
                    REMOTE,
                    "+refs/heads/*:refs/remotes/wanted/*",
                    "+refs/tags/*:refs/tags/*",
                ];
                let fetched = self
                    .fetch_some(address, repository, Check::HashesOnly, &everything)
                    .await?;
                fetched.map_err(|output| meaning("fetch the history", address, Some(commit), &output))?;
            }
            Err(output) => return Err(meaning("fetch the commit", address, Some(commit), &output)),
        }
        // The name may be that of a tag or tree; and a whole history may do without it.
        let mut command = self.command(repository);
        command
            .args(["rev-parse", "--quiet", "--verify"])
            .arg(format!("{commit}^{{commit}}"));
        let found = self.run("look for the commit", command, QUESTION, |_| {}).await?;
        if found.is_ok_and(|lines| lines.iter().any(|line| line == commit.as_str())) {
            return Ok(());
        }
        Err(GitError::CommitNotThere {
            repository: address.to_string(),
            commit: commit.clone(),
        })
    }

    /// Fetches `what`; the inner error is the last lines of git.
    async fn fetch_some(
        &self,
        address: &Address,
        repository: &Path,
        check: Check,
        what: &[&str],
    ) -> Result<Result<(), String>, GitError> {
        let mut command = self.command(repository);
        if check == Check::HashesOnly {
            command.args(["-c", "fetch.fsckObjects=false"]);
        }
        command.args(["fetch", "--no-tags", "--progress"]).args(what);
        let title = format!("git: {}", crate::echo::cut(&address.to_string()));
        let mut meter = self.runner.reporter.begin(&title, None, Unit::Bytes);
        let packs = repository.join("objects/pack");
        let done = self
            .run("fetch the commit", command, FETCH, |event| match event {
                Event::Line(line) => meter.detail(line.trim()),
                Event::Written(_) => meter.position(size(&packs)),
            })
            .await?;
        Ok(done.map(|_| meter.finish("fetched")))
    }

    /// A command for the repository that reads none of another's settings, asks nobody anything, and speaks English.
    fn command(&self, repository: &Path) -> Command {
        let mut command = self.runner.command(&self.program);
        for name in UNWANTED.split_whitespace() {
            command.env_remove(name);
        }
        command
            .env("LC_ALL", "C")
            .env("GIT_ALLOW_PROTOCOL", "file:git:http:https:ssh")
            .env("GIT_DEFAULT_HASH", "sha1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GCM_INTERACTIVE", "never")
            // ssh would wait for an answer at the terminal, which we are not at. A program that knows answers may be set.
            .env("SSH_ASKPASS_REQUIRE", "force");
        if std::env::var_os("SSH_ASKPASS").is_none() {
            command.env("SSH_ASKPASS", "false");
        }
        command.arg("--git-dir").arg(repository);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command
    }

    /// Runs git; the inner error is its last lines.
    async fn run(
        &self,
        step: &'static str,
        command: Command,
        limit: Duration,
        on_event: impl FnMut(Event<'_>) + Send,
    ) -> Result<Result<Vec<String>, String>, GitError> {
        let run = self.runner.run(step, command, on_event);
        let Ok(result) = tokio::time::timeout(limit, run).await else {
            return Ok(Err(format!("fatal: operation timed out after {} s", limit.as_secs())));
        };
        match result {
            Ok(lines) => Ok(Ok(lines)),
            Err(InstallError::DiskFull { step, output }) => Err(GitError::DiskFull { step, output }),
            // It had no time for a word.
            Err(InstallError::Failed { output, status, .. }) if output.is_empty() => Ok(Err(status)),
            Err(
                InstallError::Network { output, .. }
                | InstallError::HashMismatch { output, .. }
                | InstallError::Failed { output, .. },
            ) => Ok(Err(output)),
            Err(InstallError::Spawn { program, source, .. }) => Err(io("start", &program)(source)),
            Err(InstallError::Io { action, path, source }) => Err(GitError::Io { action, path, source }),
            Err(other) => Ok(Err(other.to_string())),
        }
    }
}

/// The bytes of the files in a folder.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}
