//! Whether the repository has a newer release than the pinned one.

use std::time::Duration;

use super::InstallOptions;
use super::release::Desk;
use crate::comfy::git;
use crate::config::VersionChoice;
use crate::telemetry::report::SilentReporter;

/// How long the repository may take to name its releases.
const PATIENCE: Duration = Duration::from_secs(5);

/// The newest release in the repository of `options`, `v0.46.0`, where they name the pinned version and it is newer than
/// that. [`None`] too where the repository does not answer soon.
pub async fn newer_release(options: &InstallOptions) -> Option<String> {
    if options.version != VersionChoice::Pinned {
        return None;
    }
    let desk = Desk::new().ok()?;
    let runner = desk.runner(options, &SilentReporter);
    let tags = match tokio::time::timeout(PATIENCE, git::tags(&runner, &options.repository)).await {
        Ok(Ok(tags)) => tags,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the newest release of ComfyUI is not known");
            return None;
        }
        Err(_) => {
            tracing::debug!("the newest release of ComfyUI is not known: the repository does not answer");
            return None;
        }
    };
    newest(tags).filter(|tag| release(tag) > release(&options.pins.version))
}

/// The newest of those tags that name a release.
fn newest(tags: Vec<String>) -> Option<String> {
    tags.into_iter()
        .filter(|tag| release(tag).is_some())
        .max_by_key(|tag| release(tag))
}

/// `v0.46.0` or `0.46.0` as numbers. Others, `v0.46.0-rc1`, are no releases.
fn release(tag: &str) -> Option<Vec<u32>> {
    let numbers = tag.strip_prefix('v').unwrap_or(tag).split('.');
    let numbers: Option<Vec<u32>> = numbers.map(|number| number.parse().ok()).collect();
    numbers.filter(|numbers| numbers.len() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_release_is_found_among_other_tags() {
        let tags = ["v0.9.2", "v0.46.0", "v0.47.0-rc1", "latest", "v0.30.1", "2024"];
        let tags = tags.map(str::to_owned).to_vec();
        assert_eq!(newest(tags).as_deref(), Some("v0.46.0"));
        assert!(release("v0.30.0") == release("0.30.0") && release("0.30.10") > release("0.30.9"));
        assert_eq!(newest(vec!["main".to_owned()]), None);
    }
}
