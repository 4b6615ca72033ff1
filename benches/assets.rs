//! The upload of one large file to Comfy API v2, beside `cat` to the same disk: the real binary, and a client that has the
//! file in memory; into the page cache, and until it is on the disk (`fsync`). Prints figures; the goals are for a release build.
//!
//! `cargo bench --bench assets -- 200` sends 200 MB instead of 1 GB.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

#[path = "support/worker.rs"]
#[expect(dead_code, reason = "others need more")]
mod worker;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use worker::Worker;

/// The size of the file, in MB.
const SIZE: usize = 1000;
/// How often each writes it, in turn.
const ROUNDS: usize = 5;

fn main() {
    let size = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let size = size.unwrap_or(SIZE);
    let folder = tempfile::tempdir().expect("a folder");
    let mut content = bytes(size * 1_000_000);
    let source = folder.path().join("source");
    std::fs::write(&source, &content).expect("room on the disk");
    // No ComfyUI is needed, and none is waited for.
    let vars = [("COMFYUI_URL", "http://127.0.0.1:9"), ("HOME", "/nonexistent")];
    let worker = Worker::start(&folder.path().join("data"), &vars);
    let before = worker.megabytes();
    for synced in [false, true] {
        let (mut ours, mut cats) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            // Bytes that were not there before.
            content[..9].copy_from_slice(&[&round.to_be_bytes()[..], &[u8::from(synced)]].concat());
            let copy = folder.path().join("copy");
            cats.push(cat(&source, &copy, synced));
            std::fs::remove_file(&copy).expect("the copy");
            let blobs = folder.path().join("data/assets/blobs");
            ours.push(upload(&worker, &content, synced.then_some(&blobs)));
            std::fs::remove_dir_all(&blobs).expect("the files");
        }
        ours.sort_unstable();
        cats.sort_unstable();
        let rate = |times: &[Duration]| {
            f64::from(u32::try_from(size).unwrap_or(u32::MAX)) / times[times.len() / 2].as_secs_f64()
        };
        let (by_us, by_cat) = (rate(&ours), rate(&cats));
        let where_to = if synced {
            "to the disk itself (fsync)"
        } else {
            "to the page cache"
        };
        println!("{size} MB {where_to}, by `cat`, middle of {ROUNDS}    {by_cat:>8.0} MB/s");
        println!(
            "{size} MB {where_to}, by upload, middle of {ROUNDS}  {by_us:>8.0} MB/s, {:.0} %  (goal: at least 80 %)",
            by_us / by_cat * 100.0
        );
    }
    println!(
        "most memory beyond idle (RSS)     {:>8.1} MB  (goal: under 20)",
        worker::megabytes(&worker.process, "VmHWM:") - before
    );
}

/// Bytes that do not repeat.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 4711_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn cat(from: &Path, to: &Path, synced: bool) -> Duration {
    let to = File::create(to).expect("a file");
    let out = to.try_clone().expect("the same file");
    let begun = Instant::now();
    let done = Command::new("cat").arg(from).stdout(Stdio::from(out)).status();
    assert!(done.is_ok_and(|status| status.success()), "cat");
    if synced {
        to.sync_all().expect("a disk");
    }
    begun.elapsed()
}

/// Ends once what is under the folder is on the disk, where one is named.
fn upload(worker: &Worker, content: &[u8], synced: Option<&PathBuf>) -> Duration {
    let head_of_file = "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"film.mp4\"\r\n\r\n";
    let end = "\r\n--b--\r\n";
    let begun = Instant::now();
    let mut connection = TcpStream::connect(&worker.address).expect("a connection");
    let head = format!(
        "POST /api/v2/assets HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: multipart/form-data; boundary=b\r\ncontent-length: {}\r\n\r\n{head_of_file}",
        worker.address,
        head_of_file.len() + content.len() + end.len()
    );
    for part in [head.as_bytes(), content, end.as_bytes()] {
        connection.write_all(part).expect("it is taken");
    }
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    for file in synced.into_iter().flat_map(|folder| files(folder)) {
        File::open(file).and_then(|file| file.sync_all()).expect("a disk");
    }
    begun.elapsed()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}
