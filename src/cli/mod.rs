//! The command line: one file a command.

mod check;
mod models;
mod openapi;
mod run;
mod screen;
mod sdk;
mod serve;
mod setup;
mod worker;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use tracing::Level;

use self::screen::{self as bars, Screen};
use crate::config::Config;
use crate::http::server;
use crate::telemetry::{logs, warnings};

/// Where the images of a job from the command line go.
const OUT: &str = "out";

/// Bad configuration: `EX_USAGE` of sysexits.h.
const EXIT_CONFIG: u8 = 64;

/// Stopped by a signal, as a shell reports SIGINT.
const EXIT_STOPPED: u8 = 130;

/// A worker around ComfyUI for Qwen-Image and any other workflow.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Configuration is read from the environment: `qwen-image-worker check` lists it.",
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    sdk: sdk::SdkArguments,
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
        /// The request itself, in place of the file.
        #[arg(skip)]
        text: Option<String>,
        /// Where the images go.
        #[arg(long, default_value = OUT)]
        out: PathBuf,
        /// Show the log, as where there is no terminal or `LOG_LEVEL` is set, and not only progress and warnings.
        #[arg(long, short)]
        verbose: bool,
    },
    /// Install ComfyUI and write the demo weights, if they are needed and missing.
    Setup {
        /// Show the log, as where there is no terminal or `LOG_LEVEL` is set, and not only progress and warnings.
        #[arg(long, short)]
        verbose: bool,
    },
    /// Fetch, list, verify and remove model files.
    Models {
        #[command(subcommand)]
        command: models::ModelsCommand,
    },
    /// Print the configuration in force, secrets starred, and what it leads to.
    Check,
    /// Print what every route takes and answers: the document that is served at /openapi.json.
    #[command(name = "openapi")]
    OpenApi,
}

impl Command {
    /// Whether it works until it is stopped. The others work for a person at a terminal, who is shown progress and not
    /// `ComfyUI`'s lines, and whose results go to standard output.
    fn is_service(&self) -> bool {
        matches!(self, Self::Serve | Self::Worker)
    }

    /// Whether progress and warnings are enough.
    fn is_quiet(&self) -> bool {
        matches!(self, Self::Run { verbose: false, .. } | Self::Setup { verbose: false })
    }
}

/// Runs the command line and gives the process's exit code: 0 done, 1 failed, 2 wrong usage, 64 bad configuration, 130 stopped by
/// a signal before a job was done.
pub fn main() -> ExitCode {
    let Arguments { command, mut sdk } = Arguments::parse();
    let command = match command.map_or_else(|| sdk.command(), |command| Ok(Some(command))) {
        Ok(command) => command,
        Err(error) => Arguments::command().error(ErrorKind::ValueValidation, error).exit(),
    };
    let config = Config::from_env();
    if let Some(Command::Check) = command {
        return check::check(&config);
    }
    let mut config = match config {
        Ok(config) => config,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if let Some(Command::OpenApi) = command {
        return openapi::openapi(&config);
    }
    sdk.apply(&mut config);
    let command = command.unwrap_or(match config.platform.job_queue() {
        Some(_) => Command::Worker,
        None => Command::Serve,
    });
    let platform = &config.platform;
    let screen = Screen::new(command.is_quiet() && !platform.log_filter_chosen);
    let runpod_lines = command.is_service() && platform.endpoint_id.is_some();
    let filter = if command.is_service() || platform.log_filter_chosen {
        platform.log_filter.clone()
    } else {
        format!("{},comfyui=off", platform.log_filter)
    };
    if runpod_lines {
        logs::init_runpod(&filter);
    } else if screen.is_quiet() {
        warnings::init(screen.bars());
    } else {
        logs::init(&filter, screen.bars());
    }
    sdk.warn();
    server::raise_descriptor_limit();
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
            Command::Worker => Box::pin(worker::worker(config)).await,
            Command::Run { file, text, out, .. } => run::run(config, &file, text, &out, &screen).await,
            Command::Setup { .. } => setup::setup(config, &screen).await,
            Command::Models { command } => models::models(config, command, screen.bars()).await,
            Command::Check | Command::OpenApi => Ok(ExitCode::SUCCESS),
        }
    });
    // A read of standard input, say, cannot be cancelled and need not be waited for.
    runtime.shutdown_background();
    done.unwrap_or_else(|error| {
        if runpod_lines {
            tracing::error!("{error:#}");
        } else {
            complain(&format!("{error:#}"));
        }
        ExitCode::FAILURE
    })
}

/// Writes the reason of an exit to standard error.
fn complain(reason: &str) {
    let label = warnings::label(Level::ERROR, warnings::has_colours());
    let _ = writeln!(std::io::stderr(), "{label}: {reason}");
}
