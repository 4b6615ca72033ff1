//! What is run before the first job, so that this finds its models loaded.
//!
//! `WARMUP_WORKFLOW` names a request of the user's, on RunPod's queue; it must succeed. Where it names none, `WARMUP` has two steps of a
//! template run: the usual one on RunPod with a GPU, if its models are there. A warm-up of ours that fails is told and no more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::comfy::Comfy;
use crate::config::{Config, ModelFile, WarmUpChoice};
use crate::dialect::runpod;
use crate::error::{ErrorKind, JobError};
use crate::executor::template_of;
use crate::job::{JobState, Policy};
use crate::models::Models;
use crate::queue::Queue;
use crate::workflow::{Graph, Template, Templates};

/// The width and height of the picture. Models are loaded as for any other size.
const SIDE: u32 = 512;

/// The steps: of a single one ComfyUI tells nothing while it runs.
const STEPS: u32 = 2;

/// A template that is run before the first job.
#[derive(Debug, Clone, PartialEq)]
pub struct WarmUp {
    template: String,
    /// What is sent for it.
    request: Value,
    /// The models that its graph names.
    models: Vec<String>,
    /// Whether somebody asked for this one. Else it is not run where a model of it is missing.
    is_chosen: bool,
}

impl WarmUp {
    /// What a worker of this configuration runs of itself, with a GPU for its models or without; [`None`]: nothing. The error says what is wrong with `WARMUP`.
    pub fn planned(config: &Config, has_gpu: bool, templates: &Templates) -> Result<Option<Self>, String> {
        let has_own = config
            .platform
            .job_queue()
            .is_some_and(|queue| queue.warmup_workflow.is_some());
        let (name, is_chosen) = match &config.platform.warm_up {
            _ if has_own => return Ok(None),
            WarmUpChoice::Off => return Ok(None),
            WarmUpChoice::Auto if !config.platform.on_runpod() || !has_gpu => return Ok(None),
            WarmUpChoice::Auto => (templates.defaults().generate, false),
            WarmUpChoice::Template(name) => (name.as_str(), true),
        };
        let template = templates.find(name).map_err(|error| error.full_text())?;
        if *template.images().start() > 0 {
            return Err(format!(
                "the template `{name}` needs an image; WARMUP_WORKFLOW runs any request"
            ));
        }
        Ok(Some(Self::of(template, is_chosen)))
    }

    fn of(template: &Template, is_chosen: bool) -> Self {
        let mut input = Map::new();
        input.insert("template".to_owned(), template.name().into());
        input.insert("prompt".to_owned(), "a red apple on a wooden table".into());
        for (field, value) in [("steps", STEPS), ("width", SIDE), ("height", SIDE)] {
            if template.takes(field) {
                input.insert(field.to_owned(), value.into());
            }
        }
        Self {
            template: template.name().to_owned(),
            request: json!({ "input": input }),
            models: template.graph().model_names(),
            is_chosen,
        }
    }

    /// The files of its models, as far as the manifest knows them.
    pub fn files(&self, models: &Models) -> Vec<ModelFile> {
        models.named(&self.models).0
    }

    /// Waits for ComfyUI and the models, and runs it. What goes wrong is told in the log; the first job will tell it too.
    pub async fn run(&self, queue: &Queue, comfy: &Comfy, models: &Models) {
        if comfy.connection().await.is_err() || models.ready().await.is_err() {
            // Whoever waits for them tells of it.
            return;
        }
        let template = &self.template;
        if !self.is_chosen && !self.has_models(models).await {
            tracing::info!("no warm-up: the template {template} lacks models on this worker (WARMUP)");
            return;
        }
        let content = self.request.to_string();
        match run(queue, content.as_bytes()).await {
            Ok(id) => drop(queue.remove(&id).await),
            Err(error) => tracing::warn!("the warm-up with the template {template} failed: {}", error.full_text()),
        }
    }

    /// Whether each model that it names is on disk.
    async fn has_models(&self, models: &Models) -> bool {
        let (files, unknown) = models.named(&self.models);
        let wanted = files.len();
        unknown == 0 && models.on_disk(files).await.len() == wanted
    }
}

/// The files of the models of a request's graph, as far as the manifest knows them: what `WARMUP_WORKFLOW` names. Nothing where
/// it cannot be read, which is told when it is run.
pub async fn files_of(request: &std::path::Path, templates: &Templates, models: &Models) -> Vec<ModelFile> {
    let Ok(content) = tokio::fs::read(request).await else {
        return Vec::new();
    };
    let graph = graph_of(&content, templates);
    graph.map_or_else(Vec::new, |graph| models.named(&graph.model_names()).0)
}

fn graph_of(content: &[u8], templates: &Templates) -> Option<Graph> {
    use crate::job::Work;
    let (request, _) = runpod::parse_file(content).ok()?;
    match request.work {
        Work::Workflow(graph) => Some(graph),
        Work::Template(work) => {
            let name = template_of(templates, &work, &request.images);
            Some(templates.get(name)?.graph().clone())
        }
        // What becomes of it is known once ComfyUI has described its nodes.
        Work::Saved(_) => None,
    }
}

/// Runs a request to its end, and says how long that took. Gives the id of its job.
pub async fn run(queue: &Queue, content: &[u8]) -> Result<String, JobError> {
    let begun = Instant::now();
    let (request, policy) = runpod::parse_file(content)?;
    let policy = Policy {
        webhook: None,
        ..policy
    };
    let place = queue.permit()?;
    let id = queue.submit(place, request, policy).await?;
    let view = queue.wait(id.as_str()).await?;
    match view.result {
        Some(Err(error)) => Err(error.as_ref().clone()),
        _ if view.state != JobState::Completed => {
            Err(JobError::new(ErrorKind::Interrupted, format!("it is {}", view.state)))
        }
        _ => {
            tracing::info!("warmed up in {:.1} s", begun.elapsed().as_secs_f64());
            Ok(id.as_str().to_owned())
        }
    }
}

/// Says that the warm-up is over, however it ends.
#[derive(Debug)]
pub struct Warming<'a>(&'a AtomicBool);

impl<'a> Warming<'a> {
    /// It begins.
    pub fn begin(is_on: &'a AtomicBool) -> Self {
        is_on.store(true, Ordering::Relaxed);
        Self(is_on)
    }
}

impl Drop for Warming<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(vars: &[(&str, &str)]) -> Result<Option<WarmUp>, String> {
        let data = tempfile::tempdir().unwrap();
        let base = [("DATA_DIR", data.path().to_str().unwrap()), ("NETWORK_VOLUMES", "none")];
        let vars = base
            .iter()
            .chain(vars)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = Config::from_vars(vars).unwrap();
        let has_gpu = crate::boot::plan(&config).unwrap().has_gpu();
        WarmUp::planned(&config, has_gpu, &Templates::embedded().unwrap())
    }

    #[test]
    fn of_itself_a_worker_elsewhere_than_on_runpod_runs_nothing() {
        assert_eq!(planned(&[]), Ok(None));
        assert_eq!(planned(&[("WARMUP", "off")]), Ok(None));
        // Without a GPU there is nothing to warm.
        let on_runpod = [("RUNPOD_ENDPOINT_ID", "x"), ("RUNPOD_SKIP_GPU_CHECK", "true")];
        if !crate::comfy::gpu::nvidia_present() {
            assert_eq!(planned(&on_runpod), Ok(None));
        }
    }

    #[test]
    fn a_template_that_is_named_is_run_with_few_steps() {
        let warm_up = planned(&[("WARMUP", "qwen-image-lightning")]).unwrap().unwrap();
        assert!(warm_up.is_chosen);
        let input = &warm_up.request["input"];
        assert_eq!((&input["steps"], &input["width"]), (&json!(STEPS), &json!(SIDE)));
        assert!(warm_up.models.len() >= 4, "{warm_up:?}");
        assert!(runpod::parse_file(warm_up.request.to_string().as_bytes()).is_ok());
        let unknown = planned(&[("WARMUP", "qwen-image-lightnin")]).unwrap_err();
        assert!(unknown.contains("Did you mean"), "{unknown}");
        let edit = planned(&[("WARMUP", "qwen-image-edit-2511")]).unwrap_err();
        assert!(edit.contains("WARMUP_WORKFLOW"), "{edit}");
    }

    #[test]
    fn the_usual_template_is_one_that_can_be_run() {
        let templates = Templates::embedded().unwrap();
        let warm_up = WarmUp::of(templates.find(templates.defaults().generate).unwrap(), false);
        assert!(!warm_up.models.is_empty());
    }

    #[test]
    fn a_request_of_the_users_tells_its_models() {
        let templates = Templates::embedded().unwrap();
        let named = graph_of(br#"{"input": {"template": "qwen-image", "prompt": "x"}}"#, &templates).unwrap();
        assert!(!named.model_names().is_empty());
        assert!(graph_of(b"nothing", &templates).is_none());
    }
}
