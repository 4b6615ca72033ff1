//! What is said of a workflow: problems, for which it is refused, and warnings.

use crate::echo;
use crate::error::{ErrorKind, JobError, Problem};

/// So many problems, and so many warnings, are put into words; the rest is counted.
const TOLD: usize = 100;

/// The way out of every refusal.
pub(super) const WAY_OUT: &str = "Open the workflow in ComfyUI, choose Workflow > Export (API), and send that file.";

/// Collects what is said.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    untold_problems: usize,
    warnings: Vec<String>,
    untold_warnings: usize,
    /// Whether the seed made a choice.
    pub(super) chose: bool,
}

/// Which node, and which of its inputs, is meant.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place<'p> {
    /// The node's id as the graph has it, or as its definition has it.
    pub id: &'p str,
    /// Its class.
    pub class: &'p str,
    /// The widget or input.
    pub input: Option<&'p str>,
}

impl Place<'_> {
    /// A problem at this place.
    pub(super) fn problem(self, message: impl Into<String>) -> Problem {
        let class = Some(self.class).filter(|class| !class.is_empty());
        Problem {
            node_id: Some(self.id.to_owned()),
            class_type: class.map(str::to_owned),
            input: self.input.map(str::to_owned),
            message: message.into(),
            fault: None,
        }
    }
}

impl Report {
    /// Notes a reason to refuse the workflow.
    pub(super) fn problem(&mut self, place: Place<'_>, message: impl Into<String>) {
        if self.problems.len() < TOLD {
            self.problems.push(place.problem(message));
        } else {
            self.untold_problems += 1;
        }
    }

    /// Notes what the user should know of a node.
    pub(super) fn warn(&mut self, place: Place<'_>, message: &str) {
        if self.warnings.len() >= TOLD {
            self.untold_warnings += 1;
            return;
        }
        let input = place
            .input
            .map(|input| format!(", {}", echo::cut(input)))
            .unwrap_or_default();
        self.warnings.push(format!(
            "node {} ({}){input}: {message}",
            echo::cut(place.id),
            echo::cut(place.class)
        ));
    }

    /// The error, where there is a reason to refuse.
    pub(super) fn refusal(&mut self) -> Result<(), JobError> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let mut problems = std::mem::take(&mut self.problems);
        if self.untold_problems > 0 {
            problems.push(Problem {
                message: format!("and {} more", self.untold_problems),
                ..Problem::default()
            });
        }
        Err(refused(problems))
    }

    /// What the user should know.
    pub(super) fn into_warnings(mut self) -> Vec<String> {
        if self.untold_warnings > 0 {
            self.warnings.push(format!("and {} more", self.untold_warnings));
        }
        self.warnings
    }
}

/// The refusal for these reasons.
pub(super) fn refused(problems: Vec<Problem>) -> JobError {
    JobError::new(
        ErrorKind::InvalidWorkflow,
        "The saved workflow cannot be converted to an API graph",
    )
    .problems(problems)
    .hint(WAY_OUT)
}

/// The refusal for one reason that is no node's.
pub(super) fn invalid(message: &str) -> JobError {
    JobError::new(
        ErrorKind::InvalidWorkflow,
        format!("The saved workflow cannot be converted to an API graph: {message}"),
    )
    .hint(WAY_OUT)
}
