//! The bodies of what is done to prompts: `POST /queue`, `/history`, `/interrupt`, `/api/jobs/cancel`; and of `POST /free`.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::input::{client_id_of, is_true};
use super::refusal::Refusal;
use crate::dialect::answer::Answer;
use crate::echo;
use crate::error::JobError;
use crate::job::JobId;
use crate::json;

/// The most ids in one request.
const MOST_IDS: usize = 10_000;

/// What `POST /queue` and `POST /history` ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// All of the caller's.
    pub clear: bool,
    /// These.
    pub delete: HashSet<JobId>,
    /// Of this client alone.
    pub client_id: Option<String>,
}

/// What `POST /interrupt` asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Interrupt {
    /// This prompt; [`None`]: all of the caller's that run. An id that can be no prompt's stands here as nothing to end.
    pub prompt: Option<Option<JobId>>,
    /// Of this client alone.
    pub client_id: Option<String>,
}

/// Reads the body of `POST /queue` and `POST /history`.
pub fn removal(body: &[u8]) -> Result<Removal, Refusal> {
    let mut body = object(body)?;
    let clear = body.get("clear").is_some_and(is_true);
    let delete = match body.get_mut("delete").map(Value::take) {
        // Of a text ComfyUI takes each character for an id.
        None | Some(Value::Null | Value::String(_)) => Vec::new(),
        Some(Value::Array(ids)) if ids.len() <= MOST_IDS => ids,
        Some(_) => {
            let details = format!("at most {MOST_IDS} prompt ids");
            return Err(Refusal::request("delete must be a list of prompt ids", details));
        }
    };
    // Others are nobody's.
    let delete = delete.iter().filter_map(|id| JobId::parse(id.as_str()?)).collect();
    let client_id = client_id(&body)?;
    Ok(Removal {
        clear,
        delete,
        client_id,
    })
}

/// Reads the body of `POST /interrupt`, which many clients leave out. One that is no JSON says nothing.
pub fn interrupt(body: &[u8]) -> Result<Interrupt, Refusal> {
    let body = match json::read(body) {
        Ok(body) => fields(body)?,
        Err(_) => return Ok(Interrupt::default()),
    };
    let prompt = body.get("prompt_id").filter(|id| is_true(id));
    let prompt = prompt.map(|id| id.as_str().and_then(JobId::parse));
    let client_id = client_id(&body)?;
    Ok(Interrupt { prompt, client_id })
}

/// What `POST /free` asks for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Freeing {
    /// The models.
    pub unload_models: bool,
    /// All that is kept from earlier prompts.
    pub free_memory: bool,
}

/// Reads the body of `POST /free`.
pub fn freeing(body: &[u8]) -> Result<Freeing, Refusal> {
    let body = object(body)?;
    let truth = |name: &str| body.get(name).is_some_and(is_true);
    Ok(Freeing {
        unload_models: truth("unload_models"),
        free_memory: truth("free_memory"),
    })
}

/// What `POST /api/jobs/cancel` asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cancellation {
    /// These.
    pub jobs: Vec<JobId>,
    /// Of this client alone.
    pub client_id: Option<String>,
}

/// The client that the body of `POST /api/jobs/{id}/cancel` names, which is no more than that, and mostly empty.
pub fn named_client(body: &[u8]) -> Result<Option<String>, Refusal> {
    match json::read(body) {
        Ok(Value::Object(body)) => client_id(&body),
        _ => Ok(None),
    }
}

/// Reads the body of `POST /api/jobs/cancel`; the error is the answer.
pub fn cancelled_jobs(body: &[u8]) -> Result<Cancellation, Answer> {
    let error = |text: &str| Answer::json(400, &serde_json::json!({ "error": text }));
    let body = json::read(body).map_err(|_| error("Request body must be valid JSON"))?;
    let ids = body.get("job_ids").and_then(Value::as_array);
    let ids = ids.ok_or_else(|| error("job_ids must be a list"))?;
    if ids.len() > MOST_IDS {
        return Err(error(&format!("job_ids must be a list of at most {MOST_IDS}")));
    }
    let parse = |id: &Value| id.as_str().and_then(JobId::parse);
    let invalid: Vec<String> = ids
        .iter()
        .filter(|id| parse(id).is_none())
        .map(|id| id.as_str().map_or_else(|| echo::json(id), echo::cut))
        .take(100)
        .collect();
    if !invalid.is_empty() {
        let body = serde_json::json!({"error": "job_ids contains invalid id(s)", "invalid_ids": invalid});
        return Err(Answer::json(400, &body));
    }
    let client_id = body.get("client_id").map_or(Ok(None), client_id_of);
    Ok(Cancellation {
        jobs: ids.iter().filter_map(parse).collect(),
        client_id: client_id.map_err(|refusal| refusal.answer())?,
    })
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    let value = json::read(body).map_err(|error| {
        Refusal::from(error.of_request(|error| JobError::invalid(format!("The body is no JSON: {error}"))))
    })?;
    fields(value)
}

fn fields(body: Value) -> Result<Map<String, Value>, Refusal> {
    match body {
        Value::Object(body) => Ok(body),
        _ => Err(Refusal::request("The body is no JSON object", "")),
    }
}

fn client_id(body: &Map<String, Value>) -> Result<Option<String>, Refusal> {
    body.get("client_id").map_or(Ok(None), client_id_of)
}
