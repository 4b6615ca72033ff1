//! What to run.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use process_wrap::tokio::{CommandWrap, KillOnDrop, ProcessGroup};

use super::environment;
use super::error::ProcessError;
use super::flag::{is_flag, value};

/// Becomes ComfyUI, after it has left a watchdog behind; see there.
const LAUNCHER: &str = include_str!("launcher.py");

/// What to run: a ComfyUI, its folders and its arguments.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The Python interpreter: a path, or a name that is looked for in `PATH`.
    pub python: PathBuf,
    /// ComfyUI's folder, which holds `main.py` and becomes the working directory.
    pub root: PathBuf,
    /// A folder that no other process uses, made when it is missing. ComfyUI's temporary files go to `temp` in it.
    pub run_dir: PathBuf,
    /// `--base-directory`: where models, custom nodes, inputs and outputs are, if not in `root`.
    pub base_dir: Option<PathBuf>,
    /// `--output-directory`.
    pub output_dir: Option<PathBuf>,
    /// `--input-directory`.
    pub input_dir: Option<PathBuf>,
    /// `--user-directory`; must exist.
    pub user_dir: Option<PathBuf>,
    /// `--extra-model-paths-config`, once for each.
    pub extra_model_paths: Vec<PathBuf>,
    /// `--front-end-root`; must exist. An empty folder does without the front-end package.
    pub front_end_root: Option<PathBuf>,
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
            base_dir: None,
            output_dir: None,
            input_dir: None,
            user_dir: None,
            extra_model_paths: Vec::new(),
            front_end_root: None,
            preload: None,
            log_level: "DEBUG".to_owned(),
            cpu: false,
            extra_args: Vec::new(),
            env_names: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Whether this can be run at all, as far as that can be told without running it. Takes microseconds.
    pub fn check(&self) -> Result<(), ProcessError> {
        if let Some(argument) = self.extra_args.iter().find(|argument| is_reserved(argument)) {
            return Err(ProcessError::ReservedArgument {
                argument: argument.clone(),
            });
        }
        if !self.root.join("main.py").is_file() {
            return Err(ProcessError::NotComfyUi {
                root: self.root.clone(),
            });
        }
        Ok(())
    }

    /// Where ComfyUI writes its output files, the user's arguments considered.
    pub fn output_directory(&self) -> PathBuf {
        self.directory("--output-directory", self.output_dir.as_deref(), "output")
    }

    /// Where ComfyUI looks for input files, the user's arguments considered.
    pub fn input_directory(&self) -> PathBuf {
        self.directory("--input-directory", self.input_dir.as_deref(), "input")
    }

    fn directory(&self, flag: &str, ours: Option<&Path>, name: &str) -> PathBuf {
        if let Some(theirs) = self.value(flag) {
            return self.root.join(theirs);
        }
        if let Some(ours) = ours {
            return ours.to_owned();
        }
        match self.value("--base-directory") {
            Some(base) => self.root.join(base).join(name),
            None => self.base_dir.as_deref().unwrap_or(&self.root).join(name),
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

    /// Everything after `python main.py`.
    pub(super) fn arguments(&self, port: u16) -> Vec<OsString> {
        let mut arguments = Arguments {
            launch: self,
            words: Vec::new(),
        };
        arguments
            .words
            .extend(["--listen", "127.0.0.1", "--port"].map(OsString::from));
        arguments.words.push(port.to_string().into());
        arguments.path("--base-directory", self.base_dir.as_deref());
        arguments.path("--output-directory", self.output_dir.as_deref());
        arguments.path("--input-directory", self.input_dir.as_deref());
        arguments.path("--user-directory", self.user_dir.as_deref());
        arguments.path("--temp-directory", Some(&self.run_dir));
        arguments.path("--front-end-root", self.front_end_root.as_deref());
        // May be given several times, and adds up.
        for path in &self.extra_model_paths {
            arguments
                .words
                .extend(["--extra-model-paths-config".into(), absolute(path).into()]);
        }
        // The file in the user folder is locked by the first who opens it, and we keep nothing in it.
        arguments.value("--database-url", "sqlite:///:memory:");
        arguments.value("--verbose", self.log_level.to_uppercase());
        // The default is no previews at all.
        arguments.value("--preview-method", "latent2rgb");
        if self.cpu && !MEMORY_MODES.iter().any(|flag| self.gives(flag)) {
            arguments.words.push("--cpu".into());
        }
        // What takes no value stands last: a stray word of the user's is then an error, not one more value.
        if !self.gives("--auto-launch") && !self.gives("--disable-auto-launch") {
            arguments.words.push("--disable-auto-launch".into());
        }
        if !self.gives("--disable-metadata") {
            arguments.words.push("--disable-metadata".into());
        }
        arguments.words.extend(self.extra_args.iter().map(OsString::from));
        arguments.words
    }

    /// The command, ready to be spawned as leader of its own process group.
    pub(super) fn command(&self, port: u16) -> CommandWrap {
        let python = interpreter(&self.python);
        let mut command = CommandWrap::with_new(&python, |command| {
            // The launcher itself needs nothing but the standard library: without site packages it takes 10 ms.
            command.args(["-I", "-S", "-c", LAUNCHER]).arg(&python).arg("main.py");
            command.args(self.arguments(port));
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
        });
        command.wrap(ProcessGroup::leader()).wrap(KillOnDrop);
        command
    }

    /// Whether the user gives this flag, be it shortened: `argparse` takes `--preview-m` for `--preview-method`.
    fn gives(&self, flag: &str) -> bool {
        self.extra_args.iter().any(|argument| is_flag(argument, flag))
    }

    /// The value that the user gives to `flag`.
    fn value(&self, flag: &str) -> Option<&str> {
        value(&self.extra_args, flag)
    }
}

/// ComfyUI takes one of these at most.
const MEMORY_MODES: [&str; 5] = ["--cpu", "--gpu-only", "--highvram", "--lowvram", "--novram"];

/// With these ComfyUI would listen elsewhere, for others too, or not in plain HTTP.
const RESERVED: [&str; 4] = ["--listen", "--port", "--tls-keyfile", "--tls-certfile"];

fn is_reserved(argument: &str) -> bool {
    RESERVED.iter().any(|flag| is_flag(argument, flag))
}

/// Collects our arguments, but for those that the user gives.
struct Arguments<'a> {
    launch: &'a Launch,
    words: Vec<OsString>,
}

impl Arguments<'_> {
    fn value(&mut self, flag: &str, value: impl Into<OsString>) {
        if !self.launch.gives(flag) {
            self.words.extend([flag.into(), value.into()]);
        }
    }

    fn path(&mut self, flag: &str, path: Option<&Path>) {
        if let Some(path) = path {
            self.value(flag, absolute(path));
        }
    }
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

/// The tcmalloc of this machine, if it has one: with it, ComfyUI's memory grows less when models are swapped.
pub fn find_tcmalloc() -> Option<PathBuf> {
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let folders = [multiarch.as_str(), "/usr/lib64", "/usr/lib", "/usr/local/lib"];
    find_library(
        &folders,
        &["libtcmalloc.so.4", "libtcmalloc_minimal.so.4", "libtcmalloc.so"],
    )
}

fn find_library<F: AsRef<OsStr>>(folders: &[F], names: &[&str]) -> Option<PathBuf> {
    for name in names {
        for folder in folders {
            let path = Path::new(folder).join(name);
            if path.is_file() {
                return Some(path);
            }
        }
    }
    None
}

/// A port of 127.0.0.1 that is free at the moment. Somebody else may take it before ComfyUI does: ComfyUI then ends, and
/// is started on another one.
pub(super) fn free_port() -> Result<u16, ProcessError> {
    let port = || -> io::Result<u16> { Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port()) };
    port().map_err(|source| ProcessError::NoFreePort {
        source: Arc::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(extra: &[&str]) -> Launch {
        Launch {
            extra_args: extra.iter().map(|word| (*word).to_owned()).collect(),
            ..Launch::new("/opt/python", "/opt/comfyui", "/run/one")
        }
    }

    fn line(launch: &Launch) -> String {
        let words = launch.arguments(4711);
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn the_plain_command_line() {
        assert_eq!(
            line(&launch(&[])),
            "--listen 127.0.0.1 --port 4711 --temp-directory /run/one --database-url sqlite:///:memory: --verbose DEBUG \
             --preview-method latent2rgb --disable-auto-launch --disable-metadata"
        );
    }

    #[test]
    fn every_folder_and_switch_has_its_flag() {
        let launch = Launch {
            base_dir: Some("/data".into()),
            output_dir: Some("/data/out".into()),
            input_dir: Some("/data/in".into()),
            user_dir: Some("/data/user".into()),
            extra_model_paths: vec!["/data/paths.yaml".into(), "/data/volumes.yaml".into()],
            front_end_root: Some("/data/empty".into()),
            log_level: "info".into(),
            cpu: true,
            ..launch(&[])
        };
        assert_eq!(
            line(&launch),
            "--listen 127.0.0.1 --port 4711 --base-directory /data --output-directory /data/out --input-directory /data/in \
             --user-directory /data/user --temp-directory /run/one --front-end-root /data/empty \
             --extra-model-paths-config /data/paths.yaml --extra-model-paths-config /data/volumes.yaml \
             --database-url sqlite:///:memory: --verbose INFO --preview-method latent2rgb --cpu --disable-auto-launch \
             --disable-metadata"
        );
    }

    #[test]
    fn a_flag_of_the_user_takes_the_place_of_ours() {
        let mut launch = launch(&[
            "--verbose",
            "ERROR",
            "--preview-method=none",
            "--temp-dir",
            "/x",
            "--database-url=a",
            "--lowvram",
            "--auto-launch",
            "--disable-metadata",
        ]);
        launch.cpu = true;
        assert_eq!(
            line(&launch),
            "--listen 127.0.0.1 --port 4711 --verbose ERROR --preview-method=none --temp-dir /x --database-url=a --lowvram \
             --auto-launch --disable-metadata"
        );
    }

    #[test]
    fn knows_the_folders_that_the_user_gives() {
        let mut launch = launch(&["--output-directory", "/o", "--base-directory=b"]);
        assert_eq!(launch.output_directory(), Path::new("/o"));
        assert_eq!(launch.input_directory(), Path::new("/opt/comfyui/b/input"));
        launch.extra_args.clear();
        assert_eq!(launch.output_directory(), Path::new("/opt/comfyui/output"));
        launch.base_dir = Some("/data".into());
        assert_eq!(launch.input_directory(), Path::new("/data/input"));
    }

    #[test]
    fn the_users_folder_for_temporary_files_is_the_one_that_is_used() {
        assert_eq!(launch(&[]).temp_directory(), Path::new("/run/one/temp"));
        for arguments in [
            &["--temp-directory", "/x"][..],
            &["--temp-directory=/x"],
            &["--temp-dir=/x"],
        ] {
            assert_eq!(
                launch(arguments).temp_directory(),
                Path::new("/x/temp"),
                "{arguments:?}"
            );
        }
        assert_eq!(
            launch(&["--temp-directory=y"]).temp_directory(),
            Path::new("/opt/comfyui/y/temp")
        );
    }

    #[test]
    fn refuses_what_would_move_comfyui() {
        for argument in [
            "--port",
            "--port=1",
            "--por",
            "--listen",
            "--liste=0.0.0.0",
            "--tls-keyfile=k",
        ] {
            let error = launch(&[argument]).check().unwrap_err();
            assert!(matches!(error, ProcessError::ReservedArgument { .. }), "{argument}");
            assert!(error.to_string().contains(argument));
            assert!(error.hint().is_some());
        }
        for argument in ["--preview-method", "--list-feature-flags", "--lowvram", "-p", "port"] {
            assert!(!is_reserved(argument), "{argument}");
        }
    }

    #[test]
    fn an_allocator_that_is_preloaded_already_stays() {
        let library = Path::new("/lib/libtcmalloc.so.4");
        assert_eq!(preload(library, None), "/lib/libtcmalloc.so.4");
        assert_eq!(preload(library, Some("/x.so".into())), "/lib/libtcmalloc.so.4:/x.so");
        assert_eq!(preload(library, Some("/jemalloc.so".into())), "/jemalloc.so");
    }

    #[test]
    fn finds_a_library_by_the_order_of_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["liba.so", "libb.so"];
        assert_eq!(find_library(&[folder.path()], &names), None);
        std::fs::write(folder.path().join("libb.so"), "").unwrap();
        std::fs::write(folder.path().join("liba.so"), "").unwrap();
        assert_eq!(
            find_library(&[folder.path()], &names),
            Some(folder.path().join("liba.so"))
        );
    }
}
