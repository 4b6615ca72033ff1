//! What of a graph runs where not all of it can, or is to. ComfyUI runs the output nodes that nothing is wrong with, and what
//! they need; so the rest is taken out.

use std::collections::{HashMap, HashSet};

use super::refusal::{NodeErrors, Refusal, collect};
use crate::error::{FaultKind, JobError};
use crate::workflow::Graph;

/// What the check of a graph has found so far.
#[derive(Debug, Default)]
pub struct Checked {
    errors: NodeErrors,
    /// The first error, which tells of the whole graph.
    first: Option<JobError>,
}

impl Checked {
    /// The faults of the nodes that do not run, for the answer.
    pub(super) fn node_errors(&self) -> &NodeErrors {
        &self.errors
    }

    /// The refusal of a graph of which nothing is taken.
    pub fn into_refusal(self) -> Refusal {
        match &self.first {
            Some(error) => Refusal::graph(error, self.errors),
            None => Refusal::no_outputs(),
        }
    }
}

/// Takes out of the graph what cannot run for this error of the check. A refusal where nothing would be left to run, as far as
/// that can be told; the rest is to be checked again.
pub fn without_what_fails(graph: &mut Graph, error: &JobError, checked: &mut Checked) -> Result<(), Refusal> {
    let has = |kind: FaultKind| {
        let mut faults = error.problems.iter().filter_map(|problem| problem.fault.as_deref());
        faults.any(|fault| fault.kind == kind)
    };
    let first = checked.first.get_or_insert_with(|| error.clone()).clone();
    if has(FaultKind::NoOutputs) || has(FaultKind::MissingNodeType) {
        return Err(Refusal::graph(&first, std::mem::take(&mut checked.errors)));
    }
    let before = checked.errors.len();
    collect(&mut checked.errors, graph, &error.problems);
    let failing: Vec<String> = checked.errors.keys().skip(before).cloned().collect();
    take_out(graph, &failing);
    if failing.is_empty() || graph.nodes.is_empty() {
        return Err(Refusal::graph(&first, std::mem::take(&mut checked.errors)));
    }
    Ok(())
}

/// Takes these nodes out, and those that need them.
fn take_out(graph: &mut Graph, failing: &[String]) {
    let mut out: HashSet<String> = HashSet::new();
    {
        let mut needed_by: HashMap<&str, Vec<&str>> = HashMap::new();
        for (id, node) in &graph.nodes {
            for link in node.links() {
                needed_by.entry(link.source).or_default().push(id);
            }
        }
        let mut waiting: Vec<&str> = failing.iter().map(String::as_str).collect();
        while let Some(id) = waiting.pop() {
            if out.insert(id.to_owned()) {
                waiting.extend(needed_by.get(id).into_iter().flatten());
            }
        }
    }
    graph.nodes.retain(|id, _| !out.contains(id));
}

/// Leaves of the graph what these output nodes need. `outputs` are those that are known to be some; none are known where
/// ComfyUI has not told.
pub fn narrowed(graph: &mut Graph, targets: &[String], outputs: &[String]) -> Result<(), Refusal> {
    let outputs: HashSet<&str> = outputs.iter().map(String::as_str).collect();
    let wanted = targets
        .iter()
        .map(String::as_str)
        .filter(|id| graph.nodes.contains_key(*id) && (outputs.is_empty() || outputs.contains(id)));
    let needed: HashSet<String> = graph
        .reached(wanted, |_, _| true)
        .into_iter()
        .map(str::to_owned)
        .collect();
    if needed.is_empty() {
        return Err(Refusal::no_outputs());
    }
    graph.nodes.retain(|id, _| needed.contains(id));
    Ok(())
}
