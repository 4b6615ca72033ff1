//! Model files read into memory before ComfyUI asks for them.
//!
//! ComfyUI takes seconds to import PyTorch, and only then maps its models into memory, whose pages the kernel fetches in pieces of
//! 128 KB, one after the other. Meanwhile nobody reads the disk. So the files of the first job are read here, in large pieces by
//! several threads, for nothing but the kernel's page cache, in the order in which ComfyUI will want them.
//!
//! It gives way: its threads have a low priority; while ComfyUI reads the files that it starts from, a single one reads, half of the
//! time, and none from the disk that those lie on; no more is read than memory holds; and once a job names other files, nothing is read
//! but what jobs name.

mod reading;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

pub use reading::Read;

use reading::Reading;

use super::Models;
use super::locate::{Found, Places};
use crate::comfy::memory;
use crate::config::ModelFile;
use crate::disk::blocking;
use crate::telemetry::report::{Unit, bytes};

/// Memory that is left alone: ComfyUI's own, and the files that it starts from.
const RESERVE: u64 = 4 << 30;
/// The further share of all memory that is left alone.
const RESERVE_SHARE: u64 = 16;
/// Time between two looks at how far it is, and at whether ComfyUI reads.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long after ComfyUI has read from its disk that is left to it.
const LEFT_TO_COMFYUI: Duration = Duration::from_millis(500);

/// A file to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name as ComfyUI lists it.
    name: String,
    path: PathBuf,
    bytes: u64,
    /// The disk that it lies on.
    device: u64,
}

/// The start of ComfyUI that it gives way to.
#[derive(Debug, Clone, Default)]
pub struct Beside {
    /// The process; 0 while there is none.
    pub pid: Arc<AtomicU32>,
    /// Whether it is ready, so that nobody need give way any longer.
    pub is_ready: Arc<AtomicBool>,
    /// The installation, which it reads while it starts.
    pub root: PathBuf,
}

/// When ComfyUI wants files of a kind: it encodes the prompt first, and decodes the picture last.
fn place_of(folder: &str) -> usize {
    match folder {
        "text_encoders" | "clip" | "clip_vision" => 0,
        "checkpoints" | "diffusion_models" | "unet" => 1,
        "loras" | "model_patches" | "controlnet" => 2,
        "vae" => 3,
        _ => 4,
    }
}

/// The models of the first job that are on disk.
#[derive(Debug, Default)]
pub struct OnDisk {
    /// In the order in which ComfyUI wants them, each once.
    pub items: Vec<Item>,
    /// Whether none is missing.
    pub is_whole: bool,
}

/// Looks for files of the manifest, and for names that it does not know. Blocking: a volume may answer slowly.
pub(super) fn on_disk(places: &Places, files: &[ModelFile], names: &[String]) -> OnDisk {
    let mut found: Vec<(usize, Item)> = Vec::new();
    let mut is_whole = true;
    let mut add = |name: &str, paths: Vec<(&str, PathBuf)>| {
        is_whole &= !paths.is_empty();
        for (kind, path) in paths {
            let Some(item) = Item::of(name, path) else {
                is_whole = false;
                continue;
            };
            if !found.iter().any(|(_, known)| known.path == item.path) {
                found.push((place_of(kind), item));
            }
        }
    };
    for file in files {
        let path = match places.locate(file) {
            Found::Present(path) | Found::Linkable(path) => Some((file.folder.as_str(), path)),
            // What is fetched is in memory when it comes; what has the wrong size may be replaced.
            Found::WrongSize { .. } | Found::Missing => None,
        };
        add(&file.name, path.into_iter().collect());
    }
    for name in names {
        add(name, places.listed(name));
    }
    found.sort_by_key(|(place, _)| *place);
    OnDisk {
        items: found.into_iter().map(|(_, item)| item).collect(),
        is_whole,
    }
}

impl Item {
    fn of(name: &str, path: PathBuf) -> Option<Self> {
        let facts = fs::metadata(&path).ok()?;
        Some(Self {
            name: name.to_owned(),
            bytes: facts.len(),
            device: facts.dev(),
            path,
        })
    }
}

/// How many bytes of files may be brought into memory. Blocks for a moment.
fn room() -> u64 {
    memory::available().zip(memory::total()).map_or(0, room_in)
}

/// The same, where so much of so much memory is free.
fn room_in((available, total): (u64, u64)) -> u64 {
    available.saturating_sub(RESERVE + total / RESERVE_SHARE)
}

/// How far reading ahead is, and what jobs have named so far.
#[derive(Debug, Default)]
pub(super) enum Ahead {
    /// It is about to begin.
    Planned(Vec<String>),
    /// It goes on.
    Going(Arc<Reading>),
    /// It is over, or never was.
    #[default]
    Over,
}

impl Ahead {
    /// A job names these models.
    pub(super) fn a_job_names(&mut self, names: &[String]) {
        match self {
            Self::Planned(so_far) => so_far.extend_from_slice(names),
            Self::Going(reading) => reading.a_job_names(names),
            Self::Over => {}
        }
    }
}

/// Reading ahead is planned until this is dropped.
#[derive(Debug)]
pub struct Planned(Models);

impl Drop for Planned {
    fn drop(&mut self) {
        self.0.0.ahead.send_replace(Ahead::Over);
    }
}

/// Watches what ComfyUI reads from its disk while it starts.
struct Watch<'a> {
    beside: &'a Beside,
    device: u64,
    last: Option<u64>,
    read_at: Instant,
}

impl<'a> Watch<'a> {
    fn new(beside: &'a Beside) -> Self {
        Self {
            beside,
            device: fs::metadata(&beside.root).map_or(0, |facts| facts.dev()),
            last: None,
            read_at: Instant::now(),
        }
    }

    /// The disk that is ComfyUI's now; 0: none is.
    fn reserved(&mut self) -> u64 {
        if self.beside.is_ready.load(Ordering::Relaxed) {
            return 0;
        }
        let read = bytes_read(self.beside.pid.load(Ordering::Relaxed));
        if read != self.last {
            (self.last, self.read_at) = (read, Instant::now());
        }
        if self.read_at.elapsed() < LEFT_TO_COMFYUI {
            self.device
        } else {
            0
        }
    }
}

/// How much a process had fetched from disks so far (proc(5)); [`None`] where that is not known.
fn bytes_read(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("read_bytes: "))?;
    line.trim().parse().ok()
}

impl Models {
    /// Where the models with these names, and these files, are on disk.
    pub async fn on_disk(&self, names: &[String], wanted: &[ModelFile]) -> OnDisk {
        let Some(places) = self.places().cloned() else {
            return OnDisk::default();
        };
        let (mut files, mut unknown) = (Vec::new(), Vec::new());
        for name in names {
            match self.catalog().lookup(name).filter(|file| file.name == *name) {
                Some(file) => files.push(file.clone()),
                None => unknown.push(name.clone()),
            }
        }
        files.extend_from_slice(wanted);
        blocking(move || on_disk(&places, &files, &unknown)).await
    }

    /// Says that files will be read ahead, so that what jobs name until then is heard.
    pub fn plan_prefetch(&self) -> Planned {
        self.0.ahead.send_replace(Ahead::Planned(Vec::new()));
        Planned(self.clone())
    }

    /// Reads files into memory until all are, there is no room, jobs name others, or `stop` is cancelled. The log tells
    /// how far it is.
    pub async fn prefetch(&self, _planned: Planned, items: Vec<Item>, beside: Beside, stop: CancellationToken) -> Read {
        let total: u64 = items.iter().map(|item| item.bytes).sum();
        let room = blocking(room).await;
        if room < total {
            tracing::info!(
                "{} of {} of models are read into memory: there is no room for more",
                bytes(room),
                bytes(total)
            );
        }
        let reading = Arc::new(Reading::new(items, room, stop));
        self.0.ahead.send_modify(|ahead| {
            if let Ahead::Planned(so_far) = ahead {
                reading.a_job_names(so_far);
            }
            *ahead = Ahead::Going(Arc::clone(&reading));
        });
        let begun = Instant::now();
        let mut meter = self.0.reporter.begin(TITLE, Some(total.min(room)), Unit::Bytes);
        let (read, meter) = blocking(move || {
            let mut watch = Watch::new(&beside);
            let read = reading.run(|reading| {
                reading.reserved.store(watch.reserved(), Ordering::Relaxed);
                meter.position(reading.position());
            });
            (read, meter)
        })
        .await;
        meter.finish(&summary(read, begun.elapsed()));
        read
    }
}

/// What the lines of the log begin with.
const TITLE: &str = "models into memory";

/// `20.4 GB in 10.2 s, 2.0 GB/s; 1.2 GB were there`
fn summary(read: Read, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let pace = bytes(per_second(read.bytes, seconds));
    let there = if read.there > 0 {
        format!("; {} were there", bytes(read.there))
    } else {
        String::new()
    };
    let end = if read.is_whole { "" } else { "; the rest is left" };
    format!("{} in {seconds:.1} s, {pace}/s{there}{end}", bytes(read.bytes))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a figure for people, and not negative"
)]
fn per_second(bytes: u64, seconds: f64) -> u64 {
    (bytes as f64 / seconds.max(1e-3)) as u64
}

#[cfg(test)]
#[path = "prefetch_tests.rs"]
mod tests;
