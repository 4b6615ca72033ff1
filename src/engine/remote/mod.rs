//! Engines elsewhere: a RunPod endpoint, an images API of OpenAI's form, a Space of Hugging Face, KIE, or a fleet of workers of
//! one's own. All but the last may charge for each job, so a job goes to one of them, and to another only where it is certain that the
//! first did not take it, or is done with it ([`meaning`]). A fleet does not charge, and knows each job by its id: there nothing is uncertain for long ([`fleet`]).

mod common;
mod described;
mod fleet;
mod follow;
mod gradio;
mod health;
mod images;
mod kie;
mod list;
mod meaning;
mod output;
mod rest;
mod results;
mod runpod;
mod status;
mod terms;
mod ticket;
mod web;

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::{Engine, Standing};
use crate::delivery::s3::Bucket;
use crate::error::JobError;
use crate::executor::elsewhere::{Ask, Failed, Link, Made, Takes, There};
use crate::executor::{Executor, JobControl, template_of};
use crate::job::{ImageContent, JobId, JobRequest, JobView, Outcome, Work};
use crate::net::guard::AddressGuard;
use crate::workflow::{Lora, may_address_models};

pub use list::{EngineKind, EngineSpec, FleetSpec, read as read_list};
pub use ticket::is_ticket;

use common::Common;
use described::Descriptions;
use fleet::Fleet;
use meaning::Refusal;
use terms::Terms;
use ticket::Ticket;
use web::Web;

/// An engine elsewhere.
#[derive(Debug)]
pub struct Remote {
    common: Arc<Common>,
    /// Does what is done here.
    executor: Arc<Executor>,
    wire: Wire,
    /// What it tells of its node classes.
    descriptions: Arc<Descriptions>,
}

/// How an engine is spoken to.
#[derive(Debug)]
enum Wire {
    /// By HTTP.
    Web(Arc<Web>),
    /// By the broker of a fleet.
    Fleet(Fleet),
}

/// How an engine elsewhere stands, for `/health`.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct RemoteState {
    /// What the list of engines calls it.
    pub name: String,
    /// `runpod`, `openai`, `gradio`, `kie` or `fleet`.
    pub kind: &'static str,
    /// `ready`, or `resting` while it gets no jobs.
    pub state: &'static str,
    /// Engines of a lower group come first.
    pub group: u32,
    /// Jobs that it gets at the same time.
    pub capacity: usize,
    /// How long it still rests, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rests_s: Option<u64>,
    /// Why it rests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it costs, in words of the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
}

impl Remote {
    /// The engine of this entry of the list. `front`: by what fleets know this front's jobs from those of others, after each start
    /// the same.
    pub fn new(
        spec: EngineSpec,
        executor: &Arc<Executor>,
        front: &str,
        (bucket, guard): (Option<&Bucket>, &AddressGuard),
    ) -> Result<Arc<Self>, reqwest::Error> {
        let common = Arc::new(Common::new(spec));
        let wire = match &common.spec.kind {
            EngineKind::Fleet(spec) => Wire::Fleet(Fleet::start(&common, spec, executor.jobs(), front)),
            _ => Wire::Web(Web::new(Arc::clone(&common), bucket, guard)?),
        };
        Ok(Arc::new(Self {
            common,
            executor: Arc::clone(executor),
            wire,
            descriptions: Arc::default(),
        }))
    }

    /// What the list says of it.
    pub fn spec(&self) -> &EngineSpec {
        &self.common.spec
    }

    /// How it stands.
    pub fn state(&self) -> RemoteState {
        self.common.state()
    }

    /// A job that another front gave it; [`None`]: it knows none of this id. Fails where it cannot be asked.
    pub async fn foreign(&self, id: &JobId) -> Result<Option<JobView>, JobError> {
        match &self.wire {
            Wire::Fleet(fleet) => fleet.foreign(id).await,
            Wire::Web(_) => Ok(None),
        }
    }

    /// Has such a job cancelled.
    pub async fn cancel_foreign(&self, id: &JobId) {
        if let Wire::Fleet(fleet) = &self.wire {
            fleet.cancel_foreign(id.as_str()).await;
        }
    }

    /// Why it cannot do what a request asks for, in words; [`None`]: it can, as far as that is known before it is asked.
    pub fn cannot(&self, request: &JobRequest) -> Option<String> {
        if let Work::Template(template) = &request.work {
            let name = template_of(self.executor.templates(), template, &request.images);
            let is_listed = |names: &Vec<String>| names.iter().any(|listed| listed == name);
            if self
                .common
                .spec
                .templates
                .as_ref()
                .is_some_and(|names| !is_listed(names))
            {
                return Some(format!("it does not get the template `{name}`"));
            }
        }
        let is_model = |content: &ImageContent| matches!(content, ImageContent::Asset(asset) if asset.model.is_some());
        if request.images.iter().any(|image| is_model(&image.content)) {
            return Some("a model that was uploaded here cannot go there".to_owned());
        }
        if let Some(terms) = self.terms(!request.images.is_empty()) {
            return terms.cannot(&self.common.spec, request, self.executor.templates());
        }
        if self.common.spec.kind != (EngineKind::Runpod { is_ours: false }) {
            return None;
        }
        match &request.work {
            Work::Saved(_) => {
                Some("it takes no workflow that is saved from ComfyUI's page; export it as API".to_owned())
            }
            Work::Workflow(graph) if may_address_models(graph) => Some(MODELS_BY_URL.to_owned()),
            Work::Template(template) if template.loras.iter().any(is_by_url) => Some(MODELS_BY_URL.to_owned()),
            Work::Workflow(_) | Work::Template(_) => None,
        }
    }

    /// What it takes, where it makes pictures from prompts alone.
    fn terms(&self, is_edit: bool) -> Option<Terms> {
        match (&self.common.spec.kind, &self.wire) {
            (EngineKind::Images(api), _) => Some(images::terms(api)),
            (EngineKind::Gradio, _) => Some(gradio::TERMS),
            (EngineKind::Kie { uploads }, Wire::Web(web)) => {
                Some(kie::terms(is_edit, uploads.is_some() || web.bucket.is_some()))
            }
            _ => None,
        }
    }

    /// Whether it is tried with one job, after a rest.
    pub(super) fn is_tried(&self) -> bool {
        self.common.rest.is_tried()
    }

    /// Whether it rests for want of workers alone, so that a job that no other engine can do may wait there.
    pub(super) fn lacks_workers(&self) -> bool {
        self.common.rest.lacks_workers()
    }

    /// Whether it has a place for one more job beside so many.
    pub(super) fn places(&self) -> usize {
        if self.common.rest.is_tried() {
            1
        } else {
            self.common.spec.capacity
        }
    }
}

/// What an engine says that takes models of its own alone.
const MODELS_BY_URL: &str = "it takes no models by their addresses";

fn is_by_url(lora: &Lora) -> bool {
    crate::workflow::ModelAddress::is_meant(&lora.name)
}

impl There for Remote {
    fn name(&self) -> &str {
        &self.common.spec.name
    }

    fn takes(&self) -> Takes {
        match self.common.spec.kind {
            EngineKind::Runpod { .. } => Takes::Graphs,
            EngineKind::Images(_) | EngineKind::Gradio | EngineKind::Kie { .. } | EngineKind::Fleet(_) => {
                Takes::Prompts
            }
        }
    }

    fn needs_to_be_asked_again(&self) -> bool {
        matches!(self.wire, Wire::Fleet(_))
    }

    fn run<'a, 'l: 'a>(&'a self, ask: Option<Ask>, link: &'a mut Link<'l>) -> BoxFuture<'a, Result<Made, Failed>> {
        async move {
            // What a previous run of the worker put down of the job.
            let before = link.put_down().and_then(Ticket::read);
            let made = match &self.wire {
                Wire::Web(web) => web.run(ask, link, before).await,
                Wire::Fleet(fleet) => match ask {
                    Some(ask) => {
                        let is_there = before.is_some_and(|ticket| self.common.has_sold(&ticket));
                        fleet.run(ask, link, is_there).await
                    }
                    None => Err(JobError::internal("the job is neither here nor there").into()),
                },
            };
            if made.is_ok() {
                self.common.rest.succeeded();
            }
            made
        }
        .boxed()
    }
}

/// The engine as the pool has it.
#[derive(Debug)]
pub struct RemoteEngine(pub Arc<Remote>);

impl Engine for RemoteEngine {
    fn name(&self) -> &str {
        &self.0.common.spec.name
    }

    fn places(&self) -> usize {
        self.0.places()
    }

    fn standing(&self) -> Standing {
        self.0.common.rest.standing()
    }

    fn until_not(&self, standing: Standing) -> BoxFuture<'_, ()> {
        self.0.common.rest.until_not(standing).boxed()
    }

    fn until_away(&self) -> BoxFuture<'_, JobError> {
        self.0.common.rest.until_away().boxed()
    }

    fn called(&self) -> BoxFuture<'_, ()> {
        // It rests as long as it rests.
        self.0.common.rest.until_not(Standing::Away).boxed()
    }

    fn keeps_jobs(&self) -> bool {
        true
    }

    fn cancel_earlier<'a>(&'a self, tickets: &'a [String]) -> BoxFuture<'a, ()> {
        async move {
            let tickets = tickets.iter().filter_map(|text| Ticket::read(text));
            for ticket in tickets.filter(|ticket| self.0.common.has_sold(ticket)) {
                match (&self.0.wire, &ticket.id) {
                    (Wire::Fleet(fleet), Some(id)) => fleet.cancel(id, None).await,
                    (Wire::Web(web), Some(id)) => web.cancel_earlier(id).await,
                    _ => {}
                }
            }
        }
        .boxed()
    }

    fn run<'a>(
        &'a self,
        id: &'a JobId,
        request: JobRequest,
        owner: &'a JobControl,
    ) -> BoxFuture<'a, Result<Outcome, Failed>> {
        Box::pin(self.0.executor.run_elsewhere(id, request, owner, &*self.0))
    }

    fn elsewhere(&self) -> Option<&Remote> {
        Some(&self.0)
    }
}
