//! Model files read into memory before ComfyUI asks for them.
//!
//! ComfyUI takes seconds to import PyTorch, and only then maps its models into memory, whose pages the kernel fetches in pieces of
//! 128 KB, one after the other. Meanwhile nobody reads the disk. So the files of the first job are read here, in large pieces by
//! several threads, for nothing but the kernel's page cache, in the order in which ComfyUI will want them.
//!
//! It gives way: its threads have a low priority; while ComfyUI reads the files that it starts from, a single one reads, half of the
//! time, and none from the disk that those lie on; no more is read than memory holds; and it ends when a job names other files.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::{ReadWriteFlags, preadv2};
use tokio_util::sync::CancellationToken;

use super::Models;
use super::locate::{Found, Places};
use crate::comfy::memory;
use crate::config::ModelFile;
use crate::disk::blocking;
use crate::telemetry::report::{Unit, bytes};

/// How many threads read at once: a network volume gives each of them its own share.
const READERS: usize = 4;
/// How much each reads at a time.
const PIECE: u64 = 8 << 20;
/// How much the threads' priority is below that of others (nice(2)); the kernel takes that of their reads from it too.
const NICE: i32 = 10;
/// At how many places a file is looked at for whether it is in memory already.
const PROBES: u64 = 64;
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

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// How much was read.
    pub bytes: u64,
    /// How much was in memory before.
    pub there: u64,
    /// Whether nothing is left of what was planned.
    pub is_whole: bool,
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

/// The files on disk, in the order in which ComfyUI wants them, each once. Blocking: a volume may answer slowly.
pub(super) fn items(places: &Places, wanted: &[ModelFile]) -> Vec<Item> {
    let mut found: Vec<(usize, Item)> = Vec::new();
    for file in wanted {
        let path = match places.locate(file) {
            Found::Present(path) | Found::Linkable(path) => path,
            // What is fetched is in memory when it comes; what has the wrong size may be replaced.
            Found::WrongSize { .. } | Found::Missing => continue,
        };
        let Some(item) = Item::of(&file.name, path) else {
            continue;
        };
        if !found.iter().any(|(_, known)| known.path == item.path) {
            found.push((place_of(&file.folder), item));
        }
    }
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, item)| item).collect()
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
    let (Some(available), Some(total)) = (memory::available(), memory::total()) else {
        return 0;
    };
    available.saturating_sub(RESERVE + total / RESERVE_SHARE)
}

/// Files that are being read.
#[derive(Debug)]
pub(super) struct Reading {
    /// The names of all of them.
    all: Vec<String>,
    left: Mutex<Left>,
    stop: CancellationToken,
    read: AtomicU64,
    there: AtomicU64,
    /// Threads at work.
    at_work: AtomicUsize,
    /// The disk that is ComfyUI's at the moment; 0: none is.
    reserved: AtomicU64,
}

/// What is still to be read.
#[derive(Debug)]
struct Left {
    items: VecDeque<Item>,
    /// The file at work, and up to where it was handed out.
    now: Option<(Arc<File>, Item, u64)>,
    /// How many bytes may still be brought into memory.
    room: u64,
    is_cut: bool,
}

/// A piece of a file.
struct Piece {
    file: Arc<File>,
    offset: u64,
    length: u64,
    device: u64,
}

impl Reading {
    pub(super) fn new(items: Vec<Item>, room: u64, stop: CancellationToken) -> Self {
        Self {
            all: items.iter().map(|item| item.name.clone()).collect(),
            left: Mutex::new(Left {
                items: items.into(),
                now: None,
                room,
                is_cut: false,
            }),
            stop,
            read: AtomicU64::default(),
            there: AtomicU64::default(),
            at_work: AtomicUsize::default(),
            reserved: AtomicU64::default(),
        }
    }

    /// A job names these models. Where one of them is none of ours, the disk is the job's from now on; else those that it names
    /// come first.
    pub(super) fn a_job_names(&self, names: &[String]) {
        if !names.iter().all(|name| self.all.contains(name)) {
            self.stop.cancel();
            return;
        }
        let mut left = self.left.lock();
        left.items
            .make_contiguous()
            .sort_by_key(|item| !names.contains(&item.name));
    }

    /// The next piece; [`None`] when there is none, or memory is full.
    fn next(&self) -> Option<Piece> {
        let mut left = self.left.lock();
        loop {
            if self.stop.is_cancelled() {
                return None;
            }
            if let Some((file, item, offset)) = &mut left.now
                && *offset < item.bytes
            {
                let piece = Piece {
                    file: Arc::clone(file),
                    offset: *offset,
                    length: PIECE.min(item.bytes - *offset),
                    device: item.device,
                };
                *offset += piece.length;
                let Some(room) = left.room.checked_sub(piece.length) else {
                    left.is_cut = true;
                    left.items.clear();
                    left.now = None;
                    return None;
                };
                left.room = room;
                return Some(piece);
            }
            let item = left.items.pop_front()?;
            left.now = match File::open(&item.path) {
                Ok(file) if is_in_memory(&file, item.bytes) => {
                    self.there.fetch_add(item.bytes, Ordering::Relaxed);
                    left.room = left.room.saturating_sub(item.bytes);
                    None
                }
                Ok(file) => Some((Arc::new(file), item, 0)),
                Err(error) => {
                    tracing::debug!(%error, "the model {} is not read into memory", item.path.display());
                    None
                }
            };
        }
    }

    /// One of the threads.
    fn work(&self, is_first: bool) {
        // Without the right to be lower it is as others are.
        let _ = rustix::process::nice(NICE);
        let mut buffer = vec![0; usize::try_from(PIECE).unwrap_or_default()];
        loop {
            while !is_first && self.comfyui_reads() && !self.stop.is_cancelled() {
                std::thread::sleep(LOOK_EVERY);
            }
            let Some(piece) = self.next() else { break };
            while self.reserved.load(Ordering::Relaxed) == piece.device && !self.stop.is_cancelled() {
                std::thread::sleep(LOOK_EVERY);
            }
            let begun = Instant::now();
            let Ok(length) = usize::try_from(piece.length) else {
                break;
            };
            let mut done = 0;
            while done < length && !self.stop.is_cancelled() {
                match piece
                    .file
                    .read_at(&mut buffer[done..length], piece.offset + done as u64)
                {
                    // It is shorter than it was.
                    Ok(0) => break,
                    Ok(count) => done += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // ComfyUI will tell of it.
                    Err(_) => break,
                }
            }
            self.read.fetch_add(done as u64, Ordering::Relaxed);
            if self.comfyui_reads() {
                std::thread::sleep(begun.elapsed().min(LEFT_TO_COMFYUI));
            }
        }
        self.at_work.fetch_sub(1, Ordering::Relaxed);
    }

    fn comfyui_reads(&self) -> bool {
        self.reserved.load(Ordering::Relaxed) != 0
    }

    /// Reads everything; `look` is called while it lasts. Blocking.
    fn run(&self, mut look: impl FnMut(&Self)) -> Read {
        std::thread::scope(|scope| {
            for number in 0..READERS {
                self.at_work.fetch_add(1, Ordering::Relaxed);
                let thread = std::thread::Builder::new().name("prefetch".to_owned());
                if thread.spawn_scoped(scope, move || self.work(number == 0)).is_err() {
                    self.at_work.fetch_sub(1, Ordering::Relaxed);
                }
            }
            while self.at_work.load(Ordering::Relaxed) > 0 {
                look(self);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Read {
            bytes: self.read.load(Ordering::Relaxed),
            there: self.there.load(Ordering::Relaxed),
            is_whole: !self.stop.is_cancelled() && !self.left.lock().is_cut,
        }
    }
}

/// Whether a file is in the page cache, looked at here and there. On file systems that cannot say, it is not.
fn is_in_memory(file: &File, bytes: u64) -> bool {
    let last = bytes.saturating_sub(1);
    (0..=PROBES).all(|probe| {
        let mut byte = [0];
        let offset = last / PROBES * probe;
        let read = preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT);
        read == Ok(1)
    }) && bytes > 0
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
    /// Where these models are on disk, in the order in which ComfyUI wants them.
    pub async fn on_disk(&self, wanted: Vec<ModelFile>) -> Vec<Item> {
        let Some(places) = self.places().cloned() else {
            return Vec::new();
        };
        blocking(move || items(&places, &wanted)).await
    }

    /// The files that a graph names, as far as they are known by name; with the number of names that are not.
    pub fn named(&self, names: &[String]) -> (Vec<ModelFile>, usize) {
        let known = |name: &String| self.catalog().lookup(name).filter(|file| file.name == *name);
        let files: Vec<ModelFile> = names.iter().filter_map(known).cloned().collect();
        let unknown = names.len() - files.len();
        (files, unknown)
    }

    /// Reads files into memory until all are, there is no room, a job names others, or `stop` is cancelled. The log tells
    /// how far it is.
    pub async fn prefetch(&self, items: Vec<Item>, beside: Beside, stop: CancellationToken) -> Read {
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
        *self.0.reading.lock() = Some(Arc::clone(&reading));
        let begun = Instant::now();
        let mut meter = self.0.reporter.begin(TITLE, Some(total.min(room)), Unit::Bytes);
        let (read, meter) = blocking(move || {
            let mut watch = Watch::new(&beside);
            let read = reading.run(|reading| {
                reading.reserved.store(watch.reserved(), Ordering::Relaxed);
                let so_far = reading.read.load(Ordering::Relaxed) + reading.there.load(Ordering::Relaxed);
                meter.position(so_far);
            });
            (read, meter)
        })
        .await;
        *self.0.reading.lock() = None;
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
