//! Outputs under ids of their own, as soon as a node has made them: for jobs whose owners ask for each by its id.

use std::fs::File;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::collect::{self, Collected};
use super::control::{Event, JobControl};
use crate::comfy::{Comfy, Folders};
use crate::delivery::Results;
use crate::disk::blocking;
use crate::job::{Committed, ContentHash, Outcome, OutputFile, OutputFolder, OutputText, Source};

/// Gives them their ids.
#[derive(Debug, Clone)]
pub(super) struct Commits(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    events: mpsc::UnboundedSender<Event>,
    /// ComfyUI's, where they are on this machine.
    folders: Option<Folders>,
    /// In the order of their coming.
    known: Mutex<Vec<Committed>>,
    at_work: TaskTracker,
}

impl Commits {
    /// For a job whose owner wants that, or for one that nothing is done for.
    pub(super) fn new(owner: &JobControl, comfy: &Comfy) -> Self {
        Self(owner.commits.then(|| {
            Arc::new(Inner {
                events: owner.events.clone(),
                folders: comfy.folders().cloned(),
                known: Mutex::default(),
                at_work: TaskTracker::new(),
            })
        }))
    }

    /// A node has made this. Of files, those in the temp folder may be no result; that is known at the end.
    pub(super) fn executed(&self, node: &String, output: &Value) {
        let Some(inner) = &self.0 else { return };
        let Some(folders) = inner.folders.clone() else { return };
        let Collected { files, texts, .. } = collect::from_history([(node, output)]);
        let files: Vec<_> = files
            .into_iter()
            .filter(|file| file.folder == OutputFolder::Output)
            .collect();
        if files.is_empty() && texts.is_empty() {
            return;
        }
        let work = Arc::clone(inner);
        inner.at_work.spawn_blocking(move || {
            let found = files.into_iter().filter_map(|file| collect::found(&folders, file).ok());
            let files = found.filter_map(|file| committed_file(&folders, &file));
            let texts = texts
                .iter()
                .enumerate()
                .map(|(index, text)| committed_text(text, index));
            let new: Vec<_> = files.chain(texts).collect();
            let mut known = work.known.lock();
            for output in new {
                if !known.iter().any(|other| is_same(other, &output)) {
                    known.push(output);
                }
            }
            let _ = work.events.send(Event::Outputs(known.clone()));
        });
    }

    /// The job is over, and this is what it made: all of it has ids when this returns.
    pub(super) async fn all(&self, results: &Results, outcome: &Outcome) {
        let Some(inner) = &self.0 else { return };
        inner.at_work.close();
        inner.at_work.wait().await;
        let mut known = std::mem::take(&mut *inner.known.lock());
        let mut all = Vec::new();
        for file in outcome.wanted() {
            let made = match take(&mut known, |other| is_file(other, file)) {
                Some(known) => Some(known),
                None => match inner.folders.clone() {
                    Some(folders) => {
                        let file = file.clone();
                        blocking(move || committed_file(&folders, &file)).await
                    }
                    None => Some(Committed::file(file, length(results, file).await, None, now())),
                },
            };
            all.extend(made);
        }
        let mut before: Option<(&str, usize)> = None;
        for text in &outcome.texts {
            let index = before
                .filter(|(node, _)| *node == text.node_id)
                .map_or(0, |(_, index)| index + 1);
            before = Some((&text.node_id, index));
            let is_text = |other: &Committed| {
                other.node_id == text.node_id && matches!(&other.source, Source::Text(known) if **known == *text.text)
            };
            all.push(take(&mut known, is_text).unwrap_or_else(|| committed_text(text, index)));
        }
        let _ = inner.events.send(Event::Outputs(all));
    }

    /// Another prompt runs for the job: what it makes may have the names of what the one before made.
    pub(super) fn begin_again(&self) {
        if let Some(inner) = &self.0 {
            inner.known.lock().clear();
        }
    }
}

/// The length of a file elsewhere; 0 where nobody tells it: the file is named all the same.
async fn length(results: &Results, file: &OutputFile) -> u64 {
    let length = results.length(file).await;
    length.unwrap_or_else(|error| {
        tracing::warn!("the length of an output is not known: {}", error.full_text());
        0
    })
}

fn take(known: &mut Vec<Committed>, is_meant: impl Fn(&Committed) -> bool) -> Option<Committed> {
    let at = known.iter().position(is_meant)?;
    Some(known.remove(at))
}

fn is_file(output: &Committed, file: &OutputFile) -> bool {
    matches!(&output.source, Source::File { folder, subfolder, engine }
        if *folder == file.folder && *subfolder == file.subfolder && *engine == file.engine && output.name == file.filename)
}

fn is_same(one: &Committed, other: &Committed) -> bool {
    (&one.name, &one.source) == (&other.name, &other.source)
        && (matches!(one.source, Source::File { .. }) || one.node_id == other.node_id)
}

/// The output that is this file; [`None`]: it cannot be read. Blocks.
fn committed_file(folders: &Folders, file: &OutputFile) -> Option<Committed> {
    let path = folders.path(file.folder, &file.subfolder, &file.filename)?;
    let mut hasher = blake3::Hasher::new();
    let read = File::open(path).and_then(|content| hasher.update_reader(content).map(|hasher| hasher.count()));
    let bytes = read
        .inspect_err(|error| tracing::warn!(%error, "an output file cannot be read, and has no id"))
        .ok()?;
    Some(Committed::file(
        file,
        bytes,
        Some(ContentHash::finished(&hasher)),
        now(),
    ))
}

fn committed_text(text: &OutputText, index: usize) -> Committed {
    let number = if index == 0 {
        String::new()
    } else {
        format!("_{}", index + 1)
    };
    Committed::text(text, format!("{}{number}.txt", text.node_id.replace('/', "_")), now())
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
