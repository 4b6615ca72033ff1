//! The command line: one file a command.

mod bars;
mod check;
mod run;
mod serve;
mod setup;
mod worker;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use indicatif::MultiProgress;

use crate::config::Config;
use crate::telemetry::logs;

/// Bad configuration: `EX_USAGE` of sysexits.h.
const EXIT_CONFIG: u8 = 64;

/// A worker around ComfyUI for Qwen-Image and any other workflow.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Configuration is read from the environment: `qwen-image-worker check` lists it."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the HTTP API (the default, unless RunPod's job queue is there).
    Serve,
    /// Take jobs from RunPod's queue (the default where it is).
    Worker,
    /// Run one job from a file, write its images, print its result.
    Run {
        /// A request as /runsync takes it, such as `test_input.json`; `-` reads standard input.
        file: PathBuf,
        /// Where the images go.
        #[arg(long, default_value = "out")]
        out: PathBuf,
    },
    /// Install ComfyUI and write the demo weights, if they are needed and missing.
    Setup,
    /// Print the configuration in force, secrets starred, and what it leads to.
    Check,
}

impl Command {
    /// What is logged unless `LOG_LEVEL` says otherwise: a person at a terminal is shown progress, not ComfyUI's lines.
    fn quiets_comfy(&self) -> bool {
        !matches!(self, Self::Serve | Self::Worker)
    }
}

/// Runs the command line and gives the process's exit code: 0 done, 1 failed, 2 wrong usage, 64 bad configuration, 130 stopped by
/// a signal before a job was done.
pub fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let config = Config::from_env();
    if let Some(Command::Check) = command {
        return check::check(&config);
    }
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let command = command.unwrap_or(match config.platform.job_queue() {
        Some(_) => Command::Worker,
        None => Command::Serve,
    });
    let bars = MultiProgress::new();
    let chosen = config
        .resolved
        .iter()
        .any(|resolved| resolved.name == "LOG_LEVEL" && resolved.from_environment);
    let quiet = command.quiets_comfy() && !chosen;
    let filter = if quiet {
        format!("{},comfyui=off", config.platform.log_filter)
    } else {
        config.platform.log_filter.clone()
    };
    logs::init(&filter, bars.clone());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("the runtime cannot be started: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match command {
            Command::Serve => serve::serve(config).await,
            Command::Worker => worker::worker(config).await,
            Command::Run { file, out } => run::run(config, &file, &out, bars).await,
            Command::Setup => setup::setup(config, bars).await,
            Command::Check => Ok(ExitCode::SUCCESS),
        }
    });
    // A read of standard input, say, cannot be cancelled and need not be waited for.
    runtime.shutdown_background();
    done.unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}

/// Writes the reason of an exit to standard error.
fn complain(reason: &str) {
    let _ = writeln!(std::io::stderr(), "error: {reason}");
}
