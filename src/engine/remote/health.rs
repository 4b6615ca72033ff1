//! Whether an endpoint has a worker that could take a job, by its `GET /health` (docs.runpod.io, serverless, endpoints). It is
//! asked before a job is sent that another engine could do, and else never.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Web;
use super::rest::Cause;
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::{Again, Failed, Link, Then};

/// How long an answer holds.
const HOLDS: Duration = Duration::from_secs(5);
/// How long an endpoint is left alone that gave no answer that can be used.
const LEFT_ALONE: Duration = Duration::from_mins(1);
/// The longest that a job waits for the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Workers that can take a job, or will.
const ABLE: [&str; 4] = ["idle", "running", "ready", "initializing"];
/// Those that cannot.
const UNABLE: [&str; 2] = ["throttled", "unhealthy"];

/// What an endpoint said last.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When it is asked again; [`None`]: it was not asked yet.
    due: Option<Instant>,
    /// The workers that cannot take a job, where there are no others.
    unable: Option<String>,
}

impl Web {
    /// Fails where no worker of the endpoint could take a job now, and another engine could do it.
    pub(super) async fn has_workers(&self, link: &Link<'_>) -> Result<(), Failed> {
        if !link.has_others() {
            return Ok(());
        }
        let mut state = self.health.0.lock().await;
        if state.due.is_none_or(|due| due <= Instant::now()) {
            let answer = self.send(self.http.get(self.at("health")), PATIENCE).await.ok();
            let object = answer.filter(|answer| answer.status.is_success());
            let told = object.and_then(|answer| unable(&answer.object()?));
            let holds = if told.is_some() { HOLDS } else { LEFT_ALONE };
            state.due = Some(Instant::now() + holds);
            state.unable = told.flatten();
        }
        let Some(unable) = &state.unable else { return Ok(()) };
        let name = &self.spec().name;
        let message = format!("engine `{name}` has no worker that could take a job: {unable}");
        let error = JobError::new(ErrorKind::Busy, message);
        self.common.rest.begins(Cause::NoWorkers, &error);
        tracing::info!("{}", error.message);
        Err(Failed {
            error,
            then: Then::Elsewhere(Again::Rested),
        })
    }
}

/// The workers that cannot take a job, in words, where an endpoint has no others; none at all is as it should be while there is
/// nothing to do. The outer [`None`]: the answer says nothing of workers.
#[expect(
    clippy::option_option,
    reason = "that nothing is known is something else than that all is well"
)]
fn unable(health: &Value) -> Option<Option<String>> {
    let workers = health.get("workers")?.as_object()?;
    let count = |state: &&str| workers.get(*state).map_or(Some(0), Value::as_u64);
    let able: Option<Vec<u64>> = ABLE.iter().map(count).collect();
    let unable: Option<Vec<u64>> = UNABLE.iter().map(count).collect();
    let (able, unable) = (able?, unable?);
    if able.iter().any(|count| *count > 0) || unable.iter().all(|count| *count == 0) {
        return Some(None);
    }
    let told = UNABLE.iter().zip(unable).filter(|(_, count)| *count > 0);
    let told: Vec<_> = told.map(|(state, count)| format!("{count} {state}")).collect();
    Some(Some(told.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_endpoint_without_a_worker_that_could_take_a_job_is_seen() {
        let of = |workers: Value| unable(&json!({"jobs": {"inQueue": 3}, "workers": workers}));
        let none = json!({"idle": 0, "running": 0, "ready": 0, "initializing": 0, "throttled": 2, "unhealthy": 1});
        assert_eq!(of(none.clone()), Some(Some("2 throttled, 1 unhealthy".to_owned())));
        assert_eq!(of(json!({"throttled": 1})), Some(Some("1 throttled".to_owned())));
        for state in ABLE {
            let mut workers = none.clone();
            workers[state] = json!(1);
            assert_eq!(of(workers), Some(None), "{state}");
        }
        // Scaled to zero.
        assert_eq!(of(json!({"idle": 0, "running": 0})), Some(None));
        for strange in [
            json!(null),
            json!([]),
            json!({"idle": "x", "throttled": 1}),
            json!({"throttled": -1}),
        ] {
            assert_eq!(of(strange.clone()), None, "{strange}");
        }
        assert_eq!(unable(&json!({})), None);
    }
}
