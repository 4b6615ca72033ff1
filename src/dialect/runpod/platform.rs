//! What the platform's queue hands out, and what it is told: the worker's side of RunPod's protocol, as Python's `runpod`
//! 1.12.0 speaks it (`serverless/modules/rp_job.py`, `rp_http.py`, `rp_progress.py`).

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::answers::ProgressBody;
use super::events::Preview;
use super::output::output;
use super::{Wishes, envelope};
use crate::dialect::answer::{Answer, Splices};
use crate::error::JobError;
use crate::job::progress::Progress;
use crate::job::{JobRequest, JobView, PlatformJob, Policy};

/// The longest id of a job, in bytes. RunPod's have about 40.
const LONGEST_ID: usize = 256;
/// What the ids of jobs that came by `/runsync` begin with.
const SYNC: &str = "sync-";

/// A job as the platform handed it out: its id, and the rest still to be read.
#[derive(Debug)]
pub struct Handed {
    /// Its id.
    pub id: String,
    body: Bytes,
}

/// Takes apart what a job-take was answered: one job, or a list of them. Gives the jobs that have an id, and what was
/// wrong with the others.
pub fn handed_out(body: &Bytes) -> (Vec<Handed>, Vec<String>) {
    #[derive(Deserialize)]
    struct Known {
        id: Option<String>,
    }
    let (mut jobs, mut wrong) = (Vec::new(), Vec::new());
    let items: Vec<&RawValue> = match serde_json::from_slice(body) {
        Ok(list) => list,
        Err(_) => match serde_json::from_slice::<&RawValue>(body) {
            Ok(one) => vec![one],
            Err(error) => {
                wrong.push(format!("it is no JSON: {error}"));
                Vec::new()
            }
        },
    };
    for item in items {
        match serde_json::from_str::<Known>(item.get()) {
            Ok(Known { id: Some(id) }) if is_id(&id) => jobs.push(Handed {
                id,
                body: body.slice_ref(item.get().as_bytes()),
            }),
            Ok(Known { id: Some(_) }) => {
                wrong.push("a job's `id` is empty, too long, or holds control characters".to_owned());
            }
            Ok(Known { id: None }) => wrong.push("a job has no `id`".to_owned()),
            Err(error) => wrong.push(format!("a job is no object with an `id`: {error}")),
        }
    }
    (jobs, wrong)
}

fn is_id(id: &str) -> bool {
    (1..=LONGEST_ID).contains(&id.len()) && !id.chars().any(char::is_control)
}

impl Handed {
    /// Whether its client waits for it (`/runsync`): a larger answer is taken then.
    pub fn is_sync(&self) -> bool {
        self.id.starts_with(SYNC)
    }

    /// Its size, in bytes.
    pub fn size(&self) -> usize {
        self.body.len()
    }

    /// Reads it. Decodes images, so a large one belongs on a blocking thread.
    pub fn read(&self) -> Result<(JobRequest, Policy), JobError> {
        let (request, mut policy, wishes) = envelope::read(&self.body, envelope::Sender::Platform)?;
        let Wishes { stream, refresh_worker } = wishes;
        policy.platform = Some(PlatformJob {
            id: self.id.clone(),
            stream,
            refresh_worker,
        });
        // The platform calls the webhook itself.
        policy.webhook = None;
        Ok((request, policy))
    }
}

/// The end of a job, as job-done takes it. `stop_pod` asks for a clean worker.
pub fn job_done(view: &JobView, stop_pod: bool) -> Answer {
    let mut splices = Splices::default();
    let mut body = Done {
        stop_pod,
        ..Done::default()
    };
    match &view.result {
        Some(Ok(outcome)) => body.output = Some(output(outcome, &mut splices, |_, _| None)),
        Some(Err(error)) => body.error = Some(error.full_text()),
        None => body.error = Some("the job ended without a result".to_owned()),
    }
    splices.answer(200, &body)
}

/// The end of a job that never became one here, or whose result cannot be given back.
pub fn job_failed(error: &JobError, stop_pod: bool) -> Answer {
    let error = Some(error.full_text());
    Answer::json(
        200,
        &Done {
            error,
            stop_pod,
            ..Done::default()
        },
    )
}

#[derive(Serialize, Default)]
struct Done<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<super::output::Output<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(rename = "stopPod", skip_serializing_if = "std::ops::Not::not")]
    stop_pod: bool,
}

/// How far a job is, as job-done takes it meanwhile.
pub fn job_progress(progress: &Progress) -> Answer {
    #[derive(Serialize)]
    struct Body<'a> {
        status: &'static str,
        output: ProgressBody<'a>,
    }
    let output = ProgressBody::from(progress);
    Answer::json(
        200,
        &Body {
            status: "IN_PROGRESS",
            output,
        },
    )
}

/// How far a job is, as job-stream takes it for `/stream`, with the last preview picture in base64.
pub fn job_chunk(progress: &Progress) -> Answer {
    #[derive(Serialize)]
    struct Chunk<'a> {
        #[serde(flatten)]
        progress: ProgressBody<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        preview: Option<Preview<'a>>,
    }
    #[derive(Serialize)]
    struct Body<'a> {
        output: Chunk<'a>,
    }
    let output = Chunk {
        progress: ProgressBody::from(progress),
        preview: progress.preview.as_deref().map(Preview::from),
    };
    Answer::json(200, &Body { output })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use serde_json::{Value, json};

    use super::*;
    use crate::job::{JobId, JobState, Outcome};

    fn handed(body: &Value) -> (Vec<Handed>, Vec<String>) {
        handed_out(&Bytes::from(body.to_string()))
    }

    #[test]
    fn one_job_or_a_list_of_them() {
        let job =
            json!({"id": "sync-1", "input": {"prompt": "a fox"}, "webhook": "https://example.org", "delayTime": 7});
        let (jobs, wrong) = handed(&job);
        assert!(wrong.is_empty());
        assert!(jobs[0].is_sync());
        let (request, policy) = jobs[0].read().unwrap();
        assert!(request.warnings.is_empty(), "{:?}", request.warnings);
        assert_eq!(policy.webhook, None, "the platform calls it");
        assert_eq!(policy.platform.unwrap().id, "sync-1");

        let (jobs, wrong) =
            handed(&json!([job, {"id": "b-u1", "input": {"prompt": "b", "stream": true, "refresh_worker": true}}]));
        assert!(wrong.is_empty());
        assert_eq!(jobs.len(), 2);
        assert!(!jobs[1].is_sync());
        let platform = jobs[1].read().unwrap().1.platform.unwrap();
        assert!(platform.stream && platform.refresh_worker);
    }

    #[test]
    fn what_has_no_id_is_told_and_the_rest_is_taken() {
        let (jobs, wrong) = handed(&json!([{"input": {}}, 7, {"id": ""}, {"id": "a\nb"}, {"id": 5}, {"id": "good"}]));
        assert_eq!(wrong.len(), 5, "{wrong:?}");
        assert_eq!(jobs.len(), 1);
        assert!(jobs[0].read().unwrap_err().message.contains("no `input`"));
        for rubbish in [&b"{"[..], b"", b"null", b"\xff"] {
            let (jobs, wrong) = handed_out(&Bytes::from_static(rubbish));
            assert_eq!((jobs.len(), wrong.len()), (0, 1), "{rubbish:?}");
        }
        assert_eq!(handed(&json!([])).1.len(), 0);
    }

    fn view(result: Result<Outcome, JobError>) -> JobView {
        JobView {
            id: JobId::new(),
            policy: Arc::default(),
            state: JobState::Completed,
            progress: Progress::default(),
            position: None,
            created: SystemTime::UNIX_EPOCH,
            delay: Duration::ZERO,
            execution: Duration::ZERO,
            result: Some(result.map(Arc::new).map_err(Arc::new)),
            outputs: Arc::default(),
            entry: None,
        }
    }

    fn text(answer: &Answer) -> String {
        String::from_utf8(answer.to_vec()).unwrap()
    }

    #[test]
    fn an_end_is_an_output_or_an_error() {
        let nothing = job_done(&view(Ok(Outcome::default())), false);
        assert_eq!(
            text(&nothing),
            r#"{"output":{"status":"success_no_images","images":[]}}"#
        );
        let failed = job_done(&view(Err(JobError::invalid("no"))), true);
        assert_eq!(text(&failed), r#"{"error":"no","stopPod":true}"#);
        assert_eq!(text(&job_failed(&JobError::invalid("no"), false)), r#"{"error":"no"}"#);
    }

    #[test]
    fn progress_says_that_it_is_none() {
        let progress = Progress {
            percent: 42,
            ..Progress::default()
        };
        assert_eq!(
            text(&job_progress(&progress)),
            r#"{"status":"IN_PROGRESS","output":{"stage":"waiting","percent":42}}"#
        );
        assert_eq!(
            text(&job_chunk(&progress)),
            r#"{"output":{"stage":"waiting","percent":42}}"#
        );
    }
}
