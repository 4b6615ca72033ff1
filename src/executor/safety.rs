//! Stage: pictures are judged before they are handed out, where the request asks for that and an endpoint is configured.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::Executor;
use super::ledger::Ledger;
use crate::delivery::safety::{SafetyChecker, SafetyError, Verdict};
use crate::error::{ErrorKind, JobError};
use crate::job::{FileKind, Outcome, OutputFile};

/// Pictures that are judged at once: each is in memory.
const AT_ONCE: usize = 8;

impl Executor {
    /// Judges the pictures of an outcome; says so in it. Those of one that may not be handed out are removed, if the job
    /// made them.
    pub(super) async fn check_safety(&self, outcome: &mut Outcome, ledger: &Ledger) -> Result<(), JobError> {
        let Some(checker) = &self.settings.safety else {
            let warning = "the pictures were not checked for safety: SAFETY_CHECK_URL is not set";
            outcome.warnings.push(warning.to_owned());
            return Ok(());
        };
        let pictures = outcome.wanted().filter(|file| file.kind == FileKind::Image);
        let judging: Vec<_> = pictures.map(|file| self.judge(checker, file)).collect();
        let judged = stream::iter(judging).buffered(AT_ONCE).try_collect::<Vec<_>>().await;
        let error = match judged {
            Ok(verdicts) => {
                let flagged = verdicts.into_iter().find_map(|verdict| match verdict {
                    Verdict::Safe => None,
                    Verdict::Flagged(categories) => Some(categories),
                });
                let Some(categories) = flagged else {
                    outcome.safety_checked = true;
                    return Ok(());
                };
                refused(&categories)
            }
            Err(error) => error,
        };
        self.remove(outcome, ledger).await;
        Err(error)
    }

    async fn judge(&self, checker: &SafetyChecker, file: &OutputFile) -> Result<Verdict, JobError> {
        let content = self.contents().original(file).await?;
        let media_type = imagesize::image_type(&content).map_or("image/png", |format| match format {
            imagesize::ImageType::Jpeg => "image/jpeg",
            imagesize::ImageType::Webp => "image/webp",
            imagesize::ImageType::Gif => "image/gif",
            _ => "image/png",
        });
        let judged = checker.check(&content, media_type).await;
        judged.map_err(|error| unanswered(&error))
    }

    /// Removes the files of an outcome that nobody gets to see, where they are on this machine. What was there before the
    /// job is somebody else's.
    async fn remove(&self, outcome: &Outcome, ledger: &Ledger) {
        for file in &outcome.files {
            if let Ok(Some(path)) = self.contents().path(file, file.original())
                && ledger.has_made(&path)
                && let Err(error) = tokio::fs::remove_file(&path).await
            {
                tracing::warn!(%error, "a picture that is not handed out could not be removed: {}", path.display());
            }
        }
    }
}

fn refused(categories: &[String]) -> JobError {
    let found = match categories {
        [] => String::new(),
        some => format!(": {}", some.join(", ")),
    };
    JobError::invalid(format!("The safety check refused the picture{found}"))
        .hint("Ask for another picture.")
        .at("prompt")
}

fn unanswered(error: &SafetyError) -> JobError {
    JobError::new(
        ErrorKind::Undeliverable,
        format!("The safety check could not be made: {error}"),
    )
    .hint("Try again later; SAFETY_CHECK_URL names the endpoint.")
}
