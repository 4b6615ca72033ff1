//! The programs that fetch and install: uv where possible, else pip.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio::process::Command;
use url::Url;

use super::child::{Event, Runner};
use super::error::InstallError;
use super::python::{Python, all_on_path};
use crate::disk::nearest;
use crate::telemetry::report::Unit;

/// pip's settings of where packages come from, each with uv's name for the same.
const INDEX_SETTINGS: [(&str, &str, &str); 3] = [
    ("index-url", "PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
    ("extra-index-url", "PIP_EXTRA_INDEX_URL", "UV_INDEX"),
    ("cert", "PIP_CERT", "SSL_CERT_FILE"),
];

/// uv's own settings of where packages come from.
const UV_INDEXES: [&str; 5] = [
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
];

/// How long a question to one of the programs may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What makes virtual environments and fills them.
pub(in crate::comfy) struct Tools {
    /// uv, where there is one.
    uv: Option<Uv>,
    /// The interpreter that new environments get.
    base: PathBuf,
    /// The interpreter of a small environment that has pip and setuptools.
    pub(in crate::comfy) python: PathBuf,
}

struct Uv {
    program: PathBuf,
    /// What it is told about indexes and its cache.
    environment: Vec<(&'static str, String)>,
}

/// `TORCH_INDEX_URL`: the index that torch comes from.
pub(in crate::comfy) struct TorchIndex {
    url: Url,
    /// Without user and password.
    address: String,
}

impl TorchIndex {
    /// Its name in files for uv.
    pub(in crate::comfy) const NAME: &'static str = "torch";

    pub(in crate::comfy) fn new(url: &Url) -> Self {
        let mut bare = url.clone();
        // Neither fails on the address of a host.
        let _ = bare.set_username("");
        let _ = bare.set_password(None);
        Self {
            url: url.clone(),
            address: bare.into(),
        }
    }

    /// The address without user and password, for files.
    pub(in crate::comfy) fn address(&self) -> &str {
        &self.address
    }

    /// User and password, as uv reads them from its environment for an index of this name.
    pub(in crate::comfy) fn credentials(&self) -> Vec<(&'static str, String)> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = Some(self.url.username()).filter(|user| !user.is_empty());
        let user = user.map(|user| ("UV_INDEX_TORCH_USERNAME", decoded(user)));
        let password = self.url.password();
        let password = password.map(|password| ("UV_INDEX_TORCH_PASSWORD", decoded(password)));
        user.into_iter().chain(password).collect()
    }
}

/// What a program prints that is soon done; [`None`] where it fails.
async fn printed(command: &mut Command) -> Option<String> {
    let command = command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

/// The first uv on `search_path` that runs.
pub(in crate::comfy) async fn uv_on_path(search_path: &OsStr) -> Option<PathBuf> {
    for program in all_on_path("uv", search_path) {
        if printed(Command::new(&program).arg("--version")).await.is_some() {
            return Some(program);
        }
    }
    None
}

impl Tools {
    /// Gets the tools ready in a new environment. `uv` is the one that was found; without one it is
    /// installed there, and where that cannot be done, pip does its work.
    pub(in crate::comfy) async fn prepare(
        runner: &Runner<'_>,
        python: &Python,
        uv: Option<PathBuf>,
    ) -> Result<Self, InstallError> {
        let mut meter = runner.reporter.begin("installer", None, Unit::Items);
        let environment = runner.dir.join("tools");
        let mut tools = Self {
            uv: None,
            base: python.path.clone(),
            python: environment.join("bin/python"),
        };
        if let Some(program) = uv {
            tools.uv = Some(Uv::new(runner, program, &python.path).await);
        }
        meter.detail("making a virtual environment for it");
        tools.make_environment(runner, &environment).await?;

        let pip_list = runner.list("pip.lock", &runner.pins.pip)?;
        let step = "install pip and setuptools";
        tools.install(runner, step, &tools.python, &pip_list, |_| {}).await?;

        if tools.uv.is_none() {
            meter.detail("installing uv");
            let uv_list = runner.list("uv.lock", &runner.pins.uv)?;
            let installed = tools
                .install(runner, "install uv", &tools.python, &uv_list, |_| {})
                .await;
            match installed {
                Ok(()) => {
                    let program = environment.join("bin/uv");
                    tools.uv = Some(Uv::new(runner, program, &tools.python).await);
                }
                // There is no uv for this kind of machine, perhaps. Other failures would meet pip as well.
                Err(InstallError::Failed { output, .. }) => {
                    runner
                        .reporter
                        .note("uv cannot be installed here; pip does it, which takes longer");
                    tracing::debug!("{output}");
                }
                Err(error) => return Err(error),
            }
        }
        meter.finish(if tools.uses_uv() { "uv is ready" } else { "pip is ready" });
        Ok(tools)
    }

    /// The interpreter that new environments get.
    pub(in crate::comfy) fn base(&self) -> &Path {
        &self.base
    }

    /// A command for uv, which knows of its indexes and its cache; [`None`] where there is none.
    pub(in crate::comfy) fn uv(&self, runner: &Runner<'_>) -> Option<Command> {
        self.uv.as_ref().map(|uv| uv.command(runner))
    }

    /// uv alone, for who needs no pip: the one on the search path, else the one in the environment `kept`, which is made
    /// where it is not there. `python` is the interpreter that new environments get.
    pub(in crate::comfy) async fn uv_alone(
        runner: &Runner<'_>,
        python: &Path,
        kept: &Path,
    ) -> Result<Self, InstallError> {
        let mut tools = Self {
            uv: None,
            base: python.to_owned(),
            python: kept.join("bin/python"),
        };
        let own = kept.join("bin/uv");
        let runs = async |program: &Path| printed(Command::new(program).arg("--version")).await.is_some();
        let program = match uv_on_path(runner.search_path).await {
            Some(program) => program,
            None if runs(&own).await => own,
            None => {
                let mut meter = runner.reporter.begin("installer", None, Unit::Items);
                meter.detail("installing uv");
                super::remove(kept)?;
                tools.make_environment(runner, kept).await?;
                let list = runner.list("uv.lock", &runner.pins.uv)?;
                tools
                    .install(runner, "install uv", &tools.python, &list, |_| {})
                    .await?;
                meter.finish("uv is ready");
                own
            }
        };
        tools.uv = Some(Uv::new(runner, program, python).await);
        Ok(tools)
    }

    /// Whether uv is at work, not pip.
    pub(in crate::comfy) fn uses_uv(&self) -> bool {
        self.uv.is_some()
    }

    /// Makes a new, empty virtual environment `target`.
    pub(in crate::comfy) async fn make_environment(
        &self,
        runner: &Runner<'_>,
        target: &Path,
    ) -> Result<(), InstallError> {
        let command = if let Some(uv) = &self.uv {
            let mut command = uv.command(runner);
            command.arg("venv").arg("--python").arg(&self.base).arg(target);
            command
        } else {
            let mut command = runner.command(&self.base);
            command.args(["-m", "venv"]).arg(target);
            command
        };
        runner.run("make a virtual environment", command, |_| {}).await?;
        Ok(())
    }

    /// Installs what `list` pins, and nothing that it does not name, into the environment of `python`: all from `index`
    /// alone, or from the usual one. Checked by hash. Only where there is uv.
    pub(in crate::comfy) async fn install_part(
        &self,
        runner: &Runner<'_>,
        step: &'static str,
        python: &Path,
        list: &Path,
        index: Option<&TorchIndex>,
        on_event: impl FnMut(Event<'_>) + Send,
    ) -> Result<(), InstallError> {
        let mut command = self.uv(runner).ok_or(InstallError::NoUv)?;
        command.args(["pip", "install", "--no-deps", "--require-hashes"]);
        if let Some(index) = index {
            for name in UV_INDEXES {
                command.env_remove(name);
            }
            command.arg("--no-config").env("UV_DEFAULT_INDEX", index.url.as_str());
        }
        command.arg("--python").arg(python).arg("--requirement").arg(list);
        runner.run(step, command, on_event).await?;
        Ok(())
    }

    /// Installs what `list` pins into the environment of `python`, all of it checked by hash.
    pub(in crate::comfy) async fn install(
        &self,
        runner: &Runner<'_>,
        step: &'static str,
        python: &Path,
        list: &Path,
        on_event: impl FnMut(Event<'_>) + Send,
    ) -> Result<(), InstallError> {
        let mut command = if let Some(uv) = &self.uv {
            let mut command = uv.command(runner);
            command.args(["pip", "install", "--python"]).arg(python);
            command
        } else {
            let mut command = runner.command(python);
            command.args(["-m", "pip", "install", "--no-cache-dir", "--no-compile"]);
            command
        };
        command.args(["--require-hashes", "--requirement"]).arg(list);
        runner.run(step, command, on_event).await?;
        Ok(())
    }
}

impl Uv {
    async fn new(runner: &Runner<'_>, program: PathBuf, pip_python: &Path) -> Self {
        let mut environment = index_environment(runner, pip_python).await;
        if std::env::var_os("UV_CACHE_DIR").is_none() && cache_is_elsewhere(runner, &program).await {
            environment.push(("UV_CACHE_DIR", runner.cache.display().to_string()));
        }
        Self { program, environment }
    }

    fn command(&self, runner: &Runner<'_>) -> Command {
        let mut command = runner.command(&self.program);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Tells uv of the index that pip is configured for: most mirrors are set up for pip alone. Whoever has configured uv
/// itself is left alone.
async fn index_environment(runner: &Runner<'_>, pip_python: &Path) -> Vec<(&'static str, String)> {
    let is_set = |name: &str| std::env::var_os(name).is_some();
    if UV_INDEXES[..4].iter().copied().any(is_set) {
        return Vec::new();
    }
    let mut command = runner.command(pip_python);
    command.args(["-m", "pip", "config", "list"]);
    // A Python without pip has no settings for it; what the environment says holds all the same. The output of `run` is
    // starred, so that passwords in it would be lost: this is read directly.
    let listed = printed(&mut command).await.unwrap_or_default();
    let mut environment = Vec::new();
    for (setting, pip_name, uv_name) in INDEX_SETTINGS {
        if is_set(uv_name) {
            continue;
        }
        let value = std::env::var(pip_name).ok().or_else(|| pip_setting(&listed, setting));
        if let Some(value) = value.filter(|value| !value.trim().is_empty()) {
            environment.push((uv_name, value));
            if uv_name == "UV_INDEX" {
                // As pip does it: any index may serve any package. The hashes keep that safe.
                environment.push(("UV_INDEX_STRATEGY", "unsafe-best-match".to_owned()));
            }
        }
    }
    environment
}

/// The value of `setting` in what `pip config list` prints, `global.index-url='…'`. A section for one command
/// (`install.`) is stronger than `global.`; lists have one value a line, which are given back with spaces.
fn pip_setting(listed: &str, setting: &str) -> Option<String> {
    let value_in = |section: &str| {
        let line = listed.lines().find_map(|line| {
            line.strip_prefix(section)?
                .strip_prefix('.')?
                .strip_prefix(setting)?
                .strip_prefix('=')
        })?;
        let value = line.trim().trim_matches(['\'', '"']);
        let words: Vec<&str> = value
            .split("\\n")
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .collect();
        Some(words.join(" "))
    };
    value_in("install").or_else(|| value_in("global"))
}

/// Whether uv's own cache is on another file system than the installation. Then it could not link from there, and each
/// package would lie on both: better in a cache beside the installation, for as long as it takes.
async fn cache_is_elsewhere(runner: &Runner<'_>, uv: &Path) -> bool {
    let Some(cache) = printed(runner.command(uv).args(["cache", "dir"])).await else {
        return false;
    };
    let device = |path: &Path| std::fs::metadata(nearest(path)).map(|metadata| metadata.dev());
    let devices = (device(Path::new(cache.trim())), device(runner.dir));
    matches!(devices, (Ok(cache), Ok(here)) if cache != here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_torchs_index_stays_out_of_files() {
        let index = TorchIndex::new(&Url::parse("https://me:p%40ss@a.example/whl/cpu").unwrap());
        assert_eq!(index.address(), "https://a.example/whl/cpu");
        assert_eq!(
            index.credentials(),
            [
                ("UV_INDEX_TORCH_USERNAME", "me".to_owned()),
                ("UV_INDEX_TORCH_PASSWORD", "p@ss".to_owned())
            ]
        );
    }

    #[test]
    fn pips_settings_are_read() {
        let listed = "global.cert='/etc/ca.pem'\nglobal.index-url='https://a.example/simple'\n\
                      global.extra-index-url='\\nhttps://b.example/x\\nhttps://c.example/y'\n\
                      install.index-url='https://d.example/simple'\n";
        assert_eq!(
            pip_setting(listed, "index-url").as_deref(),
            Some("https://d.example/simple")
        );
        assert_eq!(
            pip_setting(listed, "extra-index-url").as_deref(),
            Some("https://b.example/x https://c.example/y")
        );
        assert_eq!(pip_setting(listed, "cert").as_deref(), Some("/etc/ca.pem"));
        assert_eq!(pip_setting("", "cert"), None);
    }
}
