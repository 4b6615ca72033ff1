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
    "The templates: what each is good for, which fields it takes, its models and their licences, and whether it can run here.",
    Operation::answers::<runpod::Templates>,
    |_| routing::get(templates),
);

async fn templates(Shared(state): Shared<Arc<State>>) -> Answer {
    let (lacking, card_mib) = state.executor().available().await;
    let templates = state.executor().templates();
    let worker = runpod::WorkerFacts {
        defaults: templates.defaults(),
        catalog: state.models.catalog(),
        card_mib,
    };
    let templates = templates.iter();
    runpod::templates(
        &worker,
        templates.map(|template| (template, lacking.get(template.name()))),
    )
}
