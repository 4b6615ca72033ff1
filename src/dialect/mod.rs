//! Wire forms: a request becomes a job, a report becomes an answer. Pure; no dialect opens a socket.

pub mod answer;
mod fields;
pub mod gradio;
pub mod runpod;
