//! The overlay: a virtual environment of ComfyUI's interpreter that holds what the packs need beyond ComfyUI's own environment,
//! and sees that one behind its own. ComfyUI's environment is read and never written to: it may be shared, or a user's own.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::NodesError;
use super::base::{Base, LOCAL, normalized};
use crate::comfy::install::{Event, InstallError, Runner, Tools, io};
use crate::disk::{nearest, remove};
use crate::telemetry::report::Meter;

/// What uv reads of its user's environment beside what ComfyUI gets: where packages come from, what git and compilers are told.
/// It runs the builds of packages, which get what it has.
const OF_UV: [&str; 16] = [
    "UV_*",
    "PIP_*",
    "SSL_*",
    "GIT_*",
    "SSH_*",
    "NETRC",
    "CFLAGS",
    "CPPFLAGS",
    "CXXFLAGS",
    "LDFLAGS",
    "MAKEFLAGS",
    "CMAKE_*",
    "PKG_CONFIG_*",
    "FORCE_CMAKE",
    "CARGO_HOME",
    "RUSTUP_*",
];

/// What the overlay is to hold: lists as uv reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lock {
    /// Each with the hashes of its files.
    pub(super) hashed: String,
    /// Those from git, by their commits, which git checks.
    pub(super) git: String,
    /// Their names, normalized.
    pub(super) names: Vec<String>,
}

impl Lock {
    /// Reads what `uv pip compile --generate-hashes` prints, without what ComfyUI's own environment has.
    fn read(text: &str, base: &Base) -> Self {
        let mut lock = Self::default();
        let mut blocks: Vec<String> = Vec::new();
        for line in text.lines() {
            let begins = !line.starts_with([' ', '#']) && !line.trim().is_empty();
            match blocks.last_mut() {
                _ if begins => blocks.push(format!("{line}\n")),
                Some(block) if line.trim_start().starts_with("--hash") => {
                    let _ = writeln!(block, "{line}");
                }
                _ => {}
            }
        }
        for block in blocks {
            let end = block.find(|letter: char| !letter.is_ascii_alphanumeric() && !"-_.".contains(letter));
            let name = normalized(&block[..end.unwrap_or(block.len())]);
            if base.packages.contains_key(&name) {
                continue;
            }
            if block.contains("--hash") {
                lock.hashed.push_str(&block);
            } else {
                lock.git.push_str(&block);
            }
            lock.names.push(name);
        }
        lock
    }

    /// The whole, as it is kept beside the overlay.
    pub(super) fn text(&self) -> String {
        format!(
            "# Written by qwen-image-worker: what the packs need beyond ComfyUI's own packages.\n{}{}",
            self.hashed, self.git
        )
    }
}

/// Why a list could not be resolved.
#[derive(Debug)]
pub(super) enum Unresolved {
    /// Its requirements do not go together, or a package is not there or cannot be built: what uv says of it.
    Requirements(String),
    /// An index, or another place, was not reached.
    Network(String),
    /// Nothing would be different with other requirements.
    Fatal(InstallError),
}

/// Why an overlay was not made.
#[derive(Debug)]
pub(super) struct NotMade {
    pub(super) error: InstallError,
    /// The packages that uv gave up at, by their normalized names.
    pub(super) packages: Vec<String>,
}

impl From<InstallError> for NotMade {
    fn from(error: InstallError) -> Self {
        Self {
            error,
            packages: Vec::new(),
        }
    }
}

/// uv, at work for one set.
pub(super) struct Packages<'a> {
    runner: &'a Runner<'a>,
    tools: Tools,
    /// ComfyUI's own interpreter.
    python: &'a Path,
    pub(super) base: Base,
    stubs: PathBuf,
    constraints: PathBuf,
    cache: Option<&'a Path>,
}

impl<'a> Packages<'a> {
    /// Gets uv ready, and looks at what ComfyUI's own environment holds. `cache`: where uv is to keep what it fetches, if not
    /// at its usual place.
    pub(super) async fn prepare(
        runner: &'a Runner<'a>,
        python: &'a Path,
        tools: &Path,
        cache: Option<&'a Path>,
    ) -> Result<Self, NodesError> {
        let tools = Tools::uv_alone(runner, python, tools).await?;
        let stubs = runner.dir.join("base");
        let base = Base::ask(runner, python, &stubs).await?;
        let mut text = String::new();
        for (name, version) in &base.packages {
            let _ = writeln!(text, "{name}=={version}");
        }
        let constraints = runner.list("base.txt", &text)?;
        Ok(Self {
            runner,
            tools,
            python,
            base,
            stubs,
            constraints,
            cache,
        })
    }

    fn uv(&self) -> Result<Command, InstallError> {
        let mut command = self.tools.uv(self.runner).ok_or_else(|| InstallError::Spawn {
            step: "install the packages of custom nodes",
            program: "uv".into(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        if let Some(cache) = self.cache {
            command.env("UV_CACHE_DIR", cache);
            // Links do not lead from one disk to another, and uv would warn of that each time.
            if std::env::var_os("UV_LINK_MODE").is_none() && is_elsewhere(cache, self.runner.dir) {
                command.env("UV_LINK_MODE", "copy");
            }
        }
        Runner::confine(&mut command, &OF_UV);
        Ok(command)
    }

    /// Finds versions for `lines`, requirements one a line, that go with all that ComfyUI's own environment has. `offline`:
    /// with what uv's cache has.
    pub(super) async fn resolve(&self, lines: &[&str], offline: bool) -> Result<Lock, Unresolved> {
        if lines.is_empty() {
            return Ok(Lock::default());
        }
        let fatal = Unresolved::Fatal;
        let list = self
            .runner
            .list("wanted.in", &(lines.join("\n") + "\n"))
            .map_err(fatal)?;
        let found = self.runner.dir.join("wanted.lock");
        // What is there already would be kept to.
        remove(&found).map_err(io("remove", &found)).map_err(fatal)?;
        let mut command = self.uv().map_err(fatal)?;
        command
            .args([
                "pip",
                "compile",
                "--generate-hashes",
                "--no-header",
                "--no-annotate",
                "--python",
            ])
            .arg(self.python)
            .arg("--constraint")
            .arg(&self.constraints)
            .arg("--find-links")
            .arg(&self.stubs)
            .arg("--output-file")
            .arg(&found);
        // The command line would stand in its place.
        if let Ok(more) = std::env::var("UV_FIND_LINKS") {
            command.args(more.split(',').flat_map(|place| ["--find-links", place]));
        }
        if offline {
            command.arg("--offline");
        }
        command.arg(list);
        let mut said = Vec::new();
        let run = self
            .runner
            .run("resolve the packages of custom nodes", command, |event| {
                if let Event::Line(line) = event {
                    said.push(line.to_owned());
                }
            });
        let run = run.await;
        match run {
            Ok(_) => {}
            Err(error @ (InstallError::DiskFull { .. } | InstallError::Io { .. } | InstallError::Spawn { .. })) => {
                return Err(Unresolved::Fatal(error));
            }
            Err(InstallError::Network { .. }) => return Err(Unresolved::Network(reason(&said))),
            // It says so of requirements with these; with any other it was killed, or is broken.
            Err(InstallError::Failed { ref status, .. })
                if !["exit status: 1", "exit status: 2"].contains(&&**status) =>
            {
                return run.map(|_| Lock::default()).map_err(fatal);
            }
            Err(_) => return Err(Unresolved::Requirements(reason(&said))),
        }
        let text = std::fs::read_to_string(&found)
            .map_err(io("read", &found))
            .map_err(fatal)?;
        Ok(Lock::read(&text, &self.base))
    }

    /// Makes the overlay `target` and installs `lock` into it.
    pub(super) async fn make_overlay(
        &self,
        target: &Path,
        lock: &Lock,
        offline: bool,
        meter: &mut dyn Meter,
    ) -> Result<(), NotMade> {
        remove(target).map_err(io("remove", target))?;
        let mut command = self.uv()?;
        command.args(["venv", "--python"]).arg(self.python).arg(target);
        self.runner.run("make a virtual environment", command, |_| {}).await?;
        self.see_base(target)?;
        let python = target.join("bin/python");
        for (name, list, checked) in [("hashed.lock", &lock.hashed, true), ("git.lock", &lock.git, false)] {
            if list.is_empty() {
                continue;
            }
            let list = self.runner.list(name, list)?;
            let mut command = self.uv()?;
            command.args(["pip", "install", "--no-deps", "--python"]).arg(&python);
            if checked {
                command.arg("--require-hashes");
            }
            if offline {
                command.arg("--offline");
            }
            command.arg("--requirement").arg(list);
            let step = "install the packages of custom nodes";
            // Behind the line that names a package there may be any number of its build's own, so an error's end is not enough.
            let mut packages = Vec::new();
            let run = self.runner.run(step, command, |event| match event {
                Event::Written(bytes) => meter.position(bytes),
                Event::Line(line) => {
                    packages.extend(given_up(line));
                    meter.detail(line.trim());
                }
            });
            if let Err(error) = run.await {
                return Err(NotMade { error, packages });
            }
        }
        Ok(())
    }

    /// Has the overlay see the packages of ComfyUI's own environment behind its own, `.pth` files of theirs included.
    fn see_base(&self, overlay: &Path) -> Result<(), InstallError> {
        let libraries = overlay.join("lib");
        let inner = std::fs::read_dir(&libraries).into_iter().flatten().flatten();
        let own = inner
            .map(|entry| entry.path().join("site-packages"))
            .find(|path| path.is_dir());
        let own = own.ok_or_else(|| io("find packages in", &libraries)(std::io::ErrorKind::NotFound.into()))?;
        let mut text = String::new();
        for folder in &self.base.folders {
            let _ = writeln!(text, "import site; site.addsitedir({})", quoted(folder));
        }
        // Files of this kind are read in the order of their names; ours comes after those of packages in the overlay.
        let file = own.join("zz_comfyui.pth");
        std::fs::write(&file, text).map_err(io("write", &file))
    }
}

/// The package that a line of uv's says it gave up at: ``error: Failed to build `x==1.0` ``.
fn given_up(line: &str) -> Option<String> {
    let (before, rest) = line.split_once('`')?;
    let (word, _) = rest.split_once('`')?;
    let says_so = ["Failed to ", "Hash mismatch for "]
        .iter()
        .any(|words| before.contains(words));
    let name = word.split(['=', '@', ' ', '[']).next().unwrap_or_default();
    // An address is no package; another line names that.
    (says_so && !name.contains("://")).then(|| normalized(name))
}

/// A path as a string of Python's, in plain ASCII: the encoding of these files is not the same everywhere.
fn quoted(path: &Path) -> String {
    let mut text = String::from("\"");
    for letter in path.to_string_lossy().chars() {
        match letter {
            '"' | '\\' => text.extend(['\\', letter]),
            ' '..='~' => text.push(letter),
            _ => {
                let _ = write!(text, "\\U{:08x}", u32::from(letter));
            }
        }
    }
    text + "\""
}

/// Whether two places are on different file systems.
fn is_elsewhere(one: &Path, other: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(nearest(path)).map(|facts| facts.dev());
    matches!((device(one), device(other)), (Ok(one), Ok(other)) if one != other)
}

/// Why, in what uv says: from its first "Because", else its last lines; on one line.
fn reason(said: &[String]) -> String {
    let text = said.join("\n");
    let text = text.find("Because").map_or(text.as_str(), |begin| &text[begin..]);
    let text = text.split("\nhint:").next().unwrap_or_default();
    let text = text.split("\n      hint:").next().unwrap_or_default();
    let mut words: Vec<&str> = text
        .split_whitespace()
        .filter(|word| !"×╰─▶├│".contains(word))
        .collect();
    // The end of a long explanation says most.
    if words.len() > 150 {
        words.drain(..words.len() - 150);
    }
    let text = words.join(" ").replace(LOCAL, "");
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    text.trim_end_matches('.')
        .replace(", we can conclude that your requirements are unsatisfiable", "")
}

#[cfg(test)]
#[path = "environment_tests.rs"]
mod tests;
