//! Jobs outlive the process: it is killed, stopped and started again, and each job ends once.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::binary::{Served, binary};
use crate::support::receiver::Receiver;
use crate::support::{PATIENCE, fresh_data, shared, text, until};

/// The variables of a worker on a ComfyUI that others use too. It starts in milliseconds.
pub(crate) fn attached(data: &Path, comfy_url: &str, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let data = data.display().to_string();
    let vars = [
        ("DATA_DIR", data.as_str()),
        ("COMFYUI_URL", comfy_url),
        ("PORT", "0"),
        // Each start has another port; the links in answers begin the same.
        ("PUBLIC_URL", "http://127.0.0.1:8188"),
    ];
    vars.iter()
        .chain(more)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// A job whose picture lies in a folder of its own: what is there is all that ComfyUI ever saved for it.
pub(crate) fn job(folder: &str, steps: u32, seed: usize) -> Value {
    json!({"input": {"workflow": {
        "1": {"class_type": "SlowProgress", "inputs": {"steps": steps, "ms_per_step": 40, "preview": false, "seed": seed}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": format!("{folder}/{seed}/picture")}},
    }}})
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 % sides
    }
}

/// Jobs that wait when the worker is killed.
const WAITING: usize = 30;
const KILLS: usize = 20;

#[tokio::test]
async fn twenty_kills_lose_no_job_and_double_none() {
    const FOLDER: &str = "kills";
    let shared = shared().await;
    let comfy_url = shared.comfy_url().await;
    let output = shared.output().join(FOLDER);
    let receiver = Receiver::start().await;
    let data = tempfile::tempdir().expect("a folder");
    let more = [
        ("ALLOW_PRIVATE_URLS", "127.0.0.1"),
        ("JOB_RETRIES", "10"),
        ("WEBHOOK_RETRY_DELAY_S", "1"),
    ];
    let vars = attached(data.path(), &comfy_url, &more);
    let mut dice = Dice(3);
    let next_seed = Cell::new(0);
    let answered = RefCell::new(BTreeSet::new());
    for kill in 0..KILLS {
        let worker = Served::start(&vars).await;
        let (moment, count) = (kill % 6, 1 + dice.roll(4) as usize);
        let pause = Duration::from_millis(dice.roll(60).into());
        let (seen_files, seen_webhooks) = (files(&output).len(), receiver.came().len());
        let missing = WAITING.saturating_sub(worker.unfinished().await);
        let answered_before = answered.borrow().len();
        let fill = async {
            for _ in 0..missing {
                let mut body = job(FOLDER, 4, next_seed.get());
                next_seed.set(next_seed.get() + 1);
                body["webhook"] = json!(receiver.url);
                let id = worker.accept(body).await;
                answered.borrow_mut().insert(id);
            }
        };
        let due = async {
            until("the moment of the kill", async || match moment {
                0 => true,
                1 => files(&output).len() > seen_files,
                2 => receiver.came().len() >= seen_webhooks + count,
                3 => worker.ask("/requests?status=IN_PROGRESS").await.body["requests"] != json!([]),
                4 => worker.ask("/health").await.body["jobs"]["completed"].as_u64() >= Some(1),
                _ => answered.borrow().len() >= answered_before + count.min(missing),
            })
            .await;
            tokio::time::sleep(pause).await;
        };
        if kill == 0 {
            fill.await;
            due.await;
        } else {
            // While jobs are taken in: the answer to one of them may be lost.
            let filled_and_waiting = async {
                fill.await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = filled_and_waiting => {}
                () = due => {}
            }
        }
        worker.kill().await;
    }

    let worker = Served::start(&vars).await;
    until("every job has ended", async || worker.unfinished().await == 0).await;
    let listed = worker.ask("/requests?limit=1000").await.body["requests"].clone();
    let listed: Vec<&str> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|job| text(job, "id"))
        .collect();
    let known: BTreeSet<String> = listed.iter().map(|id| (*id).to_owned()).collect();
    assert_eq!(known.len(), listed.len(), "a job is there twice");
    assert!(known.is_superset(&answered.borrow()), "a job is lost");
    until("every webhook came", async || {
        let came: BTreeSet<String> = receiver
            .came()
            .iter()
            .map(|webhook| text(&webhook.body, "id").to_owned())
            .collect();
        known.is_subset(&came)
    })
    .await;

    let mut named = BTreeSet::new();
    let mut webhook_ids = BTreeSet::new();
    for id in &known {
        let end = worker.ask(&format!("/status/{id}")).await.completed();
        assert_eq!(end.images().len(), 1, "{:#}", end.body);
        named.insert(format!(
            "{}/{}",
            text(&end.images()[0], "subfolder"),
            text(&end.images()[0], "filename")
        ));
        let came: Vec<_> = receiver
            .came()
            .iter()
            .filter(|webhook| text(&webhook.body, "id") == id)
            .cloned()
            .collect();
        assert!(
            came.iter().all(|webhook| webhook.body == end.body),
            "{came:#?}\n{:#}",
            end.body
        );
        let ids: BTreeSet<String> = came.into_iter().map(|webhook| webhook.id).collect();
        assert_eq!(ids.len(), 1, "{id} was told under several ids");
        webhook_ids.extend(ids);
    }
    assert_eq!((named.len(), webhook_ids.len()), (known.len(), known.len()));
    let saved: BTreeSet<String> = files(&output)
        .iter()
        .map(|path| {
            path.strip_prefix(shared.output())
                .expect("below it")
                .display()
                .to_string()
        })
        .collect();
    assert_eq!(saved, named, "a job ran twice");
}

#[tokio::test]
async fn a_killed_worker_with_its_own_comfyui_goes_on_and_removes_the_old() {
    const FOLDER: &str = "own";
    drop(shared().await);
    let (data, mut vars) = fresh_data();
    let output = data.path().join("base/output").join(FOLDER);
    let worker = Served::start(&vars).await;
    let mut ids = Vec::new();
    for seed in 0..4 {
        ids.push(worker.accept(job(FOLDER, 10, seed)).await);
    }
    worker.end(&ids[0]).await.completed();
    worker.kill().await;

    let worker = Served::start(&vars).await;
    assert_eq!(worker.status(&ids[0]).await, "COMPLETED");
    for id in &ids {
        assert_eq!(worker.end(id).await.completed().images().len(), 1);
    }
    assert_eq!(files(&output).len(), ids.len());
    let newest = worker.ask(&format!("/status/{}", ids[3])).await;
    let name = text(&newest.images()[0], "filename").to_owned();
    worker.kill().await;

    // Removal needs no ComfyUI.
    let newest = files(&output)
        .into_iter()
        .find(|path| path.ends_with(format!("3/{name}")));
    let newest = newest.expect("the newest picture");
    let bytes = std::fs::metadata(&newest).expect("a file").len();
    vars.insert("OUTPUT_MAX_BYTES".to_owned(), bytes.to_string());
    let worker = Served::start(&vars).await;
    until("the older ones are gone", async || {
        worker.ask(&format!("/status/{}", ids[2])).await.status == 404
    })
    .await;
    assert_eq!(files(&output), [newest]);
    assert_eq!(worker.status(&ids[3]).await, "COMPLETED");
    worker.kill().await;

    // Or it may be too young for this start's removal, and the next one is a minute later.
    tokio::time::sleep(Duration::from_secs(1)).await;
    vars.insert("RESULT_TTL".to_owned(), "1".to_owned());
    let worker = Served::start(&vars).await;
    until("the last one is gone", async || {
        worker.ask(&format!("/status/{}", ids[3])).await.status == 404
    })
    .await;
    assert!(files(&output).is_empty());
}

#[tokio::test]
async fn a_stop_finishes_what_runs_and_keeps_what_waits() {
    const FOLDER: &str = "stop";
    let shared = shared().await;
    let data = tempfile::tempdir().expect("a folder");
    let vars = attached(data.path(), &shared.comfy_url().await, &[]);
    let mut worker = Served::start(&vars).await;
    let running = worker.accept(job(FOLDER, 100, 0)).await;
    until("the first job runs", async || {
        worker.status(&running).await == "IN_PROGRESS"
    })
    .await;
    let mut waiting = Vec::new();
    for seed in 1..4 {
        waiting.push(worker.accept(job(FOLDER, 4, seed)).await);
    }
    let held = worker.send(Method::POST, "/runsync", job(FOLDER, 4, 4).to_string());
    let ended = worker.end(&running);
    let stop = async {
        until("the held one waits too", async || worker.unfinished().await == 5).await;
        worker.terminate();
        // A signal takes a moment; a job that came before it is one more that waits. No two are alike, or ComfyUI would
        // give them one file.
        for seed in 5.. {
            let answer = worker
                .send(Method::POST, "/run", job(FOLDER, 4, seed).to_string())
                .await;
            if answer.status != 200 {
                return answer;
            }
            waiting.push(text(&answer.body, "id").to_owned());
        }
        unreachable!("there are more numbers than jobs")
    };
    let (held, ended, refused) = tokio::join!(held, ended, stop);
    assert_eq!(
        (refused.status, &refused.body["retry-after"]),
        (503, &json!(true)),
        "{:#}",
        refused.body
    );
    assert!(refused.error().contains("stopping"), "{}", refused.error());
    assert_eq!(held.status, 503, "{:#}", held.body);
    let (_, id) = held.error().split_once("/status/").expect("the id in the hint");
    waiting.push(id.split_whitespace().next().unwrap_or_default().to_owned());
    ended.completed();
    assert_eq!(worker.exit_code().await, Some(0));

    let worker = Served::start(&vars).await;
    assert_eq!(worker.status(&running).await, "COMPLETED");
    for id in &waiting {
        worker.end(id).await.completed();
    }
    assert_eq!(files(&shared.output().join(FOLDER)).len(), 1 + waiting.len());
}

#[tokio::test]
async fn one_data_folder_has_one_worker() {
    let shared = shared().await;
    let data = tempfile::tempdir().expect("a folder");
    let vars = attached(data.path(), &shared.comfy_url().await, &[]);
    let worker = Served::start(&vars).await;
    let second = binary(&vars).arg("serve").output();
    let second = tokio::time::timeout(PATIENCE, second)
        .await
        .expect("in time")
        .expect("the binary runs");
    let log = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{log}");
    assert!(
        log.contains("another worker uses") && log.contains("DATA_DIR of its own"),
        "{log}"
    );
    // One job by hand is no second worker.
    let file = data.path().join("job.json");
    std::fs::write(&file, job("beside", 1, 0).to_string()).expect("a file");
    let run = binary(&vars)
        .arg("run")
        .arg(&file)
        .arg("--out")
        .arg(data.path().join("out"))
        .output();
    let run = tokio::time::timeout(PATIENCE, run)
        .await
        .expect("in time")
        .expect("the binary runs");
    let log = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{log}");
    assert_eq!(files(&data.path().join("out")).len(), 1, "{log}");
    assert_eq!(worker.ask("/requests").await.body["requests"], json!([]));
}

#[tokio::test]
async fn a_webhook_waits_for_its_receiver_across_a_restart() {
    let shared = shared().await;
    let data = tempfile::tempdir().expect("a folder");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("an address");
    drop(port);
    let more = [("ALLOW_PRIVATE_URLS", "127.0.0.1"), ("WEBHOOK_RETRY_DELAY_S", "1")];
    let vars = attached(data.path(), &shared.comfy_url().await, &more);
    let worker = Served::start(&vars).await;
    let mut ids = Vec::new();
    for (seed, class) in [(0, "SlowProgress"), (1, "Raise")] {
        let mut body = job("webhook", 1, seed);
        if class == "Raise" {
            body["input"]["workflow"]["1"] = json!({"class_type": class, "inputs": {"message": "the lamp is out"}});
        }
        body["webhook"] = json!(format!("http://{address}/hook"));
        ids.push(worker.accept(body).await);
    }
    for id in &ids {
        worker.end(id).await;
    }
    worker.kill().await;

    let receiver = Receiver::at(address).await;
    let worker = Served::start(&vars).await;
    until("both webhooks came", async || receiver.came().len() >= ids.len()).await;
    let came = receiver.came().clone();
    for (id, status) in ids.iter().zip(["COMPLETED", "FAILED"]) {
        let asked = worker.ask(&format!("/status/{id}")).await;
        assert_eq!(text(&asked.body, "status"), status);
        let webhook = came.iter().find(|webhook| text(&webhook.body, "id") == id);
        assert_eq!(webhook.map(|webhook| &webhook.body), Some(&asked.body));
    }
}

#[tokio::test]
async fn a_webhook_to_this_machine_is_refused_unless_it_is_allowed() {
    let shared = shared().await;
    for (url, reason) in [
        ("http://127.0.0.1:9/hook", "127.0.0.1"),
        ("http://169.254.169.254/latest", "169.254.169.254"),
        ("http://[::ffff:10.0.0.1]/", "10.0.0.1"),
        ("http://localhost:9/hook", "localhost"),
    ] {
        for path in ["/run", "/runsync", "/v2/any-endpoint/run"] {
            let mut body = job("refused", 1, 0);
            body["webhook"] = json!(url);
            let answer = shared.send(Method::POST, path, body.to_string()).await;
            assert_eq!(answer.status, 400, "{path} {url}");
            let error = answer.error();
            assert!(
                error.contains("webhook: ") && error.contains(reason) && error.contains("ALLOW_PRIVATE_URLS"),
                "{error}"
            );
        }
    }
}
