//! Jobs of every dialect at once for a while, and meanwhile everything that may go wrong around the worker, again and again: no job
//! is lost, none is told two ends, files of the user's stay, files of ours go in their time, and the memory stays as it is.
//!
//! A minute by default; `SOAK_S=3600 cargo test --test it -- soak` is an hour.

mod clients;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::clients::{ALL, Client, End, Job, Kind};
use crate::durability::attached;
use crate::support::binary::Served;
use crate::support::full_disk::Disk;
use crate::support::proxy::Proxy;
use crate::support::receiver::Receiver;
use crate::support::{fresh_data, shared, text};
use crate::together::quick_templates;

/// How long what goes wrong lasts: longer than the store waits for a lock.
const TROUBLE: Duration = Duration::from_secs(10);
/// How long it takes at most, when nothing goes wrong any more, until all has ended and is told and tidied up.
const SOON: Duration = Duration::from_mins(1);
/// How long results are kept.
const KEPT: &str = "15";
/// What the worker may grow by after its first third, in kB: buffers, and what an allocator keeps.
const GROWTH: u64 = 64 * 1024;

/// A node that shows a file of the user's, as those do that mask or crop what was loaded.
const NODES: &str = r#"
class ShowNamed:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "worker_test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"filename": ("STRING", {"default": "keep.png"}), "seed": ("INT", {"default": 0, "max": 2**63 - 1})}}

    def run(self, filename, seed):
        files = [{"filename": filename, "subfolder": "", "type": folder} for folder in ("input", "output")]
        return {"ui": {"images": files}}

NODE_CLASS_MAPPINGS = {"ShowNamed": ShowNamed}
"#;

/// What went wrong, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Killed,
    Stopped,
    FullDisk,
    Locked,
    Away,
}

const TROUBLES: [Trouble; 5] = [
    Trouble::Killed,
    Trouble::Stopped,
    Trouble::FullDisk,
    Trouble::Locked,
    Trouble::Away,
];

/// The two workers, and what is around them.
struct Stage {
    /// With a ComfyUI of its own, on a disk of its own.
    own: Served,
    /// Attached to the shared ComfyUI through a network.
    attached: Served,
    disk: Disk,
    data: PathBuf,
    comfyui: String,
    network: tokio::sync::Mutex<Option<Proxy>>,
    troubles: Mutex<Vec<(Trouble, Instant, Instant)>>,
}

impl Stage {
    /// Lets something go wrong, and puts it right again.
    async fn trouble(&self, trouble: Trouble) {
        let begin = Instant::now();
        match trouble {
            Trouble::Killed => signal(self.own.comfy_pid().await, Signal::SIGKILL),
            Trouble::Stopped => {
                let pid = self.own.comfy_pid().await;
                signal(pid, Signal::SIGSTOP);
                tokio::time::sleep(TROUBLE / 2).await;
                signal(pid, Signal::SIGCONT);
            }
            Trouble::FullDisk => {
                self.disk.fill();
                tokio::time::sleep(TROUBLE).await;
                self.disk.empty();
            }
            Trouble::Locked => {
                let database = self.data.join("jobs.db");
                let locked = tokio::task::spawn_blocking(move || {
                    let other = rusqlite::Connection::open(database).expect("the database");
                    other.busy_timeout(TROUBLE).expect("a setting");
                    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
                    std::thread::sleep(TROUBLE);
                    other.execute_batch("ROLLBACK").expect("the lock is given back");
                });
                locked.await.expect("no panic");
            }
            Trouble::Away => {
                let mut network = self.network.lock().await;
                let proxy = network.take().expect("it is there");
                let address = proxy.url.trim_start_matches("http://").to_owned();
                proxy.end().await;
                tokio::time::sleep(TROUBLE / 2).await;
                let listener = tokio::net::TcpListener::bind(address).await.expect("its port again");
                *network = Some(Proxy::behind(listener, &self.comfyui));
            }
        }
        let mut troubles = self.troubles.lock().expect("no panic");
        troubles.push((trouble, begin, Instant::now()));
    }

    /// Whether the disk was full during a job. A job may fail then, as ComfyUI cannot save its picture.
    fn disk_was_full(&self, job: &Job) -> bool {
        let troubles = self.troubles.lock().expect("no panic");
        troubles
            .iter()
            .any(|(trouble, begin, end)| *trouble == Trouble::FullDisk && job.sent <= *end && job.ended >= *begin)
    }

    /// What is wrong with a job's end.
    fn complaint(&self, job: &Job) -> Option<String> {
        let is_right = match (&job.end, job.kind) {
            (End::Completed, kind) => !matches!(kind, Kind::Fails | Kind::CalledOff),
            (End::Failed(error), Kind::Fails) => error.contains("the lamp is out") || self.disk_was_full(job),
            (End::Cancelled, Kind::CalledOff) => true,
            (End::Failed(_), _) => self.disk_was_full(job),
            // A full queue, and a store that cannot take a job in: its sender may send it again.
            (End::Refused(status, _), _) => [429, 503].contains(status),
            (End::Cancelled, _) => false,
        };
        (!is_right).then(|| format!("{job:?}"))
    }
}

fn signal(pid: i32, signal: Signal) {
    // It may have ended by itself, or be started again.
    let _ = kill(Pid::from_raw(pid), signal);
}

/// The memory of a process, in kB.
fn memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_default()
}

/// Every file below some folders.
fn files(folders: &[PathBuf]) -> BTreeSet<PathBuf> {
    let entries = folders
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten();
    let paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let (folders, found): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.is_dir());
    let mut found: BTreeSet<_> = found.into_iter().collect();
    if !folders.is_empty() {
        found.extend(files(&folders));
    }
    found
}

/// Waits for a condition; says whether it came true.
async fn soon(condition: impl AsyncFn() -> bool) -> bool {
    let begin = Instant::now();
    while !condition().await {
        if begin.elapsed() > SOON {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    true
}

/// Graphs that take a moment.
fn slower(templates: &Path) {
    for name in ["qwen-image.json", "qwen-image-edit-2511.json"] {
        let path = templates.join(name);
        let graph = std::fs::read_to_string(&path).expect("a graph");
        let slower = graph.replace("\"ms_per_step\":0", "\"ms_per_step\":40");
        assert_ne!(graph, slower);
        std::fs::write(path, slower).expect("a file");
    }
}

/// The call backs by the job that they tell of: how many ids they came under.
fn told(receiver: &Receiver) -> BTreeMap<String, BTreeSet<String>> {
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for webhook in receiver.came().iter() {
        let job = match text(&webhook.body["data"], "taskId") {
            "" => text(&webhook.body, "id"),
            task => task,
        };
        told.entry(job.to_owned()).or_default().insert(webhook.id.clone());
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_whatever_goes_wrong_around_the_worker() {
    let seconds = std::env::var("SOAK_S")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    let (receiver, templates, disk) = (Receiver::start().await, quick_templates(), Disk::new());
    slower(templates.path());
    let comfyui = shared().await;
    let address = comfyui.comfy_url().await;
    let network = Proxy::to(&address).await;

    let (data, mut vars) = fresh_data();
    let base = data.path().join("base");
    std::fs::write(base.join("custom_nodes/soak_nodes.py"), NODES).expect("a file");
    let theirs = ["input/keep.png", "output/keep.png", "output/soak/mine.png"].map(|name| base.join(name));
    for file in &theirs {
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(file, crate::support::image_server::png(8, 8, 255)).expect("a file");
    }
    let more = [
        ("EDIT_PORT", "none"),
        ("RESULT_TTL", KEPT),
        ("JOB_RETRIES", "10"),
        ("ALLOW_PRIVATE_URLS", "127.0.0.1"),
        ("WEBHOOK_RETRY_DELAY_S", "1"),
        ("WORKFLOWS_DIR", templates.path().to_str().expect("UTF-8")),
    ];
    vars.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let calm = vars.clone();
    vars.extend(disk.vars());
    let other_data = tempfile::tempdir().expect("a folder");
    let mut elsewhere = attached(other_data.path(), &network.url, &more);
    // Its links lead to the port that it has.
    elsewhere.remove("PUBLIC_URL");
    let stage = Stage {
        own: Served::start(&vars).await,
        attached: Served::start(&elsewhere).await,
        disk,
        data: data.path().to_owned(),
        comfyui: address.clone(),
        network: tokio::sync::Mutex::new(Some(network)),
        troubles: Mutex::default(),
    };
    stage.own.comfy_pid().await;
    let ours = [base.join("input"), base.join("output"), data.path().join("jobs")];
    // ComfyUI brings a picture of its own along.
    let before = files(&ours);

    let end = Instant::now() + Duration::from_secs(seconds);
    let jobs = Mutex::new(Vec::new());
    let clients = (0_u64..).zip(ALL.iter().map(|kind| (&stage.own, *kind)).chain([
        (&stage.attached, Kind::OpenAi),
        (&stage.attached, Kind::Kie),
        (&stage.attached, Kind::EditPlus),
    ]));
    let clients = clients.map(async |(number, (worker, kind))| {
        let mut client = Client {
            worker,
            hook: &receiver.url,
            number: (number + 1) * 1_000_000_000,
        };
        while Instant::now() < end {
            let job = client.one(kind).await;
            if matches!(job.end, End::Refused(..) | End::Failed(_)) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            jobs.lock().expect("no panic").push(job);
        }
    });
    let troubles = async {
        for trouble in TROUBLES.iter().cycle() {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let all_came = stage.troubles.lock().expect("no panic").len() >= TROUBLES.len();
            if Instant::now() >= end && all_came {
                return;
            }
            stage.trouble(*trouble).await;
        }
    };
    let measured = Mutex::new(Vec::new());
    let measure = async {
        loop {
            measured.lock().expect("no panic").push(memory(stage.own.pid()));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        ((), _) = async { tokio::join!(troubles, join_all(clients)) } => {}
        () = measure => {}
    }

    let jobs = jobs.into_inner().expect("no panic");
    // One of each is enough to read.
    let mut alike: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for (job, complaint) in jobs.iter().filter_map(|job| Some((job, stage.complaint(job)?))) {
        let kind: String = format!("{:?} {:?}", job.kind, job.end).chars().take(80).collect();
        alike.entry(kind).or_insert((0, complaint)).0 += 1;
    }
    let alike = alike.into_values();
    let mut complaints: Vec<String> = alike.map(|(count, one)| format!("{count} such as {one}")).collect();
    let expected: BTreeSet<String> = jobs.iter().filter_map(|job| job.called_back.clone()).collect();
    for worker in [&stage.own, &stage.attached] {
        if !soon(async || worker.unfinished().await == 0).await {
            complaints.push(format!("{} jobs never end", worker.unfinished().await));
        }
    }
    let untold = || {
        let told = told(&receiver);
        expected.iter().filter(|job| !told.contains_key(*job)).count()
    };
    if !soon(async || untold() == 0).await {
        complaints.push(format!("{} of {} jobs are never called back", untold(), expected.len()));
    }

    // What has ended has ended for the next start too.
    let mut own = stage.own;
    own.terminate();
    own.exit_code().await;
    let came = receiver.came().len();
    let own = Served::start(&calm).await;
    let left = own.unfinished().await;
    if left > 0 {
        complaints.push(format!("{left} jobs run again after a start"));
    }
    own.comfy_pid().await;
    let gone = async || own.ask("/requests").await.body["requests"] == serde_json::json!([]);
    if !soon(gone).await {
        complaints.push("old jobs stay".to_owned());
    }
    let told = told(&receiver);
    let twice: Vec<_> = told.iter().filter(|(_, ids)| ids.len() > 1).collect();
    if !twice.is_empty() {
        complaints.push(format!("told two ends: {twice:?}"));
    }
    if receiver.came().len() > came {
        complaints.push("call backs are sent again after a start".to_owned());
    }
    for file in theirs.iter().filter(|file| !file.exists()) {
        complaints.push(format!("the user's {} is gone", file.display()));
    }
    let after = files(&ours);
    let left: Vec<_> = after.difference(&before).collect();
    if !left.is_empty() {
        complaints.push(format!(
            "{} files are left, such as {:?}",
            left.len(),
            &left[..left.len().min(5)]
        ));
    }
    let measured = measured.into_inner().expect("no panic");
    let third = measured.len() / 3;
    let (warm, last) = (
        measured[third..2 * third].iter().max(),
        measured[2 * third..].iter().max(),
    );
    if last > warm.map(|warm| warm + GROWTH).as_ref() {
        complaints.push(format!("the worker's memory grows: {measured:?} kB"));
    }
    let ended = |end: fn(&End) -> bool| jobs.iter().filter(|job| end(&job.end)).count();
    let summary = format!(
        "{} jobs, {} completed, {} refused; {warm:?} kB, then {last:?}",
        jobs.len(),
        ended(|end| *end == End::Completed),
        ended(|end| matches!(end, End::Refused(..))),
    );
    assert!(complaints.is_empty(), "{summary}\n{}", complaints.join("\n"));
}
