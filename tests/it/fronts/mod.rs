//! Fronts: workers without a ComfyUI, whose jobs run at engines elsewhere. RunPod's API and a provider of pictures are fakes on real
//! sockets; where a test says so, a real worker of ours on the real ComfyUI stands behind them.

mod behind;
mod described;
mod dialects;
mod fakes;
mod fallback;
mod groups;
mod kie;
mod kills;
mod refused;
mod rests;
mod results;
mod space;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::image_server::png;
use crate::support::runpod_api::Fate;

/// The width and height of what [`small`] asks for.
const SIDE: u32 = 256;

/// A job that any engine can do.
fn small(seed: u32) -> Value {
    json!({"prompt": "a fox", "template": "qwen-image", "width": SIDE, "height": SIDE, "seed": seed})
}

/// The output of an endpoint that has made this picture.
fn output_of(picture: &[u8]) -> Value {
    let image = json!({"filename": "made_00001_.png", "type": "base64", "data": STANDARD.encode(picture)});
    json!({"images": [image]})
}

/// The end of a job that made what [`small`] asks for.
fn done() -> Fate {
    Fate::Completed(output_of(&png(SIDE, SIDE, 255)))
}
