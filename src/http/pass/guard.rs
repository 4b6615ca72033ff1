//! What may be passed on.
//!
//! What we answer ourselves must not reach ComfyUI by another spelling of its path, whatever stands between us and it makes of
//! that: a path is judged by what it means once everything in it is decoded and resolved, and passed on as it is.

use axum::http::Method;
use percent_encoding::percent_decode_str;

/// What ComfyUI's own API has that our queue is behind, and all below it.
const TERMINATED: &[&str] = &["free", "history", "interrupt", "jobs", "prompt", "queue", "ws"];

/// What is below these is ours, or nothing.
const OURS: &[&str] = &[
    "cancel",
    "edit",
    "events",
    "files",
    "gradio_api",
    "play",
    "retry",
    "run",
    "runsync",
    "status",
    "stream",
    "v1",
];

/// The routes of ComfyUI-Manager, of version 3 at the root and of version 4 below `/v2`.
const MANAGER: &[&str] = &["comfyui_manager", "customnode", "externalmodel", "manager", "snapshot"];

/// How often something may be encoded within itself.
const LAYERS: usize = 4;

/// Where a path that is no route of ours leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    /// Nowhere: it is like a path of ours, or means one.
    Ours,
    /// To ComfyUI-Manager.
    Manager,
    /// To ComfyUI.
    Comfyui,
}

impl Destination {
    pub(super) fn of(path: &str) -> Self {
        let Some(meant) = meaning(path) else { return Self::Ours };
        let mut parts = below_api(&meant);
        let Some(first) = parts.next() else {
            return Self::Comfyui;
        };
        let second = if first == "v2" { parts.next() } else { None };
        match (first, second) {
            (first, _) if TERMINATED.contains(&first) || OURS.contains(&first) => Self::Ours,
            (first, _) if MANAGER.contains(&first) => Self::Manager,
            (_, Some(second)) if MANAGER.contains(&second) => Self::Manager,
            _ => Self::Comfyui,
        }
    }
}

/// Whether a request changes what ComfyUI keeps of its files (`--enable-assets`), and the files with it: they are put anywhere
/// and removed there, what jobs made and need as well.
pub(super) fn changes_assets(method: &Method, path: &str) -> bool {
    !method.is_safe() && meaning(path).is_none_or(|meant| below_api(&meant).next() == Some("assets"))
}

fn below_api(meant: &[String]) -> impl Iterator<Item = &str> {
    meant.iter().map(String::as_str).skip_while(|part| *part == "api")
}

/// The names of a path as the most generous of servers could read it: decoded, resolved, without parameters, in small letters.
/// [`None`]: nobody writes that.
fn meaning(path: &str) -> Option<Vec<String>> {
    let mut path = path.to_owned();
    let mut layers = 0;
    while path.contains('%') {
        let decoded = percent_decode_str(&path).decode_utf8_lossy().into_owned();
        if decoded == path {
            break;
        }
        layers += 1;
        if layers > LAYERS {
            return None;
        }
        path = decoded;
    }
    let mut parts = Vec::new();
    for part in path.split(['/', '\\']) {
        let part = part.split(';').next().unwrap_or_default();
        match part.trim_matches(|c: char| c.is_whitespace() || c.is_control()) {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part.to_lowercase()),
        }
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_ours_in_every_spelling() {
        for path in [
            "/prompt",
            "/prompt/",
            "/api/prompt",
            "/api/api/prompt",
            "/api/api/jobs",
            "/api/api/jobs/x/cancel",
            "/PROMPT",
            "/Api/Prompt",
            "/prompt;x",
            "/prompt;x=1/y",
            "/api;x/prompt",
            "/%70rompt",
            "/%2570rompt",
            "/%252570rompt",
            "/api%2Fprompt",
            "/%2Fprompt",
            "/userdata/..%2Fprompt",
            "/userdata/..%2f..%2fapi%2fqueue",
            "/a%2F..%2Fws",
            "/a%5C..%5Cws",
            "/prompt%20",
            "/%09prompt",
            "/queue/x",
            "/history/a/b",
            "/interrupt",
            "/jobs/x",
            "/api/free",
            "/ws",
            "/v1/nothing",
            "/api/v1/qwen/nothing",
            "/edit/nothing",
            "/runsync/x",
            "/%25252525252525252570rompt",
        ] {
            assert_eq!(Destination::of(path), Destination::Ours, "{path}");
        }
    }

    #[test]
    fn comfyuis_own_and_its_packs_routes_are_passed_on() {
        for path in [
            "/",
            "/api",
            "/assets/index-abc.js",
            "/api/userdata/workflows%2Fx.json",
            "/api/userdata/workflows%2Fprompt.json",
            "/api/userdata/prompt",
            "/userdata/..%2F..%2Fetc%2Fpasswd",
            "/v2/userdata",
            "/extensions/core/queue.js",
            "/docs/KSampler/en.md",
            "/prompts",
            "/wsx",
            "/rgthree/api/queue",
            "/%C3%A4",
            "/50%25",
        ] {
            assert_eq!(Destination::of(path), Destination::Comfyui, "{path}");
        }
    }

    #[test]
    fn assets_are_looked_at_alone() {
        for path in [
            "/api/assets",
            "/assets/x/tags",
            "/API/Assets/from-hash",
            "/upload/..%2Fassets",
        ] {
            for method in [Method::POST, Method::PUT, Method::DELETE] {
                assert!(changes_assets(&method, path), "{method} {path}");
            }
            assert!(!changes_assets(&Method::GET, path), "{path}");
        }
        assert!(!changes_assets(&Method::POST, "/api/userdata/assets"));
    }

    #[test]
    fn the_managers_routes_are_known() {
        for path in [
            "/manager/queue/start",
            "/customnode/install/git_url",
            "/api/externalmodel/getlist",
            "/snapshot/save",
            "/comfyui_manager/comfyui_versions",
            "/v2/manager/queue/status",
            "/api/v2/customnode/getlist",
            "/v2/snapshot/getlist",
            "/Manager/reboot",
            "/v2%2Fmanager/reboot",
        ] {
            assert_eq!(Destination::of(path), Destination::Manager, "{path}");
        }
    }
}
