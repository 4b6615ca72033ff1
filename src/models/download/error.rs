//! Why a file could not be fetched, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::display::Size;
use crate::error::{ErrorKind, JobError};

/// Why a file is not there. Addresses are without their queries, which may be signatures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Somebody ended it.
    #[error("the download was cancelled")]
    Cancelled,
    /// The repository is only for those who accepted its terms.
    #[error("the repository {page} is gated: {}", if *.token { "HF_TOKEN's account has no access to it" } else { "it wants a token" })]
    Gated {
        /// The repository's page.
        page: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// There is no such repository, or it is private. The Hub does not tell which.
    #[error("the repository {page} does not exist, or it is private{}", if *.token { " and HF_TOKEN's account has no access to it" } else { "" })]
    NoRepository {
        /// The repository's page.
        page: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// The repository has no such branch, tag or commit.
    #[error("the repository {page} has no revision {revision}")]
    NoRevision {
        /// The repository's page.
        page: String,
        /// The branch, tag or commit.
        revision: String,
    },
    /// The revision has no such file.
    #[error("the repository {page} has no file {path} at revision {revision}")]
    NoEntry {
        /// The repository's page.
        page: String,
        /// The branch, tag or commit.
        revision: String,
        /// The path in the repository.
        path: String,
    },
    /// The Hub does not know the token.
    #[error("{endpoint} does not accept HF_TOKEN: it is wrong or no longer valid")]
    BadToken {
        /// The Hub.
        endpoint: String,
    },
    /// A server other than the Hub wants to know who asks, or says no.
    #[error("{url} refuses access (status {status}{})", if *.token { ", with the token sent" } else { ", no token sent" })]
    Refused {
        /// The address.
        url: String,
        /// Its answer.
        status: u16,
        /// Whether a token was sent.
        token: bool,
    },
    /// There is nothing at the address.
    #[error("there is no file at {url} (status {status})")]
    NotFound {
        /// The address.
        url: String,
        /// Its answer.
        status: u16,
    },
    /// A web page came instead of a model.
    #[error("{url} gave a web page, not a file")]
    WebPage {
        /// The address that gave it.
        url: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// An answer that makes no file, after all tries where another try could help.
    #[error("{url} answered with status {status}")]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: u16,
    },
    /// A redirect that is not followed.
    #[error("a redirect at {url} {why}")]
    Redirect {
        /// The address that redirects.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No answer, or one that broke off, after all tries.
    #[error("no whole answer from {url}: {why}")]
    Request {
        /// The address.
        url: String,
        /// What happened.
        why: String,
    },
    /// No byte for too long, after all tries.
    #[error("{url} sent nothing for {} s", .waited.as_secs_f64())]
    Stalled {
        /// The address.
        url: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The server contradicts itself.
    #[error("{url} gives an answer that cannot be right: {why}")]
    Contradiction {
        /// The address.
        url: String,
        /// What does not fit.
        why: String,
    },
    /// The file has another size than it must have.
    #[error("{url} has {got} bytes instead of {expected}")]
    WrongSize {
        /// The address.
        url: String,
        /// The size it must have.
        expected: u64,
        /// The size it has.
        got: u64,
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
    /// The file became another one each time it was begun.
    #[error("{url} changes while it is being fetched")]
    Changing {
        /// The address.
        url: String,
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

impl FetchError {
    /// The next step for the user, where there is one.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Gated { page, token: false } => {
                format!("Accept the licence at {page}, then set HF_TOKEN to a token of that account.")
            }
            Self::Gated { page, token: true } => {
                format!("Accept the licence at {page} with the account that HF_TOKEN belongs to.")
            }
            Self::NoRepository { token: false, .. } => {
                "Check the name; for a private repository, set HF_TOKEN to a token that may read it.".to_owned()
            }
            Self::NoRepository { token: true, .. } => {
                "Check the name, and that HF_TOKEN may read this repository.".to_owned()
            }
            Self::NoRevision { page, .. } => format!("See {page}/commits/main for the revisions there are."),
            Self::NoEntry { page, revision, .. } => format!("See {page}/tree/{revision} for the files there are."),
            Self::BadToken { endpoint } => {
                format!("Make a token at {endpoint}/settings/tokens, or unset HF_TOKEN for public models.")
            }
            Self::Refused { token: false, .. } | Self::WebPage { token: false, .. } => {
                "Set a token for this host (MODEL_TOKENS, or CIVITAI_TOKEN for Civitai).".to_owned()
            }
            Self::Refused { token: true, .. } | Self::WebPage { token: true, .. } => {
                "Check the address, and that the token for this host is valid and may read the file.".to_owned()
            }
            Self::NotFound { .. } => "Check the address.".to_owned(),
            Self::Status { .. } | Self::Request { .. } | Self::Stalled { .. } => {
                "Try again later: what was fetched is kept, and the download goes on from there.".to_owned()
            }
            Self::WrongSize { .. } | Self::WrongHash { .. } => {
                "Correct the size and the SHA-256 in the manifest if the file was replaced on purpose.".to_owned()
            }
            Self::Damaged { .. } => "Fetch the file from another place: this one is damaged at its source.".to_owned(),
            Self::NoSpace { .. } => {
                "Free some space or name another disk with MODEL_DIR; what was fetched is kept.".to_owned()
            }
            Self::Cancelled
            | Self::Redirect { .. }
            | Self::Contradiction { .. }
            | Self::Changing { .. }
            | Self::File { .. } => return None,
        };
        Some(hint)
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

/// Makes a local failure an error.
pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |source| FetchError::File { action, path, source }
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
    pub(super) fn broken(url: &str, why: String) -> Self {
        Self::again(FetchError::Request {
            url: url.to_owned(),
            why,
        })
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
        let error = FetchError::Gated {
            page: "https://hub.example.com/org/repo".to_owned(),
            token: false,
        };
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
