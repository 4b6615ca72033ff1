//! Installs a managed ComfyUI when nobody gave one.
//!
//! ```text
//! DIR/                          InstallOptions::dir, DATA_DIR/comfyui
//!   0.30.0-8d1f…/               one folder for each set of pins: a newer program installs beside, and never under, a
//!     ComfyUI/                  running one; the tree appears by a rename
//!     venv/                     made again by each attempt, at its final place
//!     work/, cache/             only while it is installed
//!     installed.json            the stamp, written last: with it, and only with it, the installation is there
//!   0.30.0-8d1f….lock           held while one installs
//! ```
//!
//! [`find`] looks for the stamp. [`ensure`] takes the lock, looks again, and then goes through the steps, each of which
//! starts from nothing or finds itself done: a Python (`python`), uv or pip (`tools`), ComfyUI's tree (`source`),
//! its dependencies and a first start (`packages`), the stamp. What a killed attempt has downloaded is in uv's
//! cache, so the next one is quick. All of it is pinned to the byte (`pins`).

mod child;
mod error;
mod existing;
mod packages;
mod pins;
pub(in crate::comfy) mod python;
mod source;
#[cfg(test)]
mod tests;
mod tools;

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::error::InstallError;
pub use self::existing::existing;
pub use self::pins::COMFYUI_VERSION;

// The other rooms that fetch and install, git's and the custom nodes', run their programs as this one does.
#[allow(unused_imports)]
pub(in crate::comfy) use self::child::{Event, Runner, star_passwords};
pub(in crate::comfy) use self::error::io;
pub(in crate::comfy) use self::pins::Pins;
#[allow(unused_imports)]
pub(in crate::comfy) use self::tools::{Tools, uv_on_path};

use crate::disk;
use crate::telemetry::report::Reporter;

/// How often somebody who waits looks whether the lock has become free.
const POLL: Duration = Duration::from_millis(200);

/// What an installation takes with uv, in bytes: 7.4 GB measured on Linux with Python 3.11 (of it NVIDIA's libraries 4.2,
/// torch 1.7), and some air. uv unpacks into its cache and links from there, so that nothing lies there twice.
const NEEDED: u64 = 8_000_000_000;

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
    /// The requirement list, with hashes, of all that the environment holds; [`None`] where somebody else made it.
    pub lock: Option<PathBuf>,
}

/// Where and with what to install.
#[derive(Debug, Clone)]
pub struct InstallOptions {
    /// The folder that holds the managed installations.
    pub dir: PathBuf,
    /// The interpreter to build on (`COMFYUI_PYTHON`); without one it is looked for.
    pub python: Option<PathBuf>,
    /// Where Python and uv are looked for, in the form of `PATH`.
    pub search_path: OsString,
    /// Do not begin with less free space than this, in bytes. When pip must do uv's work, half as much again: it keeps
    /// all the downloaded packages, 3.9 GB, until all are unpacked.
    pub free_bytes_needed: u64,
    pins: Pins,
}

impl InstallOptions {
    /// Installs into `dir` with what is found on `PATH`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            python: None,
            search_path: std::env::var_os("PATH").unwrap_or_default(),
            free_bytes_needed: NEEDED,
            pins: Pins::default(),
        }
    }
}

/// The finished installation in `dir`, if it is the one that this program pins. Takes a millisecond or two.
pub fn find(dir: &Path) -> Option<Installation> {
    Layout::new(dir, &Pins::default()).find()
}

/// The finished installation in `options.dir`; installs it first where it is not there. Several at once, in one process
/// or in many, wait for the first. Dropping the future ends the programs that it runs; the next call finishes the work.
pub async fn ensure(options: &InstallOptions, reporter: &dyn Reporter) -> Result<Installation, InstallError> {
    // Programs run in other folders than ours.
    let dir = std::path::absolute(&options.dir).map_err(io("find", &options.dir))?;
    let layout = Layout::new(&dir, &options.pins);
    if let Some(installation) = layout.find() {
        return Ok(installation);
    }
    std::fs::create_dir_all(&dir).map_err(io("create", &dir))?;
    let lock = lock(&layout.lock, reporter).await?;
    if let Some(installation) = layout.find() {
        return Ok(installation);
    }

    // What a previous attempt left in uv's cache may be most of what is needed, so only the first one can tell.
    let first_attempt = !layout.venv.exists();
    let check_disk = |needed| {
        if first_attempt {
            check_room(&dir, needed)
        } else {
            Ok(())
        }
    };
    check_disk(options.free_bytes_needed)?;
    let uv = tools::uv_on_path(&options.search_path).await;
    let python = python::choose(options.python.as_deref(), &options.search_path, uv.is_some()).await?;
    reporter.note(&format!(
        "installing ComfyUI {} into {} with Python {}; that takes up to {:.0} GB",
        options.pins.version,
        layout.home.display(),
        python.version_text(),
        NEEDED as f64 / 1e9,
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
    if !tools.uses_uv() {
        check_disk(options.free_bytes_needed + options.free_bytes_needed / 2)?;
    }
    if !layout.source.join("main.py").is_file() {
        set_aside(&layout.source, reporter)?;
        source::install(&runner, &tools.python, &layout.source).await?;
    }
    let venv_python = packages::install(&runner, &tools, &layout.venv).await?;
    packages::start_once(&runner, &venv_python, &layout.source).await?;

    layout.stamp(&python.version_text())?;
    remove(&layout.work)?;
    remove(&layout.cache)?;
    layout
        .find()
        .ok_or_else(|| io("find", &layout.stamp)(std::io::Error::other("it was written, and is not as it was written")))
}

/// Waits for the lock on the file `path`, which it creates: one installation at a time. Dropping the file gives it back.
///
/// The lock belongs to an open file, and each program that the installer runs inherits that file as its standard input
/// (it is empty). So when an installer is killed, the lock is free only once the last of its programs has ended too, and
/// the next installer never works beside the rest of a dead one.
pub(in crate::comfy) async fn lock(path: &Path, reporter: &dyn Reporter) -> Result<File, InstallError> {
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
                "another process is installing ComfyUI, or the rest of a killed one is (it holds {}); waiting for it to finish",
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

/// The content of the stamp file.
#[derive(Debug, Serialize, Deserialize)]
struct Stamp {
    /// [`Pins::key`].
    key: String,
    /// ComfyUI's version.
    comfyui: String,
    /// Python's version; for people.
    python: String,
    /// The version of the program that installed it; for people.
    installed_by: String,
}

/// Where things are.
struct Layout {
    key: String,
    version: String,
    home: PathBuf,
    lock: PathBuf,
    packages: PathBuf,
    source: PathBuf,
    venv: PathBuf,
    work: PathBuf,
    cache: PathBuf,
    stamp: PathBuf,
}

impl Layout {
    fn new(dir: &Path, pins: &Pins) -> Self {
        let key = pins.key();
        let home = dir.join(&key);
        Self {
            version: pins.version.clone(),
            lock: dir.join(format!("{key}.lock")),
            packages: dir.join(format!("{key}.packages.txt")),
            source: home.join("ComfyUI"),
            venv: home.join("venv"),
            work: home.join("work"),
            cache: home.join("cache"),
            stamp: home.join("installed.json"),
            home,
            key,
        }
    }

    fn find(&self) -> Option<Installation> {
        let stamp: Stamp = serde_json::from_slice(&std::fs::read(&self.stamp).ok()?).ok()?;
        let installation = Installation {
            root: std::path::absolute(&self.source).ok()?,
            python: std::path::absolute(self.venv.join("bin/python")).ok()?,
            version: self.version.clone(),
            commit: None,
            lock: Some(self.packages.clone()).filter(|packages| packages.is_file()),
        };
        // `python` is a link to the interpreter below, which an upgrade of the system may have taken away.
        let complete =
            stamp.key == self.key && installation.root.join("main.py").is_file() && installation.python.is_file();
        complete.then_some(installation)
    }

    fn stamp(&self, python: &str) -> Result<(), InstallError> {
        let stamp = Stamp {
            key: self.key.clone(),
            comfyui: self.version.clone(),
            python: python.to_owned(),
            installed_by: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let new = self.work.join("installed.json");
        let write = || {
            std::fs::write(&new, serde_json::to_vec_pretty(&stamp)?)?;
            std::fs::rename(&new, &self.stamp)
        };
        write().map_err(io("write", &self.stamp))
    }
}

/// Removes a folder of ours, if it is there.
fn remove(dir: &Path) -> Result<(), InstallError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", dir)(error)),
        _ => Ok(()),
    }
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
