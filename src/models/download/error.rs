//! Why a file could not be fetched, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::display::Size;
use crate::error::{ErrorKind, JobError};
use crate::net::guard::Refused;

/// Why a file is not there. Addresses are without their queries, which may be signatures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Somebody ended it.
    #[error("the download was cancelled")]
    Cancelled,
    /// A server, or what it gives: told to the user, who alone can do something about it.
    #[error("{message}")]
    Told {
        /// What is wrong.
        message: String,
        /// The next step for the user, where there is one.
        hint: Option<String>,
    },
    /// The file has another hash than it must have.
    #[error("{url} has the SHA-256 {got} instead of {expected}")]
    WrongHash {
        /// The address.
        url: String,
        /// The hash it must have.
        expected: String,
        /// The hash it has.
        got: String,
    },
    /// A safetensors file whose header is damaged.
    #[error("{} is not a whole safetensors file: {why}", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The disk is too small.
    #[error("no room for {}: {} more are needed on its disk, and there are {}", .file.display(), Size(*.needed), Size(*.free))]
    NoSpace {
        /// The file.
        file: PathBuf,
        /// What all files that are to go to this disk still need, in bytes.
        needed: u64,
        /// What there is, in bytes.
        free: u64,
    },
    /// Something about a local file.
    #[error("cannot {action} {}: {source}", .path.display())]
    File {
        /// What was to be done.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// For an answer that another try may better.
pub(in crate::models) const TRY_LATER: &str =
    "Try again later: what was fetched is kept, and the download goes on from there.";
/// For a manifest that speaks of another file.
pub(in crate::models) const CORRECT_MANIFEST: &str =
    "Correct the size and the SHA-256 in the manifest if the file was replaced on purpose.";

impl FetchError {
    pub(in crate::models) fn told(message: String, hint: Option<&str>) -> Self {
        let hint = hint.map(str::to_owned);
        Self::Told { message, hint }
    }

    /// An answer that makes no file, after all tries where another try could help.
    pub(super) fn status(url: &str, status: u16) -> Self {
        Self::told(format!("{url} answered with status {status}"), Some(TRY_LATER))
    }

    /// A server other than the Hub wants to know who asks, or says no. `token`: one was sent.
    pub(super) fn refused(url: &str, status: u16, token: bool) -> Self {
        let sent = if token { "with the token sent" } else { "no token sent" };
        let message = format!("{url} refuses access (status {status}, {sent})");
        Self::told(message, Some(hint_on_access(token)))
    }

    /// A web page came instead of a model. `token`: one was sent.
    pub(super) fn web_page(url: &str, token: bool) -> Self {
        let message = format!("{url} gave a web page, not a file");
        Self::told(message, Some(hint_on_access(token)))
    }

    /// The file has another size than it must have.
    pub(super) fn wrong_size(url: &str, expected: u64, got: u64) -> Self {
        let message = format!("{url} has {got} bytes instead of {expected}");
        Self::told(message, Some(CORRECT_MANIFEST))
    }

    /// The next step for the user, where there is one.
    fn hint(&self) -> Option<&str> {
        match self {
            Self::Told { hint, .. } => hint.as_deref(),
            Self::WrongHash { .. } => Some(CORRECT_MANIFEST),
            Self::Damaged { .. } => Some("Fetch the file from another place: this one is damaged at its source."),
            Self::NoSpace { .. } => {
                Some("Free some space or name another disk with MODEL_DIR; what was fetched is kept.")
            }
            Self::Cancelled | Self::File { .. } => None,
        }
    }

    /// What a job is told that needs the model `name`.
    pub fn to_job_error(&self, name: &str) -> JobError {
        let error = JobError::new(ErrorKind::ModelMissing, format!("Failed to load model: {name}: {self}"));
        match self.hint() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

fn hint_on_access(token: bool) -> &'static str {
    if token {
        "Check the address, and that the token for this host is valid and may read the file."
    } else {
        "Set a token for this host (MODEL_TOKENS, or CIVITAI_TOKEN for Civitai)."
    }
}

/// Makes a local failure an error.
pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |source| FetchError::File { action, path, source }
}

/// The guard lets nobody go there.
pub(super) fn forbidden(refused: &Refused) -> Failure {
    FetchError::told(refused.to_string(), Some("Name a public address.")).into()
}

/// What a failure is worth.
#[derive(Debug)]
pub(super) enum Failure {
    /// It will be the same next time.
    Final(FetchError),
    /// Another try may do, not before `after`. `busy`: the server has too much to do.
    Again {
        /// What to say when the tries are used up.
        error: FetchError,
        /// How long the server wants to be left alone.
        after: Option<Duration>,
        /// Whether fewer connections would help.
        busy: bool,
    },
    /// A signed address is no longer taken.
    Expired(FetchError),
    /// There is another version of the file than before.
    Changed(FetchError),
}

impl Failure {
    /// Worth another try at once.
    pub(super) fn again(error: FetchError) -> Self {
        Self::Again {
            error,
            after: None,
            busy: false,
        }
    }

    /// No whole answer: worth another try.
    pub(super) fn broken(url: &str, why: &str) -> Self {
        let message = format!("no whole answer from {url}: {why}");
        Self::again(FetchError::told(message, Some(TRY_LATER)))
    }

    /// What to tell when nothing helped.
    pub(super) fn into_error(self) -> FetchError {
        match self {
            Self::Final(error) | Self::Again { error, .. } | Self::Expired(error) | Self::Changed(error) => error,
        }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        Self::Final(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_told_what_to_do() {
        let error = FetchError::told(
            "the repository https://hub.example.com/org/repo is gated: it wants a token".to_owned(),
            Some(
                "Accept the licence at https://hub.example.com/org/repo, then set HF_TOKEN to a token of that account.",
            ),
        );
        let error = error.to_job_error("unet/x.safetensors");
        assert_eq!(error.kind, ErrorKind::ModelMissing);
        assert_eq!(
            error.full_text(),
            "Failed to load model: unet/x.safetensors: the repository https://hub.example.com/org/repo is gated: it \
             wants a token. Accept the licence at https://hub.example.com/org/repo, then set HF_TOKEN to a token of that \
             account."
        );
    }

    #[test]
    fn space_is_told_in_numbers() {
        let error = FetchError::NoSpace {
            file: "/models/vae/x.safetensors".into(),
            needed: 31_700_000_000,
            free: 250_000_000,
        };
        assert_eq!(
            error.to_string(),
            "no room for /models/vae/x.safetensors: 31.7 GB more are needed on its disk, and there are 250.0 MB"
        );
    }
}
