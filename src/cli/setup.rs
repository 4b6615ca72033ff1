//! `setup`: everything that a first start would do, without the start.

use std::process::ExitCode;

use clap::Args;

use super::screen::Screen;
use crate::boot::{self, Plan};
use crate::config::Config;

/// What `setup` is asked to do.
#[derive(Debug, Clone, Args)]
pub(super) struct SetupArguments {
    /// Install this version of ComfyUI beside the one in use, run every template on it with demo weights on the CPU, and print
    /// what passed. Without a version: the configured one.
    #[arg(long, value_name = "VERSION", num_args = 0..=1)]
    pub(super) check: Option<Option<String>>,
    /// Show the log, as where there is no terminal or `LOG_LEVEL` is set, and not only progress and warnings.
    #[arg(long, short)]
    pub(super) verbose: bool,
}

pub(super) async fn setup(config: Config, _arguments: SetupArguments, screen: &Screen) -> anyhow::Result<ExitCode> {
    let plan = match boot::plan(&config)? {
        Plan::Attach(url) => {
            screen.say(&format!(
                "nothing to set up: COMFYUI_URL names a running ComfyUI, {url}"
            ));
            return Ok(ExitCode::SUCCESS);
        }
        Plan::Start(plan) => plan,
    };
    let (root, python) = plan
        .set_up(&*screen.reporter())
        .await
        .map_err(|error| anyhow::anyhow!(error.full_text()))?;
    screen.say(&format!(
        "ready: ComfyUI in {}, run by {}",
        root.display(),
        python.display()
    ));
    Ok(ExitCode::SUCCESS)
}
