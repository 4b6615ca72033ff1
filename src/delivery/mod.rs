//! How results leave the worker.

pub mod encode;
pub mod inline;
pub mod links;
pub mod outbox;
pub mod s3;
pub mod safety;
pub mod schedule;
pub mod signature;
#[cfg(test)]
mod testing;
pub mod webhook;
