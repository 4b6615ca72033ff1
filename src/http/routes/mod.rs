//! Handlers, one file a way in.

pub mod events;
pub mod gradio;
pub mod health;
pub mod runpod;
pub mod view;
