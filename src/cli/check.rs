//! `check`: the configuration in force, and what it leads to.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use super::{EXIT_CONFIG, complain};
use crate::boot::{self, Plan, Source};
use crate::comfy::gpu;
use crate::comfy::volumes::Volume;
use crate::config::{Config, ConfigError};

pub(super) fn check(config: &Result<Config, ConfigError>) -> ExitCode {
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let (text, code) = match boot::plan(config) {
        Ok(plan) => (describe(config, &consequences(&plan)), ExitCode::SUCCESS),
        Err(error) => (
            describe(config, &format!("ComfyUI cannot be started: {error}\n")),
            ExitCode::FAILURE,
        ),
    };
    // A reader that closes the pipe early has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}

fn describe(config: &Config, consequences: &str) -> String {
    let mut text = String::new();
    let width = config
        .resolved
        .iter()
        .map(|resolved| resolved.name.len())
        .max()
        .unwrap_or_default();
    for resolved in &config.resolved {
        let value = resolved.value.as_deref().unwrap_or("(not set)");
        let from = if resolved.from_environment {
            "environment"
        } else {
            "default"
        };
        let _ = writeln!(text, "{:width$}  {value}  ({from})", resolved.name);
    }
    let gpu = if gpu::nvidia_present() { "present" } else { "none found" };
    let _ = write!(text, "\nNVIDIA GPU: {gpu}\n{consequences}");
    text
}

fn consequences(plan: &Plan) -> String {
    let plan = match plan {
        Plan::Attach(url) => return format!("ComfyUI: the one at {url}, which somebody else runs\n"),
        Plan::Start(plan) => plan,
    };
    let mut text = match &plan.source {
        Source::Existing(found) => format!(
            "ComfyUI: {} in {}, run by {}\n",
            found.version,
            found.root.display(),
            found.python.display()
        ),
        Source::Managed(options) => match crate::comfy::install::find(&options.dir) {
            Some(found) => format!(
                "ComfyUI: {} in {}, installed by this worker\n",
                found.version,
                found.root.display()
            ),
            None => format!(
                "ComfyUI: will be installed in {} (`qwen-image-worker setup` does it now)\n",
                options.dir.display()
            ),
        },
    };
    let weights = match &plan.demo {
        Some(folder) => format!(
            "Models: demo weights in {}; pictures are noise (DEMO_WEIGHTS=false switches them off)\n",
            folder.display()
        ),
        None => "Models: those in ComfyUI's own folders\n".to_owned(),
    };
    text.push_str(&weights);
    for folder in plan.volumes.iter().flat_map(Volume::models) {
        let _ = writeln!(text, "Models on a network volume: {}", folder.display());
    }
    text
}
