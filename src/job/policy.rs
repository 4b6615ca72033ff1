//! What a request says about the handling of its job.

use std::time::Duration;

use url::Url;

/// The API through which a job came. Its owner hears of it in that API's words, and finds there no other jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// RunPod's, and what is of no API.
    #[default]
    Runpod,
    /// OpenAI's images.
    OpenAi,
    /// A Gradio Space.
    Gradio,
    /// KIE's tasks.
    Kie,
    /// Edit Plus.
    EditPlus,
}

impl Dialect {
    /// As the store writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runpod => "runpod",
            Self::OpenAi => "open_ai",
            Self::Gradio => "gradio",
            Self::Kie => "kie",
            Self::EditPlus => "edit_plus",
        }
    }

    /// Whether its jobs live as long as their clients wait for them. OpenAI's requests are answered on their own
    /// connection, and Gradio's events are told to a session that the worker has in memory: after a restart nobody can ask
    /// for them. The jobs of the others have ids that can be asked for at any time.
    pub fn ends_with_its_client(self) -> bool {
        match self {
            Self::OpenAi | Self::Gradio => true,
            Self::Runpod | Self::Kie | Self::EditPlus => false,
        }
    }
}

/// What a request says about the handling of its job; [`None`] and `false` leave it to the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Policy {
    /// The longest time of execution (RunPod's `policy.executionTimeout`).
    pub execution_timeout: Option<Duration>,
    /// The longest time from the job's coming to its end (RunPod's `policy.ttl`).
    pub ttl: Option<Duration>,
    /// Higher is sooner; 0 is usual. RunPod's `policy.lowPriority` is -1.
    pub priority: i32,
    /// Where the final answer is posted.
    pub webhook: Option<Url>,
    /// The job of the platform's queue that this one carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformJob>,
    /// Whether its request names images by URL, which are fetched before its turn. The queue sees to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fetches_images: bool,
    /// The servers that these are fetched from. The queue sees to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_hosts: Vec<String>,
    /// The API through which it came.
    #[serde(default)]
    pub dialect: Dialect,
    /// Where links to its files begin, for an owner who is told of them later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Url>,
    /// What its request asked, where the answers of its API repeat that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Box<Asked>>,
}

/// What a request asked, in the words of its API.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Asked {
    /// The model's name.
    pub model: String,
    /// The rest, as JSON.
    pub param: String,
}

/// A job of the platform's queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PlatformJob {
    /// Its id there.
    pub id: String,
    /// Whether its progress is streamed.
    pub stream: bool,
    /// Whether its owner wants a clean worker afterwards.
    pub refresh_worker: bool,
}
