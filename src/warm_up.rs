//! What is run before the first job, so that this finds its models loaded.
//!
//! `WARMUP_WORKFLOW` names a request of the user's, on RunPod's queue; it must succeed. Where it names none, `WARMUP` has two steps of a
//! template run: the usual one on RunPod with a GPU, if its models are there. A warm-up of ours that fails is told and no more.
//!
//! It is a job, since jobs are what loads models, and none that anybody waits for: it leaves with its end and with the worker's, and
//! one that a killed worker left is not run again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::comfy::Comfys;
use crate::config::model_folder::kind_of;
use crate::config::{Config, ModelFile, WarmUpChoice};
use crate::dialect::runpod;
use crate::error::{ErrorKind, JobError};
use crate::executor::template_of;
use crate::job::{JobId, JobState, Policy, Work};
use crate::models::Models;
use crate::queue::{Permit, Queue};
use crate::workflow::{Template, Templates};

/// How long the warm-up waits for other ComfyUIs than the first that is ready.
const OTHERS: Duration = Duration::from_mins(1);

/// The width and height of the picture. Models are loaded as for any other size.
const SIDE: u32 = 512;

/// The steps: of a single one ComfyUI tells nothing while it runs.
const STEPS: u32 = 2;

/// How long the end of the worker waits until the warm-up's job is gone.
const LAST: Duration = Duration::from_secs(5);

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
    /// What a worker of this configuration runs of itself, with a GPU for its models or without, where these models are wanted
    /// from the start; [`None`]: nothing. The error says what is wrong with `WARMUP`.
    pub fn planned(
        config: &Config,
        has_gpu: bool,
        templates: &Templates,
        wanted: &[ModelFile],
    ) -> Result<Option<Self>, String> {
        let has_own = config
            .platform
            .job_queue()
            .is_some_and(|queue| queue.warmup_workflow.is_some());
        let name = match &config.platform.warm_up {
            _ if has_own => return Ok(None),
            WarmUpChoice::Off => return Ok(None),
            WarmUpChoice::Auto if !config.platform.on_runpod() || !has_gpu => return Ok(None),
            WarmUpChoice::Auto => {
                let sets = config.models.sets.as_deref().unwrap_or_default();
                let usual = usual(templates, sets, wanted);
                if usual.is_none() {
                    tracing::info!(
                        "no warm-up: with the models that are wanted from the start no template runs that needs no image (WARMUP)"
                    );
                }
                return Ok(usual.map(|template| Self::of(template, false)));
            }
            WarmUpChoice::Template(name) => name.as_str(),
        };
        let template = templates.find(name).map_err(|error| error.full_text())?;
        if needs_image(template) {
            return Err(format!(
                "the template `{name}` needs an image; WARMUP_WORKFLOW runs any request"
            ));
        }
        Ok(Some(Self::of(template, true)))
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

    /// The models that its graph names.
    pub fn models(&self) -> &[String] {
        &self.models
    }

    /// Waits for ComfyUI and the models, and runs it, for no longer than `patience`. What goes wrong is told in the log; the
    /// first job will tell it too.
    pub async fn run(
        &self,
        queue: &Queue,
        (comfy, models): (&Comfys, &Models),
        warming: &Warming,
        patience: Option<Duration>,
    ) {
        if comfy.connection().await.is_err() || models.ready().await.is_err() {
            // Whoever waits for them tells of it.
            return;
        }
        let template = &self.template;
        if !self.is_chosen && !models.on_disk(&self.models, &[]).await.is_whole {
            tracing::info!("no warm-up: the template {template} lacks models on this worker (WARMUP)");
            return;
        }
        // Those of the last start are there from the beginning.
        if comfy.clock().health().first_job_s.is_some() || queue.counts().in_queue > 0 {
            tracing::info!("no warm-up: there are jobs already");
            return;
        }
        if comfy.are_several() {
            // The others come a moment later, if they come.
            let longest = patience.unwrap_or(OTHERS).min(OTHERS);
            let _ = tokio::time::timeout(longest, comfy.settled()).await;
        }
        let content = self.request.to_string();
        let work = run(queue, content.as_bytes(), warming);
        let ended = match patience {
            Some(patience) => tokio::time::timeout(patience, work).await.unwrap_or_else(|_| {
                let seconds = patience.as_secs();
                let message = format!("it was ended after {seconds} s, which is what RUNPOD_INIT_TIMEOUT leaves it");
                Err(JobError::new(ErrorKind::TimedOut, message))
            }),
            None => work.await,
        };
        warming.remove_jobs(queue).await;
        if let Err(error) = ended
            && !warming.is_stopped()
        {
            tracing::warn!("the warm-up with the template {template} failed: {}", error.full_text());
        }
    }
}

/// The template that the first job most likely runs: the default one. Where a diffusion model is wanted from the start, one whose
/// models all are: the default one, one that is called as a set that was chosen, or any. What needs an image cannot be run.
fn usual<'a>(templates: &'a Templates, sets: &[String], wanted: &[ModelFile]) -> Option<&'a Template> {
    let default = templates.get(templates.defaults().generate);
    let is_diffusion = |file: &ModelFile| matches!(kind_of(&file.folder), "diffusion_models" | "checkpoints");
    let is_decided = wanted.iter().any(is_diffusion);
    let of_sets = sets.iter().filter_map(|set| templates.get(set));
    let others = of_sets.chain(templates.iter()).filter(|_| is_decided);
    let is_wanted = |template: &&Template| {
        let names = template.graph().model_names();
        let is_there = |name: &String| wanted.iter().any(|file| file.name == *name);
        !is_decided || (!names.is_empty() && names.iter().all(is_there))
    };
    let candidates = default.into_iter().chain(others);
    candidates.filter(|template| !needs_image(template)).find(is_wanted)
}

fn needs_image(template: &Template) -> bool {
    *template.images().start() > 0
}

/// The models of a request's graph: what `WARMUP_WORKFLOW` names. Nothing where it cannot be read, which is told when it is run.
pub async fn models_of(request: &Path, templates: &Templates) -> Vec<String> {
    let content = tokio::fs::read(request).await.unwrap_or_default();
    models_in(&content, templates)
}

fn models_in(content: &[u8], templates: &Templates) -> Vec<String> {
    let Ok((request, _)) = runpod::parse_file(content) else {
        return Vec::new();
    };
    match request.work {
        Work::Workflow(graph) => graph.model_names(),
        Work::Template(work) => {
            let template = templates.get(template_of(templates, &work, &request.images));
            template.map_or_else(Vec::new, |template| template.graph().model_names())
        }
        // What becomes of it is known once ComfyUI has described its nodes.
        Work::Saved(saved) => saved.workflow.model_names(),
    }
}

/// Runs a request to its end, once for each engine that is ready, and says how long that took. Its jobs are gone afterwards.
pub async fn run(queue: &Queue, content: &[u8], warming: &Warming) -> Result<(), JobError> {
    let begun = Instant::now();
    let (request, policy) = runpod::parse_file(content)?;
    let policy = Policy {
        webhook: None,
        warm_up: true,
        ..policy
    };
    let first = queue.permit()?;
    // An engine that has nothing to do takes each.
    let further = (1..queue.lanes()).map_while(|_| queue.permit().ok());
    let places: Vec<Permit> = std::iter::once(first).chain(further).collect();
    let work = try_join_all(places.into_iter().map(|place| async {
        let id = warming.new_job();
        queue
            .submit_as(id.clone(), place, request.clone(), policy.clone())
            .await?;
        queue.wait(id.as_str()).await
    }));
    let ended = warming.0.stop.run_until_cancelled(work).await;
    warming.remove_jobs(queue).await;
    let interrupted = |why: String| Err(JobError::new(ErrorKind::Interrupted, why));
    let Some(views) = ended.transpose()? else {
        return interrupted("the worker stops".to_owned());
    };
    for view in views {
        match view.result {
            Some(Err(error)) => return Err(error.as_ref().clone()),
            _ if view.state != JobState::Completed => return interrupted(format!("it is {}", view.state)),
            _ => {}
        }
    }
    tracing::info!("warmed up in {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Whether the worker warms up, and the job that it does so with. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Warming(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_on: AtomicBool,
    jobs: Mutex<Vec<JobId>>,
    stop: CancellationToken,
}

impl Warming {
    /// It begins, and is over when the answer is dropped.
    pub fn begin(&self) -> On<'_> {
        self.0.is_on.store(true, Ordering::Relaxed);
        On(&self.0.is_on)
    }

    /// Whether it goes on.
    pub fn is_on(&self) -> bool {
        self.0.is_on.load(Ordering::Relaxed)
    }

    /// Ends it, and has none begin any more: the worker stops.
    pub async fn stop(&self, queue: &Queue) {
        self.0.stop.cancel();
        self.remove_jobs(queue).await;
    }

    fn is_stopped(&self) -> bool {
        self.0.stop.is_cancelled()
    }

    /// The id of the job that is about to come.
    fn new_job(&self) -> JobId {
        let id = JobId::new();
        self.0.jobs.lock().push(id.clone());
        id
    }

    /// Cancels its jobs where they have not ended, and removes them. What is left of them all the same goes at the next start.
    async fn remove_jobs(&self, queue: &Queue) {
        let jobs = std::mem::take(&mut *self.0.jobs.lock());
        let removed = join_all(jobs.iter().map(|id| queue.remove(id.as_str())));
        for removed in tokio::time::timeout(LAST, removed).await.unwrap_or_default() {
            if let Err(error) = removed {
                tracing::debug!("a job of the warm-up is not removed: {}", error.full_text());
            }
        }
    }
}

/// The worker warms up until this is dropped.
#[derive(Debug)]
pub struct On<'a>(&'a AtomicBool);

impl Drop for On<'_> {
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
        WarmUp::planned(&config, has_gpu, &Templates::embedded().unwrap(), &[])
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

    /// The name of the usual template where these sets are chosen, and these files named.
    fn usual_with(sets: &[&str], files: &[&str]) -> Option<String> {
        let templates = Templates::embedded().unwrap();
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let of_set = |set: &String| templates.get(set).unwrap().graph().model_names();
        let of_sets = sets.iter().flat_map(of_set);
        let of_sets = of_sets.map(|name| format!("diffusion_models/{name}=https://example.com/x.safetensors"));
        let files = files
            .iter()
            .map(|file| format!("{file}=https://example.com/x.safetensors"));
        let wanted: Vec<ModelFile> = of_sets.chain(files).map(|file| file.parse().unwrap()).collect();
        usual(&templates, &sets, &wanted).map(|template| template.name().to_owned())
    }

    #[test]
    fn the_usual_template_is_the_default_one_unless_other_models_are_wanted() {
        let default = Templates::embedded().unwrap().defaults().generate;
        for files in [&[][..], &["loras/mine.safetensors"]] {
            assert_eq!(usual_with(&[], files).as_deref(), Some(default));
        }
        assert_eq!(usual_with(&[default], &[]).as_deref(), Some(default));
        let other = "z-image-turbo";
        assert_eq!(
            usual_with(&[other], &["loras/mine.safetensors"]).as_deref(),
            Some(other)
        );
        // What cannot be run without an image is not replaced by another that nobody wants.
        assert_eq!(usual_with(&["qwen-image-edit-2511"], &[]), None);
        assert_eq!(usual_with(&[], &["checkpoints/mine.safetensors"]), None);
    }

    #[test]
    fn a_request_of_the_users_tells_its_models() {
        let templates = Templates::embedded().unwrap();
        let named = models_in(br#"{"input": {"template": "qwen-image", "prompt": "x"}}"#, &templates);
        assert!(!named.is_empty());
        let graph = br#"{"1": {"class_type": "VAELoader", "inputs": {"vae_name": "mine.safetensors"}}}"#;
        assert_eq!(models_in(graph, &templates), ["mine.safetensors"]);
        let saved = json!({"version": 0.4, "links": [], "nodes": [
            {"id": 1, "type": "VAELoader", "widgets_values": ["mine.safetensors"], "properties": {"x": "y.safetensors"}},
            {"id": 2, "type": "LoraLoader", "mode": 4, "widgets_values": ["off.safetensors", 1]},
            {"id": 3, "type": "UNETLoader", "widgets_values": {"unet_name": "b.gguf", "weight_dtype": "default"}}
        ]});
        assert_eq!(
            models_in(saved.to_string().as_bytes(), &templates),
            ["mine.safetensors", "b.gguf"]
        );
        assert!(models_in(b"nothing", &templates).is_empty());
    }
}
