//! One part of a form (`multipart/form-data`).

use bytes::Bytes;

/// One part of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The field's name.
    pub name: String,
    /// Whether it is a file: its header names one.
    pub is_file: bool,
    /// What it holds.
    pub content: Bytes,
}
