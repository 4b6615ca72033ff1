//! Images by URL.
