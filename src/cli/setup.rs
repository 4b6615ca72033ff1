//! `setup`: everything that a first start would do, without the start.

mod report;
mod trial;

use std::process::ExitCode;

use clap::Args;

use super::screen::Screen;
use crate::boot::{self, Plan, Source};
use crate::comfy::install::{self, InstallError, InstallOptions, Pruned};
use crate::config::Config;
use crate::disk::blocking;
use crate::display::Size;
use crate::error::JobError;

/// What `setup` is asked to do.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct SetupArguments {
    /// Look up again what the release or branch of `COMFYUI_VERSION` is, and install that.
    #[arg(long)]
    pub(super) update: bool,
    /// Then remove every other version of `ComfyUI` that the worker has installed, if no other process uses it.
    #[arg(long)]
    pub(super) prune: bool,
    /// Install this version of `ComfyUI` beside the one in use, run every template on it with demo weights on the CPU, and print
    /// what passed. Without a version: the configured one.
    #[arg(long, value_name = "VERSION", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["update", "prune"])]
    pub(super) check: Option<String>,
    /// Try this template, and no others than are named so.
    #[arg(long = "template", value_name = "NAME", requires = "check")]
    pub(super) templates: Vec<String>,
    /// Print what `--check` found as JSON.
    #[arg(long, requires = "check")]
    pub(super) json: bool,
    /// Show the log, as where there is no terminal or `LOG_LEVEL` is set, and not only progress and warnings.
    #[arg(long, short)]
    pub(super) verbose: bool,
}

pub(super) async fn setup(config: Config, arguments: SetupArguments, screen: &Screen) -> anyhow::Result<ExitCode> {
    if let Some(version) = &arguments.check {
        let version = Some(version.as_str()).filter(|version| !version.is_empty());
        return Box::pin(trial::check(&config, version, &arguments, screen)).await;
    }
    let plan = match boot::plan(&config)? {
        Plan::Front(_) => {
            screen.say("nothing to set up: ENGINES makes this worker a front, which has no ComfyUI of its own");
            return Ok(ExitCode::SUCCESS);
        }
        Plan::Attach(urls) => {
            screen.say(&format!(
                "nothing to set up: COMFYUI_URL names what runs already: {}",
                boot::named(&urls)
            ));
            return Ok(ExitCode::SUCCESS);
        }
        Plan::Start(plan) => plan,
    };
    let managed = match &plan.source {
        Source::Managed(options) => Some(&**options),
        Source::Existing(_) if arguments.update || arguments.prune => {
            anyhow::bail!(
                "COMFYUI_DIR names a ComfyUI that somebody else installed; --update and --prune are for the worker's own"
            );
        }
        Source::Existing(_) => None,
    };
    let newer = managed
        .cloned()
        .map(|options| tokio::spawn(async move { install::newer_release(&options).await }));
    if let Some(options) = managed.filter(|_| arguments.update) {
        install::update(options, &*screen.reporter()).await.map_err(told)?;
    }
    let (root, python) = plan
        .set_up(&*screen.reporter())
        .await
        .map_err(|error| anyhow::anyhow!(error.full_text()))?;
    if let Some(options) = managed.filter(|_| arguments.prune) {
        prune(options, screen).await?;
    }
    if let Some(newer) = newer
        && let Ok(Some(release)) = newer.await
    {
        tracing::warn!(
            "ComfyUI {} is the version that this worker was tested with; {release} is out. COMFYUI_VERSION={release} installs it beside, and COMFYUI_VERSION=pinned goes back",
            install::COMFYUI_VERSION
        );
    }
    let nodes = plan.node_set().map(|set| format!(", with {}", set.summary()));
    screen.say(&format!(
        "ready: ComfyUI in {}, run by {}{}",
        root.display(),
        python.display(),
        nodes.unwrap_or_default()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Removes what is not in force, and says what that freed.
async fn prune(options: &InstallOptions, screen: &Screen) -> anyhow::Result<()> {
    let options = options.clone();
    let pruned = blocking(move || install::prune(&options)).await.map_err(told)?;
    if pruned.is_empty() {
        screen.say("no other version of ComfyUI is installed");
    }
    for one in &pruned {
        screen.say(&line(one));
    }
    Ok(())
}

fn line(pruned: &Pruned) -> String {
    let what = match &pruned.version {
        Some(version) => format!("ComfyUI {version} in {}", pruned.folder.display()),
        None => format!("the unfinished {}", pruned.folder.display()),
    };
    match pruned.freed {
        None => format!("left {what}: another process uses or installs it"),
        Some(freed) if pruned.cached > 0 => format!(
            "removed {what}: {} freed; {} more lie in uv's cache or another version too (`uv cache clean` empties the cache)",
            Size(freed),
            Size(pruned.cached)
        ),
        Some(freed) => format!("removed {what}: {} freed", Size(freed)),
    }
}

fn told(error: InstallError) -> anyhow::Error {
    anyhow::anyhow!(JobError::from(error).full_text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_told_with_what_it_freed() {
        let pruned = |version: Option<&str>, freed, cached| Pruned {
            folder: "/data/comfyui/a".into(),
            version: version.map(str::to_owned),
            freed,
            cached,
        };
        assert_eq!(
            line(&pruned(Some("0.3.64"), Some(1_200_000_000), 6_000_000_000)),
            "removed ComfyUI 0.3.64 in /data/comfyui/a: 1.2 GB freed; 6.0 GB more lie in uv's cache or another version too (`uv cache clean` empties the cache)"
        );
        assert_eq!(
            line(&pruned(None, Some(12_000), 0)),
            "removed the unfinished /data/comfyui/a: 12 kB freed"
        );
        assert_eq!(
            line(&pruned(Some("0.3.64"), None, 0)),
            "left ComfyUI 0.3.64 in /data/comfyui/a: another process uses or installs it"
        );
    }
}
