//! How results leave the worker.

pub mod inline;
