//! `POST /prompt`: a prompt becomes a job.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::refusal::Refusal;
use crate::config::Secret;
use crate::echo;
use crate::job::{Delivery, Dialect, JobId, JobRequest, Policy, PromptOwner, SavedRequest, Work};
use crate::json;
use crate::workflow::convert::Converted;
use crate::workflow::{Graph, Saved};

/// The longest `client_id`, in bytes.
pub const LONGEST_CLIENT_ID: usize = 256;
/// The longest list of `partial_execution_targets`.
const MOST_TARGETS: usize = 10_000;
/// The farthest place in the queue, either way: what Python and JavaScript both read exactly.
const FARTHEST: f64 = 9_007_199_254_740_991.0;
/// The longest id of a workflow that is remembered, in bytes: the page's are UUIDs.
const LONGEST_WORKFLOW_ID: usize = 256;
/// Where comfy.org's key for API nodes stands in `extra_data`.
const API_KEY: &str = "api_key_comfy_org";
/// What of the request's headers goes into `extra_data`.
const USAGE_SOURCE: &str = "comfy_usage_source";

/// A prompt that somebody sends.
#[derive(Debug)]
pub struct Prompt {
    /// Its id, where the client chose one.
    pub id: Option<JobId>,
    /// What is to run. Empty as long as [`Self::saved`] is there.
    pub graph: Graph,
    /// What is to be converted first: a workflow as the page saves it.
    pub saved: Option<SavedRequest>,
    /// What to know of the conversion.
    pub warnings: Vec<String>,
    /// The output nodes that are to run; [`None`]: all of them.
    pub targets: Option<Vec<String>>,
    /// Whom its events go to.
    pub client_id: Option<String>,
    /// Its place in the queue.
    pub number: i64,
    front: bool,
    extra_data: Map<String, Value>,
    api_key: Option<Secret>,
}

/// Numbers prompts: each is later than those before it.
#[derive(Debug, Default)]
pub struct Numbers(AtomicI64);

impl Numbers {
    /// The next number: milliseconds since 1970, or what follows the last number.
    pub fn next(&self, now: SystemTime) -> i64 {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = i64::try_from(now).unwrap_or(i64::MAX / 2);
        let later = |last: i64| now.max(last + 1);
        let last = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(later(last)));
        last.map_or(now, later)
    }
}

/// Reads the body of `POST /prompt`. `usage_source` is what the client says of itself in a header.
pub fn parse(body: &[u8], usage_source: Option<&str>, next: impl FnOnce() -> i64) -> Result<Prompt, Refusal> {
    let value = json::read(body).map_err(|error| {
        error.of_request(|error| {
            crate::error::JobError::invalid(format!("The body is no JSON: {error}"))
                .hint("Send {\"prompt\": {…}, \"client_id\": \"…\"}.")
        })
    })?;
    let Value::Object(mut body) = value else {
        return Err(Refusal::request(
            "The body is no JSON object",
            "send {\"prompt\": {…}, \"client_id\": \"…\"}",
        ));
    };
    let mut take = |name: &str| body.get_mut(name).map(Value::take).filter(|value| !value.is_null());
    let prompt = take("prompt").ok_or_else(Refusal::no_prompt)?;
    let id = match take("prompt_id") {
        None => None,
        Some(Value::String(text)) => Some(JobId::parse(&text).ok_or_else(Refusal::prompt_id)?),
        Some(_) => return Err(Refusal::prompt_id()),
    };
    let number = take("number").map(|number| given_number(&number)).transpose()?;
    let front = take("front").is_some_and(|front| is_true(&front));
    let (number, front) = match number {
        Some(number) => (number, number < 0),
        None if front => (-next(), true),
        None => (next(), false),
    };
    let mut extra_data = match take("extra_data") {
        None => Map::new(),
        Some(Value::Object(extra_data)) => extra_data,
        Some(_) => return Err(Refusal::request("extra_data must be an object", "")),
    };
    let client_id = take("client_id").or_else(|| extra_data.get_mut("client_id").map(Value::take));
    let client_id = client_id.map(|id| client_id_of(&id)).transpose()?.flatten();
    match &client_id {
        Some(id) => extra_data.insert("client_id".to_owned(), id.as_str().into()),
        None => extra_data.shift_remove("client_id"),
    };
    let api_key = match extra_data.shift_remove(API_KEY) {
        Some(Value::String(key)) if !key.is_empty() => Some(Secret::new(key)),
        _ => None,
    };
    if let Some(source) = usage_source.filter(|_| !extra_data.contains_key(USAGE_SOURCE)) {
        extra_data.insert(USAGE_SOURCE.to_owned(), echo::cut(source).into());
    }
    let targets = take("partial_execution_targets").map(targets).transpose()?;
    if prompt.as_object().is_some_and(Map::is_empty) {
        return Err(Refusal::no_outputs());
    }
    let (graph, saved) = if Saved::is_meant_by(&prompt) {
        let workflow = Saved::from_value(prompt).map_err(|error| Refusal::saved(&error))?;
        keep_workflow(&mut extra_data, &workflow);
        let saved = SavedRequest {
            workflow,
            inputs: Map::new(),
            seed: None,
        };
        (Graph::default(), Some(saved))
    } else {
        (Graph::from_value(prompt)?, None)
    };
    Ok(Prompt {
        id,
        graph,
        saved,
        warnings: Vec::new(),
        targets,
        client_id,
        number,
        front,
        extra_data,
        api_key,
    })
}

impl Prompt {
    /// Takes the graph that the page would send in place of the workflow that it saved.
    pub fn converted(&mut self, converted: Converted) {
        self.saved = None;
        self.graph = converted.graph;
        self.warnings.extend(converted.warnings);
    }

    /// The job, once it is known what of the graph runs. `key` and `caller` tell who sent it.
    pub fn job(self, key: Option<String>, caller: String) -> (JobRequest, Policy) {
        let workflow_id = workflow_id(&self.extra_data);
        let request = JobRequest {
            work: match self.saved {
                Some(saved) => Work::Saved(saved),
                None => Work::Workflow(self.graph),
            },
            images: Vec::new(),
            delivery: Delivery::default(),
            org_api_key: self.api_key,
            extra_data: self.extra_data,
            warnings: self.warnings,
        };
        let policy = Policy {
            dialect: Dialect::Comfyui,
            priority: i32::from(self.front),
            prompt: Some(Box::new(PromptOwner {
                client_id: self.client_id,
                key,
                caller,
                number: self.number,
                workflow_id,
                ..PromptOwner::default()
            })),
            ..Policy::default()
        };
        (request, policy)
    }
}

/// Has pictures hold the workflow, as they do where the page itself sends the prompt; nothing that the client gives is changed.
fn keep_workflow(extra_data: &mut Map<String, Value>, workflow: &Saved) {
    let info = extra_data.entry("extra_pnginfo").or_insert_with(|| json!({}));
    if let Value::Object(info) = info
        && !info.contains_key("workflow")
    {
        info.insert("workflow".to_owned(), workflow.as_value().clone());
    }
}

/// A number as Python's `float()` reads it, without a fraction.
fn given_number(value: &Value) -> Result<i64, Refusal> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let number = number.filter(|number: &f64| number.is_finite() && number.abs() <= FARTHEST);
    #[expect(clippy::cast_possible_truncation, reason = "it is within the range")]
    let number = number.map(|number| number.round() as i64);
    number.ok_or_else(|| {
        let details = format!("{} is none; lower is sooner", echo::json(value));
        Refusal::request("number must be a number", details)
    })
}

/// The id of the page's workflow that the prompt was made of.
fn workflow_id(extra_data: &Map<String, Value>) -> Option<String> {
    let id = extra_data.get("extra_pnginfo")?["workflow"]["id"].as_str()?;
    (id.len() <= LONGEST_WORKFLOW_ID).then(|| id.to_owned())
}

/// Python's idea of truth.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// The `client_id` of a request; an empty one is none. A number is its text.
pub(super) fn client_id_of(value: &Value) -> Result<Option<String>, Refusal> {
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::String(text) if text.len() <= LONGEST_CLIENT_ID => Ok(Some(text.clone()).filter(|id| !id.is_empty())),
        Value::String(text) => Err(Refusal::request(
            "client_id is too long",
            format!("it has {} bytes, the limit is {LONGEST_CLIENT_ID}", text.len()),
        )),
        _ => Err(Refusal::request("client_id must be a text", "")),
    }
}

fn targets(value: Value) -> Result<Vec<String>, Refusal> {
    let wrong = || {
        let details = format!("at most {MOST_TARGETS} ids of output nodes");
        Refusal::request("partial_execution_targets must be a list of node ids", details)
    };
    let Value::Array(items) = value else {
        return Err(wrong());
    };
    if items.len() > MOST_TARGETS {
        return Err(wrong());
    }
    let texts = items.into_iter().map(|item| match item {
        Value::String(id) => Ok(id),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(wrong()),
    });
    texts.collect()
}
