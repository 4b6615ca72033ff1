//! The virtual environment that ComfyUI runs in, and the proof that it does.

use std::path::{Path, PathBuf};

use url::Url;

use super::child::{Event, Runner};
use super::error::{InstallError, io};
use super::resolve;
use super::tools::{Tools, TorchIndex};
use crate::telemetry::report::{Meter, Unit};

/// What uv writes while it downloads and unpacks everything, in bytes: 8 GB measured on x86-64 Linux. Elsewhere it is
/// another amount, and unknown.
const WRITTEN_BY_UV: Option<u64> = if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
    Some(8_000_000_000)
} else {
    None
};

/// What is installed, and from where.
pub(super) enum Packages<'a> {
    /// The list of the pins, from the usual index.
    Pinned,
    /// The list in this file, torch's packages from an index of their own.
    Resolved(&'a Path, Option<&'a Url>),
}

/// Makes the environment `target` again and installs all dependencies that are pinned.
pub(super) async fn install(
    runner: &Runner<'_>,
    tools: &Tools,
    packages: Packages<'_>,
    target: &Path,
) -> Result<PathBuf, InstallError> {
    // The rest of an installation that was killed: a package may be there by half.
    super::remove(target)?;
    tools.make_environment(runner, target).await?;
    let python = target.join("bin/python");
    let is_pinned = matches!(packages, Packages::Pinned);
    let mut progress = Progress {
        meter: runner.reporter.begin(
            "Python packages",
            WRITTEN_BY_UV.filter(|_| tools.uses_uv() && is_pinned),
            Unit::Bytes,
        ),
        pending: Vec::new(),
        packages: 0,
    };
    let step = "install ComfyUI's Python packages";
    let mut take = |event: Event<'_>| progress.take(&event);
    let file = match packages {
        Packages::Pinned => None,
        Packages::Resolved(file, _) => Some(std::fs::read_to_string(file).map_err(io("read", file))?),
    };
    let content = file.as_deref().unwrap_or(&runner.pins.dependencies);
    match packages {
        Packages::Resolved(_, Some(url)) => {
            let (torch, rest) = resolve::split(content);
            let (torch, rest) = (runner.list("torch.lock", &torch)?, runner.list("comfyui.lock", &rest)?);
            let index = TorchIndex::new(url);
            for (list, index) in [(torch, Some(&index)), (rest, None)] {
                tools
                    .install_part(runner, step, &python, &list, index, &mut take)
                    .await?;
            }
        }
        Packages::Pinned | Packages::Resolved(_, None) => {
            let list = runner.list("comfyui.lock", content)?;
            tools.install(runner, step, &python, &list, take).await?;
        }
    }
    let summary = format!("{} packages installed", progress.packages);
    progress.meter.finish(&summary);
    Ok(python)
}

/// What the output of uv or pip tells of the progress.
struct Progress {
    meter: Box<dyn Meter>,
    /// The larger downloads that have begun and not ended, as `torch (846.9MiB)`.
    pending: Vec<String>,
    packages: usize,
}

impl Progress {
    fn take(&mut self, event: &Event<'_>) {
        match event {
            Event::Written(bytes) => self.meter.position(*bytes),
            Event::Line(line) => {
                if let Some(detail) = self.read(line.trim()) {
                    self.meter.detail(&detail);
                }
            }
        }
    }

    /// Reads a line of uv's, or of pip's, and says what is being done now.
    fn read(&mut self, line: &str) -> Option<String> {
        let (first, rest) = line.split_once(' ')?;
        match first {
            "Resolved" => Some(line.to_owned()),
            "Downloading" => {
                self.pending.push(rest.to_owned());
                Some(self.waiting_for())
            }
            "Downloaded" => {
                self.pending.retain(|pending| pending.split(' ').next() != Some(rest));
                Some(self.waiting_for())
            }
            "Prepared" => Some("linking".to_owned()),
            "+" => {
                self.packages += 1;
                None
            }
            "Collecting" => {
                // pip downloads one after another.
                self.pending.clear();
                None
            }
            "Installing" => Some("unpacking".to_owned()),
            "Successfully" => {
                self.packages = rest.split(' ').skip(1).count();
                None
            }
            _ => None,
        }
    }

    fn waiting_for(&self) -> String {
        match self.pending.as_slice() {
            [] => "unpacking".to_owned(),
            [only] => format!("downloading {only}"),
            [.., last] => format!("downloading {last} and {} more", self.pending.len() - 1),
        }
    }
}

/// Starts ComfyUI once, on the CPU and without a network port: the proof that tree, packages and interpreter fit. Python
/// leaves the bytecode of all that it imports, which saves half of each later start (5.5 s instead of 11 measured).
pub(super) async fn start_once(runner: &Runner<'_>, python: &Path, source: &Path) -> Result<(), InstallError> {
    let mut meter = runner.reporter.begin("first start of ComfyUI", None, Unit::Items);
    meter.detail("takes 10 to 20 seconds");
    let mut command = runner.command(python);
    command.current_dir(source).env_remove("PYTHONDONTWRITEBYTECODE").args([
        "main.py",
        "--cpu",
        "--quick-test-for-ci",
        "--disable-all-custom-nodes",
    ]);
    // Older ones have no database.
    let options = std::fs::read_to_string(source.join("comfy/cli_args.py"));
    if !options.is_ok_and(|options| !options.contains("--database-url")) {
        command.args(["--database-url", "sqlite:///:memory:"]);
    }
    command.arg("--user-directory").arg(runner.dir);
    command.arg("--temp-directory").arg(runner.dir);
    runner.run("start the new ComfyUI", command, |_| {}).await?;
    meter.finish("it starts");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::report::{Reporter as _, SilentReporter};

    fn read(lines: &[&str]) -> (Progress, Vec<String>) {
        let mut progress = Progress {
            meter: SilentReporter.begin("", None, Unit::Bytes),
            pending: Vec::new(),
            packages: 0,
        };
        let details = lines.iter().filter_map(|line| progress.read(line.trim())).collect();
        (progress, details)
    }

    #[test]
    fn uvs_output_becomes_progress() {
        let (progress, details) = read(&[
            "Using Python 3.11.2 environment at: venv",
            "Resolved 90 packages in 557ms",
            "Downloading scipy (33.7MiB)",
            "Downloading torch (846.9MiB)",
            " Downloaded scipy",
            " Downloaded torch",
            "Prepared 90 packages in 24.36s",
            "Installed 90 packages in 309ms",
            " + aiohttp==3.14.5",
            " + torch==2.8.0",
        ]);
        assert_eq!(
            details,
            [
                "Resolved 90 packages in 557ms",
                "downloading scipy (33.7MiB)",
                "downloading torch (846.9MiB) and 1 more",
                "downloading torch (846.9MiB)",
                "unpacking",
                "linking",
            ]
        );
        assert_eq!(progress.packages, 2);
    }

    #[test]
    fn pips_output_becomes_progress() {
        let (progress, details) = read(&[
            "Collecting torch==2.8.0 (from -r comfyui.lock (line 2970))",
            "  Downloading torch-2.8.0-cp311-cp311-manylinux_2_28_x86_64.whl (888.1 MB)",
            "Collecting einops==0.8.2 (from -r comfyui.lock (line 676))",
            "  Downloading einops-0.8.2-py3-none-any.whl (65 kB)",
            "Installing collected packages: torch, einops",
            "Successfully installed einops-0.8.2 torch-2.8.0",
        ]);
        assert_eq!(
            details,
            [
                "downloading torch-2.8.0-cp311-cp311-manylinux_2_28_x86_64.whl (888.1 MB)",
                "downloading einops-0.8.2-py3-none-any.whl (65 kB)",
                "unpacking",
            ]
        );
        assert_eq!(progress.packages, 2);
    }
}
