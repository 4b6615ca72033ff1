//! Installs a managed ComfyUI when nobody gave one: the pinned version, or the one that `COMFYUI_VERSION` names.
//!
//! ```text
//! DIR/                                  InstallOptions::dir, DATA_DIR/comfyui
//!   0.30.0-395afed0338c/                one folder for each set of pins, or for each commit, with its torch: a newer
//!   579d3f48f894-b3db8927f478/          one is installed beside, and never under, a running one
//!     ComfyUI/                          the tree appears by a rename
//!     venv/                             made again by each attempt, at its final place
//!     work/, cache/                     only while it is installed
//!     installed.json                    the stamp, written last: with it, and only with it, the installation is there
//!   579d3f48f894-b3db8927f478.lock      held while one installs
//!   579d3f48f894-b3db8927f478.used      held, shared, while one runs it
//!   579d3f48f894-b3db8927f478.packages-3.11.txt   what its packages were resolved to; stays when the folder goes
//!   references/                         which commit a release or a branch was found to be
//! ```
//!
//! [`find`] looks for the stamp. [`ensure`] takes the lock, looks again, and then goes through the steps, each of which
//! starts from nothing or finds itself done: a Python (`python`), uv or pip (`tools`), ComfyUI's tree (`source`), the
//! versions of its packages (`resolve`), the packages and a first start (`packages`), the stamp. What a killed attempt has
//! downloaded is in uv's cache, so the next one is quick. The pinned version is pinned to the byte (`pins`); another one is
//! pinned by what is found when it is first installed: its commit (`release`) and a list of packages with hashes, both of
//! which are kept, so that the same is installed again, without asking, wherever it is needed once more.
//!
//! A version that fails never takes the place of one that works: [`update`] lets a branch mean its new commit only when
//! that has been installed and started, and where a version cannot be installed the error names what can be used meanwhile
//! ([`InstallError::NotReplaced`]). [`prune()`] removes what is not in force.

mod child;
mod error;
mod existing;
mod inventory;
mod layout;
mod newer;
mod options;
mod packages;
mod pins;
mod prune;
pub(in crate::comfy) mod python;
mod release;
mod resolve;
mod source;
#[cfg(test)]
mod tests;
mod tools;
#[cfg(test)]
mod versions_tests;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::error::InstallError;
pub use self::existing::existing;
pub use self::inventory::{OtherPackage, other_packages};
pub use self::newer::newer_release;
pub use self::options::InstallOptions;
pub use self::pins::COMFYUI_VERSION;
pub(in crate::comfy) use self::prune::sizes;
pub use self::prune::{InUse, Pruned, prune};

// The other rooms that fetch and install, git's and the custom nodes', run their programs as this one does.
pub(in crate::comfy) use self::child::{Event, Runner, star_passwords};
pub(in crate::comfy) use self::error::io;
pub(in crate::comfy) use self::pins::Pins;
pub(in crate::comfy) use self::tools::Tools;

use self::layout::{Layout, Stamp};
use self::packages::Packages;
use self::release::Release;
use crate::config::VersionChoice;
use crate::disk;
use crate::display::redacted;
use crate::telemetry::report::Reporter;

/// How often somebody who waits looks whether the lock has become free.
const POLL: Duration = Duration::from_millis(200);

/// A ComfyUI that can be started: `python main.py` in `root`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The folder with `main.py`.
    pub root: PathBuf,
    /// The interpreter that has ComfyUI's dependencies.
    pub python: PathBuf,
    /// ComfyUI's version, `0.30.0`.
    pub version: String,
    /// The commit of the tree, where it came from a git repository: 40 hexadecimal digits.
    pub commit: Option<String>,
    /// What was asked for, where it came from a git repository: `v0.46.0`.
    pub reference: Option<String>,
    /// The requirement list, with hashes, of all that the environment holds; [`None`] where somebody else made it.
    pub lock: Option<PathBuf>,
}

impl Installation {
    /// Its version as people read it: `0.30.0`, `0.46.0 (commit 0123…)`, `0.46.0 (master, commit 0123…)`.
    pub fn named(&self) -> String {
        let Some(commit) = &self.commit else {
            return self.version.clone();
        };
        let says_more = |reference: &&String| *reference != commit && reference.trim_start_matches('v') != self.version;
        match self.reference.as_ref().filter(says_more) {
            Some(reference) => format!("{} ({reference}, commit {commit})", self.version),
            None => format!("{} (commit {commit})", self.version),
        }
    }
}

/// The finished installation that `options` name, if it is there. Takes a millisecond or two.
pub fn find(options: &InstallOptions) -> Option<Installation> {
    let release = release::known(options)?;
    Layout::new(options, &release).find(&release)
}

/// The finished installation that `options` name; installs it first where it is not there. Several at once, in one process
/// or in many, wait for the first. Dropping the future ends the programs that it runs; the next call finishes the work.
pub async fn ensure(options: &InstallOptions, reporter: &dyn Reporter) -> Result<Installation, InstallError> {
    let options = &options.absolute()?;
    if let Some(mut installation) = find(options) {
        if installation.lock.is_none() && options.version == VersionChoice::Pinned && options.torch_index.is_none() {
            // Older programs did not write it. Where the folder is not ours to write to, it has to do without.
            installation.lock = write_pins(options, &Layout::new(options, &Release::Pinned)).ok();
        }
        return Ok(installation);
    }
    let installed = async {
        let release = if let Some(release) = release::known(options) {
            release
        } else {
            let release = release::look_up(options, reporter).await?;
            release::remember(options, &release)?;
            release
        };
        install(options, &release, reporter).await
    };
    installed.await.map_err(|error| error.beside(options))
}

/// Looks a release or a branch up again, and installs what it is now. Only when that is done does it take the place of
/// what the name meant before; [`ensure`] gives it from then on.
pub async fn update(options: &InstallOptions, reporter: &dyn Reporter) -> Result<Installation, InstallError> {
    let options = &options.absolute()?;
    let updated = async {
        let release = release::look_up(options, reporter).await?;
        let installation = install(options, &release, reporter).await?;
        release::remember(options, &release)?;
        Ok(installation)
    };
    updated.await.map_err(|error: InstallError| error.beside(options))
}

/// Installs `release`, if it is not there yet.
async fn install(
    options: &InstallOptions,
    release: &Release,
    reporter: &dyn Reporter,
) -> Result<Installation, InstallError> {
    let dir = &options.dir;
    let layout = Layout::new(options, release);
    if let Some(installation) = layout.find(release) {
        return Ok(installation);
    }
    std::fs::create_dir_all(dir).map_err(io("create", dir))?;
    let lock = lock(&layout.lock, "ComfyUI", reporter).await?;
    if let Some(installation) = layout.find(release) {
        return Ok(installation);
    }

    // What a previous attempt left in uv's cache may be most of what is needed, so only the first one can tell.
    let first_attempt = !layout.venv.exists();
    let needed = options.bytes_needed();
    let check_disk = |needed| {
        if first_attempt { check_room(dir, needed) } else { Ok(()) }
    };
    check_disk(needed)?;
    let uv = tools::uv_on_path(&options.search_path).await;
    let python = python::choose(options.python.as_deref(), &options.search_path, uv.is_some()).await?;
    let name = match release {
        Release::Pinned => &options.pins.version,
        Release::Git { reference, .. } => reference,
    };
    reporter.note(&format!(
        "installing ComfyUI {name} into {} with Python {}; that takes up to {:.0} GB",
        layout.home.display(),
        python.version_text(),
        options.bytes_taken() as f64 / 1e9,
    ));

    remove(&layout.work)?;
    std::fs::create_dir_all(&layout.work).map_err(io("create", &layout.work))?;
    let runner = Runner {
        pins: &options.pins,
        reporter,
        lock: &lock,
        dir: &layout.work,
        cache: &layout.cache,
        search_path: &options.search_path,
    };
    let tools = Tools::prepare(&runner, &python, uv).await?;
    let is_pinned = options.installs_pins(release);
    if !tools.uses_uv() {
        if !is_pinned {
            return Err(InstallError::NoUv);
        }
        check_disk(needed + needed / 2)?;
    }
    if !layout.source.join("main.py").is_file() {
        set_aside(&layout.source, reporter)?;
        match release {
            Release::Pinned => source::install(&runner, &tools.python, &layout.source).await?,
            Release::Git { commit, .. } => {
                source::check_out(&runner, &options.repository, commit, &layout.source).await?;
            }
        }
    }
    let (list, packages);
    let mut is_new = false;
    if is_pinned {
        list = write_pins(options, &layout)?;
        packages = Packages::Pinned;
    } else {
        let (major, minor, _) = python.version;
        list = layout.packages(Some(&format!("{major}.{minor}")));
        let torch_index = options.torch_index.as_ref();
        is_new = !list.is_file();
        if is_new {
            resolve::resolve(&runner, &tools, torch_index, name, &layout.source, &list).await?;
        }
        packages = Packages::Resolved(&list, torch_index);
    }
    let venv_python = packages::install(&runner, &tools, packages, &layout.venv).await?;
    if let Err(error) = packages::start_once(&runner, &venv_python, &layout.source).await {
        // Another day's packages may do what these don't.
        if is_new {
            let _ = std::fs::remove_file(&list);
        }
        return Err(error);
    }

    layout.write(Stamp {
        key: String::new(),
        comfyui: existing::version(&layout.source).unwrap_or_else(|| name.clone()),
        repository: release.commit().map(|_| release::shown(&options.repository)),
        reference: release.reference().map(str::to_owned),
        commit: release.commit().map(ToString::to_string),
        torch_index: options.torch_index.as_ref().map(redacted),
        packages: list.file_name().map(|name| name.to_string_lossy().into_owned()),
        python: python.version_text(),
        installed_by: env!("CARGO_PKG_VERSION").to_owned(),
    })?;
    remove(&layout.work)?;
    remove(&layout.cache)?;
    layout
        .find(release)
        .ok_or_else(|| io("find", &layout.stamp)(std::io::Error::other("it was written, and is not as it was written")))
}

/// Writes what the pins hold where [`Installation::lock`] has it.
fn write_pins(options: &InstallOptions, layout: &Layout) -> Result<PathBuf, InstallError> {
    let list = layout.packages(None);
    layout::write(&list, options.pins.dependencies.as_bytes())?;
    Ok(list)
}

/// Waits for the lock on the file `path`, which it creates: one installation at a time, of `what`. Dropping the file gives it
/// back.
///
/// The lock belongs to an open file, and each program that the installer runs inherits that file as its standard input
/// (it is empty). So when an installer is killed, the lock is free only once the last of its programs has ended too, and
/// the next installer never works beside the rest of a dead one.
pub(in crate::comfy) async fn lock(path: &Path, what: &str, reporter: &dyn Reporter) -> Result<File, InstallError> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(io("open", path))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(io("lock", path)(source)),
        }
        if !told {
            told = true;
            reporter.note(&format!(
                "another process is installing {what}, or the rest of a killed one is (it holds {}); waiting for it to finish",
                path.display()
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Fails unless `dir`, which need not exist yet, is on a disk with `needed` bytes left for us.
fn check_room(dir: &Path, needed: u64) -> Result<(), InstallError> {
    let free = disk::space(dir).map_err(io("measure the free space of", dir))?.free;
    if free >= needed {
        return Ok(());
    }
    let dir = dir.to_owned();
    Err(InstallError::DiskTooSmall { dir, free, needed })
}

/// Removes a folder of ours, if it is there.
fn remove(dir: &Path) -> Result<(), InstallError> {
    disk::remove(dir).map_err(io("remove", dir))
}

/// Renames a damaged tree: its user's models and pictures may be in it.
fn set_aside(source: &Path, reporter: &dyn Reporter) -> Result<(), InstallError> {
    if !source.exists() {
        return Ok(());
    }
    let mut names = (1..u32::MAX).map(|number| source.with_extension(format!("damaged-{number}")));
    let aside = names.find(|aside| !aside.exists()).unwrap_or_default();
    std::fs::rename(source, &aside).map_err(io("rename", source))?;
    reporter.note(&format!(
        "the ComfyUI tree there is damaged; it is kept as {}",
        aside.display()
    ));
    Ok(())
}
