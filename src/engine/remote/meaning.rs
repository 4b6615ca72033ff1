//! What the answer of an engine means for the job that was sent there: the one place that decides whether it may have been
//! taken, and charged for.

use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::Value;

use super::output::Output;
use super::rest::Cause;
use crate::disk::apart;
use crate::display::error_chain;
use crate::echo::{at_most, cut};
use crate::error::{ErrorKind, JobError};
use crate::net::retry::retry_after;

/// Bytes of an engine's own words that are told.
const LONGEST_WORDS: usize = 500;

/// The longest answer that is read as a refusal, in bytes.
const LONGEST_REFUSAL: usize = 256 * 1024;

/// What became of a job that was sent.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It was not taken, and the engine takes none for a while.
    Rests(Cause, JobError),
    /// It was not taken, by the engine's own fault.
    Faulty(JobError),
    /// It was not taken, by its own fault.
    OfJob(JobError),
    /// Nobody knows.
    Unknown(JobError),
}

impl Refusal {
    /// What is to be told.
    pub(super) fn into_error(self) -> JobError {
        match self {
            Self::Rests(_, error) | Self::Faulty(error) | Self::OfJob(error) | Self::Unknown(error) => error,
        }
    }
}

/// An answer that could be read whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// Its JSON, where it is an object and short, as what tells of a refusal is.
    pub(super) fn object(&self) -> Option<Value> {
        (self.body.len() <= LONGEST_REFUSAL).then(|| object(&self.body))?
    }

    /// Its JSON, where it is an object, which may hold pictures.
    pub(super) async fn whole_object(&self) -> Option<Output> {
        let body = self.body.clone();
        let output = apart(body.len(), move || Output::read(body)).await?;
        output.value.is_object().then_some(output)
    }
}

fn object(body: &[u8]) -> Option<Value> {
    let value: Value = serde_json::from_slice(body).ok()?;
    value.is_object().then_some(value)
}

/// How sending it failed, where there is no answer. `has_left` says that a byte of the request may have arrived.
pub(super) fn unanswered(engine: &str, error: &reqwest::Error, has_left: bool) -> Refusal {
    let why = error_chain(error);
    if has_left {
        let message = format!("engine `{engine}` gave no answer to a job that was sent: {why}");
        return Refusal::Unknown(JobError::new(ErrorKind::Internal, message));
    }
    let message = format!("engine `{engine}` cannot be reached: {why}");
    Refusal::Rests(Cause::Unreached, JobError::new(ErrorKind::ComfyUnavailable, message))
}

/// What an answer that is no success means.
pub(super) fn refused(engine: &str, answer: &Answer) -> Refusal {
    let object = answer.object();
    // In the provider's own words, it knows what it did. A gateway before it has others (`{"message": …}`).
    let is_its_own = object.as_ref().is_some_and(has_error);
    judged(engine, answer, object.as_ref(), (answer.status.as_u16(), is_its_own))
}

/// The same where the code that counts stands in the answer, whatever its status: `{"code": 402, "msg": "…"}`.
pub(super) fn refused_by_code(engine: &str, answer: &Answer, code: u16) -> Refusal {
    let object = answer.object();
    judged(engine, answer, object.as_ref(), (code, true))
}

fn judged(engine: &str, answer: &Answer, object: Option<&Value>, (code, is_its_own): (u16, bool)) -> Refusal {
    let words = object.and_then(words);
    let shown = if answer.status.as_u16() == code {
        answer.status.to_string()
    } else {
        code.to_string()
    };
    let told = |what: &str| {
        let words = words.as_deref().map(|words| format!(": {words}")).unwrap_or_default();
        format!("engine `{engine}` {what} ({shown}){words}")
    };
    let error = |kind, what: &str| JobError::new(kind, told(what));
    let named = object.and_then(named_code).unwrap_or_default();
    let is_quota = [
        "insufficient_quota",
        "billing_hard_limit_reached",
        "insufficient_credits",
    ]
    .contains(&named.as_str());
    match code {
        _ if is_quota => Refusal::Rests(Cause::Barred, error(ErrorKind::Busy, "has no quota left for us")),
        429 => {
            let wait: Option<Duration> = retry_after(&answer.headers);
            Refusal::Rests(Cause::Limited(wait), error(ErrorKind::Busy, "has too much to do"))
        }
        401 | 403 => Refusal::Rests(
            Cause::Barred,
            error(ErrorKind::ComfyUnavailable, "refuses our key").hint("See the engine's `key`."),
        ),
        // 433: KIE's, of a key that has a limit of its own.
        402 | 433 => Refusal::Rests(Cause::Barred, error(ErrorKind::ComfyUnavailable, "wants to be paid")),
        404 | 405 => Refusal::Rests(
            Cause::Barred,
            error(ErrorKind::ComfyUnavailable, "is not there").hint("See the engine's `url`."),
        ),
        400 | 409 | 413 | 415 | 422 => Refusal::OfJob(error(ErrorKind::InvalidRequest, "refuses the job")),
        // 455 and 501: KIE's maintenance, and its failed generation.
        500 | 501 | 503 | 455 if is_its_own => Refusal::Faulty(error(ErrorKind::Internal, "fails")),
        // KIE's, of a model that is turned off.
        505 if is_its_own => Refusal::Rests(Cause::Barred, error(ErrorKind::ComfyUnavailable, "takes no such jobs")),
        _ => Refusal::Unknown(error(
            ErrorKind::Internal,
            "gave an answer that says nothing of the job",
        )),
    }
}

/// An answer that should tell something of a job, and does not.
pub(super) fn unreadable(engine: &str, answer: &Answer) -> JobError {
    let status = answer.status;
    let begin: String = String::from_utf8_lossy(&answer.body).chars().take(40).collect();
    let what = if begin.trim_start().starts_with('<') {
        "a page of HTML"
    } else {
        "no JSON that tells of the job"
    };
    JobError::new(
        ErrorKind::Internal,
        format!("engine `{engine}` answered {status} with {what}"),
    )
}

/// What ends a job of which nobody knows whether it was taken.
pub(super) fn unknown(engine: &str, job: &str, error: &JobError) -> JobError {
    let message = format!("{}; the job {job} may have run there, and been charged", error.message);
    JobError::new(ErrorKind::Internal, message).hint(format!(
        "It is sent to no other engine. Look at what `{engine}` did, and send it again if you want it; `unknown = \"retry\"` of an engine has such jobs sent elsewhere."
    ))
}

/// The engine's own words.
fn words(object: &Value) -> Option<String> {
    let texts = ["/error/message", "/error", "/message", "/detail", "/msg"];
    let mut found = texts.iter().filter_map(|pointer| object.pointer(pointer));
    let text = found.find_map(|value| match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        Value::Array(items) if !items.is_empty() => Some(Value::Array(items.clone()).to_string()),
        _ => None,
    })?;
    Some(at_most(text, LONGEST_WORDS))
}

fn has_error(object: &Value) -> bool {
    match object.get("error") {
        Some(Value::String(text)) => !text.trim().is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
        _ => false,
    }
}

fn named_code(object: &Value) -> Option<String> {
    let found = ["/error/code", "/code", "/error/type"];
    let mut found = found.iter().filter_map(|pointer| object.pointer(pointer)?.as_str());
    found.next().map(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    fn meaning(status: u16, body: &str) -> String {
        told(refused("a", &answer(status, body)))
    }

    fn told(refusal: Refusal) -> String {
        match refusal {
            Refusal::Rests(cause, error) => format!("rests {cause:?}: {}", error.message),
            Refusal::Faulty(error) => format!("faulty: {}", error.message),
            Refusal::OfJob(error) => format!("of job: {}", error.message),
            Refusal::Unknown(error) => format!("unknown: {}", error.message),
        }
    }

    #[test]
    fn an_answer_says_whether_the_job_was_taken() {
        let error = r#"{"error": {"message": "no"}}"#;
        for (status, body, expected) in [
            (429, "", "rests Limited(None): "),
            (429, r#"{"error": {"code": "insufficient_quota"}}"#, "rests Barred: "),
            (400, r#"{"error": {"code": "insufficient_quota"}}"#, "rests Barred: "),
            (401, "", "rests Barred: engine `a` refuses our key (401 Unauthorized)"),
            (403, "<html>", "rests Barred: "),
            (402, error, "rests Barred: "),
            (404, "", "rests Barred: engine `a` is not there"),
            (400, error, "of job: engine `a` refuses the job (400 Bad Request): no"),
            (413, "", "of job: "),
            (422, r#"{"detail": [{"loc": 1}]}"#, "of job: "),
            (500, error, "faulty: engine `a` fails (500 Internal Server Error): no"),
            (503, r#"{"error": "full"}"#, "faulty: "),
            (500, "", "unknown: "),
            (500, r#"{"message": "Internal server error"}"#, "unknown: "),
            (503, "{}", "unknown: "),
            (500, "<html>no</html>", "unknown: "),
            (502, error, "unknown: "),
            (504, error, "unknown: "),
            (302, "", "unknown: "),
        ] {
            let told = meaning(status, body);
            assert!(told.starts_with(expected), "{status} {body}: {told}");
        }
    }

    #[test]
    fn a_code_in_an_answer_counts_as_a_status() {
        for (code, expected) in [
            (402, "rests Barred: engine `a` wants to be paid (402): no"),
            (429, "rests Limited(None): "),
            (422, "of job: "),
            (455, "faulty: "),
            (500, "faulty: "),
            (501, "faulty: "),
            (505, "rests Barred: engine `a` takes no such jobs (505): no"),
            (433, "rests Barred: "),
            (499, "unknown: "),
        ] {
            let answer = answer(200, &format!(r#"{{"code": {code}, "msg": "no"}}"#));
            let told = told(refused_by_code("a", &answer, code));
            assert!(told.starts_with(expected), "{code}: {told}");
        }
    }
}
