//! `openapi`: the document of all routes.

use std::io::Write as _;
use std::process::ExitCode;

use crate::config::Config;
use crate::http;

/// Prints the document of a worker with this configuration.
pub(super) fn openapi(config: &Config) -> ExitCode {
    let config = &config.http;
    let document = http::openapi::document(&config.health_path, !config.api_keys.is_empty());
    // A reader that closes the pipe early has seen enough.
    let _ = writeln!(std::io::stdout(), "{document:#}");
    ExitCode::SUCCESS
}
