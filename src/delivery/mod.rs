//! How results leave the worker.

pub mod encode;
mod files;
mod inline;
pub mod links;
pub mod outbox;
mod recode;
mod results;
pub mod s3;
pub mod safety;
mod size_limit;
#[cfg(test)]
mod testing;
pub mod webhook;

pub use recode::Wrote;
pub use results::{DeliverySettings, Plan, Results};
