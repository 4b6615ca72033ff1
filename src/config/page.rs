//! ComfyUI's own page, and what is passed through to ComfyUI.

use super::runpod::Platform;
use super::variable::{Reader, Variable, boolean, parsed, switch};

/// What of ComfyUI can be reached through us, beside its API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageConfig {
    /// Whether its page is served; [`None`]: where no platform's queue is.
    pub page: Option<bool>,
    /// Whether the routes of ComfyUI-Manager are, which install what they are told to.
    pub manager: bool,
}

impl PageConfig {
    /// Whether ComfyUI's page is served at `/`, and the routes that only node packs know.
    pub fn is_on(&self, platform: &Platform) -> bool {
        self.page.unwrap_or_else(|| platform.job_queue().is_none())
    }
}

const COMFYUI_PAGE: Variable<Option<bool>> = parsed("COMFYUI_PAGE", "auto, true or false", choice)
    .default_and_example("auto", "false")
    .meaning("ComfyUI's own page at `/`, and with it every route that is none of ours, such as those of node packs. What the page queues are jobs like all others. `auto`: on, except on RunPod's queue. `false`: `/` leads to `/play`; ComfyUI's API stays.");
const COMFYUI_MANAGER: Variable<bool> = switch("COMFYUI_MANAGER", false).meaning("Whether the routes of ComfyUI-Manager are passed through. They install code from the internet, and write into ComfyUI's folders: only on a machine that is yours alone.");

fn choice(text: &str) -> Result<Option<bool>, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(None);
    }
    boolean(text)
        .map(Some)
        .map_err(|_| "is none of auto, true, false".to_owned())
}

pub(super) fn read(reader: &mut Reader) -> PageConfig {
    PageConfig {
        page: reader.value(&COMFYUI_PAGE),
        manager: reader.value(&COMFYUI_MANAGER),
    }
}
