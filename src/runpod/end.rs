//! What is posted at a job's end, and how it is made shorter where the platform refuses it.

use std::sync::Arc;

use crate::dialect::answer::Answer;
use crate::dialect::runpod;
use crate::error::JobError;
use crate::job::JobView;

/// The sizes to which the text of a failure is cut, in bytes, when the platform refuses a longer one.
const FAILURES: [usize; 3] = [16_384, 2_048, 300];

/// What is posted at last.
pub(super) struct End {
    pub(super) answer: Answer,
    /// What a smaller answer is made of.
    pub(super) result: Posted,
    pub(super) stop_pod: bool,
    /// Whether the job's progress was streamed.
    pub(super) stream: bool,
}

/// What an end tells.
pub(super) enum Posted {
    /// A job's output.
    Output(Box<JobView>),
    /// Why there is none.
    Failure(Arc<JobError>),
}

impl End {
    /// The end of a job, as it is `shown`: with the text of its files, which need not be in memory beside the answer.
    pub(super) fn new(view: &JobView, shown: &JobView, stop_pod: bool, stream: bool) -> Self {
        Self {
            answer: runpod::job_done(shown, stop_pod),
            result: match &shown.result {
                Some(Err(error)) => Posted::Failure(Arc::clone(error)),
                _ => Posted::Output(Box::new(view.clone())),
            },
            stop_pod,
            stream,
        }
    }

    pub(super) fn failed(error: Arc<JobError>, stop_pod: bool, stream: bool) -> Self {
        Self {
            answer: runpod::job_failed(&error, stop_pod),
            result: Posted::Failure(error),
            stop_pod,
            stream,
        }
    }

    /// Cuts the text of a failure, so that what is posted becomes shorter. False: it is as short as it gets.
    pub(super) fn cut(&mut self) -> bool {
        let Posted::Failure(error) = &self.result else {
            return false;
        };
        let before = self.answer.length();
        let cut = FAILURES
            .iter()
            .map(|most| runpod::job_failed(&shorter(error, *most), self.stop_pod));
        let Some(answer) = cut.into_iter().find(|answer| answer.length() < before) else {
            return false;
        };
        self.answer = answer;
        true
    }
}

/// The error in at most about so many bytes: its message and its next step go before the list of problems.
fn shorter(error: &JobError, most: usize) -> JobError {
    let hint = error.hint.as_deref().unwrap_or_default();
    let room = most.saturating_sub(hint.len());
    let mut short = JobError::new(error.kind, cut_to(&error.message, room.max(most / 2)));
    let left = most.saturating_sub(short.message.len());
    short.hint = error
        .hint
        .as_ref()
        .map(|hint| cut_to(hint, left))
        .filter(|hint| !hint.is_empty());
    short
}

/// The begin of a text, of at most so many bytes.
fn cut_to(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let most = most.saturating_sub('…'.len_utf8());
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    if end == 0 {
        String::new()
    } else {
        format!("{}…", &text[..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Problem;

    #[test]
    fn a_failure_gets_shorter_until_it_is_short() {
        let problem = Problem {
            message: "x".repeat(1_000),
            ..Problem::default()
        };
        let error = JobError::invalid("ö".repeat(1_000_000))
            .hint("h".repeat(100))
            .problems(vec![problem; 50]);
        let mut end = End::failed(Arc::new(error), false, false);
        let mut lengths = vec![end.answer.length()];
        while end.cut() {
            lengths.push(end.answer.length());
        }
        assert!(lengths.is_sorted_by(|before, after| before > after), "{lengths:?}");
        assert_eq!(lengths.len(), 1 + FAILURES.len());
        assert!(lengths[3] < 400, "{lengths:?}");
        let text = String::from_utf8(end.answer.to_vec()).unwrap();
        assert!(text.contains(&"h".repeat(100)), "the next step is told: {text}");
        let mut short = End::failed(Arc::new(JobError::invalid("no")), false, false);
        assert!(!short.cut());
    }

    #[test]
    fn a_text_is_cut_between_letters() {
        assert_eq!(cut_to("öö", 4), "öö");
        assert_eq!(cut_to("ööööö", 8), "öö…");
        assert_eq!(cut_to("ö", 1), "");
        assert_eq!(cut_to("", 0), "");
    }
}
