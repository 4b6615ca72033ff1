//! How results leave the worker: read, made into the format and size that fit, uploaded, or told by a webhook.
//!
//! [`Results`] brings a job's files back: `files` reads them, `recode` and `encode` make their images into another format,
//! `size_limit` makes an answer smaller, `inline` is base64, [`s3`] a bucket, and [`safety`] judges pictures before.
//! [`links`] signs links to files, and [`outbox`] posts webhooks until they are taken.

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
