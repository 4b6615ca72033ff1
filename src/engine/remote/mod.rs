//! Engines elsewhere: a RunPod endpoint, or an images API of OpenAI's form. They may charge for each job, so a job goes to one of
//! them, and to another only where it is certain that the first did not take it, or is done with it ([`meaning`]).

mod images;
mod list;
mod meaning;
mod rest;
mod results;
mod runpod;
mod status;
mod ticket;

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::{Client, RequestBuilder};

use super::{Engine, Standing};
use crate::config::Secret;
use crate::delivery::s3::Bucket;
use crate::display::error_chain;
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::{Again, Ask, Failed, Link, Made, Takes, Then, There};
use crate::executor::{Executor, JobControl, template_of};
use crate::job::{ImageContent, JobId, JobRequest, Outcome, Work};
use crate::net::guard::{AddressGuard, CONNECT_TIMEOUT, GuardedClient, ReadError, Redirects, read_limited};
use crate::workflow::{Lora, may_address_models};

pub use list::{EngineKind, EngineSpec, read as read_list};
pub use ticket::is_ticket;

use meaning::{Answer, Refusal};
use rest::Rest;
use ticket::Ticket;

/// How long an engine may be silent in the midst of an answer.
const SILENCE: Duration = Duration::from_secs(30);
/// The most bytes of an answer. RunPod's own limit of a result is 20 MB, and base64 of pictures in JSON is no larger.
const LARGEST_ANSWER: usize = 40 * 1024 * 1024;
/// What we call ourselves: some providers refuse who has no name.
const AGENT: &str = concat!("qwen-image-worker/", env!("CARGO_PKG_VERSION"));

/// An engine elsewhere.
#[derive(Debug)]
pub struct Remote {
    spec: EngineSpec,
    http: Client,
    /// Sends jobs, each on a connection of its own: one that was kept may be closed just then, and nobody would know whether the
    /// job arrived.
    sends: Client,
    /// Fetches results from addresses that the engine names.
    guarded: GuardedClient,
    /// Where files go that are too large for a request.
    bucket: Option<Bucket>,
    /// Does what is done here.
    executor: Arc<Executor>,
    rest: Rest,
    /// Itself, for what goes on after the job that began it.
    me: Weak<Self>,
}

/// How an engine elsewhere stands, for `/health`.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct RemoteState {
    /// What the list of engines calls it.
    pub name: String,
    /// `runpod` or `openai`.
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
    /// The engine of this entry of the list.
    pub fn new(
        spec: EngineSpec,
        executor: &Arc<Executor>,
        (bucket, guard): (Option<&Bucket>, &AddressGuard),
    ) -> Result<Arc<Self>, reqwest::Error> {
        let client = || {
            let client = Client::builder().user_agent(AGENT).connect_timeout(CONNECT_TIMEOUT);
            // A job must arrive where it was sent, once.
            let client = client
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never());
            client.tcp_nodelay(true)
        };
        let (http, sends) = (client().build()?, client().pool_max_idle_per_host(0).build()?);
        let guarded = guard.client(Redirects::Checked, SILENCE)?;
        Ok(Arc::new_cyclic(|me| Self {
            http,
            sends,
            guarded,
            bucket: bucket.cloned(),
            executor: Arc::clone(executor),
            rest: Rest::default(),
            spec,
            me: me.clone(),
        }))
    }

    /// What the list says of it.
    pub fn spec(&self) -> &EngineSpec {
        &self.spec
    }

    /// How it stands.
    pub fn state(&self) -> RemoteState {
        let left = self.rest.left();
        RemoteState {
            name: self.spec.name.clone(),
            kind: self.spec.kind.as_str(),
            state: if left.is_some() { "resting" } else { "ready" },
            group: self.spec.group,
            capacity: self.spec.capacity,
            rests_s: left.as_ref().map(|(left, _)| left.as_secs() + 1),
            reason: left.map(|(_, reason)| reason.full_text()),
            cost: self.spec.cost.clone(),
        }
    }

    /// Why it cannot do what a request asks for, in words; [`None`]: it can, as far as that is known before it is asked.
    pub fn cannot(&self, request: &JobRequest) -> Option<String> {
        if let Work::Template(template) = &request.work {
            let name = template_of(self.executor.templates(), template, &request.images);
            let is_listed = |names: &Vec<String>| names.iter().any(|listed| listed == name);
            if self.spec.templates.as_ref().is_some_and(|names| !is_listed(names)) {
                return Some(format!("it does not get the template `{name}`"));
            }
        }
        let is_model = |content: &ImageContent| matches!(content, ImageContent::Asset(asset) if asset.model.is_some());
        if request.images.iter().any(|image| is_model(&image.content)) {
            return Some("a model that was uploaded here cannot go there".to_owned());
        }
        match &self.spec.kind {
            EngineKind::Images(api) => {
                let is_listed = self.spec.templates.is_some();
                images::cannot(api, request, self.executor.templates(), is_listed)
            }
            EngineKind::Runpod { is_ours: true } => None,
            EngineKind::Runpod { is_ours: false } => match &request.work {
                Work::Saved(_) => {
                    Some("it takes no workflow that is saved from ComfyUI's page; export it as API".to_owned())
                }
                Work::Workflow(graph) if may_address_models(graph) => Some(MODELS_BY_URL.to_owned()),
                Work::Template(template) if template.loras.iter().any(is_by_url) => Some(MODELS_BY_URL.to_owned()),
                Work::Workflow(_) | Work::Template(_) => None,
            },
        }
    }

    /// Whether it has a place for one more job beside so many.
    pub(super) fn places(&self) -> usize {
        if self.rest.is_tried() { 1 } else { self.spec.capacity }
    }

    /// The address of one of its operations.
    fn at(&self, operation: &str) -> String {
        format!("{}/{operation}", self.spec.url.as_str().trim_end_matches('/'))
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.spec.key {
            Some(key) => request.bearer_auth(key.reveal()),
            None => request,
        }
    }

    /// The ticket of a job that is sent here.
    fn ticket(&self, id: Option<String>) -> Ticket {
        Ticket {
            kind: self.spec.kind.as_str().to_owned(),
            url: self.spec.url.to_string(),
            id,
        }
    }

    /// Whether it is tried with one job, after a rest.
    pub(super) fn is_tried(&self) -> bool {
        self.rest.is_tried()
    }

    /// The same without our key, which an engine may repeat.
    fn blanked(&self, mut error: JobError) -> JobError {
        if let Some(key) = self.spec.key.as_ref().map(Secret::reveal)
            && error.message.contains(key)
        {
            error.message = error.message.replace(key, "***");
        }
        error
    }

    /// A job whose fate nobody knows.
    fn unknown(&self, job: &str, error: &JobError) -> Failed {
        let name = &self.spec.name;
        self.note_failure(error);
        let error = meaning::unknown(name, job, error);
        if self.spec.sends_unknown_again {
            tracing::warn!(
                job.id = job,
                "{}; it may go to another engine, as `unknown` of engine `{name}` says",
                error.message
            );
            return Failed {
                error,
                then: Then::Elsewhere(Again::Unknown),
            };
        }
        error.into()
    }

    /// A job that was done with here, by the engine's own fault.
    fn over(&self, error: JobError) -> Failed {
        self.note_failure(&error);
        Failed {
            error,
            then: Then::Elsewhere(Again::Never),
        }
    }

    fn note_failure(&self, error: &JobError) {
        if let Some(rest) = self.rest.failed(error) {
            let (name, seconds) = (&self.spec.name, rest.as_secs());
            tracing::warn!(
                "engine `{name}` has failed several jobs in a row and rests for {seconds} s: {}",
                error.full_text()
            );
        }
    }

    /// What comes of a job that the engine did not take, or of which nobody knows.
    fn refused(&self, job: &str, refusal: Refusal) -> Failed {
        match refusal {
            Refusal::Rests(cause, error) => {
                let error = self.blanked(error);
                let (name, seconds) = (&self.spec.name, self.rest.begins(cause, &error).as_secs());
                tracing::warn!("engine `{name}` rests for {seconds} s: {}", error.full_text());
                Failed {
                    error,
                    then: Then::Elsewhere(Again::Rested),
                }
            }
            Refusal::Faulty(error) => {
                let error = self.blanked(error);
                self.note_failure(&error);
                Failed {
                    error,
                    then: Then::Elsewhere(Again::Once),
                }
            }
            Refusal::OfJob(error) => self.blanked(error).into(),
            Refusal::Unknown(error) => self.unknown(job, &self.blanked(error)),
        }
    }

    /// Sends what has a job done. Fails where there is no answer that could be read whole.
    async fn send(&self, request: RequestBuilder, longest: Duration) -> Result<Answer, Refusal> {
        let name = &self.spec.name;
        let request = self.authorized(request).timeout(longest);
        let response = match request.send().await {
            Ok(response) => response,
            // Nothing was written before there was a connection.
            Err(error) => {
                let has_left = !has_stayed(&error);
                return Err(meaning::unanswered(name, &error.without_url(), has_left));
            }
        };
        let (status, headers) = (response.status(), response.headers().clone());
        match read_limited(response, LARGEST_ANSWER).await {
            Ok(body) => Ok(Answer { status, headers, body }),
            Err(error) => {
                let message = format!(
                    "the answer of engine `{name}` ({status}) cannot be read: {}",
                    error_chain(&error)
                );
                Err(match error {
                    // It was made, and would be as large again.
                    ReadError::TooLarge { .. } => Refusal::OfJob(JobError::new(ErrorKind::Undeliverable, message)),
                    ReadError::Broken { .. } => Refusal::Unknown(JobError::internal(message)),
                })
            }
        }
    }
}

/// What an engine says that takes models of its own alone.
const MODELS_BY_URL: &str = "it takes no models by their addresses";

fn is_by_url(lora: &Lora) -> bool {
    crate::workflow::ModelAddress::is_meant(&lora.name)
}

/// Whether a request that failed has not left this machine: no connection came about.
fn has_stayed(error: &reqwest::Error) -> bool {
    error.is_connect() || error.is_builder()
}

impl There for Remote {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn takes(&self) -> Takes {
        match self.spec.kind {
            EngineKind::Runpod { .. } => Takes::Graphs,
            EngineKind::Images(_) => Takes::Prompts,
        }
    }

    fn run<'a, 'l: 'a>(&'a self, ask: Option<Ask>, link: &'a mut Link<'l>) -> BoxFuture<'a, Result<Made, Failed>> {
        async move {
            // What a previous run of the worker put down of the job, for this engine or one that is called so by now.
            let before = link.put_down().map(Ticket::read);
            let known = match before {
                None | Some(None) => None,
                Some(Some(ticket)) if !ticket.is_at(self.spec.kind.as_str(), self.spec.url.as_str()) => {
                    let name = &self.spec.name;
                    let message = format!("engine `{name}` is another one than when the job was sent there");
                    return Err(meaning::unknown(name, link.name(), &JobError::internal(message)).into());
                }
                Some(Some(Ticket { id: None, .. })) => {
                    let message = format!(
                        "the worker was ended while it sent the job to engine `{}`",
                        self.spec.name
                    );
                    return Err(self.unknown(link.name(), &JobError::new(ErrorKind::Internal, message)));
                }
                Some(Some(Ticket { id, .. })) => id,
            };
            let made = match (&self.spec.kind, ask, known) {
                (EngineKind::Runpod { .. }, _, Some(id)) => self.asked_again(&id, link).await,
                (EngineKind::Runpod { .. }, Some(ask), None) => self.run_at_endpoint(ask, link).await,
                (EngineKind::Images(api), Some(ask), None) => self.run_at_images_api(api, ask, link).await,
                (_, None, None) | (EngineKind::Images(_), _, Some(_)) => {
                    Err(JobError::internal("the job is neither here nor there").into())
                }
            };
            if made.is_ok() {
                self.rest.succeeded();
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
        &self.0.spec.name
    }

    fn places(&self) -> usize {
        self.0.places()
    }

    fn standing(&self) -> Standing {
        self.0.rest.standing()
    }

    fn until_not(&self, standing: Standing) -> BoxFuture<'_, ()> {
        self.0.rest.until_not(standing).boxed()
    }

    fn until_away(&self) -> BoxFuture<'_, JobError> {
        self.0.rest.until_away().boxed()
    }

    fn called(&self) -> BoxFuture<'_, ()> {
        // It rests as long as it rests.
        self.0.rest.until_not(Standing::Away).boxed()
    }

    fn keeps_jobs(&self) -> bool {
        true
    }

    fn cancel_earlier<'a>(&'a self, tickets: &'a [String]) -> BoxFuture<'a, ()> {
        async move {
            for ticket in tickets.iter().filter_map(|text| Ticket::read(text)) {
                if let EngineKind::Runpod { .. } = self.0.spec.kind
                    && ticket.is_at(self.0.spec.kind.as_str(), self.0.spec.url.as_str())
                    && let Some(id) = &ticket.id
                {
                    self.0.cancel(id).await;
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
