//! `setup`: everything that a first start would do, without the start.

use std::process::ExitCode;

use indicatif::MultiProgress;

use super::bars;
use crate::boot::{self, Plan};
use crate::config::Config;

pub(super) async fn setup(config: Config, bars: MultiProgress) -> anyhow::Result<ExitCode> {
    let plan = match boot::plan(&config)? {
        Plan::Attach(url) => {
            tracing::info!("nothing to set up: the ComfyUI at {url} is somebody else's");
            return Ok(ExitCode::SUCCESS);
        }
        Plan::Start(plan) => plan,
    };
    let reporter = bars::reporter(&bars);
    let (root, python) = plan
        .set_up(&*reporter)
        .await
        .map_err(|error| anyhow::anyhow!(error.full_text()))?;
    tracing::info!("ready: ComfyUI in {}, run by {}", root.display(), python.display());
    Ok(ExitCode::SUCCESS)
}
