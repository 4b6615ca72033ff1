//! What to run.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use process_wrap::tokio::{CommandWrap, KillOnDrop, ProcessGroup};

use super::environment;
use super::error::ProcessError;
use super::flags::Flags;

/// Becomes ComfyUI, after it has left a watchdog behind; see there.
const LAUNCHER: &str = include_str!("launcher.py");

/// What to run: a ComfyUI, its folders and its arguments.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// The Python interpreter: a path, or a name that is looked for in `PATH`.
    pub python: PathBuf,
    /// ComfyUI's folder, which holds `main.py` and becomes the working directory.
    pub root: PathBuf,
    /// A folder that no other process uses, made when it is missing. ComfyUI's temporary files go to `temp` in it.
    pub run_dir: PathBuf,
    /// `--base-directory`: where models, custom nodes, inputs and outputs are, if not in `root`.
    pub base_dir: Option<PathBuf>,
    /// `--extra-model-paths-config`, once for each.
    pub extra_model_paths: Vec<PathBuf>,
    /// A library for `LD_PRELOAD`; see [`find_tcmalloc`].
    pub preload: Option<PathBuf>,
    /// `--verbose`: `DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`, in any case.
    pub log_level: String,
    /// `--cpu`.
    pub cpu: bool,
    /// What the user adds (`COMFYUI_ARGS`), already split into words. A flag in here takes the place of ours.
    pub extra_args: Vec<String>,
    /// Variables of our own environment that it gets too, by their names or, with `*` at the end, by how these begin.
    pub env_names: Vec<String>,
    /// What the prefix of each output file ends with: another ComfyUI writes into the same folder.
    pub mark: Option<String>,
    /// Environment variables of its own.
    pub env: Vec<(String, String)>,
}

impl Launch {
    /// The ComfyUI in `root`, run by `python`, with everything else as it comes.
    pub fn new(python: impl Into<PathBuf>, root: impl Into<PathBuf>, run_dir: impl Into<PathBuf>) -> Self {
        Self {
            python: python.into(),
            root: root.into(),
            run_dir: run_dir.into(),
            log_level: "DEBUG".to_owned(),
            ..Self::default()
        }
    }

    /// The same in another run folder, beside the first: it has temporary files and names of its own, and shares the rest.
    #[must_use]
    pub fn beside(&self, name: &str) -> Self {
        let mut launch = Self {
            run_dir: self.run_dir.join(name),
            mark: Some(name.to_owned()),
            ..self.clone()
        };
        // The first has these: it empties the one when it starts, and locks the other.
        for flag in ["--temp-directory", "--database-url"] {
            while let Some(at) = launch.extra_args.iter().position(|argument| is_flag(argument, flag)) {
                let words = if launch.extra_args[at].contains('=') { 1 } else { 2 };
                let end = (at + words).min(launch.extra_args.len());
                launch.extra_args.drain(at..end);
            }
        }
        launch
    }

    /// The arguments that this ComfyUI knows, if it can be run at all, as far as that can be told without running it. Blocks
    /// for a millisecond.
    pub(super) fn check(&self) -> Result<Flags, ProcessError> {
        if let Some(argument) = self.extra_args.iter().find(|argument| is_reserved(argument)) {
            return Err(ProcessError::ReservedArgument(argument.clone()));
        }
        if !self.root.join("main.py").is_file() {
            return Err(ProcessError::NotComfyUi(self.root.clone()));
        }
        let flags = Flags::of(&self.root);
        // Without them it would work in folders of its own, where nobody looks.
        let base = self.base_dir.as_ref().map(|_| "--base-directory");
        let mut needed = ["--temp-directory"].into_iter().chain(base);
        match needed.find(|flag| !flags.know(flag)) {
            Some(flag) => Err(ProcessError::TooOld(flag)),
            None => Ok(flags),
        }
    }

    /// Where ComfyUI writes its output files, the user's arguments considered.
    pub fn output_directory(&self) -> PathBuf {
        self.directory("--output-directory", "output")
    }

    /// Where ComfyUI looks for input files, the user's arguments considered.
    pub fn input_directory(&self) -> PathBuf {
        self.directory("--input-directory", "input")
    }

    fn directory(&self, flag: &str, name: &str) -> PathBuf {
        match (self.value(flag), self.value("--base-directory")) {
            (Some(theirs), _) => self.root.join(theirs),
            (None, Some(base)) => self.root.join(base).join(name),
            (None, None) => self.base_dir.as_deref().unwrap_or(&self.root).join(name),
        }
    }

    /// Where ComfyUI keeps files that are not to stay, the user's arguments considered.
    pub fn temp_directory(&self) -> PathBuf {
        self.temp_dir().join("temp")
    }

    /// The folder that `--temp-directory` names: ComfyUI makes, and empties, a folder `temp` in it.
    pub(super) fn temp_dir(&self) -> PathBuf {
        match self.value("--temp-directory") {
            Some(theirs) => absolute(&self.root).join(theirs),
            None => absolute(&self.run_dir),
        }
    }

    /// Everything after `python main.py`, of which ComfyUI knows `flags`.
    pub(super) fn arguments(&self, port: u16, flags: &Flags) -> Vec<OsString> {
        let mut words: Vec<OsString> = ["--listen", "127.0.0.1", "--port"].map(OsString::from).into();
        words.push(port.to_string().into());
        if let Some(base) = &self.base_dir {
            self.give(&mut words, "--base-directory", absolute(base));
        }
        self.give(&mut words, "--temp-directory", absolute(&self.run_dir));
        // May be given several times, and adds up.
        for path in &self.extra_model_paths {
            words.extend(["--extra-model-paths-config".into(), absolute(path).into()]);
        }
        for (flag, value) in [
            // The file in the user folder is locked by the first who opens it, and we keep nothing in it.
            ("--database-url", "sqlite:///:memory:"),
            ("--verbose", self.log_level.to_uppercase().as_str()),
            // The default is no previews at all.
            ("--preview-method", "latent2rgb"),
        ] {
            if flags.know(flag) {
                self.give(&mut words, flag, value);
            }
        }
        if self.cpu && !MEMORY_MODES.iter().any(|flag| self.gives(flag)) {
            words.push("--cpu".into());
        }
        // What takes no value stands last: a stray word of the user's is then an error, not one more value.
        if !self.gives("--auto-launch") && !self.gives("--disable-auto-launch") && flags.know("--disable-auto-launch") {
            words.push("--disable-auto-launch".into());
        }
        if !self.wants_no_metadata() && flags.know("--disable-metadata") {
            words.push("--disable-metadata".into());
        }
        words.extend(self.extra_args.iter().map(OsString::from));
        words
    }

    /// Whether the user wants no metadata in any file.
    pub(super) fn wants_no_metadata(&self) -> bool {
        self.gives("--disable-metadata")
    }

    /// Adds an argument of ours, unless the user gives it.
    fn give(&self, words: &mut Vec<OsString>, flag: &str, value: impl Into<OsString>) {
        if !self.gives(flag) {
            words.extend([flag.into(), value.into()]);
        }
    }

    /// The command, ready to be spawned as leader of its own process group; `hook` is the start hook's folder.
    pub(super) fn command(&self, port: u16, flags: &Flags, hook: Option<&Path>) -> CommandWrap {
        let python = interpreter(&self.python);
        let mut command = CommandWrap::with_new(&python, |command| {
            // The launcher itself needs nothing but the standard library: without site packages it takes 10 ms.
            command.args(["-I", "-S", "-c", LAUNCHER]).arg(&python).arg("main.py");
            command.args(self.arguments(port, flags));
            command.current_dir(&self.root);
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            // What the worker knows, such as its keys, is no business of whoever wrote a custom node.
            command.env_clear();
            command.envs(std::env::vars_os().filter(|(name, _)| environment::passes(name, &self.env_names)));
            command.env("PYTHONUNBUFFERED", "1");
            if let Some(library) = &self.preload {
                command.env("LD_PRELOAD", preload(library, std::env::var_os("LD_PRELOAD")));
            }
            command.envs(self.env.iter().map(|(name, value)| (name, value)));
            if let Some(hook) = hook {
                command.env(PYTHONPATH, python_path(hook, self.python_path()));
            }
        });
        command.wrap(ProcessGroup::leader()).wrap(KillOnDrop);
        command
    }

    /// What ComfyUI has for `PYTHONPATH` without us.
    fn python_path(&self) -> Option<OsString> {
        let ours = self.env.iter().rev().find(|(name, _)| name == PYTHONPATH);
        ours.map(|(_, value)| value.into())
            .or_else(|| std::env::var_os(PYTHONPATH))
    }

    /// Whether the user gives this flag, be it shortened: `argparse` takes `--preview-m` for `--preview-method`.
    fn gives(&self, flag: &str) -> bool {
        gives(&self.extra_args, flag)
    }

    /// The value that the user gives to `flag`.
    fn value(&self, flag: &str) -> Option<&str> {
        value(&self.extra_args, flag)
    }
}

/// ComfyUI takes one of these at most.
pub(super) const MEMORY_MODES: [&str; 5] = ["--cpu", "--gpu-only", "--highvram", "--lowvram", "--novram"];

/// With these ComfyUI would listen elsewhere, for others too, or not in plain HTTP.
const RESERVED: [&str; 4] = ["--listen", "--port", "--tls-keyfile", "--tls-certfile"];

fn is_reserved(argument: &str) -> bool {
    RESERVED.iter().any(|flag| is_flag(argument, flag))
}

/// The value that `arguments` of ComfyUI's command line give to `flag`, in either form that its `argparse` reads. Of several
/// the last one counts.
pub fn value<'a>(arguments: &'a [impl AsRef<str>], flag: &str) -> Option<&'a str> {
    let position = arguments
        .iter()
        .rposition(|argument| is_flag(argument.as_ref(), flag))?;
    match arguments[position].as_ref().split_once('=') {
        Some((_, value)) => Some(value),
        None => arguments.get(position + 1).map(AsRef::as_ref),
    }
}

/// Whether `arguments` of ComfyUI's command line have `flag`, be it shortened.
pub fn gives(arguments: &[impl AsRef<str>], flag: &str) -> bool {
    arguments.iter().any(|argument| is_flag(argument.as_ref(), flag))
}

/// Whether `argument` is `flag`, `flag=value`, or a short form of it. A form so short that it could be another flag
/// as well is refused by ComfyUI, so it does not matter what we make of it.
pub(super) fn is_flag(argument: &str, flag: &str) -> bool {
    let name = argument.split_once('=').map_or(argument, |(name, _)| name);
    name.len() > "--x".len() && flag.starts_with(name)
}

/// The child runs in another folder, so a relative path would mean another place there.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A bare name stays one, to be looked for in `PATH`.
fn interpreter(python: &Path) -> PathBuf {
    let mut components = python.components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(_)), None) => python.to_owned(),
        _ => absolute(python),
    }
}

/// `library` before what is preloaded anyway, unless that is an allocator too.
fn preload(library: &Path, before: Option<OsString>) -> OsString {
    let before = before.unwrap_or_default();
    let text = before.to_string_lossy();
    if text.contains("malloc") {
        return before;
    }
    let mut value = library.as_os_str().to_owned();
    if !before.is_empty() {
        value.push(":");
        value.push(&before);
    }
    value
}

const PYTHONPATH: &str = "PYTHONPATH";

/// `hook` before what stands there anyway. An empty entry would be the working directory.
fn python_path(hook: &Path, before: Option<OsString>) -> OsString {
    let mut value = hook.as_os_str().to_owned();
    if let Some(before) = before.filter(|before| !before.is_empty()) {
        value.push(":");
        value.push(before);
    }
    value
}

/// The tcmalloc of this machine, if it has one: with it, ComfyUI's memory grows less when models are swapped.
pub fn find_tcmalloc() -> Option<PathBuf> {
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let folders = [multiarch.as_str(), "/usr/lib64", "/usr/lib", "/usr/local/lib"].map(Path::new);
    let names = ["libtcmalloc.so.4", "libtcmalloc_minimal.so.4", "libtcmalloc.so"];
    find_library(&folders, &names)
}

fn find_library(folders: &[&Path], names: &[&str]) -> Option<PathBuf> {
    let mut paths = names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    paths.find(|path| path.is_file())
}

/// A port of 127.0.0.1 that is free at the moment. Somebody else may take it before ComfyUI does: ComfyUI then ends, and
/// is started on another one.
pub(super) fn free_port() -> Result<u16, ProcessError> {
    let port = || -> io::Result<u16> { Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port()) };
    port().map_err(|source| ProcessError::NoFreePort(Arc::new(source)))
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
