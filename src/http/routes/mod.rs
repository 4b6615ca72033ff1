//! Handlers, one file a way in.

pub mod docs;
pub mod edit_plus;
pub mod events;
pub mod files;
pub mod gradio;
pub mod health;
mod id;
pub mod kie;
pub mod openai;
pub mod runpod;
pub mod view;
