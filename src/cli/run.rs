//! `run FILE`: one job from a file, or from the text of `--test_input`.

use std::io::{Read as _, Write as _};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::screen::Screen;
use super::{EXIT_STOPPED, complain};
use crate::app::{App, Jobs};
use crate::config::Config;
use crate::dialect::runpod;
use crate::error::JobError;
use crate::job::progress::{Progress, Stage};
use crate::job::{JobRequest, JobView, OutputFile, Policy};
use crate::telemetry::report::Meter as _;

/// Time between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// `text` is the request where it comes from no file; `file` is then what it is called.
pub(super) async fn run(
    config: Config,
    file: &Path,
    text: Option<String>,
    out: &Path,
    screen: &Screen,
) -> anyhow::Result<ExitCode> {
    let stop = super::on_signals()?;
    let body = match text {
        Some(text) => text.into_bytes(),
        None => read(file)?,
    };
    // A request that is wrong is refused before anything is installed.
    let (request, policy) =
        runpod::parse_file(&body).map_err(|error| anyhow::anyhow!("{}: {}", file.display(), error.full_text()))?;
    let app = App::build(&config, screen.reporter(), Jobs::Forgotten).await?;
    let ended = one_job(&app, request, policy, &stop, screen).await;
    let written = match &ended {
        Ok(view) => write_files(&app, view, out).await,
        Err(_) => Ok(Vec::new()),
    };
    app.stop(Duration::ZERO).await;
    if stop.is_cancelled() {
        complain("stopped before the job was done");
        return Ok(ExitCode::from(EXIT_STOPPED));
    }
    let (view, written) = (ended?, written?);
    let mut answer = runpod::status(&view, None).to_vec();
    answer.push(b'\n');
    std::io::stdout()
        .write_all(&answer)
        .context("the result cannot be printed")?;
    for path in written {
        screen.say(&format!("wrote {}", path.display()));
    }
    Ok(match view.result {
        Some(Ok(_)) => ExitCode::SUCCESS,
        Some(Err(error)) if screen.is_quiet() => {
            complain(&error.full_text());
            ExitCode::FAILURE
        }
        _ => ExitCode::FAILURE,
    })
}

async fn one_job(
    app: &App,
    request: JobRequest,
    policy: Policy,
    stop: &CancellationToken,
    screen: &Screen,
) -> anyhow::Result<JobView> {
    let told = |error: JobError| anyhow::anyhow!(error.full_text());
    let place = app.queue.permit().map_err(told)?;
    let id = app.queue.submit(place, request, policy).await.map_err(told)?;
    let watch = app.queue.watch(id.as_str()).await.map_err(told)?;
    let shown = tokio::spawn(show(watch, screen.clone()));
    let ended = tokio::select! {
        view = app.queue.wait(id.as_str()) => view.map_err(told),
        () = stop.cancelled() => Err(anyhow::anyhow!("stopped before the job was done")),
    };
    if ended.is_err() {
        shown.abort();
    }
    // The bar ends by itself with the job's last progress.
    let _ = shown.await;
    Ok(app.results.inlined(ended?).await)
}

pub(super) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut body = Vec::new();
        std::io::stdin()
            .read_to_end(&mut body)
            .context("standard input cannot be read")?;
        return Ok(body);
    }
    std::fs::read(file).with_context(|| {
        format!(
            "{} cannot be read; name a request such as test_input.json, or a workflow",
            file.display()
        )
    })
}

/// Shows the job's progress until it is over.
async fn show(mut watch: watch::Receiver<JobView>, screen: Screen) {
    let mut bar = screen.job();
    let mut last_line = tokio::time::Instant::now();
    loop {
        let view = watch.borrow_and_update().clone();
        let now = view.progress;
        match &mut bar {
            Some(bar) => {
                bar.position(now.percent.into());
                bar.detail(&describe(&now));
            }
            None if last_line.elapsed() >= LINE_EVERY => {
                last_line = tokio::time::Instant::now();
                tracing::info!("{} % {}", now.percent, describe(&now));
            }
            None => {}
        }
        if view.state.is_final() {
            break;
        }
        // Without news a line is due all the same.
        if let Ok(Err(_)) = tokio::time::timeout(LINE_EVERY, watch.changed()).await {
            break;
        }
    }
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
        (Stage::Downloading, _) => match &progress.download {
            Some(download) => format!("fetching the model {}", download.file),
            None => "fetching models".to_owned(),
        },
        (Stage::Running, None) => "running".to_owned(),
        (Stage::Collecting, _) => "reading the results".to_owned(),
        (Stage::Delivering, _) => "making the results ready".to_owned(),
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

async fn write_files(app: &App, view: &JobView, out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let Some(Ok(outcome)) = &view.result else {
        return Ok(Vec::new());
    };
    if outcome.files.is_empty() {
        return Ok(Vec::new());
    }
    let mut written = Vec::with_capacity(outcome.files.len());
    for file in &outcome.files {
        let target = target(out, file)?;
        let folder = target.parent().unwrap_or(out);
        std::fs::create_dir_all(folder)
            .with_context(|| format!("the folder {} cannot be made; --out names another", folder.display()))?;
        // It appears complete or not at all, also when the disk is full.
        let part = folder.join(format!(".{}.part", file.filename));
        let done = match write_file(app, file, &part).await {
            Ok(()) => std::fs::rename(&part, &target).map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        if done.is_err() {
            let _ = std::fs::remove_file(&part);
        }
        done.with_context(|| format!("{} cannot be written; --out names another folder", target.display()))?;
        written.push(target);
    }
    Ok(written)
}

/// Where a file goes: by its name, under its subfolder, so that two of one name do not meet. Both are ComfyUI's words.
fn target(out: &Path, file: &OutputFile) -> anyhow::Result<PathBuf> {
    let (subfolder, name) = (Path::new(&file.subfolder), Path::new(&file.filename));
    let plain = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    anyhow::ensure!(
        plain(subfolder) && plain(name) && name.components().count() == 1,
        "{:?} in {:?} is no plain file name",
        file.filename,
        file.subfolder
    );
    Ok(out.join(subfolder).join(name))
}

async fn write_file(app: &App, file: &OutputFile, target: &Path) -> anyhow::Result<()> {
    if let Some(folders) = app.comfy.folders() {
        let source = folders
            .path(file.folder, &file.subfolder, &file.filename)
            .context("the file lies outside ComfyUI's folders")?;
        tokio::fs::copy(source, target).await?;
        return Ok(());
    }
    let content = app.results.content(file).await;
    tokio::fs::write(target, content.map_err(|error| anyhow::anyhow!(error.full_text()))?).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{FileKind, OutputFolder};

    #[test]
    fn files_go_under_their_subfolders_and_nowhere_else() {
        let target = |subfolder: &str, filename: &str| {
            let file = OutputFile {
                node_id: String::new(),
                kind: FileKind::Image,
                filename: filename.to_owned(),
                subfolder: subfolder.to_owned(),
                folder: OutputFolder::Output,
                url: None,
                recoded: None,
                engine: None,
                base64: None,
            };
            super::target(Path::new("out"), &file).ok()
        };
        assert_eq!(target("", "a.png").as_deref(), Some(Path::new("out/a.png")));
        assert_eq!(target("x/y", "a.png").as_deref(), Some(Path::new("out/x/y/a.png")));
        for (subfolder, filename) in [
            ("..", "a"),
            ("/etc", "a"),
            ("", "../a"),
            ("", "/a"),
            ("", ""),
            ("", "x/a"),
        ] {
            assert_eq!(target(subfolder, filename), None, "{subfolder:?} {filename:?}");
        }
    }
}
