//! Runs a job at an engine elsewhere. What comes before and behind it is done here, as it is for a ComfyUI of ours:
//!
//! fetch → parameters → files of the graph in memory → **there** → files into our output folder → safety check and delivery

mod described;
mod inputs;
mod link;
mod made;

use std::fmt;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::control::{JobControl, ProgressSink};
use super::{Executor, parameters, told};
use crate::config::Secret;
use crate::delivery::Plan;
use crate::error::JobError;
use crate::job::progress::Stage;
use crate::job::{Delivery, InputImage, JobId, JobRequest, Outcome, OutputText, SavedRequest, TemplateRequest, Work};
use crate::workflow::{ControlType, Graph, Template};

pub use described::Described;
pub use link::Link;
pub use made::MadeFile;
pub(super) use made::Numbers;

use inputs::Inputs;

/// An engine elsewhere, as far as a job needs it.
pub trait There: fmt::Debug + Send + Sync {
    /// What it is called.
    fn name(&self) -> &str;

    /// What it takes.
    fn takes(&self) -> Takes;

    /// Whether a job that a previous run of the worker gave it is asked for with all that it needs: it may have to be put in once
    /// more.
    fn needs_to_be_asked_again(&self) -> bool;

    /// Has a job done; without an `ask` one that a previous run of the worker has put down ([`Link::put_down`]). When it is
    /// cancelled ([`Link::stop`]), it is there too when this resolves, as far as that can be.
    fn run<'a, 'l: 'a>(&'a self, ask: Option<Ask>, link: &'a mut Link<'l>) -> BoxFuture<'a, Result<Made, Failed>>;
}

/// What an engine takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Graphs alone: templates are filled here.
    Graphs,
    /// Prompts: templates are filled there.
    Prompts,
}

/// What an engine is asked for.
#[derive(Debug)]
pub struct Ask {
    /// What it is to do.
    pub work: AskedWork,
    /// The files that come with it.
    pub files: Vec<AskedFile>,
    /// comfy.org's key for API nodes.
    pub org_api_key: Option<Secret>,
    /// What is to be written into its pictures, where the request brings that.
    pub extra_pnginfo: Option<Value>,
    /// Whether the graph that ran is wanted.
    pub wants_graph: bool,
    /// Whether its pictures are judged here before anybody sees them.
    pub is_judged: bool,
}

/// What an engine is to do.
#[derive(Debug)]
pub enum AskedWork {
    /// Run this graph.
    Graph(Graph),
    /// Run this workflow, which is saved in the form of ComfyUI's page.
    Saved(SavedRequest),
    /// Make a picture.
    Prompt(Box<Prompt>),
}

/// A picture to be made.
#[derive(Debug)]
pub struct Prompt {
    /// What was asked for. Its seed is chosen.
    pub asked: TemplateRequest,
    /// Width and height in pixels, where the request or its template says so.
    pub size: Option<(u32, u32)>,
    /// Whether the seed is one that was chosen here.
    pub is_seed_ours: bool,
}

/// A file of a job.
#[derive(Debug, Clone)]
pub struct AskedFile {
    /// As the graph, or the request, calls it.
    pub name: String,
    /// What is in it.
    pub content: Bytes,
}

/// What an engine made.
#[derive(Debug, Default)]
pub struct Made {
    /// Its files.
    pub files: Vec<MadeFile>,
    /// Its texts.
    pub texts: Vec<OutputText>,
    /// What its user should know.
    pub warnings: Vec<String>,
    /// The seed, as it tells.
    pub seed: Option<u64>,
    /// The template that it filled, where that was its own choice.
    pub template: Option<String>,
    /// The graph that ran, where it tells it.
    pub workflow: Option<Value>,
    /// Whether it takes no seed, so that the one of the job says nothing.
    pub takes_no_seed: bool,
}

/// Why a job did not come to its end at an engine.
#[derive(Debug)]
pub struct Failed {
    /// What is to be told.
    pub error: JobError,
    /// What comes of the job.
    pub then: Then,
}

/// What comes of a job that did not come to its end at an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It ends so.
    Ends,
    /// Another engine may run it, for this one has not taken it, or is done with it.
    Elsewhere(Again),
}

/// Whether an engine that did not run a job is asked for it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// When it has rested, as its standing tells.
    Rested,
    /// Once more, after the others.
    Once,
    /// Nobody knows whether it took the job, and its owner wants it sent again all the same: once in all, at the others first.
    Unknown,
    /// No.
    Never,
}

impl Failed {
    /// Another engine may do better; this one is not asked again.
    pub fn elsewhere(error: JobError) -> Self {
        Self {
            error,
            then: Then::Elsewhere(Again::Never),
        }
    }
}

impl From<JobError> for Failed {
    fn from(error: JobError) -> Self {
        Self {
            error,
            then: Then::Ends,
        }
    }
}

/// What a request becomes for an engine.
#[derive(Default)]
struct Asked {
    work: Option<AskedWork>,
    seed: Option<u64>,
    template: Option<String>,
}

impl Executor {
    /// Has a job done elsewhere, and brings its result back as that of a ComfyUI of ours.
    pub async fn run_elsewhere(
        &self,
        id: &JobId,
        mut request: JobRequest,
        owner: &JobControl,
        there: &dyn There,
    ) -> Result<Outcome, Failed> {
        let mut sink = ProgressSink::new(owner, &self.comfy);
        owner.watch.works(&request.work);
        // An engine has it already, or may have: nothing of what is asked for is needed any more.
        let is_there = owner.resume.is_some() && !there.needs_to_be_asked_again();
        if !is_there {
            let fetching = owner.watch.fetches(&request);
            owner.unless_cancelled(self.fetch(&mut request)).await?;
            drop(fetching);
        }
        sink.stage(Stage::Preparing);
        self.keep_transparency(&mut request);
        let JobRequest {
            work,
            images,
            delivery,
            org_api_key,
            extra_data,
            mut warnings,
        } = request;
        let plan = self.plan_of(&delivery, owner)?;
        let extra_pnginfo = extra_data.get("extra_pnginfo").cloned();
        sink.secrets = told::secrets_in(&extra_data);
        sink.secrets.extend(org_api_key.clone());
        let asked = self.asked(work, id, &images, there.takes(), &mut warnings);
        let Asked {
            mut work,
            seed,
            template,
        } = match asked {
            Ok(asked) => asked,
            // A template may have gone since it was sent.
            Err(_) if is_there => Asked::default(),
            Err(error) => return Err(error.into()),
        };
        if let Some(template) = &template {
            owner.watch.template(template);
        }
        let inputs = Inputs {
            blobs: &self.settings.blobs,
            folders: self.comfy.folders(),
        };
        let files = match &mut work {
            _ if is_there => Vec::new(),
            Some(AskedWork::Graph(graph)) => inputs.of_graph(images, graph).await?,
            _ => inputs.of_request(images).await?,
        };
        let graph = match &work {
            Some(AskedWork::Graph(graph)) => Some(graph.clone()),
            _ => None,
        };
        if let Some(graph) = &graph {
            sink.graph(graph);
        }
        let ran = graph.as_ref().filter(|_| delivery.return_workflow);
        let ran = ran.and_then(|graph| serde_json::to_value(graph).ok());
        let (work, asked_before) = match work {
            Some(AskedWork::Prompt(prompt)) if is_there => (None, Some(*prompt)),
            work => (work.filter(|_| !is_there), None),
        };
        let ask = work.map(|work| Ask {
            work,
            files,
            org_api_key,
            extra_pnginfo,
            wants_graph: delivery.return_workflow,
            is_judged: delivery.safety_check,
        });
        let mut link = Link::new(id, sink, asked_before);
        let made = there.run(ask, &mut link).await;
        let made = made.map_err(|failed| Failed {
            error: told::without(failed.error, &link.sink.secrets),
            ..failed
        })?;
        let files = self
            .keep(made.files, graph.as_ref(), &mut link, (there.name(), plan.is_inline()))
            .await?;
        let sink = link.sink;
        warnings.extend(made.warnings);
        let outcome = Outcome {
            files,
            texts: made.texts,
            seed: made.seed.or(seed.filter(|_| !made.takes_no_seed)),
            template: made.template.or(template),
            workflow: made.workflow.or(ran),
            warnings,
            engine: Some(there.name().to_owned()),
            ..Outcome::default()
        };
        Ok(self.hand_out(outcome, (plan, delivery.safety_check), sink).await?)
    }

    /// What a request becomes. What a ComfyUI would be asked for is not known here: nothing is checked, and nothing drawn.
    fn asked(
        &self,
        work: Work,
        id: &JobId,
        images: &[InputImage],
        takes: Takes,
        warnings: &mut Vec<String>,
    ) -> Result<Asked, JobError> {
        let mut request = match work {
            Work::Workflow(graph) => return Ok(Asked::of(AskedWork::Graph(graph))),
            Work::Saved(saved) => return Ok(Asked::of(AskedWork::Saved(saved))),
            Work::Template(request) => request,
        };
        let template = self.template_for(&request, images)?;
        // The same in each run of the worker: it may be asked for after the job was sent.
        let seed = request.seed.is_none().then(|| id.seed());
        request.seed = request.seed.or(seed);
        // Always filled, so that what is wrong with a request is told alike whichever engine gets it.
        let fill = request.clone();
        let mut graph = parameters::graph_of(&self.templates, template, fill, id, "", images, None)?;
        if takes == Takes::Prompts {
            let prompt = Prompt {
                size: size_of(template, &request),
                asked: request,
                is_seed_ours: seed.is_some(),
            };
            return Ok(Asked {
                work: Some(AskedWork::Prompt(Box::new(prompt))),
                seed,
                template: Some(template.name().to_owned()),
            });
        }
        let usual = template.control_types().first().copied();
        let kind = request.control.as_ref().and_then(|control| control.kind.or(usual));
        if let Some(kind) = kind.filter(|kind| !matches!(kind, ControlType::Canny | ControlType::Ready)) {
            warnings.push(format!(
                "the control picture is taken as it is, as `{}` already: engines elsewhere are not asked to draw it",
                kind.as_str()
            ));
        }
        inputs::use_plain_names(&mut graph);
        Ok(Asked {
            work: Some(AskedWork::Graph(graph)),
            seed,
            template: Some(template.name().to_owned()),
        })
    }

    /// How a result goes back. What can be refused is refused before anything waits.
    pub(super) fn plan_of(&self, delivery: &Delivery, owner: &JobControl) -> Result<Plan, JobError> {
        if owner.told.is_some() || owner.commits {
            // The client has them from ComfyUI's folders, as they were written.
            return Ok(Plan::as_written());
        }
        self.results.plan(delivery)
    }
}

/// Width and height in pixels of the picture that a request asks for, as far as it or its template says so.
pub fn size_of(template: &Template, request: &TemplateRequest) -> Option<(u32, u32)> {
    let ratio = request.aspect_ratio.as_deref();
    let ratio = ratio.and_then(|ratio| template.size_for_aspect_ratio(ratio));
    let usual = |field| template.usual(field)?.as_u64().and_then(|side| side.try_into().ok());
    let width = request
        .width
        .or(ratio.map(|(width, _)| width))
        .or_else(|| usual("width"));
    let height = request
        .height
        .or(ratio.map(|(_, height)| height))
        .or_else(|| usual("height"));
    width.zip(height)
}

impl Asked {
    /// Work that is no template.
    fn of(work: AskedWork) -> Self {
        Self {
            work: Some(work),
            ..Self::default()
        }
    }
}
