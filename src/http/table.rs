//! The tables of routes as one: the router, the README and the documentation are made from it. Each dialect's routes
//! stand beside their handlers.

use std::sync::Arc;

use axum::routing::MethodRouter;

use super::{State, own, routes};
use crate::dialect::schema::Operation;

/// Where the health check is always served.
pub const PING: &str = "/ping";
/// Where the routes are described, as JSON.
pub const DOCUMENT: &str = "/openapi.json";
/// Where they are described for people.
pub const DOCS: &str = "/docs";

/// Where a route is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// At the root.
    Root,
    /// Under [`V2`].
    V2,
}

/// What RunPod's clients put before the path. Any endpoint id will do: there is one worker here.
pub const V2: &str = "/v2/{endpoint_id}";

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
    /// What it takes and answers.
    pub describe: fn() -> Operation,
    pub(super) handler: fn(Base) -> MethodRouter<Arc<State>>,
}

/// Methods of a route that is asked.
pub(super) const GET: &[&str] = &["GET"];
/// Methods of a route that takes something in.
pub(super) const POST: &[&str] = &["POST"];
/// Methods of a route that RunPod's clients ask either way.
pub(super) const GET_POST: &[&str] = &["GET", "POST"];
/// Methods of a route that removes.
pub(super) const DELETE: &[&str] = &["DELETE"];

/// Every route we serve, as the README lists them.
pub fn every_route() -> impl Iterator<Item = &'static Route> {
    let tables = [
        routes::runpod::ROUTES,
        own::ROUTES,
        routes::openai::ROUTES,
        routes::kie::ROUTES,
        routes::edit_plus::ROUTES,
        routes::gradio::ROUTES,
    ];
    tables.into_iter().flatten()
}

/// A path that is served.
#[derive(Debug, Clone)]
pub(super) struct Served {
    /// The path with what stands before it.
    pub(super) path: String,
    /// What stands before it.
    pub(super) base: Base,
    /// The route.
    pub(super) route: &'static Route,
}

/// Every path that is served: the router and the documentation are made from these. The health check has a path of its
/// own beside [`PING`], to which the route of that path gives way.
pub(super) fn served(health_path: &str) -> Vec<Served> {
    let mut served = Vec::new();
    for route in every_route() {
        let takes_over = route.path == PING && health_path != PING;
        let gives_way = health_path == route.path && route.path != PING && route.methods.contains(&"GET");
        let base = Base::Root;
        if !gives_way {
            let path = route.path.to_owned();
            served.push(Served { path, base, route });
        }
        if takes_over {
            let path = health_path.to_owned();
            served.push(Served { path, base, route });
        }
        if route.v2 {
            let (path, base) = (format!("{V2}{}", route.path), Base::V2);
            served.push(Served { path, base, route });
        }
    }
    served
}

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
        describe: fn() -> Operation,
        handler: fn(Base) -> MethodRouter<Arc<State>>,
    ) -> Self {
        Self {
            methods,
            path,
            meaning,
            v2: false,
            describe,
            handler,
        }
    }

    /// The route under [`V2`] too.
    pub(super) const fn v2(mut self) -> Self {
        self.v2 = true;
        self
    }

    /// `GET, POST /status/{id}`
    fn name(&self) -> String {
        format!("{} {}", self.methods.join(", "), without_star(self.path))
    }
}

/// The routes as a Markdown table, as the README holds it.
pub fn routes_markdown() -> String {
    use std::fmt::Write as _;
    let mut text = String::from("| route | what it does |\n| --- | --- |\n");
    for route in every_route() {
        let _ = writeln!(text, "| `{}` | {} |", route.name(), route.meaning);
    }
    let both: Vec<String> = every_route()
        .filter(|route| route.v2)
        .map(|route| format!("`{}`", route.path))
        .collect();
    let _ = write!(
        text,
        "\nServed under `{V2}` too, with any id, as RunPod's clients ask for them: {}.\n",
        both.join(", ")
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_lists_every_route() {
        let page = include_str!("../../README.md");
        assert!(
            page.contains(&routes_markdown()),
            "README.md is out of date; its table must read:\n{}",
            routes_markdown()
        );
    }
}
