//! What every outgoing connection shares.

pub mod address;
pub mod dial;
pub mod guard;
pub mod path;
pub mod retry;
