//! The platform's routes. What is checked of a call is what the real platform needs of it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::wire::{Connection, Head};
use super::state::{Call, Misdeed, Route, Shared, State};
use super::{KEY, POD};

const JSON: &str = "application/json";
/// A larger result is not looked into when results are to be forgotten.
const SMALL: usize = 100_000;

/// Answers one call after another.
pub(super) async fn serve(mut connection: Connection, shared: Arc<Shared>) {
    while let Some(head) = connection.head().await {
        let going_on = call(connection, head, &shared).await;
        let Some(same) = going_on else { return };
        connection = same;
    }
}

/// Answers one call; gives the connection back if it may bring another.
async fn call(mut connection: Connection, head: Head, shared: &Shared) -> Option<Connection> {
    let Some(length) = head.length() else {
        shared.change(|state| state.violate(&head, "the body's length is not said"));
        return None;
    };
    let parts: Vec<&str> = head.path.split('/').skip(1).collect();
    // As a proxy in front does: it looks at the length alone.
    if let (["v2", "ep", "job-done", ..], Some((most, 413))) = (parts.as_slice(), shared.look(|state| state.refused))
        && length > most
    {
        let refused = Call {
            route: Route::Done,
            job: parts.last().copied().unwrap_or_default().to_owned(),
            ..Call::new(head, Vec::new(), length)
        };
        shared.change(|state| state.keep(refused));
        connection.refuse(413, length).await;
        return None;
    }
    let body = connection.body(length).await.ok()?;
    let path = head.path.clone();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let mut call = Call::new(head, body, length);
    match parts.as_slice() {
        ["v2", "ep", "job-take", POD] => take(connection, call, 1, shared).await,
        ["v2", "ep", "job-take-batch", POD] => {
            let count = call.head.query("batch_size").parse().unwrap_or_default();
            take(connection, call, count, shared).await
        }
        ["v2", "ep", "job-stop", POD] => {
            call.route = Route::Stop;
            stop(connection, call, shared).await
        }
        ["v2", "ep", place @ ("job-done" | "job-stream"), POD, id] => {
            (*id).clone_into(&mut call.job);
            call.route = if *place == "job-stream" {
                Route::Stream
            } else {
                Route::Done
            };
            post(connection, call, shared).await
        }
        ["v2", "ep", "ping", POD] => {
            call.route = Route::Ping;
            ping(connection, call, shared).await
        }
        _ => {
            shared.change(|state| state.violate(&call.head, "there is no such route"));
            connection
                .answer(404, JSON, br#"{"error":"no such route"}"#)
                .await
                .ok()?;
            Some(connection)
        }
    }
}

impl State {
    fn violate(&mut self, head: &Head, what: &str) {
        self.violations.push(format!("{} {}: {what}", head.method, head.path));
    }

    /// What every call needs; keeps it.
    fn keep(&mut self, call: Call) {
        let head = &call.head;
        let mut wrong = Vec::new();
        if head.header("authorization") != KEY {
            wrong.push("the header Authorization is not the key as it is".to_owned());
        }
        let posts = matches!(call.route, Route::Done | Route::Progress | Route::Stream);
        let method = if posts { "POST" } else { "GET" };
        if head.method != method {
            wrong.push(format!("this wants {method}"));
        }
        if call.route != Route::Ping && head.query("gpu") != "x" {
            wrong.push("the query of the address that was given is lost".to_owned());
        }
        match call.route {
            Route::Take => {
                if !["0", "1"].contains(&head.query("job_in_progress")) {
                    wrong.push("job_in_progress is neither 0 nor 1".to_owned());
                }
                let batch = head.query("batch_size").parse::<usize>();
                if head.path.contains("batch") && !batch.is_ok_and(|size| size > 1) {
                    wrong.push("batch_size is no number above 1".to_owned());
                }
            }
            Route::Stop => {}
            Route::Ping => {
                if head.query("runpod_version").is_empty() {
                    wrong.push("runpod_version is missing".to_owned());
                }
            }
            Route::Done | Route::Progress | Route::Stream => self.check_post(&call, &mut wrong),
        }
        for what in wrong {
            self.violate(&call.head, &what);
        }
        self.calls.push(call);
    }

    fn check_post(&self, call: &Call, wrong: &mut Vec<String>) {
        let head = &call.head;
        if head.header("content-type") != "application/x-www-form-urlencoded" {
            wrong.push(format!("a result as {:?}", head.header("content-type")));
        }
        if head.header("x-request-id") != call.job {
            wrong.push(format!(
                "X-Request-ID {:?} is not the job's id",
                head.header("x-request-id")
            ));
        }
        if !["true", "false"].contains(&head.query("isStream")) {
            wrong.push("isStream is neither true nor false".to_owned());
        }
        if call.body.len() == call.length {
            wrong.extend(wrong_in(&call.json(), call.route));
        }
        let ticket = self.ticket(&call.job);
        if ticket.handed_out == 0 {
            wrong.push("this job was never handed out".to_owned());
        }
        if ticket.told {
            wrong.push("a post after the result was taken in".to_owned());
        }
        if call.route == Route::Progress && self.finals(&call.job).next().is_some() {
            wrong.push("progress after the result".to_owned());
        }
    }
}

/// What is wrong with a body.
fn wrong_in(body: &Value, route: Route) -> Option<String> {
    let Some(fields) = body.as_object() else {
        return Some("the body is no JSON object".to_owned());
    };
    let known: &[&str] = match route {
        Route::Progress => &["status", "output"],
        _ => &["output", "error", "stopPod"],
    };
    if let Some(field) = fields.keys().find(|field| !known.contains(&field.as_str())) {
        return Some(format!("{field} is no field of a {route:?} body"));
    }
    if !body["error"].is_null() && !body["error"].is_string() {
        return Some("error is no text".to_owned());
    }
    if !body["stopPod"].is_null() && !body["stopPod"].is_boolean() {
        return Some("stopPod is neither true nor false".to_owned());
    }
    None
}

/// Jobs on their way to a worker; in the queue again unless they arrive.
struct Handed<'a> {
    jobs: Vec<Value>,
    shared: &'a Shared,
}

impl Drop for Handed<'_> {
    fn drop(&mut self) {
        let jobs = std::mem::take(&mut self.jobs);
        if !jobs.is_empty() {
            self.shared.change(|state| state.take_back(jobs));
        }
    }
}

/// One more call for jobs is held, until this is dropped.
struct Holding<'a>(&'a Shared);

impl<'a> Holding<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.change(|state| state.held += 1);
        Self(shared)
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.held -= 1);
    }
}

/// The end of a call that was held.
enum Held<T> {
    Found(T),
    TimeOver,
}

/// Holds a call until there is something to answer; [`None`] when the client is gone, and then nothing was taken.
async fn hold<T>(
    connection: &Connection,
    shared: &Shared,
    mut find: impl FnMut(&mut State) -> Option<T>,
) -> Option<Held<T>> {
    let mut changes = shared.changes();
    let time = tokio::time::sleep(shared.look(|state| state.hold));
    tokio::pin!(time);
    loop {
        // Between two turns the runtime looks at its sockets: it may not yet know that the client is gone.
        for _ in 0..2 {
            tokio::task::yield_now().await;
        }
        if connection.is_closed() {
            return None;
        }
        if let Some(found) = shared.find(&mut find) {
            return Some(Held::Found(found));
        }
        tokio::select! {
            biased;
            () = connection.closed() => return None,
            _ = changes.changed() => {}
            () = &mut time => return Some(Held::TimeOver),
        }
    }
}

async fn take(connection: Connection, call: Call, count: usize, shared: &Shared) -> Option<Connection> {
    let misdeed = shared.change(|state| {
        state.keep(call);
        state.misdeed(Route::Take)
    });
    if misdeed.as_ref().is_some_and(Misdeed::needs_no_answer) {
        return finish(connection, 200, b"", misdeed).await;
    }
    let held = Holding::new(shared);
    let jobs = hold(&connection, shared, |state| {
        let jobs = state.hand_out(count);
        (!jobs.is_empty()).then_some(jobs)
    })
    .await?;
    drop(held);
    let Held::Found(jobs) = jobs else {
        return finish(connection, 204, b"", misdeed).await;
    };
    let mut handed = Handed { jobs, shared };
    let in_list = (count > 1) != matches!(misdeed, Some(Misdeed::Listed));
    let body = match handed.jobs.as_slice() {
        [job] if !in_list => job.to_string(),
        jobs => json!(jobs).to_string(),
    };
    if matches!(misdeed, Some(Misdeed::Slow(_))) {
        // Slow is the line: what is in front of the platform has had all of it.
        handed.jobs.clear();
    }
    let connection = finish(connection, 200, body.as_bytes(), misdeed).await?;
    handed.jobs.clear();
    Some(connection)
}

async fn stop(connection: Connection, call: Call, shared: &Shared) -> Option<Connection> {
    let misdeed = shared.change(|state| {
        state.keep(call);
        state.misdeed(Route::Stop)
    });
    if misdeed.as_ref().is_some_and(Misdeed::needs_no_answer) {
        return finish(connection, 200, b"", misdeed).await;
    }
    let ids = hold(&connection, shared, |state| {
        (!state.to_stop.is_empty()).then(|| std::mem::take(&mut state.to_stop))
    })
    .await?;
    match ids {
        Held::Found(ids) => {
            let body = json!({ "jobsToStop": ids }).to_string();
            finish(connection, 200, body.as_bytes(), misdeed).await
        }
        Held::TimeOver => finish(connection, 204, b"", misdeed).await,
    }
}

async fn ping(connection: Connection, call: Call, shared: &Shared) -> Option<Connection> {
    let misdeed = shared.change(|state| {
        state.keep(call);
        state.misdeed(Route::Ping)
    });
    finish(connection, 200, b"{}", misdeed).await
}

async fn post(connection: Connection, mut call: Call, shared: &Shared) -> Option<Connection> {
    let forgets = shared.look(|state| state.forgets) && call.length > SMALL;
    if call.route == Route::Done && !forgets && call.json()["status"] == "IN_PROGRESS" {
        call.route = Route::Progress;
    }
    if forgets {
        call.body = Vec::new();
    }
    let (route, job) = (call.route, call.job.clone());
    let refused = shared.look(|state| state.refused);
    let misdeed = match refused {
        Some((most, status)) if call.length > most => Some(Misdeed::Status(status)),
        _ => shared.change(|state| state.misdeed(route)),
    };
    call.taken_in = match misdeed {
        None | Some(Misdeed::Says { .. } | Misdeed::Listed | Misdeed::Slow(_)) => true,
        Some(Misdeed::Status(_) | Misdeed::Hang) => false,
        Some(Misdeed::HangUp { taken_in } | Misdeed::Reset { taken_in }) => taken_in,
    };
    let done = call.taken_in && route == Route::Done;
    shared.change(|state| {
        state.keep(call);
        state.tickets.entry(job.clone()).or_default().done |= done;
    });
    let connection = finish(connection, 200, b"{}", misdeed).await?;
    shared.change(|state| state.tickets.entry(job).or_default().told |= done);
    Some(connection)
}

/// Gives the right answer, or does what is to be done in its place. Gives the connection back if the answer was given
/// whole.
async fn finish(mut connection: Connection, status: u16, body: &[u8], misdeed: Option<Misdeed>) -> Option<Connection> {
    let given = match misdeed {
        None | Some(Misdeed::Listed) => connection.answer(status, JSON, body).await,
        Some(Misdeed::Status(status)) => connection.answer(status, "text/plain", b"as it was told").await,
        Some(Misdeed::Says { content_type, body }) => connection.answer(200, content_type, body.as_bytes()).await,
        Some(Misdeed::Slow(pause)) => connection.answer_slowly(status, JSON, body, pause).await,
        Some(Misdeed::HangUp { .. }) => {
            connection.hang_up_in(status, JSON, body).await;
            return None;
        }
        Some(Misdeed::Hang) => {
            connection.closed().await;
            return None;
        }
        Some(Misdeed::Reset { .. }) => {
            connection.reset();
            return None;
        }
    };
    given.is_ok().then_some(connection)
}
