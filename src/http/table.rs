//! The tables of routes as one: the router, the README and the documentation are made from it. Each route stands beside its
//! handler.

use super::pass;
use super::route::{API, Base, PING, Route, V2};
use super::routes::{self, convert, docs, files, health, metrics, play, templates};

/// The routes that are no dialect's.
const OWN: &[Route] = &[
    health::HEALTH,
    files::VIEW,
    files::FILE,
    health::PING,
    metrics::METRICS,
    docs::ROOT,
    docs::DOCUMENT,
    docs::PAGE,
    play::PAGE,
    templates::TEMPLATES,
    convert::CONVERT,
];

/// Every route we serve, as the README lists them.
pub fn every_route() -> impl Iterator<Item = &'static Route> {
    let tables = [
        routes::runpod::ROUTES,
        OWN,
        routes::login::ROUTES,
        routes::openai::ROUTES,
        routes::kie::ROUTES,
        routes::edit_plus::ROUTES,
        routes::gradio::ROUTES,
        routes::comfyui::ROUTES,
        routes::comfy_v2::JOBS,
        routes::comfy_v2::ASSETS,
        pass::ROUTES,
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
        if route.api {
            let (path, base) = (format!("{API}{}", route.path), Base::Api);
            served.push(Served { path, base, route });
        }
    }
    served
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::route::without_star;

    /// The routes as a Markdown table, as the README holds it.
    fn routes_markdown() -> String {
        use std::fmt::Write as _;
        let named = |wanted: fn(&Route) -> bool| -> String {
            let routes = every_route().filter(|route| wanted(route));
            let mut paths: Vec<String> = routes.map(|route| format!("`{}`", without_star(route.path))).collect();
            // One path may have several routes, in a row.
            paths.dedup();
            paths.join(", ")
        };
        let mut text = String::from("| route | what it does |\n| --- | --- |\n");
        for route in every_route() {
            let name = format!("{} {}", route.methods.join(", "), without_star(route.path));
            let _ = writeln!(text, "| `{}` | {} |", name, route.meaning);
        }
        let _ = write!(
            text,
            "\nServed under `{V2}` too, with any id, as RunPod's clients ask for them: {}.\n\n\
             Served under `{API}` too, as ComfyUI's page asks for them: {}.\n",
            named(|route| route.v2),
            named(|route| route.api)
        );
        text
    }

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
