//! Why an installation failed, and what its user can do about it.

use std::path::PathBuf;

use super::pins::PYTHONS;
use super::{InstallOptions, layout, release};
use crate::comfy::git::GitError;
use crate::display::{Size, error_chain, redacted};
use crate::error::{ErrorKind, JobError};

/// Why there is no usable ComfyUI.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// No interpreter that was looked at will do: what was found, one after another, with the reason against each.
    #[error("no usable Python ({PYTHONS}) was found: {0}")]
    NoPython(String),
    /// The interpreter that `COMFYUI_PYTHON` names will not do.
    #[error("COMFYUI_PYTHON={} cannot be used: {reason}", python.display())]
    WrongPython {
        /// The interpreter.
        python: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The Python has no `ensurepip`, and there is no uv that could do without.
    #[error("Python {version} at {} cannot make virtual environments: its ensurepip module is missing", python.display())]
    NoVenv {
        /// The interpreter.
        python: PathBuf,
        /// Its version.
        version: String,
    },
    /// There is less space than an installation needs.
    #[error("the disk of {} is too small for ComfyUI: {} free, {} needed", dir.display(), Size(*free), Size(*needed))]
    DiskTooSmall {
        /// The folder that was to hold the installation.
        dir: PathBuf,
        /// Free space, in bytes.
        free: u64,
        /// Needed space, in bytes.
        needed: u64,
    },
    /// The disk ran full on the way.
    #[error("cannot {step}: the disk is full\n{output}")]
    DiskFull {
        /// What was being done.
        step: &'static str,
        /// The last lines of the program that did it.
        output: String,
    },
    /// The package index was not reached, or did not answer as it should.
    #[error("cannot {step}: the network or the package index failed\n{output}")]
    Network {
        /// What was being done.
        step: &'static str,
        /// The last lines of the program that did it.
        output: String,
    },
    /// A file is not the one that was pinned.
    #[error("cannot {step}: a downloaded file has another hash than the one pinned in this program\n{output}")]
    HashMismatch {
        /// What was being done.
        step: &'static str,
        /// The last lines of the program that noticed it.
        output: String,
    },
    /// The git repository did not give what was asked of it.
    #[error(transparent)]
    Git(#[from] GitError),
    /// What was checked out is no ComfyUI.
    #[error("commit {commit} of {repository} is no ComfyUI: there is no {missing} in it")]
    OtherTree {
        /// The commit.
        commit: String,
        /// The repository, without a password.
        repository: String,
        /// The file that every ComfyUI has.
        missing: &'static str,
    },
    /// No set of packages fits together: what uv says of it.
    #[error("the Python packages cannot be resolved\n{output}")]
    NoSolution {
        /// uv's explanation.
        output: String,
    },
    /// No set of packages fits what this ComfyUI demands.
    #[error("the Python packages that ComfyUI {name} asks for do not fit together\n{output}")]
    Unresolvable {
        /// What was asked for, `v0.46.0`.
        name: String,
        /// uv's explanation, which names the packages and who demands what.
        output: String,
    },
    /// Only uv resolves packages into a list that can be installed again.
    #[error("uv is needed for a ComfyUI other than the pinned one, and cannot be installed here")]
    NoUv,
    /// A version could not be installed while others are.
    #[error("{cause}")]
    NotReplaced {
        /// Why not.
        #[source]
        cause: Box<Self>,
        /// What is there, each as `COMFYUI_VERSION` names it.
        installed: Vec<String>,
    },
    /// A program that we ran gave up for a reason that we do not know.
    #[error("cannot {step}: {status}\n{output}")]
    Failed {
        /// What was being done.
        step: &'static str,
        /// How the program ended: `exit status: 1`, `signal: 9`.
        status: String,
        /// Its last lines.
        output: String,
    },
    /// A program could not be started at all.
    #[error("cannot {step}: {} does not start", program.display())]
    Spawn {
        /// What was to be done.
        step: &'static str,
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The source package is not what it should be.
    #[error("the source package {} cannot be used: {reason}", archive.display())]
    Archive {
        /// The downloaded file.
        archive: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The operation, as a verb: `create`.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The folder that `COMFYUI_DIR` names holds no ComfyUI.
    #[error("COMFYUI_DIR={} is no ComfyUI: there is no main.py in it", .0.display())]
    NotComfyUi(PathBuf),
}

impl InstallError {
    /// Whether a later try may succeed although nobody changed anything here.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::DiskTooSmall { .. }
            | Self::DiskFull { .. }
            | Self::Network { .. }
            | Self::Failed { .. }
            | Self::Spawn { .. }
            | Self::Archive { .. }
            | Self::Io { .. } => true,
            Self::Git(error) => error.may_pass(),
            Self::NotReplaced { cause, .. } => cause.may_pass(),
            Self::NoPython(_)
            | Self::WrongPython { .. }
            | Self::NoVenv { .. }
            | Self::HashMismatch { .. }
            | Self::OtherTree { .. }
            | Self::NoSolution { .. }
            | Self::Unresolvable { .. }
            | Self::NoUv
            | Self::NotComfyUi(_) => false,
        }
    }

    /// The same, with what is installed and could be used meanwhile.
    pub(super) fn beside(self, options: &InstallOptions) -> Self {
        let index = options.torch_index.as_ref().map(redacted);
        let mut installed: Vec<String> = layout::all(&options.dir)
            .iter()
            .filter_map(layout::Layout::stamped)
            // What an older program pinned has no name today.
            .filter(|(installation, stamp)| stamp.commit.is_some() || installation.version == options.pins.version)
            .map(|(installation, stamp)| {
                let torch = match stamp.torch_index {
                    torch if torch == index => String::new(),
                    None => ", without TORCH_INDEX_URL".to_owned(),
                    Some(torch) => format!(", with TORCH_INDEX_URL={torch}"),
                };
                let is_of_this = stamp.repository.as_deref() == Some(&release::shown(&options.repository));
                let named = stamp.reference.filter(|_| is_of_this);
                let reference = named.or(stamp.commit).unwrap_or_else(|| "pinned".to_owned());
                format!("{reference} ({}{torch})", installation.version)
            })
            .collect();
        installed.sort();
        installed.dedup();
        if installed.is_empty() {
            return self;
        }
        let cause = Box::new(self);
        Self::NotReplaced { cause, installed }
    }

    /// The next step for the user.
    pub fn hint(&self) -> String {
        let hint = match self {
            Self::NoPython(_) => {
                return format!(
                    "Install one of them (Debian and Ubuntu: `apt install python3 python3-venv`; anywhere: `uv python \
                     install 3.12`), or name one in COMFYUI_PYTHON, or name a ComfyUI that is installed in COMFYUI_DIR. \
                     Needed: {PYTHONS}.",
                );
            }
            Self::WrongPython { .. } => {
                return format!(
                    "Let COMFYUI_PYTHON name an interpreter of {PYTHONS}, or unset it to have one looked for on PATH.",
                );
            }
            Self::NoVenv { version, .. } => {
                let minor = version.rsplit_once('.').map_or(version.as_str(), |(minor, _)| minor);
                return format!(
                    "Debian and Ubuntu keep it in a package of its own: `apt install python3-venv` (or \
                     python{minor}-venv). Or put uv on PATH, which does without it."
                );
            }
            Self::Git(error) => {
                return format!("Check COMFYUI_VERSION and COMFYUI_REPOSITORY. {}", error.hint());
            }
            Self::NotReplaced { cause, installed } => {
                return format!(
                    "{} What is installed starts at once with COMFYUI_VERSION={}.",
                    cause.hint(),
                    installed.join(" or COMFYUI_VERSION="),
                );
            }
            Self::OtherTree { .. } => {
                "Let COMFYUI_REPOSITORY name a repository of ComfyUI, and COMFYUI_VERSION a release or commit of it."
            }
            Self::NoSolution { .. } | Self::Unresolvable { .. } => {
                "Choose another COMFYUI_VERSION (`setup --update` looks where a branch stands now); or another Python in \
                 COMFYUI_PYTHON, or another TORCH_INDEX_URL, where the lines above name those."
            }
            Self::NoUv => "Put uv on PATH (`pip install uv`), or set COMFYUI_VERSION=pinned.",
            Self::Spawn { program, .. } => {
                return format!("Check that {} exists and may be run.", program.display());
            }
            Self::Archive { archive, .. } => return format!("Remove {} and run it again.", archive.display()),
            Self::DiskTooSmall { .. } => MAKE_ROOM,
            Self::DiskFull { .. } => "Make room, or let DATA_DIR name a folder on a larger disk, and run it again.",
            Self::Network { .. } => {
                "Check the connection (HTTPS_PROXY, and PIP_INDEX_URL where a mirror is used), and run it again: it goes \
                 on where it stopped. Without a network, name a ComfyUI that is installed in COMFYUI_DIR."
            }
            Self::HashMismatch { .. } => {
                "The index, mirror or proxy in use (PIP_INDEX_URL, UV_DEFAULT_INDEX) serves other files than the ones that \
                 were tested: use the standard one, or name a ComfyUI of your own in COMFYUI_DIR."
            }
            Self::Failed { .. } => {
                "The lines above are its own. Run it again; if it fails the same way, name another interpreter in \
                 COMFYUI_PYTHON, another version in COMFYUI_VERSION (`setup --update` looks where a branch stands now), \
                 or a ComfyUI that is installed in COMFYUI_DIR."
            }
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                    "Let DATA_DIR name a folder that this user may write to."
                }
                std::io::ErrorKind::StorageFull => MAKE_ROOM,
                _ => "Look what is there, or let DATA_DIR name another folder.",
            },
            Self::NotComfyUi(_) => {
                "Let COMFYUI_DIR name the folder that holds ComfyUI's main.py, or unset it to have one installed."
            }
        };
        hint.to_owned()
    }
}

const MAKE_ROOM: &str = "Make room there, or let DATA_DIR name a folder on a larger disk.";

impl From<InstallError> for JobError {
    fn from(error: InstallError) -> Self {
        let message = format!("ComfyUI is not there: {}", error_chain(&error));
        // The hint follows as a sentence of its own.
        let message = message.trim_end_matches(['.', '\n']);
        Self::new(ErrorKind::ComfyUnavailable, message).hint(error.hint())
    }
}

/// Makes an [`InstallError::Io`] of a failed operation: `.map_err(io("create", path))`.
pub(in crate::comfy) fn io(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(std::io::Error) -> InstallError {
    let path = path.into();
    move |source| InstallError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_disk_names_the_folder_both_sizes_and_the_variable() {
        let error = InstallError::DiskTooSmall {
            dir: "/data/comfyui".into(),
            free: 1_250_000_000,
            needed: 8_000_000_000,
        };
        assert_eq!(
            error.to_string(),
            "the disk of /data/comfyui is too small for ComfyUI: 1.2 GB free, 8.0 GB needed"
        );
        assert!(error.hint().contains("DATA_DIR"));
    }

    #[test]
    fn a_job_is_told_the_cause_and_the_next_step() {
        let error = io("create", "/data")(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
        let job_error = JobError::from(error);
        assert_eq!(job_error.kind, ErrorKind::ComfyUnavailable);
        assert_eq!(
            job_error.message,
            "ComfyUI is not there: cannot create /data: permission denied"
        );
        assert!(job_error.hint.is_some_and(|hint| hint.contains("DATA_DIR")));
    }

    #[test]
    fn a_missing_ensurepip_names_the_package() {
        let error = InstallError::NoVenv {
            python: "/usr/bin/python3".into(),
            version: "3.11.2".into(),
        };
        let hint = error.hint();
        assert!(
            hint.contains("python3-venv") && hint.contains("python3.11-venv") && hint.contains("uv"),
            "{hint}"
        );
    }
}
