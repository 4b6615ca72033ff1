//! What every outgoing connection shares.

pub mod address;
pub mod guard;
pub mod retry;
pub mod shown;
