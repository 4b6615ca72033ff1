//! The command line: one file a command.

mod check;
mod convert;
mod models;
mod nodes;
mod run;
mod screen;
mod sdk;
mod serve;
mod setup;
mod worker;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::Level;

use self::screen::Screen;
use crate::config::{Config, ConfigError};
use crate::http::{openapi, server};
use crate::telemetry::{self, warnings};

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
    #[command(flatten)]
    Work(Work),
    /// Print the configuration in force, secrets starred, and what it leads to.
    Check,
    /// Print what every route takes and answers: the document that is served at /openapi.json.
    #[command(name = "openapi")]
    OpenApi,
}

/// The commands that need more than the configuration.
#[derive(Debug, Subcommand)]
enum Work {
    /// Serve the HTTP API (the default, unless RunPod's job queue is there).
    Serve,
    /// Take jobs from RunPod's queue (the default where it is).
    Worker,
    /// Run one job from a file, write its images, print its result.
    Run {
        /// A request as /runsync takes it, such as `test_input.json`; a workflow as ComfyUI's page saves or exports it; or a
        /// PNG, WebP, MP4 or WebM that holds one. `-` reads standard input.
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
    /// Print the graph in API format that ComfyUI's page would send of a workflow that it saved.
    Convert {
        /// The workflow as the page saves it (an app's `.app.json` too), or a PNG, WebP, MP4 or WebM that holds one; `-`
        /// reads standard input.
        file: PathBuf,
        /// A file that the graph is written to, in place of standard output.
        #[arg(long, short)]
        out: Option<PathBuf>,
        /// Show the log, as where there is no terminal or `LOG_LEVEL` is set, and not only progress and warnings.
        #[arg(long, short)]
        verbose: bool,
    },
    /// Install ComfyUI and custom nodes, and write the demo weights, if they are needed and missing.
    Setup(setup::SetupArguments),
    /// Fetch, list, verify and remove model files.
    Models {
        #[command(subcommand)]
        command: models::ModelsCommand,
    },
    /// Install, list, check, freeze and remove packs of custom nodes.
    Nodes {
        #[command(subcommand)]
        command: nodes::NodesCommand,
    },
}

impl Work {
    /// Whether it works until it is stopped. The others work for a person at a terminal, who is shown progress and not
    /// `ComfyUI`'s lines, and whose results go to standard output.
    fn is_service(&self) -> bool {
        matches!(self, Self::Serve | Self::Worker)
    }

    /// Whether progress and warnings are enough.
    fn is_quiet(&self) -> bool {
        match self {
            Self::Run { verbose, .. } | Self::Convert { verbose, .. } => !verbose,
            Self::Setup(arguments) => !arguments.verbose,
            Self::Serve | Self::Worker | Self::Models { .. } | Self::Nodes { .. } => false,
        }
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
    let done = match command {
        Some(Command::Check) => return check::check(&config),
        Some(Command::OpenApi) => in_force(config).map(|config| print_document(&config)),
        Some(Command::Work(work)) => in_force(config).map(|config| run_work(config, Some(work), &sdk)),
        None => in_force(config).map(|config| run_work(config, None, &sdk)),
    };
    done.unwrap_or_else(|code| code)
}

/// The configuration, or the exit code where there is a mistake in it.
fn in_force(config: Result<Config, ConfigError>) -> Result<Config, ExitCode> {
    config.map_err(|error| {
        complain(&error.to_string());
        ExitCode::from(EXIT_CONFIG)
    })
}

/// Prints the document of a worker with this configuration.
fn print_document(config: &Config) -> ExitCode {
    let document = openapi::document(&config.http.health_path, !config.http.api_keys.is_empty());
    // A reader that closes the pipe early has seen enough.
    let _ = writeln!(std::io::stdout(), "{document:#}");
    ExitCode::SUCCESS
}

fn run_work(mut config: Config, work: Option<Work>, sdk: &sdk::SdkArguments) -> ExitCode {
    sdk.apply(&mut config);
    let work = work.unwrap_or(match config.platform.job_queue() {
        Some(_) => Work::Worker,
        None => Work::Serve,
    });
    let platform = &config.platform;
    let screen = Screen::new(work.is_quiet() && !platform.log_filter_chosen);
    let runpod_lines = work.is_service() && platform.endpoint_id.is_some();
    let filter = if work.is_service() || platform.log_filter_chosen {
        platform.log_filter.clone()
    } else {
        format!("{},comfyui=off", platform.log_filter)
    };
    if runpod_lines {
        telemetry::init_runpod(&filter);
    } else if screen.is_quiet() {
        warnings::init(screen.bars());
    } else {
        telemetry::init(&filter, screen.bars());
    }
    sdk.warn();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    server::raise_descriptor_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("the runtime cannot be started: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match work {
            Work::Serve => Box::pin(serve::serve(config)).await,
            Work::Worker => Box::pin(worker::worker(config)).await,
            Work::Run { file, text, out, .. } => Box::pin(run::run(config, &file, text, &out, &screen)).await,
            Work::Convert { file, out, .. } => Box::pin(convert::convert(config, &file, out.as_deref(), &screen)).await,
            Work::Setup(arguments) => Box::pin(setup::setup(config, arguments, &screen)).await,
            Work::Models { command } => Box::pin(models::models(config, command, screen.bars())).await,
            Work::Nodes { command } => Box::pin(nodes::nodes(config, command, &screen)).await,
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

/// Watches for SIGTERM and SIGINT from now on. The first cancels the token, which ends the intake and waits for the jobs in flight;
/// the second ends the process at once, and ComfyUI with it, since it notices that we are gone.
fn on_signals() -> anyhow::Result<CancellationToken> {
    let watched = |kind| signal(kind).context("signals cannot be watched");
    let mut terminate = watched(SignalKind::terminate())?;
    let mut interrupt = watched(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if stop.is_cancelled() {
                tracing::warn!("{name} again: ending at once");
                std::process::exit(EXIT_STOPPED.into());
            }
            tracing::info!("{name}: no more jobs are taken; those in flight are finished");
            stop.cancel();
        }
    });
    Ok(token)
}

/// Writes the reason of an exit to standard error.
fn complain(reason: &str) {
    let label = warnings::label(Level::ERROR, warnings::has_colours());
    let _ = writeln!(std::io::stderr(), "{label}: {reason}");
}
