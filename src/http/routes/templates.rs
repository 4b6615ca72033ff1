//! `GET /templates`: what a prompt can go into.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::routing;

use crate::dialect::answer::Answer;
use crate::dialect::runpod;
use crate::dialect::schema::Operation;
use crate::http::route::Route;
use crate::http::state::State;

/// `GET /templates`.
pub(in crate::http) const TEMPLATES: Route = Route::get(
    "/templates",
    "The templates: what each is good for, which fields it takes, and whether its models are there.",
    Operation::answers::<runpod::Templates>,
    |_| routing::get(templates),
);

async fn templates(Shared(state): Shared<Arc<State>>) -> Answer {
    let lacking = state.executor.lacking().await;
    let templates = state.executor.templates().iter();
    runpod::templates(
        state.executor.templates().defaults(),
        templates.map(|template| (template, lacking.get(template.name()))),
    )
}
