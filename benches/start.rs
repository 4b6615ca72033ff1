//! A cold start, from the process to the first picture, with and without models being read into memory meanwhile: the real
//! ComfyUI, its files and the models not in memory, the models on a disk that is slow.
//!
//! The slow disk is a file in memory, so that the disk of ComfyUI's own files serves nobody else, behind a loop device with a limit of the kernel's (blkio of control groups, version 1): it takes root, on a machine that lets
//! it. `-- 4000 400 5`: 4000 MB of models at 400 MB/s, five rounds. The job maps each file and touches its pages in order, as the loader of
//! safetensors does. Nothing of it needs a GPU.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

#[path = "support/worker.rs"]
#[expect(dead_code, reason = "others need more")]
mod worker;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use serde_json::{Map, Value, json};
use worker::{Worker, share};

/// The kinds of the files with their parts of a hundred: in the proportions of Qwen-Image's. Each has the name of its kind.
const FILES: [(&str, u64); 4] = [
    ("text_encoders", 30),
    ("diffusion_models", 66),
    ("loras", 3),
    ("vae", 1),
];

/// Reads each file as a loader does that maps it.
const NODE: &str = r#"
import mmap, folder_paths, torch
class ReadModels:
    @classmethod
    def INPUT_TYPES(cls):
        kinds = ("text_encoders", "diffusion_models", "loras", "vae")
        return {"required": {kind: ("STRING",) for kind in kinds}}
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "read"
    CATEGORY = "bench"
    def read(self, **files):
        for kind, name in files.items():
            with open(folder_paths.get_full_path(kind, name), "rb") as f:
                with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
                    for at in range(0, len(m), 4096):
                        m[at]
        return (torch.zeros((1, 64, 64, 3)),)
NODE_CLASS_MAPPINGS = {"ReadModels": ReadModels}
"#;

/// What one start took.
struct Start {
    comfyui: Duration,
    first_picture: Duration,
}

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let number = |place: usize, usual: u64| numbers.get(place).copied().unwrap_or(usual);
    let (megabytes, pace, rounds) = (number(0, 1000), number(1, 100), number(2, 3));
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let disk = SlowDisk::make(folder.path(), megabytes, pace);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // In turn, so that what the machine does meanwhile meets both.
        let both = [(true, &mut with), (false, &mut without)];
        let order: Vec<_> = if round % 2 == 0 {
            both.into_iter().collect()
        } else {
            both.into_iter().rev().collect()
        };
        for (prefetch, starts) in order {
            let start = start(folder.path(), &disk, prefetch);
            println!(
                "prefetch {prefetch:5}: ComfyUI {:5.1} s, first picture {:5.1} s",
                start.comfyui.as_secs_f64(),
                start.first_picture.as_secs_f64()
            );
            starts.push(start);
        }
    }
    let middle = |starts: &[Start], what: fn(&Start) -> Duration| {
        let mut times: Vec<Duration> = starts.iter().map(what).collect();
        share(&mut times, 50).as_secs_f64()
    };
    println!("{megabytes} MB of models at {pace} MB/s, middle of {rounds}");
    for (name, what) in [
        ("ComfyUI answers", (|start| start.comfyui) as fn(&Start) -> Duration),
        ("first picture", |start| start.first_picture),
    ] {
        println!(
            "{name:16} {:6.1} s with, {:6.1} s without",
            middle(&with, what),
            middle(&without, what)
        );
    }
}

/// One start with nothing in memory.
fn start(folder: &Path, disk: &SlowDisk, prefetch: bool) -> Start {
    let install = install_dir();
    forget(&install);
    disk.forget();
    let data = tempfile::tempdir_in(folder).expect("a folder");
    let nodes = data.path().join("base/custom_nodes");
    fs::create_dir_all(&nodes).expect("a folder");
    fs::write(nodes.join("read_models.py"), NODE).expect("a file");
    let models = FILES
        .map(|(kind, _)| format!("{kind}/{kind}.safetensors=https://models.example.com/{kind}.safetensors"))
        .join(",");
    let vars = [
        ("COMFYUI_INSTALL_DIR", install.to_str().expect("UTF-8")),
        ("COMFYUI_ARGS", "--disable-api-nodes"),
        ("NETWORK_VOLUMES", disk.mount.to_str().expect("UTF-8")),
        ("MODELS", &models),
        ("MODEL_PREFETCH", if prefetch { "true" } else { "false" }),
        ("HOME", folder.to_str().expect("UTF-8")),
    ];
    let begun = Instant::now();
    let worker = Worker::start(data.path(), &vars);
    let inputs: Map<String, Value> = FILES
        .iter()
        .map(|(kind, _)| ((*kind).to_owned(), format!("{kind}.safetensors").into()))
        .collect();
    let graph = json!({
        "1": {"class_type": "ReadModels", "inputs": inputs},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "bench"}},
    });
    let answer = ask(
        &worker,
        "POST",
        "/runsync",
        &json!({"input": {"workflow": graph}}).to_string(),
    );
    assert_eq!(answer["status"], "COMPLETED", "{answer}");
    let first_picture = begun.elapsed();
    let health = ask(&worker, "GET", "/health", "");
    Start {
        comfyui: Duration::from_secs_f64(health["start"]["comfyui_s"].as_f64().expect("a number")),
        first_picture,
    }
}

/// Where the tests have ComfyUI, too.
fn install_dir() -> PathBuf {
    let home = PathBuf::from(std::env::var_os("HOME").expect("a home"));
    std::env::var_os("COMFYUI_INSTALL_DIR")
        .map_or_else(|| home.join(".local/share/qwen-image-worker/comfyui"), PathBuf::from)
}

fn ask(worker: &Worker, method: &str, path: &str, body: &str) -> Value {
    let mut stream = TcpStream::connect(&worker.address).expect("it listens");
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
    .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    // Whatever frames it, it is one object.
    let (from, to) = (answer.find('{').expect("JSON"), answer.rfind('}').expect("JSON"));
    serde_json::from_str(&answer[from..=to]).expect("JSON")
}

/// Has the kernel forget what it has of all files in a folder.
fn forget(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => forget(&entry.path()),
            Ok(kind) if kind.is_file() => {
                if let Ok(file) = File::open(entry.path()) {
                    let _ = fadvise(&file, 0, None, Advice::DontNeed);
                }
            }
            _ => {}
        }
    }
}

/// A file system on a loop device from which this process, and those that it starts, read only so fast.
struct SlowDisk {
    mount: PathBuf,
    memory: PathBuf,
    device: String,
}

impl SlowDisk {
    fn make(folder: &Path, megabytes: u64, pace: u64) -> Self {
        let (memory, mount) = (folder.join("memory"), folder.join("volume"));
        fs::create_dir(&memory).expect("a folder");
        run(
            "mount",
            &["-t", "tmpfs", "-o", "size=90%", "tmpfs", &memory.to_string_lossy()],
        );
        let image = memory.join("disk");
        let file = File::create(&image).expect("a file");
        file.set_len((megabytes + 200) * 1_100_000).expect("room");
        fs::create_dir(&mount).expect("a folder");
        let device = run("losetup", &["--find", "--show", &image.to_string_lossy()]);
        run("mkfs.ext4", &["-q", "-F", &device]);
        run("mount", &[&device, &mount.to_string_lossy()]);
        for (kind, part) in FILES {
            let path = mount.join("models").join(kind).join(format!("{kind}.safetensors"));
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            let mut content = File::create(path).expect("a file");
            for number in 0..megabytes * part / 100 {
                content.write_all(&vec![(number % 251) as u8; 1_000_000]).expect("room");
            }
            content.sync_all().expect("a disk");
        }
        let group = Path::new("/sys/fs/cgroup/blkio/qwen-image-worker-bench");
        fs::create_dir_all(group).expect("control groups of version 1");
        let name = device.rsplit('/').next().unwrap_or_default();
        let number = fs::read_to_string(format!("/sys/block/{name}/dev")).expect("a device");
        let limit = format!("{} {}", number.trim(), pace * 1_000_000);
        fs::write(group.join("blkio.throttle.read_bps_device"), limit).expect("a limit");
        fs::write(group.join("cgroup.procs"), std::process::id().to_string()).expect("root");
        Self { mount, memory, device }
    }

    /// The kernel has nothing of its files afterwards.
    fn forget(&self) {
        forget(&self.mount);
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        run("umount", &["--lazy", &self.mount.to_string_lossy()]);
        run("losetup", &["--detach", &self.device]);
        run("umount", &["--lazy", &self.memory.to_string_lossy()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output().expect("it is there");
    assert!(
        done.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}
