//! `models`: what the manifest names, where it is, and what is done about it.

mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use indicatif::MultiProgress;

use super::{EXIT_STOPPED, complain, screen};
use crate::boot;
use crate::config::{Config, ManifestSource, ModelFile};
use crate::disk::blocking;
use crate::models::locate::Found;
use crate::models::{Models, Removed, Verified, manifest, verify_file};
use crate::telemetry::report::{Meter, SharedReporter, Unit};
use table::{Row, print};

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
        ModelsCommand::Pull(choice) => Box::pin(pull(config, choice, &bars)).await,
        ModelsCommand::Verify(choice) => verify(config, choice, &bars).await,
        ModelsCommand::List(choice) => list(config, choice, &bars).await,
        ModelsCommand::Rm { names, how } => rm(config, &names, &how, &bars).await,
    }
}

/// The models of this machine, as the worker would see them, without a ComfyUI.
struct Machine {
    models: Models,
    config: Config,
    default_sets: Vec<&'static str>,
    /// The sets of the manifest that the command names.
    named_sets: Vec<String>,
    reporter: SharedReporter,
}

impl Machine {
    async fn open(mut config: Config, how: &How, bars: &MultiProgress) -> anyhow::Result<Self> {
        if let Some(manifest) = &how.manifest {
            config.models.manifest = Some(source(manifest)?);
        }
        let plan = boot::plan(&config)?;
        let (catalog, sets) = manifest::catalog_and_sets(&config.models).await?;
        let defaults = plan.defaults(&config, &catalog).await;
        let places = plan.places(&config).map(Arc::new);
        if places.is_none() {
            anyhow::bail!(
                "COMFYUI_URL names a ComfyUI that somebody else runs, so nobody knows where its models are: MODEL_DIR tells it"
            );
        }
        let reporter = screen::reporter(bars);
        let models = Models::new(catalog, places, &config.models, reporter.clone())
            .context("no HTTP client can be made for models")?;
        Ok(Self {
            models,
            default_sets: plan.default_sets(defaults),
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
        Ok(manifest::wanted(self.models.catalog(), &config, &self.default_sets)?)
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

    /// The files of these sets; without any, all that the manifest names.
    fn all_files(&self, sets: &[String]) -> anyhow::Result<Vec<ModelFile>> {
        if sets.is_empty() {
            return Ok(self.models.catalog().all_files());
        }
        self.files(sets)
    }
}

fn source(text: &str) -> anyhow::Result<ManifestSource> {
    text.parse()
        .map_err(|reason: String| anyhow::anyhow!("--manifest {reason}"))
}

/// Prints the rows, and says whether all is well.
fn answer(rows: &[Row], how: &How, is_well: impl Fn(&Row) -> bool) -> anyhow::Result<ExitCode> {
    print(rows, how.json)?;
    Ok(if rows.iter().all(is_well) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn pull(config: Config, choice: Choice, bars: &MultiProgress) -> anyhow::Result<ExitCode> {
    let stop = crate::cli::on_signals()?;
    let machine = Machine::open(config, &choice.how, bars).await?;
    let files = machine.some_files(&choice.sets)?;
    let mut all: Option<Box<dyn Meter>> = None;
    let pulled = machine.models.pull(&files, |download| {
        // One file has a meter of its own.
        let Some(total) = download.total_bytes.filter(|_| files.len() > 1) else {
            return;
        };
        all.get_or_insert_with(|| machine.reporter.begin("models in all", Some(total), Unit::Bytes))
            .position(download.bytes);
    });
    let Some(results) = stop.run_until_cancelled(pulled).await else {
        machine.models.stop().await;
        complain("stopped; what has come is kept, and the next `models pull` goes on from there");
        return Ok(ExitCode::from(EXIT_STOPPED));
    };
    drop(all);
    let rows = files.iter().zip(&results).map(|(file, result)| match result {
        Ok(path) => Row::new(file, "present").at(path),
        Err(error) => Row::new(file, "failed").error(error.full_text()),
    });
    answer(&rows.collect::<Vec<_>>(), &choice.how, |row| row.state == "present")
}

async fn verify(config: Config, choice: Choice, bars: &MultiProgress) -> anyhow::Result<ExitCode> {
    let machine = Machine::open(config, &choice.how, bars).await?;
    let mut rows = Vec::new();
    for file in &machine.all_files(&choice.sets)? {
        let Some(places) = machine.models.places() else { break };
        match places.locate(file) {
            Found::Present(path) | Found::Linkable(path) | Found::WrongSize { path, .. } => {
                rows.push(compare(&machine, file, path).await);
            }
            // Of all that the manifest names most is not wanted here; of sets that were named, all is.
            Found::Missing if choice.sets.is_empty() => {}
            Found::Missing => rows.push(Row::new(file, "missing")),
        }
    }
    answer(&rows, &choice.how, |row| matches!(row.state, "verified" | "plausible"))
}

async fn compare(machine: &Machine, file: &ModelFile, path: PathBuf) -> Row {
    let expected = machine.models.expected(file).await;
    let (reporter, label, at) = (machine.reporter.clone(), file.target(), path.clone());
    match blocking(move || verify_file(&at, &label, &expected, &*reporter)).await {
        Verified::Right => Row::new(file, "verified").at(&path),
        Verified::Plausible(why) => Row::new(file, "plausible").at(&path).error(why),
        Verified::Wrong(why) => Row::new(file, "wrong").at(&path).error(why),
    }
}

async fn list(config: Config, choice: Choice, bars: &MultiProgress) -> anyhow::Result<ExitCode> {
    let machine = Machine::open(config, &choice.how, bars).await?;
    let files = machine.all_files(&choice.sets)?;
    let Some(places) = machine.models.places() else {
        return Ok(ExitCode::FAILURE);
    };
    let rows = files.iter().map(|file| match places.locate(file) {
        Found::Present(path) => Row::new(file, "present").at(&path),
        Found::Linkable(path) => Row::new(file, "cached").at(&path),
        Found::WrongSize { path, expected, .. } => Row::new(file, "wrong size").at(&path).error(format!(
            "it should have {expected} bytes; `models rm` and `models pull` fetch it again"
        )),
        Found::Missing => Row::new(file, "missing"),
    });
    answer(&rows.collect::<Vec<_>>(), &choice.how, |_| true)
}

async fn rm(config: Config, names: &[String], how: &How, bars: &MultiProgress) -> anyhow::Result<ExitCode> {
    let models = Machine::open(config, how, bars).await?.models;
    let mut targets: Vec<(String, String)> = Vec::new();
    for name in names {
        if let Some(set) = models.catalog().files(name) {
            targets.extend(set.into_iter().map(|file| (file.folder.clone(), file.name.clone())));
        } else {
            let target = ModelFile::folder_and_name(name);
            targets.push(target.map_err(|error| {
                anyhow::anyhow!("{name} is neither a set nor a file as `models list` prints it: {error}")
            })?);
        }
    }
    let rows = targets.iter().map(|(folder, name)| {
        let row = |state| Row::named(format!("{folder}/{name}"), state);
        match models.remove(folder, name) {
            Ok(Removed::File(path)) => row("removed").formerly_at(path),
            Ok(Removed::Leftovers) => row("removed").error("it was no more than what a download had left"),
            Ok(Removed::Nothing) => row("missing"),
            Err(error) => row("failed").error(error.full_text()),
        }
    });
    answer(&rows.collect::<Vec<_>>(), how, |row| row.state != "failed")
}
