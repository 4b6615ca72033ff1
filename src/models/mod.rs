//! Models: what is wanted, where it is found, and how it is fetched.

mod answer;
pub mod download;
mod hub;
