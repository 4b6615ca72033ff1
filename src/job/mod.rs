//! A job: what was asked, how far it is, what came of it.

mod image_header;
mod image_name;
mod image_parts;
mod image_scan;
mod image_tiny;
mod image_whole;
mod images;
mod mask;
mod media;
mod outcome;
mod policy;
pub mod progress;
mod request;
mod state;
mod tracker;

pub use image_header::{BadImage, ImageHeader};
pub use image_name::ImageName;
pub use images::{ImageContent, InputImage, Takes};
pub use mask::{check_mask, check_mask_pixels};
pub use media::audio_or_video;
pub use outcome::{FileKind, Outcome, OutputFile, OutputFolder, OutputText, Recoded};
pub use policy::{Asked, Dialect, PlatformJob, Policy};
pub use request::{Delivery, JobRequest, TemplateRequest, Work};
pub use state::{JobId, JobState, JobView};
pub use tracker::Tracker;
