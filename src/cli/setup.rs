//! `setup`: everything that a first start would do, without the start.

use std::process::ExitCode;

use super::screen::Screen;
use crate::boot::{self, Plan};
use crate::config::Config;

pub(super) async fn setup(config: Config, screen: &Screen) -> anyhow::Result<ExitCode> {
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
