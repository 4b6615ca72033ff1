//! A route: where it is, what it does, and what it takes and answers.

use std::sync::Arc;

use axum::routing::MethodRouter;

use super::State;
use crate::dialect::schema::Operation;

/// Where the health check is always served.
pub const PING: &str = "/ping";
/// What Prometheus asks for.
pub const METRICS: &str = "/metrics";
/// What a person opens first.
pub(super) const ROOT: &str = "/";
/// Where the routes are described, as JSON.
pub const DOCUMENT: &str = "/openapi.json";
/// Where they are described for people.
pub const DOCS: &str = "/docs";
/// Where the script of that page is.
pub(super) const SCRIPT: &str = "/docs/scalar.js";

/// Where people get in, and out again.
pub(super) const LOGIN: &str = "/login";
pub(super) const LOGOUT: &str = "/logout";
/// The page for people who want pictures.
pub(super) const PLAY: &str = "/play";

/// Where a route is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// At the root.
    Root,
    /// Under [`V2`].
    V2,
    /// Under [`API`].
    Api,
}

/// What RunPod's clients put before the path. Any endpoint id will do: there is one worker here.
pub const V2: &str = "/v2/{endpoint_id}";

/// Where ComfyUI serves each of its routes once more, and its page asks for them.
pub(super) const API: &str = "/api";

/// A route, for the table and for its documentation.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The HTTP methods.
    pub methods: &'static [&'static str],
    /// The path.
    pub path: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// Whether it is served under [`V2`] too.
    pub v2: bool,
    /// Whether it is served under [`API`] too.
    pub api: bool,
    /// What it takes and answers.
    pub describe: Describe,
    pub(super) handler: Handler,
}

type Describe = fn() -> Operation;
type Handler = fn(Base) -> MethodRouter<Arc<State>>;

/// A path without the mark of a parameter that holds slashes.
pub(super) fn without_star(path: &str) -> String {
    path.replace("{*", "{")
}

impl Route {
    /// A route at the root.
    pub(super) const fn new(
        methods: &'static [&'static str],
        path: &'static str,
        meaning: &'static str,
        describe: Describe,
        handler: Handler,
    ) -> Self {
        Self {
            methods,
            path,
            meaning,
            v2: false,
            api: false,
            describe,
            handler,
        }
    }

    /// A route at the root that is asked.
    pub(super) const fn get(path: &'static str, meaning: &'static str, describe: Describe, handler: Handler) -> Self {
        Self::new(&["GET"], path, meaning, describe, handler)
    }

    /// A route at the root that takes something in.
    pub(super) const fn post(path: &'static str, meaning: &'static str, describe: Describe, handler: Handler) -> Self {
        Self::new(&["POST"], path, meaning, describe, handler)
    }

    /// The route under [`API`] too.
    pub(super) const fn api(mut self) -> Self {
        self.api = true;
        self
    }

    /// The route under [`V2`] too.
    pub(super) const fn v2(mut self) -> Self {
        self.v2 = true;
        self
    }
}
