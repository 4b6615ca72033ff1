//! Handlers, one file a way in.

pub mod health;
pub mod runsync;
pub mod view;
