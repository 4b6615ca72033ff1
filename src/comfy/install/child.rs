//! Runs one program of an installation: quietly, in a process group of its own, its last output lines kept.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use process_wrap::tokio::{ChildWrapper, CommandWrap, ProcessGroup};
use tokio::process::Command;
use tokio::sync::mpsc;

use super::error::{InstallError, io};
use super::pins::Pins;
use crate::comfy::process::environment::passes;
use crate::comfy::process::read_lines;
use crate::telemetry::report::Reporter;

/// How many of a program's last lines an error shows.
const LAST_LINES: usize = 12;

/// How often the amount of written data is looked at.
const TICK: Duration = Duration::from_millis(500);

/// Variables of the user's that would lead pip, uv or Python away from what we ask of them.
const UNWANTED: &str = "PYTHONHOME PYTHONPATH VIRTUAL_ENV CONDA_PREFIX PIP_USER PIP_TARGET PIP_PREFIX \
                        PIP_REQUIRE_HASHES FORCE_COLOR CLICOLOR_FORCE";

/// What a running program has to say.
pub(in crate::comfy) enum Event<'a> {
    /// A line of its output, from either stream, without colours and without anybody's password.
    Line(&'a str),
    /// How many bytes it has written to files so far; only where the system tells.
    Written(u64),
}

/// What every step of one installation has in common.
pub(in crate::comfy) struct Runner<'a> {
    /// What is installed.
    pub(in crate::comfy) pins: &'a Pins,
    /// Who is told how far it is.
    pub(in crate::comfy) reporter: &'a dyn Reporter,
    /// The lock, which programs inherit: see [`super::lock()`].
    pub(in crate::comfy) lock: &'a File,
    /// Where they run, and may leave temporary files; only there while it is installed.
    pub(in crate::comfy) dir: &'a Path,
    /// A cache for uv, where its own is of no use.
    pub(in crate::comfy) cache: &'a Path,
    /// Where programs are looked for.
    pub(in crate::comfy) search_path: &'a std::ffi::OsStr,
}

impl Runner<'_> {
    /// A command that shows no progress bars, asks no questions, and keeps its temporary files with us.
    pub(in crate::comfy) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.dir)
            .env("PATH", self.search_path)
            .env("TMPDIR", self.dir)
            .env("NO_COLOR", "1")
            .env("PYTHONUNBUFFERED", "1")
            .env("PIP_NO_INPUT", "1")
            .env("PIP_PROGRESS_BAR", "off")
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("UV_NO_PROGRESS", "1");
        for name in UNWANTED.split_whitespace() {
            command.env_remove(name);
        }
        command
    }

    /// Keeps from a command what of the worker's environment is no business of code that others wrote, its keys above all. What
    /// was set for the command stays, as does what ComfyUI gets too and what `more` names, a `*` at the end for any rest.
    pub(in crate::comfy) fn confine(command: &mut Command, more: &[&str]) {
        let more: Vec<String> = more.iter().map(|&name| name.to_owned()).collect();
        let ours: Vec<_> = command
            .as_std()
            .get_envs()
            .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
            .collect();
        command.env_clear();
        command.envs(std::env::vars_os().filter(|(name, _)| passes(name, &more)));
        for (name, value) in ours {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
    }

    /// Writes a requirement list where pip and uv can read it.
    pub(in crate::comfy) fn list(&self, name: &str, content: &str) -> Result<PathBuf, InstallError> {
        let path = self.dir.join(name);
        std::fs::write(&path, content).map_err(io("write", &path))?;
        Ok(path)
    }

    /// Runs `command` to its end and returns all that it printed. `step` says what it is for, as in "cannot {step}".
    /// Nothing of its process group outlives that, nor this future.
    pub(in crate::comfy) async fn run(
        &self,
        step: &'static str,
        mut command: Command,
        mut on_event: impl FnMut(Event<'_>) + Send,
    ) -> Result<Vec<String>, InstallError> {
        let stdin = self.lock.try_clone().map_err(io("share the lock of", self.dir))?;
        command
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let program = PathBuf::from(command.as_std().get_program());
        // Without its environment, where passwords of indexes are.
        let arguments: Vec<_> = command.as_std().get_args().collect();
        tracing::debug!(step, program = %program.display(), ?arguments, "running");
        let spawned = CommandWrap::from(command).wrap(ProcessGroup::leader()).spawn();
        let mut group = Group(spawned.map_err(|source| InstallError::Spawn {
            step,
            program: program.clone(),
            source,
        })?);

        let (sender, mut lines) = mpsc::unbounded_channel();
        let send = move |line: String| drop(sender.send(star_passwords(&line)));
        if let Some(stdout) = group.0.stdout().take() {
            tokio::spawn(read_lines(stdout, send.clone()));
        }
        if let Some(stderr) = group.0.stderr().take() {
            tokio::spawn(read_lines(stderr, send));
        }

        let mut output = Vec::new();
        let mut tick = tokio::time::interval(TICK);
        let status = loop {
            tokio::select! {
                Some(line) = lines.recv() => {
                    tracing::debug!(step, "{line}");
                    on_event(Event::Line(&line));
                    output.push(line);
                }
                _ = tick.tick() => {
                    if let Some(bytes) = group.0.id().and_then(written_bytes) {
                        on_event(Event::Written(bytes));
                    }
                }
                // Not the wrapper's own `wait`, which waits for the whole group.
                status = group.0.inner_mut().wait() => break status.map_err(io("wait for", program))?,
            }
        };
        // What is still in the pipes. Not for long: something that the program left behind may hold them open.
        while let Ok(Some(line)) = tokio::time::timeout(TICK, lines.recv()).await {
            on_event(Event::Line(&line));
            output.push(line);
        }
        if status.success() {
            return Ok(output);
        }
        Err(failure(step, status.to_string(), &output))
    }
}

/// A program with its process group, which is killed when this is dropped.
struct Group(Box<dyn ChildWrapper>);

impl Drop for Group {
    fn drop(&mut self) {
        // It fails when nobody is left in the group, which is what we want.
        let _ = self.0.start_kill();
    }
}

/// What the process `id` has written to files and pipes, in bytes. Linux only.
fn written_bytes(id: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/io")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("wchar:"))?;
    line.trim().parse().ok()
}

/// Replaces the user part of each URL by stars: `https://name:word@host/` becomes `https://****@host/`.
pub(in crate::comfy) fn star_passwords(line: &str) -> String {
    let mut starred = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        starred.push_str(head);
        let end = tail
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '\'' | '"' | '<' | '>' | '`'))
            .unwrap_or(tail.len());
        match tail[..end].rfind('@') {
            Some(user_end) => {
                starred.push_str("****");
                rest = &tail[user_end..];
            }
            None => rest = tail,
        }
    }
    starred.push_str(rest);
    starred
}

/// What a program's failure means, by its output. The phrases are pip's, uv's, and the C library's.
fn failure(step: &'static str, status: String, lines: &[String]) -> InstallError {
    // pip says the same five times, and then what came of it.
    let says_more = |line: &&str| !line.trim().is_empty() && !line.starts_with("WARNING: Retrying (Retry(total=");
    let said: Vec<&str> = lines.iter().map(String::as_str).filter(says_more).collect();
    let output = said[said.len().saturating_sub(LAST_LINES)..].join("\n");
    let all = lines.join("\n").to_lowercase();
    // A build that failed is no network that did.
    let all = all.replace("failed to download and build", "failed to build");
    let any = |phrases: &[&str]| phrases.iter().any(|phrase| all.contains(phrase));
    if any(&["no space left on device", "os error 28", "disk quota exceeded"]) {
        InstallError::DiskFull { step, output }
    } else if any(&["no solution found when resolving"]) {
        InstallError::NoSolution { output }
    } else if any(&["hash mismatch", "do not match the hashes"]) {
        InstallError::HashMismatch { step, output }
    } else if any(&[
        "error sending request",
        "dns error",
        "tcp connect error",
        "failed to establish a new connection",
        "newconnectionerror",
        "name resolution",
        "name or service not known",
        "network is unreachable",
        "connection refused",
        "connection reset",
        "connection broken",
        "operation timed out",
        "read timed out",
        "connecttimeout",
        "failed to download",
        "failed to fetch",
        "proxyerror",
        "sslerror",
    ]) {
        InstallError::Network { step, output }
    } else {
        InstallError::Failed { step, status, output }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_starred_and_nothing_else() {
        assert_eq!(
            star_passwords("Looking in indexes: https://me:s3cr@t@mirror.example/simple, http://two.example/x@y"),
            "Looking in indexes: https://****@mirror.example/simple, http://two.example/x@y"
        );
        assert_eq!(
            star_passwords("url (https://token@mirror.example)"),
            "url (https://****@mirror.example)"
        );
        assert_eq!(star_passwords("a@b :// c"), "a@b :// c");
    }

    #[test]
    fn failures_are_told_apart_by_their_words() {
        let of = |line: &str| failure("install it", "exit status: 2".into(), &[line.to_owned()]);
        assert!(matches!(
            of("error: Failed to fetch: `…`\n  Caused by: dns error"),
            InstallError::Network { .. }
        ));
        assert!(matches!(
            of("  × Failed to download `torch==2.8.0`\n  ╰─▶ Hash mismatch for `torch==2.8.0`"),
            InstallError::HashMismatch { .. }
        ));
        assert!(matches!(
            of("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"),
            InstallError::DiskFull { .. }
        ));
        assert!(matches!(of("Segmentation fault"), InstallError::Failed { .. }));
        assert!(matches!(
            of(
                "  × Failed to download and build `z @ git+https://e.example/z`\n  ╰─▶ The build backend returned an error"
            ),
            InstallError::Failed { .. }
        ));
    }

    #[test]
    fn an_error_shows_the_last_lines() {
        let lines: Vec<String> = (0..40).map(|n| format!("line {n}")).collect();
        let text = failure("install it", "exit status: 2".into(), &lines).to_string();
        assert!(
            text.starts_with("cannot install it: exit status: 2\nline 28\n"),
            "{text}"
        );
        assert!(text.ends_with("\nline 39"), "{text}");
    }
}
