//! Logs and progress: what the process tells people while it works.

pub mod logs;
mod rate;
pub mod report;
pub mod runpod_lines;
pub mod warnings;
