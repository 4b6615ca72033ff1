//! `models`: what the manifest names, where it is, and what is done about it. One file a command.

mod list;
mod pull;
mod rm;
mod verify;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use indicatif::MultiProgress;
use serde::Serialize;

use super::bars;
use crate::boot::{self, Plan};
use crate::config::{Config, ManifestSource, ModelFile};
use crate::models::{Models, manifest};
use crate::telemetry::report::{SharedReporter, bytes};

/// What `models` can do.
#[derive(Debug, Subcommand)]
pub(super) enum ModelsCommand {
    /// Fetch what is missing of the sets, several files at once, and go on where an earlier download broke off.
    Pull(Choice),
    /// Compare the files that are there with their sizes and checksums, and look at their headers.
    Verify(Choice),
    /// List the files of the sets (all of them if none is named): present or missing, size, source, place.
    List(Choice),
    /// Remove files, what is left of downloads that broke off included. Files on other people's volumes and in caches stay.
    Rm {
        /// Names as `models list` prints them (`loras/mine.safetensors`), or sets.
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        how: How,
    },
}

/// Which files, and how the answer looks.
#[derive(Debug, Args)]
pub(super) struct Choice {
    /// Sets of the manifest; without any, all of `--manifest`, and without that too those of `MODEL_SET` and the files of
    /// `MODELS`.
    sets: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// Where the sets come from, and how the answer looks.
#[derive(Debug, Args)]
pub(super) struct How {
    /// A manifest of your own, in place of `MODEL_MANIFEST`: a file or a URL.
    #[arg(long)]
    manifest: Option<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn models(config: Config, command: ModelsCommand, bars: MultiProgress) -> anyhow::Result<ExitCode> {
    match command {
        ModelsCommand::Pull(choice) => pull::pull(config, choice, &bars).await,
        ModelsCommand::Verify(choice) => verify::verify(config, choice, &bars).await,
        ModelsCommand::List(choice) => list::list(config, choice, &bars).await,
        ModelsCommand::Rm { names, how } => rm::rm(config, &names, &how, &bars).await,
    }
}

/// The models of this machine, as the worker would see them, without a ComfyUI.
struct Room {
    models: Models,
    config: Config,
    default_sets: &'static [&'static str],
    /// The sets of the manifest that the command names.
    named_sets: Vec<String>,
    reporter: SharedReporter,
}

impl Room {
    async fn open(mut config: Config, how: &How, bars: &MultiProgress) -> anyhow::Result<Self> {
        if let Some(manifest) = &how.manifest {
            config.models.manifest = Some(source(manifest)?);
        }
        let plan = boot::plan(&config)?;
        let (catalog, sets) = manifest::catalog_and_sets(&config.models).await?;
        let places = plan.places(&config).map(Arc::new);
        if places.is_none() {
            anyhow::bail!(
                "COMFYUI_URL names a ComfyUI that somebody else runs, so nobody knows where its models are: MODEL_DIR tells it"
            );
        }
        let reporter = bars::reporter(bars);
        let models = Models::new(catalog, places, &config.models, reporter.clone())
            .context("no HTTP client can be made for models")?;
        Ok(Self {
            models,
            default_sets: default_sets(&plan),
            // One that MODEL_MANIFEST names only says what there is.
            named_sets: how.manifest.iter().flat_map(|_| sets.clone()).collect(),
            config,
            reporter,
        })
    }

    /// The files of these sets; without any, those of the manifest that the command names, or else those that the worker would
    /// have from its start.
    fn files(&self, sets: &[String]) -> anyhow::Result<Vec<ModelFile>> {
        let sets = if sets.is_empty() { &self.named_sets } else { sets };
        let mut config = self.config.models.clone();
        if !sets.is_empty() {
            config.sets = Some(sets.to_vec());
            config.files.clear();
        }
        Ok(manifest::wanted(self.models.catalog(), &config, self.default_sets)?)
    }

    /// [`Self::files`], of which there must be any.
    fn some_files(&self, sets: &[String]) -> anyhow::Result<Vec<ModelFile>> {
        let files = self.files(sets)?;
        if files.is_empty() {
            let sets: Vec<&str> = self.models.catalog().sets().map(|(name, _)| name).collect();
            anyhow::bail!(
                "no models are chosen: name a set, or set MODEL_SET or MODELS. There are the sets {}",
                sets.join(", ")
            );
        }
        Ok(files)
    }
}

fn default_sets(plan: &Plan) -> &'static [&'static str] {
    plan.default_sets()
}

fn source(text: &str) -> anyhow::Result<ManifestSource> {
    text.parse()
        .map_err(|reason: String| anyhow::anyhow!("--manifest {reason}"))
}

/// One file of an answer.
#[derive(Debug, Serialize)]
struct Row {
    /// `folder/name`
    file: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    /// What is wrong, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Row {
    fn new(file: &ModelFile, state: &'static str) -> Self {
        Self {
            file: file.target(),
            state,
            bytes: file.size,
            source: Some(file.origin.to_string()),
            path: None,
            error: None,
        }
    }

    /// At a place, with the size that it has there.
    fn at(mut self, path: &Path) -> Self {
        self.bytes = std::fs::metadata(path).ok().map(|facts| facts.len()).or(self.bytes);
        self.path = Some(path.to_owned());
        self
    }

    fn error(mut self, error: impl Into<String>) -> Self {
        self.error = Some(error.into());
        self
    }
}

/// Prints the rows: a line each, columns aligned, or JSON.
fn print(rows: &[Row], json: bool) -> anyhow::Result<()> {
    let text = if json {
        let mut text = serde_json::to_string_pretty(rows)?;
        text.push('\n');
        text
    } else {
        table(rows)
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // A reader that closes the pipe early has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("the answer cannot be printed"),
    }
}

fn table(rows: &[Row]) -> String {
    use std::fmt::Write as _;
    let width = |column: fn(&Row) -> usize| rows.iter().map(column).max().unwrap_or_default();
    let (states, files) = (width(|row| row.state.len()), width(|row| row.file.len()));
    let mut text = String::new();
    for row in rows {
        let size = row.bytes.map_or_else(|| "-".to_owned(), bytes);
        let place = row.path.as_ref().map(|path| path.display().to_string());
        let place = place.or_else(|| row.source.clone()).unwrap_or_default();
        let _ = writeln!(text, "{:states$}  {:files$}  {size:>9}  {place}", row.state, row.file);
        if let Some(error) = &row.error {
            let _ = writeln!(text, "{:states$}  {error}", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_names_what_is_wrong() {
        let row = |file: &str, state, bytes, path: Option<&str>, error: Option<&str>| Row {
            file: file.to_owned(),
            state,
            bytes,
            source: Some("hf://owner/name@main/x.safetensors".to_owned()),
            path: path.map(PathBuf::from),
            error: error.map(str::to_owned),
        };
        let rows = [
            row(
                "vae/a.safetensors",
                "present",
                Some(253_806_246),
                Some("/models/vae/a.safetensors"),
                None,
            ),
            row("loras/long_name.safetensors", "missing", None, None, Some("it is gone")),
        ];
        insta::assert_snapshot!(table(&rows), @r"
        present  vae/a.safetensors             253.8 MB  /models/vae/a.safetensors
        missing  loras/long_name.safetensors          -  hf://owner/name@main/x.safetensors
                 it is gone
        ");
    }
}
