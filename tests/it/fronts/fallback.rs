//! What goes wrong when a job is sent, and whether another engine gets it: a job is paid for once, unless it is certain that nobody
//! has it any more.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{SIDE, done, small};
use crate::support::elsewhere::{Ended, Front, assert_png, images, runpod};
use crate::support::images_api::{ImagesApi, refusal};
use crate::support::runpod_api::{Fate, Route, RunpodApi};
use crate::support::scripted::{Reply, Words};

/// Fronts at the same time: they wait more than they work.
const AT_ONCE: usize = 6;
/// What a job is told of which nobody knows whether it runs.
const UNKNOWN: [&str; 2] = ["may have", "first"];

/// How a job ends.
#[derive(Debug, Clone)]
enum End {
    /// With a picture of this engine.
    By(&'static str),
    /// It failed, and is told so with these words.
    Failed(Vec<&'static str>),
    /// The same, and the request is at fault.
    OwnFault(Vec<&'static str>),
    /// Either is right: nobody took it.
    AnyHow,
}

/// What the first engine does, and what is to come of it.
struct Row {
    what: String,
    /// Where the first engine is, if it is not where it ought to be.
    elsewhere: Option<String>,
    more: &'static str,
    reply: Reply,
    fate: Fate,
    polls: Vec<Reply>,
    end: End,
    /// How often the first engine was asked for it, and how often the second.
    asked: (usize, usize),
}

fn row(what: impl Into<String>, reply: Reply, end: End, asked: (usize, usize)) -> Row {
    Row {
        what: what.into(),
        elsewhere: None,
        more: "",
        reply,
        fate: done(),
        polls: Vec::new(),
        end,
        asked,
    }
}

fn unknown() -> End {
    End::Failed(UNKNOWN.to_vec())
}

fn says(status: u16) -> Reply {
    Reply::Says(Words::json(
        status,
        &json!({"error": format!("the words of a {status}")}),
    ))
}

fn page(status: u16) -> Reply {
    Reply::Says(Words::html(status))
}

fn text(body: &str) -> Reply {
    Reply::Says(Words::text(200, body))
}

/// What is neither taken nor the job's own fault.
fn not_taken(row_of: &impl Fn(String, Reply, End, (usize, usize)) -> Row) -> Vec<Row> {
    let refused = |status: u16| row_of(format!("{status}"), says(status), End::By("second"), (1, 1));
    let mut rows: Vec<Row> = [429, 401, 403, 402, 404, 500, 503, 455].map(refused).into();
    let wait = Words::json(429, &json!({"error": "slow down"})).with("retry-after", "60");
    rows.push(row_of(
        "429 with a wait".to_owned(),
        Reply::Says(wait),
        End::By("second"),
        (1, 1),
    ));
    for status in [429, 403] {
        let quota = Reply::Says(refusal(status, "insufficient_quota"));
        rows.push(row_of(format!("{status}, no quota"), quota, End::By("second"), (1, 1)));
    }
    rows
}

/// What nobody knows.
fn lost(row_of: &impl Fn(String, Reply, End, (usize, usize)) -> Row) -> Vec<Row> {
    let lost = |what: String, reply: Reply| row_of(what, reply, unknown(), (1, 0));
    let mut rows = vec![
        lost("502".to_owned(), says(502)),
        lost("504".to_owned(), says(504)),
        lost("ended after the body".to_owned(), Reply::HangUp),
        lost("cut".to_owned(), Reply::Cut),
        lost("broken JSON".to_owned(), text("{\"id\": ")),
        lost("no JSON".to_owned(), text("all is well")),
    ];
    rows.extend([200, 500, 502, 503, 504].map(|status| lost(format!("a page with {status}"), page(status))));
    rows.push(Row {
        more: "timeout_s = 6",
        ..lost("never answered".to_owned(), Reply::Never)
    });
    for (what, reply) in [("ended after the body", Reply::HangUp), ("502", page(502))] {
        rows.push(Row {
            more: "unknown = \"retry\"",
            end: End::By("second"),
            asked: (1, 1),
            ..lost(format!("{what}, and sent again"), reply)
        });
    }
    // The body is small enough to be on its way before anybody reads it.
    rows.push(row_of(
        "ended before the body was read".to_owned(),
        Reply::Unread,
        End::AnyHow,
        (1, 1),
    ));
    rows
}

fn own_fault(row_of: &impl Fn(String, Reply, End, (usize, usize)) -> Row) -> Vec<Row> {
    let own = |status: u16| {
        row_of(
            format!("{status}"),
            says(status),
            End::OwnFault(vec!["the words of a"]),
            (1, 0),
        )
    };
    [400, 413, 422].map(own).into()
}

/// What becomes of a job that was accepted.
fn accepted() -> Vec<Row> {
    let over = |what: &str, fate: Fate, end: End, asked: (usize, usize)| Row {
        fate,
        ..row(format!("accepted, then {what}"), Reply::Well, end, asked)
    };
    let mut rows: Vec<Row> = [
        "CUDA error: an illegal memory access was encountered",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "torch.OutOfMemoryError: Allocation on device",
        "job worker crashed: exit code 137",
    ]
    .map(|error| over(error, Fate::Failed(error), End::By("second"), (1, 1)))
    .into();
    // It ran there, for all of its time.
    let late = End::Failed(vec!["longer than it may"]);
    rows.push(over("timed out", Fate::TimedOut, late, (1, 0)));
    for (error, words) in [
        (
            "Invalid workflow JSON structure: node 3 has no class_type",
            "Invalid workflow JSON structure",
        ),
        (
            "Failed to load model: there is no unet a.safetensors",
            "Failed to load model",
        ),
    ] {
        rows.push(over(error, Fate::Failed(error), End::Failed(vec![words]), (1, 0)));
    }
    // Whatever a poll meets, the job stays where it is.
    rows.push(Row {
        polls: vec![
            says(500),
            page(502),
            Reply::HangUp,
            says(429),
            page(200),
            Reply::Cut,
            text("{\"id\": "),
        ],
        ..row("accepted, and the polls fail", Reply::Well, End::By("first"), (1, 0))
    });
    rows
}

/// The address of something that speaks no TLS.
async fn without_tls() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://{}/v2/ep", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 512]).await;
            let _ = stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                .await;
        }
    });
    url
}

/// Runs one job; gives how it ended, and the state that its front has it in.
async fn run(front: &Front, seed: u32) -> (Ended, String) {
    let ended = front.runsync(&small(seed)).await;
    // Whoever sends it again after all has done so by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let listed = front.served.ask("/requests?limit=10").await.body["requests"].clone();
    let jobs = listed.as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(jobs.len() <= 1, "one request is one job: {listed:#}");
    let state = jobs.first().and_then(|job| job["status"].as_str()).unwrap_or_default();
    (ended, state.to_owned())
}

async fn assert_end(row: &Row, front: &Front, ended: Ended) {
    match &row.end {
        End::By(engine) => {
            let answer = ended.by(engine);
            assert_png(&front.picture(&answer).await, SIDE, SIDE);
        }
        End::Failed(words) => {
            ended.failed(words);
            assert_eq!(ended.answer.body["status"], "FAILED", "{:#}", ended.answer.body);
        }
        End::OwnFault(words) => {
            ended.failed(words);
            assert_eq!(ended.answer.status, 400, "{:#}", ended.answer.body);
        }
        End::AnyHow => {}
    }
}

/// Holds how often each engine was asked against what is expected.
#[track_caller]
fn assert_asked(row: &Row, ended: &Ended, state: &str, asked: (usize, usize)) {
    let fits = match row.end {
        // Nobody took it: it may be told as unknown, or be done by the other.
        End::AnyHow => (asked, state) == ((1, 1), "COMPLETED") || (asked, state) == ((1, 0), "FAILED"),
        _ => asked == row.asked,
    };
    let body = ended.answer.body.to_string();
    assert!(
        fits,
        "the first and the second were asked {asked:?} times, not {:?}: {body:.600}",
        row.asked
    );
}

async fn endpoint_first(row: Row, seed: u32) {
    let (api, provider) = (RunpodApi::scripted(row.fate.clone()).await, ImagesApi::start().await);
    api.answers_runs((row.asked.0 > 0).then(|| row.reply.clone()));
    api.answers_polls(row.polls.clone());
    let url = row.elsewhere.as_ref().unwrap_or(&api.url);
    let more = format!("group = 1\n{}", row.more);
    let engines = runpod("first", url, &more) + &images("second", &provider.url, "group = 2");
    let front = Front::start(&engines, &[]).await;
    let (ended, state) = run(&front, seed).await;
    assert_asked(&row, &ended, &state, (api.count(Route::Run), provider.asked().len()));
    assert_end(&row, &front, ended).await;
    api.settled();
    provider.settled();
}

async fn provider_first(row: Row, seed: u32) {
    let (api, provider) = (RunpodApi::scripted(done()).await, ImagesApi::start().await);
    provider.answers([row.reply.clone()]);
    let more = format!("group = 1\n{}", row.more);
    let engines = images("first", &provider.url, &more) + &runpod("second", &api.url, "group = 2");
    let front = Front::start(&engines, &[]).await;
    let (ended, state) = run(&front, seed).await;
    assert_asked(&row, &ended, &state, (provider.asked().len(), api.count(Route::Run)));
    assert_end(&row, &front, ended).await;
    api.settled();
    provider.settled();
}

/// Runs all rows, each with a front of its own, and names those that did not end as they should.
async fn each<F: Future<Output = ()> + Send + 'static>(rows: Vec<Row>, run: impl Fn(Row, u32) -> F) {
    let jobs = stream::iter(rows.into_iter().zip(9_000..)).map(|(row, seed)| {
        let what = row.what.clone();
        let job = tokio::spawn(run(row, seed));
        async move {
            let panic = job.await.err()?.into_panic();
            let said = panic
                .downcast::<String>()
                .map_or_else(|_| "it panicked".to_owned(), |said| *said);
            Some(format!("{what}: {said}"))
        }
    });
    let wrong: Vec<String> = jobs
        .buffer_unordered(AT_ONCE)
        .filter_map(async |wrong| wrong)
        .collect()
        .await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn whatever_an_endpoint_answers_nobody_pays_twice() {
    let row_of = |what: String, reply: Reply, end: End, asked: (usize, usize)| row(what, reply, end, asked);
    let mut rows = Vec::new();
    for (what, url) in [
        ("nobody listens", "http://127.0.0.1:9/v2/ep".to_owned()),
        (
            "there is no such name",
            "https://no-such-engine.invalid/v2/ep".to_owned(),
        ),
        ("no TLS", without_tls().await),
    ] {
        rows.push(Row {
            elsewhere: Some(url),
            ..row(what, Reply::Well, End::By("second"), (0, 1))
        });
    }
    rows.push(row("all is well", Reply::Well, End::By("first"), (1, 0)));
    rows.push(row(
        "all is well after a while",
        Reply::Late(Duration::from_secs(2)),
        End::By("first"),
        (1, 0),
    ));
    rows.push(row(
        "taken, but without an id",
        text("{\"status\": \"IN_QUEUE\"}"),
        unknown(),
        (1, 0),
    ));
    rows.extend(not_taken(&row_of));
    rows.extend(own_fault(&row_of));
    rows.extend(lost(&row_of));
    rows.extend(accepted());
    each(rows, endpoint_first).await;
}

#[tokio::test]
async fn whatever_a_provider_answers_nobody_pays_twice() {
    let row_of = |what: String, reply: Reply, end: End, asked: (usize, usize)| {
        // Its errors have a shape of their own.
        let reply = match &reply {
            Reply::Says(words) if words.status >= 400 && !words.body.starts_with(b"<") => {
                let told = String::from_utf8_lossy(&words.body).into_owned();
                let code = if told.contains("insufficient_quota") {
                    "insufficient_quota"
                } else {
                    "the words of a provider"
                };
                Reply::Says(refusal(words.status, code))
            }
            _ => reply,
        };
        row(what, reply, end, asked)
    };
    let mut rows = vec![
        row("all is well", Reply::Well, End::By("first"), (1, 0)),
        // It was made, and is paid for.
        row(
            "no picture",
            text("{\"created\": 1, \"data\": []}"),
            End::Failed(vec!["first"]),
            (1, 0),
        ),
    ];
    rows.extend(not_taken(&row_of));
    rows.extend(own_fault(&row_of));
    rows.extend(lost(&row_of));
    each(rows, provider_first).await;
}
