//! The threads that read files into memory, and what they share.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::{ReadWriteFlags, preadv2};
use tokio_util::sync::CancellationToken;

use super::{Item, LEFT_TO_COMFYUI, LOOK_EVERY};

/// How many threads read at once: a network volume gives each of them its own share.
const READERS: usize = 4;
/// How much each reads at a time.
const PIECE: u64 = 8 << 20;
/// How much the threads' priority is below that of others (nice(2)); the kernel takes that of their reads from it too.
const NICE: i32 = 10;
/// At how many places a file is looked at for whether it is in memory already.
const PROBES: u64 = 64;
/// Time between two looks of a thread that has nothing to read at the moment.
const PAUSE: Duration = Duration::from_millis(10);

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

/// Files that are being read.
#[derive(Debug)]
pub(in crate::models) struct Reading {
    /// The names of all of them.
    all: HashSet<String>,
    left: Mutex<Left>,
    stop: CancellationToken,
    read: AtomicU64,
    there: AtomicU64,
    /// Threads at work.
    at_work: AtomicUsize,
    /// The disk that is ComfyUI's at the moment; 0: none is.
    pub(super) reserved: AtomicU64,
}

/// What is still to be read.
#[derive(Debug, Default)]
struct Left {
    items: VecDeque<Item>,
    /// Files at work. Another is opened when none of these can be read now.
    open: Vec<Open>,
    /// Whether a thread is opening one.
    is_opening: bool,
    /// What jobs have named.
    named: HashSet<String>,
    /// Whether one of those is none of ours, so that nothing else is read any more.
    is_named_alone: bool,
    /// How many bytes may still be brought into memory.
    room: u64,
    is_cut: bool,
}

/// A file, and up to where it was handed out.
#[derive(Debug)]
struct Open {
    file: Arc<File>,
    item: Item,
    offset: u64,
}

/// A piece of a file.
struct Piece {
    file: Arc<File>,
    offset: u64,
    length: u64,
}

/// What a thread is to do.
enum Next {
    Read(Piece),
    Open(Item),
    Wait,
    /// There is nothing, or memory is full.
    End,
}

impl Left {
    /// `reserved` is the disk that nothing is read from now.
    fn next(&mut self, reserved: u64) -> Next {
        if let Some(open) = self.open.iter_mut().find(|open| open.item.device != reserved) {
            let length = PIECE.min(open.item.bytes - open.offset);
            let Some(room) = self.room.checked_sub(length) else {
                self.is_cut = true;
                self.items.clear();
                self.open.clear();
                return Next::End;
            };
            let piece = Piece {
                file: Arc::clone(&open.file),
                offset: open.offset,
                length,
            };
            self.room = room;
            open.offset += length;
            self.open.retain(|open| open.offset < open.item.bytes);
            return Next::Read(piece);
        }
        if self.is_opening {
            return Next::Wait;
        }
        let place = self.items.iter().position(|item| item.device != reserved);
        match place.and_then(|place| self.items.remove(place)) {
            Some(item) => {
                self.is_opening = true;
                Next::Open(item)
            }
            None if self.is_over() => Next::End,
            None => Next::Wait,
        }
    }

    fn is_over(&self) -> bool {
        self.items.is_empty() && self.open.is_empty() && !self.is_opening
    }

    /// Drops what is not to be read any more, and puts first what jobs name.
    fn arrange(&mut self) {
        let Self { items, open, named, .. } = self;
        if self.is_named_alone {
            let before = items.len() + open.len();
            items.retain(|item| named.contains(&item.name));
            open.retain(|open| named.contains(&open.item.name));
            self.is_cut |= items.len() + open.len() < before;
        }
        items.make_contiguous().sort_by_key(|item| !named.contains(&item.name));
    }
}

impl Reading {
    pub(super) fn new(items: Vec<Item>, room: u64, stop: CancellationToken) -> Self {
        Self {
            all: items.iter().map(|item| item.name.clone()).collect(),
            left: Mutex::new(Left {
                items: items.into(),
                room,
                ..Left::default()
            }),
            stop,
            read: AtomicU64::default(),
            there: AtomicU64::default(),
            at_work: AtomicUsize::default(),
            reserved: AtomicU64::default(),
        }
    }

    /// A job names these models: they come first. Where one of them is none of ours, the disk is for what jobs name from now
    /// on.
    pub(super) fn a_job_names(&self, names: &[String]) {
        let mut left = self.left.lock();
        left.is_named_alone |= !names.iter().all(|name| self.all.contains(name));
        left.named.extend(names.iter().cloned());
        left.arrange();
    }

    /// The next piece; [`None`] when there is none, or memory is full. Opens files, and waits while nothing can be read.
    fn next(&self, is_first: bool) -> Option<Piece> {
        loop {
            if self.stop.is_cancelled() {
                return None;
            }
            let reserved = self.reserved.load(Ordering::Relaxed);
            let next = {
                let mut left = self.left.lock();
                // While ComfyUI reads, one of us goes on.
                if reserved != 0 && !is_first && !left.is_over() {
                    Next::Wait
                } else {
                    left.next(reserved)
                }
            };
            match next {
                Next::Read(piece) => return Some(piece),
                Next::Open(item) => self.open(item),
                Next::Wait => std::thread::sleep(PAUSE),
                Next::End => return None,
            }
        }
    }

    /// Opens a file that is not in memory yet. A volume may answer slowly, so nothing is locked meanwhile.
    fn open(&self, item: Item) {
        let (mut opened, mut there) = (None, 0);
        match File::open(&item.path) {
            Ok(file) if is_in_memory(&file, item.bytes) => there = item.bytes,
            Ok(file) if item.bytes > 0 => {
                opened = Some(Open {
                    file: Arc::new(file),
                    item,
                    offset: 0,
                });
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the model {} is not read into memory", item.path.display()),
        }
        self.there.fetch_add(there, Ordering::Relaxed);
        let mut left = self.left.lock();
        left.is_opening = false;
        left.room = left.room.saturating_sub(there);
        left.open.extend(opened);
        left.arrange();
    }

    /// One of the threads.
    fn work(&self, is_first: bool) {
        // Without the right to be lower it is as others are.
        let _ = rustix::process::nice(NICE);
        let mut buffer = vec![0; usize::try_from(PIECE).unwrap_or_default()];
        while let Some(piece) = self.next(is_first) {
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

    /// How much is in memory, as far as it was read or looked at.
    pub(super) fn position(&self) -> u64 {
        self.read.load(Ordering::Relaxed) + self.there.load(Ordering::Relaxed)
    }

    fn comfyui_reads(&self) -> bool {
        self.reserved.load(Ordering::Relaxed) != 0
    }

    /// Reads everything; `look` is called while it lasts. Blocking.
    pub(super) fn run(&self, mut look: impl FnMut(&Self)) -> Read {
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

#[cfg(test)]
#[path = "reading_tests.rs"]
mod tests;
