//! The stages on a ComfyUI, ours or attached.

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, pending};

use super::{Engine, Standing};
use crate::error::JobError;
use crate::executor::elsewhere::Failed;
use crate::executor::{Executor, JobControl};
use crate::job::{JobId, JobRequest, Outcome};

impl Engine for Executor {
    fn name(&self) -> &str {
        self.comfy().name()
    }

    fn places(&self) -> usize {
        // One more than ComfyUI holds, so that its images are uploaded and its graph is checked when its turn comes.
        1 + self.prefetch().max(1)
    }

    fn standing(&self) -> Standing {
        let comfy = self.comfy();
        if comfy.is_away() {
            Standing::Away
        } else if comfy.is_ready() {
            Standing::Ready
        } else {
            Standing::Starting
        }
    }

    fn until_not(&self, standing: Standing) -> BoxFuture<'_, ()> {
        async move {
            loop {
                let changed = self.comfy().changed();
                if self.standing() != standing {
                    return;
                }
                changed.await;
            }
        }
        .boxed()
    }

    fn until_away(&self) -> BoxFuture<'_, JobError> {
        self.comfy().until_away().boxed()
    }

    fn called(&self) -> BoxFuture<'_, ()> {
        async move {
            // A failure is for good: the worker stops.
            if self.comfy().available(None).await.is_err() {
                pending::<()>().await;
            }
        }
        .boxed()
    }

    fn keeps_jobs(&self) -> bool {
        !self.comfy().is_supervised()
    }

    fn cancel_earlier<'a>(&'a self, prompt_ids: &'a [String]) -> BoxFuture<'a, ()> {
        Box::pin(Self::cancel_earlier(self, prompt_ids))
    }

    fn run<'a>(
        &'a self,
        id: &'a JobId,
        request: JobRequest,
        owner: &'a JobControl,
    ) -> BoxFuture<'a, Result<Outcome, Failed>> {
        Box::pin(async move { Ok(Self::run(self, id, request, owner).await?) })
    }
}
