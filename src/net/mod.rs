//! What every outgoing connection shares.

pub mod retry;
