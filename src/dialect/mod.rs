//! Wire forms: a request becomes a job, a report becomes an answer. Pure; no dialect opens a socket.

pub mod answer;
pub mod comfy_v2;
pub mod comfyui;
mod dropped;
pub mod edit_plus;
mod field;
mod fields;
pub mod gradio;
pub mod kie;
pub mod links;
mod loras;
pub mod openai;
pub mod part;
pub mod runpod;
pub mod schema;
