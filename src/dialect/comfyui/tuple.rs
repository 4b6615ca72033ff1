//! A prompt as `/queue` and `/history` show it: `[number, prompt_id, graph, extra_data, outputs_to_execute]`.

use serde_json::{Map, Value, json};

use super::described::{Accepted, ExecInfo, QueueInfo};
use super::partial::Checked;
use super::shown;
use crate::dialect::answer::Answer;
use crate::job::{JobId, JobRequest, JobView, Work};
use crate::workflow::Graph;

/// The place of a job in the queue as this API counts.
pub(super) fn number(view: &JobView) -> i64 {
    view.policy.prompt.as_ref().map_or(0, |prompt| prompt.number)
}

/// The prompt of a job that has not ended, or of which ComfyUI tells nothing. `request` is missing where it is stored no more;
/// `outputs` tells the output nodes of its graph.
pub fn tuple(view: &JobView, request: Option<JobRequest>, outputs: impl FnOnce(&Graph) -> Vec<String>) -> Value {
    let (graph, extra_data) = match request {
        Some(request) => (Some(request.work), request.extra_data),
        None => (None, Map::new()),
    };
    let (graph, outputs) = match graph {
        Some(Work::Workflow(graph)) => {
            let outputs = outputs(&graph);
            (serde_json::to_value(&graph).unwrap_or_default(), outputs)
        }
        // A workflow of the page is no graph yet.
        _ => (json!({}), Vec::new()),
    };
    json!([number(view), view.id.as_str(), graph, shown(extra_data, view), outputs])
}

/// The answer to a prompt that was taken.
pub fn accepted(id: &JobId, number: i64, checked: &Checked, warnings: &[String]) -> Answer {
    Answer::json(
        200,
        &Accepted {
            prompt_id: id.as_str(),
            number,
            node_errors: checked.node_errors(),
            warnings,
        },
    )
}

/// The answer of `GET /prompt`: how many jobs wait or run.
pub fn queue_remaining(jobs: u64) -> Answer {
    let exec_info = ExecInfo { queue_remaining: jobs };
    Answer::json(200, &QueueInfo { exec_info })
}
