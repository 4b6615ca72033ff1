//! A job: what was asked, how far it is, what came of it.

mod id;
mod images;
mod outcome;
pub mod progress;
mod request;

pub use id::JobId;
pub use images::{ImageName, InputImage};
pub use outcome::{FileKind, Outcome, OutputFile, OutputFolder, OutputText, Report};
pub use request::{JobRequest, TemplateRequest, Work};
