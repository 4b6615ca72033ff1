//! What every outgoing connection shares.
