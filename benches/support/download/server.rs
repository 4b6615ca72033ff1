//! The Hub and its CDN in a process of their own, told by lines what to do.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::model_hub::{Content, Link, ModelHub};

/// The files' paths and sizes in hundredths of what the large set has, in bytes: the proportions of Qwen-Image's
/// transformer, text encoder, VAE and LoRA (20.4, 9.4, 0.25 and 1.7 GB).
const FILES: [(&str, u64); 4] = [
    ("diffusion_models/transformer.safetensors", 20_560_000),
    ("text_encoders/encoder.safetensors", 9_474_000),
    ("vae/vae.safetensors", 252_000),
    ("loras/lora.safetensors", 1_714_000),
];

/// A set of four files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Set {
    /// 3.2 GB.
    Large,
    /// A quarter of it.
    Small,
}

impl Set {
    /// Its repository.
    pub(crate) fn repo(self) -> &'static str {
        match self {
            Self::Large => "bench/large",
            Self::Small => "bench/small",
        }
    }

    /// Its files.
    pub(crate) fn files(self) -> [(&'static str, Content); 4] {
        let times = match self {
            Self::Large => 100,
            Self::Small => 25,
        };
        FILES.map(|(path, size)| (path, Content::safetensors(size, size * times)))
    }

    /// In bytes.
    pub(crate) fn size(self) -> u64 {
        self.files().iter().map(|(_, content)| content.size()).sum()
    }
}

/// What a link lets through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes a second on one connection.
    pub(crate) connection: u64,
    /// Bytes a second in all.
    pub(crate) total: u64,
    /// In milliseconds.
    pub(crate) round_trip_ms: u64,
}

/// The server's process. It ends when this is dropped.
pub(crate) struct Server {
    process: Child,
    lines: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    /// The Hub's address.
    pub(crate) url: String,
    /// The SHA-256 of each file of each set.
    pub(crate) hashes: Vec<(Set, &'static str, String)>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let mut process = Command::new(std::env::current_exe().expect("its own path"))
            .arg(super::SERVER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program runs");
        let commands = process.stdin.take().expect("piped");
        let mut answers = BufReader::new(process.stdout.take().expect("piped"));
        let mut url = String::new();
        answers.read_line(&mut url).expect("an address");
        let sets = [Set::Large, Set::Small].into_iter();
        let files = sets.flat_map(|set| set.files().map(|(path, content)| (set, path, content.sha256())));
        Self {
            process,
            lines: Mutex::new((commands, answers)),
            url: url.trim().trim_end_matches('/').to_owned(),
            hashes: files.collect(),
        }
    }

    fn say(&self, line: &str) -> String {
        let (commands, answers) = &mut *self.lines.lock().expect("no panic");
        writeln!(commands, "{line}").expect("it listens");
        let mut answer = String::new();
        answers.read_line(&mut answer).expect("an answer");
        answer.trim().to_owned()
    }

    /// How fast it is from now on.
    pub(crate) fn limit(&mut self, limits: Option<Limits>) {
        let line = limits.map_or("link".to_owned(), |limits| {
            format!("link {} {} {}", limits.connection, limits.total, limits.round_trip_ms)
        });
        self.say(&line);
    }

    /// Bytes of files that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.say("sent").parse().expect("a number")
    }

    /// Waits until nothing more is sent.
    pub(crate) fn settle(&self) {
        let mut before = self.sent();
        loop {
            thread::sleep(Duration::from_millis(300));
            let now = self.sent();
            if now == before {
                return;
            }
            before = now;
        }
    }

    /// Counts from nothing.
    pub(crate) fn forget(&self) {
        self.say("forget");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone already where one of these fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves until standard input ends.
pub(crate) fn serve() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let hub = runtime.block_on(async {
        let hub = ModelHub::start().await;
        for set in [Set::Large, Set::Small] {
            let files = set.files();
            hub.push(set.repo(), "main", files.iter().map(|(path, content)| (*path, content)));
        }
        hub
    });
    println!("{}", hub.url);
    for line in std::io::stdin().lines() {
        let line = line.expect("UTF-8");
        let words: Vec<&str> = line.split(' ').collect();
        let number = |text: &str| text.parse::<u64>().expect("a number");
        match words.as_slice() {
            ["link"] => hub.link(Link::default()),
            ["link", connection, total, round_trip] => hub.link(Link {
                connection: Some(number(connection)),
                total: Some(number(total)),
                round_trip: Duration::from_millis(number(round_trip)),
            }),
            ["forget"] => hub.forget(),
            ["sent"] => {
                println!("{}", hub.sent());
                continue;
            }
            _ => panic!("no such command: {line}"),
        }
        println!("ok");
    }
}
