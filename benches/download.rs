//! The download of a model set by our `Downloader`, and by `hf download`, aria2 and curl beside it, from the same server in
//! one run. Prints figures; the goals beside them are for a release build on two cores.
//!
//! The server is the Hub and CDN of the tests, in a process of its own that is this program too; so is our side, and each
//! rival is a process anyway: processor time and memory are those of the client alone. The set is 3.2 GB in the
//! proportions of Qwen-Image's four files. Our side has checked their SHA-256 when it ends.
//!
//! ```text
//! cargo bench --bench download                # all parts
//! cargo bench --bench download -- unlimited   # as fast as loopback is: MB/s, processor time, memory
//! cargo bench --bench download -- links       # the share of two links that is used
//! cargo bench --bench download -- kill        # what is fetched again after kill -9 at half; two at once
//! cargo bench --bench download -- rivals      # a word beside the others: only then the rivals run too
//! ```
//!
//! Files go where `TMPDIR` says: a folder in memory (`TMPDIR=/dev/shm`) leaves the disk out of the figures. Rivals are
//! those found on `PATH`: `hf` comes with `pip install huggingface_hub`, `aria2c` and `curl` are packages of Debian.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

#[path = "support/download/client.rs"]
mod client;
#[path = "support/download/measure.rs"]
mod measure;
#[path = "../tests/it/support/model_hub/mod.rs"]
#[expect(dead_code, unused_imports, reason = "most of it is for the tests")]
mod model_hub;
#[path = "support/download/server.rs"]
mod server;
#[path = "../tests/it/support/wire.rs"]
#[expect(dead_code, reason = "other fakes speak by it too")]
mod wire;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use client::Client;
use measure::{Run, run};
use server::{Limits, Server, Set};

/// Names the mode in which this program is the server.
const SERVER: &str = "--model-hub";
/// Names the mode in which this program is our client.
const CLIENT: &str = "--model-client";
/// How often each fetches the set over the unlimited link, in turn.
const ROUNDS: usize = 3;

/// A link, and what our share of it should be.
const LINKS: [(&str, Limits, f64); 2] = [
    (
        "50 MB/s a connection, 1 GB/s in all, 30 ms",
        Limits {
            connection: 50_000_000,
            total: 1_000_000_000,
            round_trip_ms: 30,
        },
        95.0,
    ),
    (
        "10 MB/s a connection, 400 MB/s in all, 80 ms",
        Limits {
            connection: 10_000_000,
            total: 400_000_000,
            round_trip_ms: 80,
        },
        85.0,
    ),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [SERVER] => return server::serve(),
        [CLIENT, hub, repo, folder] => return client::fetch(hub, repo, Path::new(folder)),
        _ => {}
    }
    let asked = |part: &str| arguments.iter().any(|argument| argument == part);
    let all = !["unlimited", "links", "kill"].into_iter().any(asked);
    let clients = if asked("rivals") || (all && !asked("ours")) {
        client::found()
    } else {
        vec![Client::Ours]
    };
    let mut server = Server::start();
    if all || asked("unlimited") {
        unlimited(&mut server, &clients);
    }
    if all || asked("links") {
        for (name, limits, goal) in LINKS {
            link(&mut server, &clients, name, limits, goal);
        }
    }
    if all || asked("kill") {
        killed(&mut server, &clients);
        two_at_once(&mut server, &clients);
    }
}

/// One fetch of a set into an empty folder; the files are looked at and deleted.
fn once(client: Client, server: &Server, set: Set) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    let run = run(&mut client.command(server, set, folder.path()));
    client.check(set, folder.path(), &run);
    run
}

fn unlimited(server: &mut Server, clients: &[Client]) {
    server.limit(None);
    println!("unlimited, {ROUNDS} rounds           MB/s        CPU s/GB    peak MB   (goals: 1200, 1.5, 60)");
    let mut runs: Vec<Vec<Run>> = clients.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (client, runs) in clients.iter().zip(&mut runs) {
            runs.push(once(*client, server, Set::Large));
        }
    }
    let size = Set::Large.size() as f64;
    for (client, runs) in clients.iter().zip(runs) {
        let middle = |figure: fn(&Run) -> f64| {
            let mut figures: Vec<f64> = runs.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures[figures.len() / 2]
        };
        println!(
            "  {:<24} {:>8.0} {:>15.2} {:>10.0}",
            client.name(),
            size / 1e6 / middle(|run| run.seconds),
            middle(|run| run.processor_seconds) / (size / 1e9),
            middle(|run| run.peak_bytes as f64) / 1e6,
        );
    }
}

fn link(server: &mut Server, clients: &[Client], name: &str, limits: Limits, goal: f64) {
    server.limit(Some(limits));
    println!("{name}   share of the link (goal: {goal} %)");
    for client in clients {
        // One connection a file takes so long that a part of the set says as much.
        let set = if client.is_slow() { Set::Small } else { Set::Large };
        let run = once(*client, server, set);
        let rate = set.size() as f64 / run.seconds;
        println!(
            "  {:<24} {:>8.1} %   {:>6.0} MB/s   {:.1} GB",
            client.name(),
            100.0 * rate / limits.total as f64,
            rate / 1e6,
            set.size() as f64 / 1e9,
        );
    }
}

/// Kills a client when half of the bytes were sent, and starts it again.
fn killed(server: &mut Server, clients: &[Client]) {
    server.limit(Some(LINKS[0].1));
    println!("kill -9 at half, and again   fetched twice (goal: at most 2 %)");
    for client in clients {
        let set = if client.is_slow() { Set::Small } else { Set::Large };
        let folder = tempfile::tempdir().expect("a folder");
        server.forget();
        let mut victim = client.command(server, set, folder.path()).spawn().expect("it runs");
        while server.sent() < set.size() / 2 {
            assert!(
                victim.try_wait().expect("a child").is_none(),
                "it ended before its half"
            );
            thread::sleep(Duration::from_millis(5));
        }
        victim.kill().expect("it runs");
        victim.wait().expect("it ends");
        server.settle();
        let run = run(&mut client.command(server, set, folder.path()));
        client.check(set, folder.path(), &run);
        let again = server.sent().cast_signed() - set.size().cast_signed();
        println!(
            "  {:<24} {:>8.1} %",
            client.name(),
            100.0 * again as f64 / set.size() as f64
        );
    }
}

fn two_at_once(server: &mut Server, clients: &[Client]) {
    server.limit(Some(LINKS[0].1));
    println!("two at once in one folder    bytes sent for each byte (goal: 1.00)");
    for client in clients {
        let set = if client.is_slow() { Set::Small } else { Set::Large };
        let folder = tempfile::tempdir().expect("a folder");
        server.forget();
        let spawn = |mut command: Command| command.spawn().expect("it runs");
        let both = [(); 2].map(|()| spawn(client.command(server, set, folder.path())));
        let ends = both.map(|mut one| one.wait().expect("it ends").success());
        let note = if ends == [true; 2] { "" } else { "   one of them failed" };
        println!(
            "  {:<24} {:>8.2}{note}",
            client.name(),
            server.sent() as f64 / set.size() as f64
        );
    }
}
