//! `convert FILE`: the graph that ComfyUI's page would send of a workflow that it saved.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use super::screen::Screen;
use super::{EXIT_STOPPED, complain, run};
use crate::app::{App, Jobs};
use crate::config::Config;
use crate::dialect::runpod::{self, Conversion, ConversionBody, Workflow};
use crate::disk::write_atomically;
use crate::error::JobError;
use crate::job::SavedRequest;
use crate::workflow::convert::Converted;

/// The graph goes to `out`, or to standard output. ComfyUI is started only where the file does not hold a graph already.
pub(super) async fn convert(
    config: Config,
    file: &Path,
    out: Option<&Path>,
    screen: &Screen,
) -> anyhow::Result<ExitCode> {
    let stop = super::on_signals()?;
    let content = run::read(file)?;
    let told = |error: JobError| anyhow::anyhow!("{}: {}", file.display(), error.full_text());
    let conversion = runpod::parse_conversion(ConversionBody::Whole(content.into())).map_err(told)?;
    let Conversion { workflow, mut warnings } = conversion;
    let graph = match workflow {
        Workflow::Graph(graph) => graph,
        Workflow::Saved(saved) => {
            let app = App::build(&config, screen.reporter(), Jobs::Forgotten).await?;
            let converted = stop.run_until_cancelled(by_comfyui(&app, saved)).await;
            app.stop(Duration::ZERO).await;
            let Some(converted) = converted else {
                complain("stopped before the workflow was converted");
                return Ok(ExitCode::from(EXIT_STOPPED));
            };
            let converted = converted.map_err(told)?;
            warnings.extend(converted.warnings);
            converted.graph
        }
    };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let mut text = serde_json::to_vec_pretty(&graph).context("the graph cannot be written")?;
    text.push(b'\n');
    match out {
        Some(out) => {
            write_atomically(out, |file| file.write_all(&text))
                .with_context(|| format!("{} cannot be written", out.display()))?;
            screen.say(&format!("wrote {}", out.display()));
        }
        None => std::io::stdout()
            .write_all(&text)
            .context("the graph cannot be printed")?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn by_comfyui(app: &App, saved: SavedRequest) -> Result<Converted, JobError> {
    // Once it is there.
    app.comfy.connection().await?;
    app.executor.convert(saved).await
}
