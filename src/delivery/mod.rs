//! How results leave the worker.

pub mod inline;
pub mod outbox;
pub mod schedule;
pub mod signature;
#[cfg(test)]
mod testing;
pub mod webhook;
