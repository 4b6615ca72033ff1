//! An engine that is spoken to by HTTP, and may charge for each job: whatever has a job done is sent once.

use std::sync::{Arc, Weak};
use std::time::Duration;

use reqwest::{Client, RequestBuilder};

use super::health::Health;
use super::meaning::{self, Answer, Refusal};
use super::ticket::Ticket;
use super::{Common, EngineKind, EngineSpec};
use crate::delivery::s3::Bucket;
use crate::display::error_chain;
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::{Ask, Failed, Link, Made};
use crate::net::guard::{AddressGuard, CONNECT_TIMEOUT, GuardedClient, ReadError, Redirects, read_limited};

/// How long an engine may be silent in the midst of an answer.
const SILENCE: Duration = Duration::from_secs(30);
/// The most bytes of an answer. RunPod's own limit of a result is 20 MB, and base64 of pictures in JSON is no larger.
pub(super) const LARGEST_ANSWER: usize = 40 * 1024 * 1024;
/// What we call ourselves: some providers refuse who has no name.
const AGENT: &str = concat!("qwen-image-worker/", env!("CARGO_PKG_VERSION"));

/// An engine that is spoken to by HTTP.
#[derive(Debug)]
pub(super) struct Web {
    pub(super) common: Arc<Common>,
    pub(super) http: Client,
    /// Sends jobs, each on a connection of its own: one that was kept may be closed just then, and nobody would know whether the
    /// job arrived.
    pub(super) sends: Client,
    /// Fetches results from addresses that the engine names.
    pub(super) guarded: GuardedClient,
    /// Where files go that are too large for a request.
    pub(super) bucket: Option<Bucket>,
    /// Which workers it had last, where it is an endpoint.
    pub(super) health: Health,
    /// Itself, for what goes on after the job that began it.
    pub(super) me: Weak<Self>,
}

impl Web {
    pub(super) fn new(
        common: Arc<Common>,
        bucket: Option<&Bucket>,
        guard: &AddressGuard,
    ) -> Result<Arc<Self>, reqwest::Error> {
        let client = || {
            let client = Client::builder().user_agent(AGENT).connect_timeout(CONNECT_TIMEOUT);
            // A job must arrive where it was sent, once.
            let client = client
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never());
            let client = client.tcp_nodelay(true);
            if common.spec.is_from_afar {
                // Its address was judged when the list was read, and a name is judged as it is dialled.
                client.dns_resolver(guard.clone()).no_proxy()
            } else {
                client
            }
        };
        let (http, sends) = (client().build()?, client().pool_max_idle_per_host(0).build()?);
        let guarded = guard.client(Redirects::Checked, SILENCE)?;
        Ok(Arc::new_cyclic(|me| Self {
            http,
            sends,
            guarded,
            bucket: bucket.cloned(),
            common,
            health: Health::default(),
            me: me.clone(),
        }))
    }

    pub(super) fn spec(&self) -> &EngineSpec {
        &self.common.spec
    }

    /// Has a job done, for which `before` may have been put down.
    pub(super) async fn run(
        &self,
        ask: Option<Ask>,
        link: &mut Link<'_>,
        before: Option<Ticket>,
    ) -> Result<Made, Failed> {
        let known = match before {
            None => None,
            // For one that is called so by now.
            Some(ticket) if !self.common.has_sold(&ticket) => {
                let name = &self.spec().name;
                let message = format!("engine `{name}` is another one than when the job was sent there");
                return Err(meaning::unknown(name, link.name(), &JobError::internal(message)).into());
            }
            Some(Ticket { id: None, .. }) => {
                let name = &self.spec().name;
                let message = format!("the worker was ended while it sent the job to engine `{name}`");
                return Err(self.common.unknown(link.name(), &JobError::internal(message)));
            }
            Some(Ticket { id, .. }) => id,
        };
        match (&self.spec().kind, ask, known) {
            (EngineKind::Runpod { .. }, _, Some(id)) => self.asked_again(&id, link).await,
            (EngineKind::Runpod { .. }, Some(ask), None) => self.run_at_endpoint(ask, link).await,
            (EngineKind::Images(api), Some(ask), None) => self.run_at_images_api(api, ask, link).await,
            (EngineKind::Gradio, _, Some(id)) => self.queue_asked_again(&id, link).await,
            (EngineKind::Gradio, Some(ask), None) => self.run_at_space(ask, link).await,
            (EngineKind::Kie { .. }, _, Some(id)) => self.task_asked_again(&id, link).await,
            (EngineKind::Kie { uploads }, Some(ask), None) => self.run_as_task(uploads.as_ref(), ask, link).await,
            (EngineKind::Fleet(_), ..) | (_, None, None) | (EngineKind::Images(_), _, Some(_)) => {
                Err(JobError::internal("the job is neither here nor there").into())
            }
        }
    }

    /// Has a job cancelled that a previous run of the worker gave it.
    pub(super) async fn cancel_earlier(&self, id: &str) {
        match self.spec().kind {
            EngineKind::Runpod { .. } => drop(self.cancel(id).await),
            EngineKind::Gradio => self.cancel_queued(id).await,
            EngineKind::Images(_) | EngineKind::Kie { .. } | EngineKind::Fleet(_) => {}
        }
    }

    /// The address of one of its operations.
    pub(super) fn at(&self, operation: &str) -> String {
        format!("{}/{operation}", self.spec().url.as_str().trim_end_matches('/'))
    }

    pub(super) fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.spec().key {
            Some(key) => request.bearer_auth(key.reveal()),
            None => request,
        }
    }

    /// Sends what has a job done. Fails where there is no answer that could be read whole.
    pub(super) async fn send(&self, request: RequestBuilder, longest: Duration) -> Result<Answer, Refusal> {
        let name = &self.spec().name;
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

/// Whether a request that failed has not left this machine: no connection came about.
fn has_stayed(error: &reqwest::Error) -> bool {
    error.is_connect() || error.is_builder()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use reqwest::dns::{Addrs, Name, Resolve, Resolving};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{Config, PrivateUrls};
    use crate::engine::remote::list;

    /// Every name is this machine.
    struct Here;

    impl Resolve for Here {
        fn resolve(&self, _: Name) -> Resolving {
            let here = [SocketAddr::from(([127, 0, 0, 1], 0))];
            Box::pin(async move { Ok(Box::new(here.into_iter()) as Addrs) })
        }
    }

    #[tokio::test]
    async fn a_name_in_a_list_from_afar_leads_into_no_network_of_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let text = format!("[[engine]]\nname = \"a\"\nkind = \"runpod\"\nurl = \"http://engine.example:{port}/v2/x\"");
        let config = Config::from_vars([("ENGINES".to_owned(), text.clone())])
            .unwrap()
            .engines;
        for (allowed, reaches) in [("false", false), ("engine.example", true)] {
            let allowed = PrivateUrls::parse(allowed).unwrap();
            let guard = AddressGuard::with_lookup(allowed, Arc::new(Here));
            let spec = list::parse(&text, &config, Some(&guard)).unwrap().swap_remove(0);
            let web = Web::new(Arc::new(Common::new(spec)), None, &guard).unwrap();
            let sent = web.send(web.sends.post(web.at("run")), Duration::from_secs(5));
            let accepted = async { listener.accept().await.unwrap() };
            tokio::select! {
                biased;
                _ = accepted => assert!(reaches),
                sent = sent => {
                    assert!(!reaches);
                    let Err(Refusal::Rests(_, error)) = sent else { panic!("{sent:?}") };
                    assert!(error.message.contains("ALLOW_PRIVATE_URLS=engine.example"), "{}", error.message);
                }
            }
        }
    }
}
