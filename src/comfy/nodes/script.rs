//! Runs the `install.py` of a pack.

use std::path::Path;
use std::time::Duration;

use crate::comfy::install::{Event, Runner};

/// Runs it in the pack's folder, with the interpreter that will load the pack and the environment that ComfyUI will have. Its
/// output goes to the log. An error is why it failed.
pub(super) async fn run(
    runner: &Runner<'_>,
    python: &Path,
    folder: &Path,
    name: &str,
    limit: Duration,
) -> Result<(), String> {
    let mut command = runner.command(python);
    Runner::confine(&mut command, &[]);
    command.arg("install.py").current_dir(folder);
    let run = runner.run("run install.py", command, |event| {
        if let Event::Line(line) = event {
            tracing::info!(pack = name, "install.py: {line}");
        }
    });
    match tokio::time::timeout(limit, run).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("it took more than {} minutes", limit.as_secs() / 60)),
    }
}
