//! Why nothing came out of a git repository, and what its user can do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::Commit;
use crate::comfy::unpack::UnpackError;

/// Why a reference was not resolved, or a commit not checked out. No address in it has a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitError {
    /// The address is none that is taken.
    #[error("{repository:?} is no address of a git repository: {reason}")]
    Address {
        /// What was given.
        repository: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such tag or branch.
    #[error("there is no tag or branch {reference:?} in {repository}{}", listed(near))]
    UnknownReference {
        /// The repository.
        repository: String,
        /// What was asked for.
        reference: String,
        /// Tags and branches with a similar name.
        near: Vec<String>,
    },
    /// A commit's name that is not written in full, which only somebody who has the repository can make whole.
    #[error("{reference:?} is no tag or branch of {repository}; as a commit it is not complete")]
    Abbreviated {
        /// The repository.
        repository: String,
        /// What was asked for.
        reference: String,
    },
    /// A repository without a default branch: an empty one, as a rule.
    #[error("{repository} has no default branch")]
    NoDefault {
        /// The repository.
        repository: String,
    },
    /// The server was not reached, or did not answer as it should.
    #[error("cannot reach {repository}: {reason}")]
    Unreachable {
        /// The repository.
        repository: String,
        /// What happened; may have several lines.
        reason: String,
    },
    /// The server knows no such repository.
    #[error("there is no git repository at {repository}")]
    NotFound {
        /// The repository.
        repository: String,
    },
    /// The server wants to know who asks. GitHub says so of a repository that is not there, too.
    #[error("{repository} is not there, or is not for everybody")]
    NeedsCredentials {
        /// The repository.
        repository: String,
    },
    /// The repository does not have the commit.
    #[error("{repository} has no commit {commit}")]
    CommitNotThere {
        /// The repository.
        repository: String,
        /// What was asked for.
        commit: Commit,
    },
    /// git refuses what the repository holds.
    #[error("{repository} is damaged\n{output}")]
    Damaged {
        /// The repository.
        repository: String,
        /// The last lines of git.
        output: String,
    },
    /// There is no git program, and without it the way there is closed.
    #[error("{repository} cannot be read without git: {reason}")]
    NeedsGit {
        /// The repository.
        repository: String,
        /// Why not.
        reason: String,
    },
    /// The host's archive is not the tree of the commit.
    #[error(
        "the archive of {repository} at {commit} holds other files than the commit: its tree is {found}, the commit's is \
         {expected}"
    )]
    HashMismatch {
        /// The repository.
        repository: String,
        /// The commit.
        commit: Commit,
        /// The hash of the commit's tree.
        expected: String,
        /// The hash of what the archive holds.
        found: String,
        /// Whether there are submodules, which no archive has.
        submodules: bool,
    },
    /// A file of the commit must not be on a disk of ours.
    #[error("{repository} at {commit} cannot be used: its {path:?} {reason}")]
    Unusable {
        /// The repository.
        repository: String,
        /// The commit.
        commit: Commit,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The host's archive cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The disk ran full on the way.
    #[error("cannot {step}: the disk is full\n{output}")]
    DiskFull {
        /// What was being done.
        step: &'static str,
        /// The last lines of git.
        output: String,
    },
    /// git gave up for a reason that we do not know.
    #[error("cannot {step}: git failed\n{output}")]
    Failed {
        /// What was being done.
        step: &'static str,
        /// The last lines of git.
        output: String,
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
        source: io::Error,
    },
}

impl GitError {
    /// Whether a later try may succeed although nobody changed anything here.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::DiskFull { .. } | Self::Failed { .. } | Self::Unpack(_) | Self::Io { .. }
        )
    }

    /// The next step for the user.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Address { .. } => {
                "Give it as https://…, ssh://…, git://… or file:///…; git@host:owner/name is ssh://git@host/owner/name."
            }
            Self::UnknownReference { .. } => {
                "Name a tag, a branch, or a commit with all its 40 digits. What there is: `git ls-remote URL`."
            }
            Self::Abbreviated { .. } => "Give the commit with all its 40 digits.",
            Self::NoDefault { .. } => "Name a tag, a branch, or a commit with all its 40 digits.",
            Self::Unreachable { .. } => {
                "Check the address and the connection (HTTPS_PROXY, or git's http.proxy), and run it again."
            }
            Self::NotFound { .. } => "Check the address: open it in a browser, or ask `git ls-remote URL`.",
            Self::NeedsCredentials { .. } => {
                "Check the address. For one that is private, write a token into it (https://TOKEN@host/owner/name), or set \
                 up git's credential helper or an SSH key for the user that runs this."
            }
            Self::CommitNotThere { .. } => {
                "Check its 40 digits, and that it was pushed to this very repository, not to a fork."
            }
            Self::Damaged { .. } => "Tell the repository's owner, or name another copy of it.",
            Self::NeedsGit { .. } => "Install git (Debian and Ubuntu: `apt install git`), and run it again.",
            Self::HashMismatch { submodules: true, .. } => {
                "The repository has submodules, which no archive can show. Install git (Debian and Ubuntu: `apt install \
                 git`), which checks each file by itself."
            }
            Self::HashMismatch { .. } => {
                "Either somebody changed it on its way, or the repository's .gitattributes have files left out or changed \
                 in archives (export-ignore, export-subst, eol). Install git (Debian and Ubuntu: `apt install git`), \
                 which checks each file by itself."
            }
            Self::Unusable { .. } => "Tell the repository's owner, or take another commit.",
            Self::Unpack(UnpackError::Io { source, .. }) | Self::Io { source, .. } => hint_of(source),
            Self::Unpack(_) => "Tell who made it; another version may do. If it was cut short, run it again.",
            Self::DiskFull { .. } => MAKE_ROOM,
            Self::Failed { .. } => "The lines above are its own. Run it again; if it fails the same way, update git.",
        }
    }
}

const MAKE_ROOM: &str = "Make room, or let DATA_DIR name a folder on a larger disk, and run it again.";

fn hint_of(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "Let DATA_DIR name a folder that this user may write to."
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => MAKE_ROOM,
        _ => "Look what is there, or let DATA_DIR name another folder.",
    }
}

fn listed(near: &[String]) -> String {
    match near {
        [] => String::new(),
        near => format!("; there is {}", near.join(", ")),
    }
}

/// Makes a [`GitError::Io`] of a failed operation: `.map_err(io("create", path))`.
pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GitError {
    let path = path.to_owned();
    move |source| GitError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_the_variable() {
        let full = io("write", Path::new("/data/x"))(io::ErrorKind::StorageFull.into());
        assert!(full.may_pass());
        assert!(full.hint().contains("DATA_DIR"), "{}", full.hint());
        let unpacking = GitError::Unpack(UnpackError::Io {
            action: "write",
            path: "/data/x".into(),
            source: io::ErrorKind::StorageFull.into(),
        });
        assert_eq!(unpacking.hint(), full.hint());
        assert_eq!(unpacking.to_string(), "cannot write /data/x");
    }
}
