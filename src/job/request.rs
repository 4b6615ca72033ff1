//! What a job is asked to do, and how it is to be handled, in nobody's wire form.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};
use url::Url;

use super::images::{ImageContent, InputImage, Takes};
use super::mask::check_mask;
use crate::config::{BucketAccess, Fallback, ImageFormat, ReturnImagesAs, Secret};
use crate::echo::cut;
use crate::error::JobError;
use crate::workflow::{Control, Graph, Lora, Saved};

/// What a job is asked to do.
#[derive(Debug, Clone)]
pub struct JobRequest {
    /// The work itself.
    pub work: Work,
    /// Images to upload first.
    pub images: Vec<InputImage>,
    /// How the result goes back.
    pub delivery: Delivery,
    /// comfy.org's key for API nodes, when the request brings one.
    pub org_api_key: Option<Secret>,
    /// What goes to ComfyUI beside the graph and is kept in its history: `extra_data` of its own API. Holds what the page
    /// writes into pictures, and keys for API nodes.
    pub extra_data: Map<String, Value>,
    /// What the user should know about the request itself.
    pub warnings: Vec<String>,
}

impl JobRequest {
    /// One for this graph, and for nothing beside it.
    pub fn of_graph(graph: Graph) -> Self {
        Self {
            work: Work::Workflow(graph),
            images: Vec::new(),
            delivery: Delivery::default(),
            org_api_key: None,
            extra_data: Map::new(),
            warnings: Vec::new(),
        }
    }

    /// Whether some of its images are still to be fetched.
    pub fn has_images_to_fetch(&self) -> bool {
        self.images.iter().any(|image| image.url().is_some())
    }

    /// What its images may be: a graph may load more than pictures, a template does not.
    pub fn takes(&self) -> Takes {
        match self.work {
            Work::Workflow(_) | Work::Saved(_) => Takes::Media,
            Work::Template(_) => Takes::Pictures,
        }
    }

    /// The servers that its images are fetched from, each once.
    pub fn image_hosts(&self) -> Vec<String> {
        let mut hosts: Vec<String> = self.images.iter().filter_map(|image| self.host(image)).collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    fn host(&self, image: &InputImage) -> Option<String> {
        let ImageContent::At(url) = &image.content else {
            return None;
        };
        let url = match &self.delivery.bucket {
            // Read where the request's own bucket is, whatever its name.
            Some(bucket) if url.scheme() == "s3" => &bucket.endpoint,
            _ => url,
        };
        let host = cut(url.host_str().unwrap_or_default());
        Some(match url.port_or_known_default() {
            Some(port) => format!("{host}:{port}"),
            // An object in the worker's own bucket.
            None => url.scheme().to_owned(),
        })
    }

    /// Its mask, if it has one.
    pub fn mask(&self) -> Option<&InputImage> {
        let Work::Template(TemplateRequest { mask: Some(name), .. }) = &self.work else {
            return None;
        };
        self.images.iter().find(|image| image.name.as_str() == name)
    }

    /// Looks at its mask, if it has one, as [`check_mask`] does: that of the first image that is worked from.
    pub fn check_mask(&self) -> Result<(), JobError> {
        let (Work::Template(template), Some(mask)) = (&self.work, self.mask()) else {
            return Ok(());
        };
        match self.images.iter().find(|image| template.is_worked_from(image)) {
            Some(image) => check_mask(mask, image),
            None => Ok(()),
        }
    }
}

/// How a result goes back, as far as the request says; the rest is configured. As it is stored, its keys are in the open.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Delivery {
    /// Its form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_images_as: Option<ReturnImagesAs>,
    /// The format of its images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_format: Option<ImageFormat>,
    /// The quality of JPEG and WebP, 1 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<u8>,
    /// The most bytes of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Whether its pictures are to be judged before they are handed out.
    pub safety_check: bool,
    /// Whether the answer is to have the graph that ran.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub return_workflow: bool,
    /// Whether its owner reads the address of one picture, and nothing else: where there is none, a data URI takes its place.
    pub picture_url: bool,
    /// A bucket of the user's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<BucketAccess>,
}

/// The work itself.
#[derive(Debug, Clone)]
pub enum Work {
    /// Run this graph as it is.
    Workflow(Graph),
    /// Run the graph that ComfyUI's page would send of this.
    Saved(SavedRequest),
    /// Fill a template.
    Template(TemplateRequest),
}

/// A workflow that ComfyUI's page saved, and what a request says to it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SavedRequest {
    /// The workflow.
    pub workflow: Saved,
    /// Values for the inputs that it names, by their names.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub inputs: Map<String, Value>,
    /// The seed by which its dynamic prompts (`{a|b}`) are chosen; [`None`]: that of the job, which is reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// What goes into a template.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct TemplateRequest {
    /// The template's name; [`None`]: the default one.
    pub template: Option<String>,
    /// What to see.
    pub prompt: String,
    /// What not to see.
    pub negative_prompt: Option<String>,
    /// The seed; [`None`]: we choose one and report it.
    pub seed: Option<u64>,
    /// Width in pixels.
    pub width: Option<u32>,
    /// Height in pixels.
    pub height: Option<u32>,
    /// Size in megapixels of 1024 × 1024, with the aspect of the first image, in place of width and height.
    pub megapixels: Option<f64>,
    /// `16:9` and the like, in place of width and height.
    pub aspect_ratio: Option<String>,
    /// Steps of the sampler.
    pub steps: Option<u32>,
    /// Classifier-free guidance scale.
    pub cfg: Option<f64>,
    /// How much of the first image is redrawn, 0 to 1, where a template starts from it. [`None`]: all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denoise: Option<f64>,
    /// Pictures made at once.
    pub batch_size: Option<u32>,
    /// Layers that a picture is taken apart into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<u32>,
    /// What the output files' names begin with, folders included; `{job_id}` is filled in. [`None`]: what the template has.
    pub filename_prefix: Option<String>,
    /// LoRAs after the template's own.
    pub loras: Vec<Lora>,
    /// The name of that image of the request which is the mask of the first one: what is transparent in it is changed.
    pub mask: Option<String>,
    /// What a control picture is, and how strongly it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
}

impl TemplateRequest {
    /// Whether an image of the request is one that the template works from, and neither mask nor control picture.
    pub fn is_worked_from(&self, image: &InputImage) -> bool {
        let name = Some(image.name.as_str());
        let control = self.control.as_ref().and_then(|control| control.image.as_deref());
        self.mask.as_deref() != name && control != name
    }
}

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
    /// ComfyUI's own.
    Comfyui,
    /// Comfy API v2.
    ComfyV2,
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
            Self::Comfyui => "comfyui",
            Self::ComfyV2 => "comfy_v2",
        }
    }

    /// Whether a job that did not complete may be run again under its id. One of Comfy API v2 needs assets, and a key, that are
    /// there until its end alone.
    pub fn retries(self) -> bool {
        self != Self::ComfyV2 && !self.ends_with_its_client()
    }

    /// Whether the request of a job is kept as long as the job, for its owner to ask what it was.
    pub fn shows_requests(self) -> bool {
        self == Self::ComfyV2
    }

    /// Whether the key for comfy.org that a request brings is stored with it. The document of Comfy API v2 forbids that.
    pub fn stores_keys(self) -> bool {
        self != Self::ComfyV2
    }

    /// Whether the outputs of its jobs have ids of their own.
    pub fn commits_outputs(self) -> bool {
        self == Self::ComfyV2
    }

    /// Whether its jobs live as long as their clients wait for them. OpenAI's requests are answered on their own
    /// connection, and Gradio's events are told to a session that the worker has in memory: after a restart nobody can ask
    /// for them. The jobs of the others have ids that can be asked for at any time.
    pub fn ends_with_its_client(self) -> bool {
        match self {
            Self::OpenAi | Self::Gradio => true,
            Self::Runpod | Self::Kie | Self::EditPlus | Self::Comfyui | Self::ComfyV2 => false,
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
    /// Whether it came from a fleet's broker, which hands it to somebody else when this worker ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fleet: bool,
    /// Whether its request names images by URL, which are fetched before its turn. The queue sees to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fetches_images: bool,
    /// The servers that these are fetched from. The queue sees to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_hosts: Vec<String>,
    /// Whether it is a warm-up: nobody asked for it, and it ends with the worker.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warm_up: bool,
    /// The API through which it came.
    #[serde(default)]
    pub dialect: Dialect,
    /// Where links to its files begin, for an owner who is told of them later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Url>,
    /// What its request asked, where the answers of its API repeat that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Box<Asked>>,
    /// Whose prompt it is, where it came by ComfyUI's own API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Box<PromptOwner>>,
    /// Whose job it is, where it came by Comfy API v2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v2: Option<Box<V2Owner>>,
    /// The span of somebody else's trace that it belongs to, as its request brought it: the header `traceparent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// What becomes of it where an engine elsewhere does not run it; [`None`]: what is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

impl Policy {
    /// Whether who handed the job out has other workers for it: it is not kept waiting for a ComfyUI that is away.
    pub fn has_other_workers(&self) -> bool {
        self.platform.is_some() || self.fleet
    }
}

/// Whose job one of [`Dialect::ComfyV2`] is, and what its owner wrote on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct V2Owner {
    /// The mark of the key that let its request in; [`None`]: none was asked for. That API shows it to who has this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Labels, by which its owner finds it in the list.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The nodes of its graph, which progress is counted by.
    #[serde(default)]
    pub nodes: u32,
    /// What was not understood of its request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Whose prompt a job of [`Dialect::Comfyui`] is. The job's id is its `prompt_id`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PromptOwner {
    /// The `client_id` that its events go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The mark of the key that let its request in; [`None`]: none was asked for. The lists of that API show
    /// it to who has this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Who sent it, as far as that can be told: a browser's mark, or an address. What is asked of "all" prompts without
    /// naming any is done to the caller's own alone.
    pub caller: String,
    /// Its place in the queue as that API counts: lower is sooner, negative ones were put to the front.
    pub number: i64,
    /// The workflow of the page that it was made of, by that one's own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<String>,
    /// Whether its owner took it out of the history. The job and its files stay for their time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::ImageName;

    #[test]
    fn the_servers_of_images_are_told_once_each() {
        let image = |(number, text): (usize, &&str)| {
            InputImage::from_text(ImageName::parse(&format!("{number}")).unwrap(), text).unwrap()
        };
        let urls = [
            "https://a.example.com/1.png",
            "https://A.example.com:443/2.png?x=1",
            "http://a.example.com/3.png",
            "http://127.0.0.1:8080/4.png",
            "s3://bucket/5.png",
            "s3://other/6.png",
        ];
        let mut request = JobRequest {
            work: Work::Workflow(Graph::parse(&json!({"1": {"class_type": "A", "inputs": {}}})).unwrap()),
            images: urls.iter().enumerate().map(image).collect(),
            delivery: Delivery::default(),
            org_api_key: None,
            extra_data: serde_json::Map::new(),
            warnings: Vec::new(),
        };
        let web = ["127.0.0.1:8080", "a.example.com:443", "a.example.com:80"];
        assert_eq!(request.image_hosts(), [&web[..], &["s3"]].concat());
        request.delivery.bucket = Some(BucketAccess {
            endpoint: "https://s3.example.org/bucket".parse().unwrap(),
            access_key_id: "id".into(),
            secret_access_key: Secret::new("key"),
            name: None,
            region: None,
        });
        assert_eq!(request.image_hosts(), [&web[..], &["s3.example.org:443"]].concat());
    }
}
