//! `run FILE`: one job from a file.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{MultiProgress, ProgressBar};
use tokio::sync::watch;

use super::bars;
use crate::app::App;
use crate::comfy::Comfy;
use crate::config::Config;
use crate::dialect::runpod;
use crate::job::progress::{Progress, Stage};
use crate::job::{OutputFile, Report};
use crate::shutdown;

/// Time between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) async fn run(config: Config, file: &Path, out: &Path, bars: MultiProgress) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signals().context("signals cannot be watched")?;
    let body = read(file)?;
    // A request that is wrong is refused before anything is installed.
    let request = runpod::parse(&body).map_err(|error| anyhow::anyhow!("{}: {}", file.display(), error.full_text()))?;
    let app = App::build(&config, bars::reporter(&bars))?;
    let place = app.queue.place().map_err(|error| anyhow::anyhow!(error.full_text()))?;
    let ticket = app.queue.submit(place, request);
    let shown = tokio::spawn(show(ticket.progress.clone(), bars));
    let report = tokio::select! {
        report = ticket.report() => report,
        () = stop.cancelled() => {
            shown.abort();
            app.comfy.stop().await;
            anyhow::bail!("stopped before the job was done");
        }
    };
    // The bar ends by itself once the job's last progress is out.
    let _ = shown.await;
    let written = write_files(&app.comfy, &report, out).await;
    app.comfy.stop().await;
    for path in written? {
        tracing::info!("wrote {}", path.display());
    }
    let mut answer = runpod::render(&report).to_vec();
    answer.push(b'\n');
    std::io::stdout()
        .write_all(&answer)
        .context("the result cannot be printed")?;
    Ok(if report.result.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut body = Vec::new();
        std::io::stdin()
            .read_to_end(&mut body)
            .context("standard input cannot be read")?;
        return Ok(body);
    }
    std::fs::read(file).with_context(|| {
        format!(
            "{} cannot be read; name a request such as test_input.json",
            file.display()
        )
    })
}

/// Draws the job's progress until it is over.
async fn show(mut progress: watch::Receiver<Progress>, bars: MultiProgress) {
    let bar = std::io::stderr()
        .is_terminal()
        .then(|| bars::bar(&bars, Some(100), "[{bar:30}] {pos:>3} % {msg}"));
    let mut last_line = tokio::time::Instant::now();
    loop {
        let now = progress.borrow_and_update().clone();
        match &bar {
            Some(bar) => draw(bar, &now),
            None if last_line.elapsed() >= LINE_EVERY => {
                last_line = tokio::time::Instant::now();
                tracing::info!("{} % {}", now.percent, describe(&now));
            }
            None => {}
        }
        let changed = tokio::time::timeout(LINE_EVERY, progress.changed()).await;
        if now.stage == Stage::Done || matches!(changed, Ok(Err(_))) {
            break;
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

fn draw(bar: &ProgressBar, progress: &Progress) {
    bar.set_position(progress.percent.into());
    bar.set_message(describe(progress));
}

/// `KSampler (node 3), step 4 of 8, 6 s left`
fn describe(progress: &Progress) -> String {
    use std::fmt::Write as _;
    let mut text = match (&progress.stage, &progress.node_id) {
        (Stage::Running, Some(id)) => match &progress.class_type {
            Some(class) => format!("{class} (node {id})"),
            None => format!("node {id}"),
        },
        (Stage::Waiting, _) => "ComfyUI gets ready".to_owned(),
        (Stage::Preparing, _) => "checking the graph".to_owned(),
        (Stage::Running, None) => "running".to_owned(),
        (Stage::Collecting, _) => "reading the results".to_owned(),
        (Stage::Done, _) => "done".to_owned(),
    };
    if let Some((step, steps)) = progress.step {
        let _ = write!(text, ", step {step} of {steps}");
    }
    // By the pace so far; at its end a longer node may still follow, so 0 is not said.
    if let Some(eta) = progress.eta.filter(|eta| eta.as_secs() > 0) {
        let _ = write!(text, ", {} s left", eta.as_secs());
    }
    text
}

async fn write_files(comfy: &Comfy, report: &Report, out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let Ok(outcome) = &report.result else {
        return Ok(Vec::new());
    };
    if outcome.files.is_empty() {
        return Ok(Vec::new());
    }
    std::fs::create_dir_all(out)
        .with_context(|| format!("the folder {} cannot be made; --out names another", out.display()))?;
    let mut written = Vec::with_capacity(outcome.files.len());
    for file in &outcome.files {
        // The name was made by ComfyUI; it is a single plain name, or it would not have been collected.
        let target = out.join(&file.filename);
        write_file(comfy, file, &target)
            .await
            .with_context(|| format!("{} cannot be written", target.display()))?;
        written.push(target);
    }
    Ok(written)
}

async fn write_file(comfy: &Comfy, file: &OutputFile, target: &Path) -> anyhow::Result<()> {
    if let Some(folders) = comfy.folders() {
        let source = folders
            .path(file.folder, &file.subfolder, &file.filename)
            .context("the file lies outside ComfyUI's folders")?;
        tokio::fs::copy(source, target).await?;
        return Ok(());
    }
    let client = comfy
        .connection()
        .await
        .map_err(|error| anyhow::anyhow!(error.full_text()))?
        .client;
    let content = client
        .view(&file.filename, &file.subfolder, file.folder.as_str())
        .await?
        .bytes()
        .await?;
    anyhow::ensure!(
        Path::new(&file.filename).components().count() == 1,
        "the name {:?} is no plain file name",
        file.filename
    );
    tokio::fs::write(target, content).await?;
    Ok(())
}
