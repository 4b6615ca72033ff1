//! `/object_info` of engines that are workers of ours: those that serve HTTP are asked, and those of a fleet put it into the broker.
//! RunPod's endpoints have none. It is had when a graph is to go there, or somebody asks for it here, and kept.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use url::{Host, Url};

use super::{EngineKind, Remote, Standing, Web, Wire};
use crate::disk::blocking;
use crate::error::JobError;
use crate::executor::elsewhere::Described;
use crate::fleet::{Bound, Classes, DESCRIBED};
use crate::job::{JobRequest, Work};

/// From when on it is asked for again, beside what is done by what was told.
const OLD: Duration = Duration::from_mins(5);
/// What is younger is not asked for again when a graph does not pass: classes come and go while ComfyUI runs.
const YOUNG: Duration = Duration::from_secs(10);
/// How long one is left alone that told nothing.
const LEFT_ALONE: Duration = Duration::from_secs(20);
/// The longest that a job waits for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest that it may take to come. ComfyUI looks through its folders for it.
const LONGEST: Duration = Duration::from_secs(30);
/// Where RunPod's endpoints are.
const RUNPOD: &str = "api.runpod.ai";

/// What one engine told.
#[derive(Debug, Default)]
pub(super) struct Descriptions {
    told: Mutex<Told>,
    /// It is asked once at a time.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Told {
    last: Option<(Arc<Described>, Instant)>,
    failed: Option<Instant>,
}

impl Remote {
    /// The node classes of the ComfyUI there, as far as that is known soon.
    pub async fn described(&self) -> Option<Arc<Described>> {
        self.told_at_most(OLD).await
    }

    /// What a graph would be told there, where that is known. What was known before is not enough for that.
    pub async fn refuses(&self, request: &JobRequest) -> Option<JobError> {
        if !matches!(request.work, Work::Workflow(_)) {
            return None;
        }
        let described = self.described().await?;
        let error = self.executor.refused_by(&described, request).await?;
        let renewed = self.told_at_most(YOUNG).await?;
        if Arc::ptr_eq(&renewed, &described) {
            return Some(error);
        }
        self.executor.refused_by(&renewed, request).await
    }

    /// What it told at most so long ago. Where it told something before, and [`OLD`] is meant, that is enough for now.
    async fn told_at_most(&self, at_most: Duration) -> Option<Arc<Described>> {
        let last = self.descriptions.told.lock().last.clone();
        if let Some((described, since)) = &last
            && since.elapsed() < at_most
        {
            return Some(Arc::clone(described));
        }
        let is_silent = || {
            let failed = self.descriptions.told.lock().failed;
            failed.is_some_and(|failed| failed.elapsed() < LEFT_ALONE)
        };
        if is_silent() || self.common.rest.standing() == Standing::Away {
            return last.map(|(described, _)| described).filter(|_| at_most == OLD);
        }
        let asking = self.asking()?;
        let descriptions = Arc::clone(&self.descriptions);
        let asked = tokio::spawn(async move { descriptions.ask(asking, at_most).await });
        match last {
            Some((described, _)) if at_most == OLD => Some(described),
            _ => {
                if let Ok(described) = timeout(PATIENCE, asked).await {
                    return described.ok()?;
                }
                // Others do not wait for it as well.
                self.descriptions.told.lock().failed = Some(Instant::now());
                None
            }
        }
    }

    /// Asks for it; [`None`]: it cannot be asked.
    fn asking(&self) -> Option<BoxFuture<'static, Option<Described>>> {
        match &self.wire {
            Wire::Web(web) => {
                let (place, web) = (web.comfyui()?, Arc::clone(web));
                Some(async move { web.classes_at(&place).await }.boxed())
            }
            Wire::Fleet(fleet) => {
                let bound = fleet.bound()?;
                Some(classes_in(bound).boxed())
            }
        }
    }
}

impl Descriptions {
    async fn ask(&self, asking: BoxFuture<'static, Option<Described>>, at_most: Duration) -> Option<Arc<Described>> {
        let _alone = self.asking.lock().await;
        {
            let told = self.told.lock();
            if let Some((described, since)) = &told.last
                && since.elapsed() < at_most
            {
                return Some(Arc::clone(described));
            }
            if told.failed.is_some_and(|failed| failed.elapsed() < LEFT_ALONE) {
                return None;
            }
        }
        let described = asking.await.map(Arc::new);
        let mut told = self.told.lock();
        match &described {
            Some(described) => {
                *told = Told {
                    last: Some((Arc::clone(described), Instant::now())),
                    failed: None,
                }
            }
            None => told.failed = Some(Instant::now()),
        }
        described
    }
}

/// What the workers of a fleet have told.
async fn classes_in(bound: Bound) -> Option<Described> {
    let packed = timeout(LONGEST, bound.get(DESCRIBED)).await.ok()?.ok()??;
    let read = move || {
        let classes = Classes::unpacked(&packed)?;
        let replacements = classes.node_replacements.as_deref().map(str::as_bytes);
        Described::read(classes.object_info.as_bytes(), replacements)
    };
    blocking(read).await
}

impl Web {
    async fn classes_at(&self, place: &Url) -> Option<Described> {
        let get = async |path: &str| {
            let request = self
                .http
                .get(format!("{}/{path}", place.as_str().trim_end_matches('/')));
            let answer = self.send(request, LONGEST).await.ok()?;
            answer.status.is_success().then_some(answer.body)
        };
        let object_info = get("object_info").await?;
        let replacements = get("node_replacements").await;
        blocking(move || Described::read(&object_info, replacements.as_deref())).await
    }

    /// Where the ComfyUI of a worker of ours is answered for; [`None`]: this is none, or RunPod is before it.
    fn comfyui(&self) -> Option<Url> {
        let spec = self.spec();
        let is_ours = matches!(spec.kind, EngineKind::Runpod { is_ours: true });
        if !is_ours || spec.url.host() == Some(Host::Domain(RUNPOD)) {
            return None;
        }
        Some(root(&spec.url))
    }
}

/// The address below which a worker has its routes: without `/v2/ID`.
fn root(url: &Url) -> Url {
    let mut root = url.clone();
    let path = url.path().trim_end_matches('/');
    let mut parts = path.rsplitn(3, '/');
    let (_, version, before) = (parts.next(), parts.next(), parts.next());
    if version == Some("v2") {
        root.set_path(before.unwrap_or_default());
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_found_below_its_endpoint() {
        let of = |url: &str| root(&url.parse().unwrap()).to_string();
        assert_eq!(of("http://gpu:8188/v2/any"), "http://gpu:8188/");
        assert_eq!(of("https://h/gpu-1/v2/any/"), "https://h/gpu-1");
        assert_eq!(of("http://gpu:8188"), "http://gpu:8188/");
    }
}
