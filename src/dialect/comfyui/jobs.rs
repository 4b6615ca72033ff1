//! Jobs as `/api/jobs` tells of them: what waits, what runs and what has ended, in one form.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::asked::{JobsAsked, Status};
use super::described::{Cancelled, Jobs, Pagination};
use super::entry::{EXECUTION_ERROR, EXECUTION_INTERRUPTED, EXECUTION_SUCCESS};
use super::timestamp;
use super::tuple::number;
use crate::dialect::answer::Answer;
use crate::job::JobView;

/// Media that the page can show.
const PREVIEWABLE: [&str; 5] = ["images", "video", "audio", "3d", "text"];
/// Endings of meshes and scenes, which have no media type of their own.
const THREE_D: [&str; 5] = [".obj", ".fbx", ".gltf", ".glb", ".usdz"];
/// Endings of texts that are saved.
const TEXTS: [&str; 3] = [".txt", ".md", ".json"];
/// The longest text that is shown for a job, in characters.
const LONGEST_TEXT: usize = 1024;

/// What a job is told from.
#[derive(Debug, Clone, Copy)]
pub enum JobOf<'a> {
    /// The tuple of one that waits or runs.
    Live(&'a Value),
    /// The entry of one that has ended.
    Ended(&'a RawValue),
}

/// An entry, as far as it is read.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    prompt: Vec<&'a RawValue>,
    #[serde(default)]
    outputs: Map<String, Value>,
    #[serde(default)]
    status: Value,
}

/// A job. `whole`: with its outputs and its graph.
pub fn job(view: &JobView, of: JobOf<'_>, whole: bool) -> Value {
    let mut job = json!({
        "id": view.id.as_str(),
        "status": Status::of(view.state).as_str(),
        "priority": number(view),
        "create_time": timestamp(view.created),
    });
    let entry: Option<Entry<'_>> = match of {
        JobOf::Live(_) => None,
        JobOf::Ended(entry) => serde_json::from_str(entry.get()).ok(),
    };
    let Some(entry) = entry else {
        job["outputs_count"] = 0.into();
        if let JobOf::Live(tuple) = of {
            put(&mut job, "workflow_id", workflow_id(&tuple[3]));
        }
        return job;
    };
    let extra_data = entry
        .prompt
        .get(3)
        .and_then(|extra| serde_json::from_str(extra.get()).ok());
    let extra_data: Value = extra_data.unwrap_or_default();
    let messages = entry.status["messages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    for message in messages {
        let data = &message[1];
        match message[0].as_str().unwrap_or_default() {
            "execution_start" => put(&mut job, "execution_start_time", data["timestamp"].clone()),
            event @ (EXECUTION_SUCCESS | EXECUTION_ERROR | EXECUTION_INTERRUPTED) => {
                put(&mut job, "execution_end_time", data["timestamp"].clone());
                if event == EXECUTION_ERROR {
                    put(&mut job, "execution_error", data.clone());
                }
            }
            _ => {}
        }
    }
    let (count, preview) = summary(&entry.outputs);
    job["outputs_count"] = count.into();
    put(&mut job, "preview_output", preview);
    put(&mut job, "workflow_id", workflow_id(&extra_data));
    if whole {
        let graph = entry
            .prompt
            .get(2)
            .and_then(|graph| serde_json::from_str(graph.get()).ok());
        let graph: Value = graph.unwrap_or_default();
        job["outputs"] = normalized(entry.outputs);
        job["execution_status"] = entry.status;
        job["workflow"] = json!({"prompt": graph, "extra_data": extra_data});
    }
    job
}

/// The answer of `GET /api/jobs` to so many jobs of `total`.
pub fn jobs_answer(jobs: &[Value], asked: &JobsAsked, total: usize) -> Answer {
    let has_more = asked.offset.saturating_add(jobs.len()) < total;
    let pagination = Pagination {
        offset: asked.offset,
        // As ComfyUI, which has none of its own, where ours cut nothing.
        limit: (asked.limit.is_some() || has_more).then(|| asked.most()),
        total,
        has_more,
    };
    Answer::json(200, &Jobs { jobs, pagination })
}

/// The answer of `GET /api/jobs/{id}`.
pub fn job_answer(job: &Value) -> Answer {
    Answer::json(200, job)
}

/// The answer where there is no such job.
pub fn no_job() -> Answer {
    Answer::json(404, &json!({"error": "Job not found"}))
}

/// The answer to a cancellation.
pub fn cancelled(cancelled: bool) -> Answer {
    Answer::json(200, &Cancelled { cancelled })
}

/// What is null is left out.
fn put(job: &mut Value, field: &str, value: Value) {
    if !value.is_null() {
        job[field] = value;
    }
}

fn workflow_id(extra_data: &Value) -> Value {
    extra_data["extra_pnginfo"]["workflow"]["id"].clone()
}

fn ends_with(name: &str, endings: &[&str]) -> bool {
    let name = name.to_lowercase();
    endings.iter().any(|ending| name.ends_with(ending))
}

/// The names of meshes stand as mere texts.
fn file_of(item: &Value) -> Option<Value> {
    match item {
        Value::Object(_) => Some(item.clone()),
        Value::String(name) if ends_with(name, &THREE_D) => {
            Some(json!({"filename": name, "type": "output", "subfolder": "", "mediaType": "3d"}))
        }
        _ => None,
    }
}

fn normalized(outputs: Map<String, Value>) -> Value {
    let node = |mut outputs: Value| {
        for (media_type, items) in outputs.as_object_mut().into_iter().flatten() {
            if media_type != "animated"
                && let Value::Array(items) = items
            {
                items.retain(|item| !item.is_null());
                for item in items {
                    if let Some(file) = file_of(item) {
                        *item = file;
                    }
                }
            }
        }
        outputs
    };
    Value::Object(outputs.into_iter().map(|(id, outputs)| (id, node(outputs))).collect())
}

/// How many outputs there are, and the one that is shown for all: saved pictures before others, and texts last.
fn summary(outputs: &Map<String, Value>) -> (usize, Value) {
    let mut count = 0;
    // The best kind first.
    let mut shown: [Option<Value>; 4] = [const { None }; 4];
    for (node, outputs) in outputs {
        for (media_type, items) in outputs.as_object().into_iter().flatten() {
            let Some(items) = items.as_array().filter(|_| media_type != "animated") else {
                continue;
            };
            for item in items {
                let Some(mut file) = file_of(item) else {
                    if media_type == "text" && shown[3].is_none() && !item.is_null() {
                        shown[3] = Some(text_preview(item, node));
                    }
                    continue;
                };
                count += 1;
                let Some(rank) = rank(media_type, &file).filter(|rank| shown[*rank].is_none()) else {
                    continue;
                };
                file["nodeId"] = node.as_str().into();
                if file["mediaType"].is_null() {
                    file["mediaType"] = media_type.as_str().into();
                }
                shown[rank] = Some(file);
            }
        }
    }
    (count, shown.into_iter().flatten().next().unwrap_or_default())
}

/// How good a file is to be shown, the best being 0.
fn rank(media_type: &str, file: &Value) -> Option<usize> {
    let format = file["format"].as_str().unwrap_or_default();
    let name = file["filename"].as_str().unwrap_or_default();
    let is_text = media_type == "text" || ends_with(name, &TEXTS);
    let is_shown = PREVIEWABLE.contains(&media_type)
        || format.starts_with("video/")
        || format.starts_with("audio/")
        || ends_with(name, &THREE_D)
        || is_text;
    match (is_text, file["type"] == "output") {
        _ if !is_shown => None,
        (true, _) => Some(2),
        (false, true) => Some(0),
        (false, false) => Some(1),
    }
}

fn text_preview(item: &Value, node: &str) -> Value {
    let text = item.as_str().map_or_else(|| item.to_string(), str::to_owned);
    let mut shown = json!({"content": text, "nodeId": node, "mediaType": "text"});
    if let Some((end, _)) = text.char_indices().nth(LONGEST_TEXT) {
        shown["content"] = text[..end].into();
        shown["truncated"] = true.into();
    }
    shown
}
