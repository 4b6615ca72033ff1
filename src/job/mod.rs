//! A job: what was asked, how far it is, what came of it.

mod id;
mod images;
mod outcome;
mod policy;
pub mod progress;
mod request;
mod state;
mod view;

pub use id::JobId;
pub use images::{ImageName, InputImage};
pub use outcome::{FileKind, Outcome, OutputFile, OutputFolder, OutputText, Recoded};
pub use policy::{Dialect, PlatformJob, Policy};
pub use request::{Delivery, JobRequest, TemplateRequest, Work};
pub use state::JobState;
pub use view::JobView;
