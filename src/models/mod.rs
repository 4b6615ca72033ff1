//! Models: what is wanted, where it is found, and how it is fetched.

pub mod download;
pub mod locate;
pub mod manifest;
