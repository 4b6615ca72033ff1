//! Logs and progress: what the process tells people while it works.

pub mod logs;
pub mod report;
