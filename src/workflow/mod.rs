//! Workflows as data: graphs, templates with their bindings, and the check of a graph against what is installed.
//! No I/O happens here.
//!
//! ```text
//!  JSON of a request ── Graph::parse ──┐
//!         "  ── Saved ─► convert ───────┼─► Graph ─► use_uploaded ─► check ─► (submitted by the executor)
//!  Parameters ── Templates::render ────┘                              ▲
//!                                            /object_info ─► ClassSpec ┘
//! ```

pub mod absence;
mod addressed;
mod asset_refs;
pub mod bindings;
pub mod check;
pub mod control;
pub mod convert;
mod defaults;
pub mod embedded;
mod expected;
mod file_input;
pub mod graph;
pub mod images;
pub mod limits;
mod model_address;
pub mod models;
mod prepare;
mod remarks;
mod render;
pub mod schema;
pub mod template;
pub mod templates;
#[cfg(test)]
pub(crate) mod testing;
mod value;
mod wording;

pub use crate::config::is_model_file;
pub use absence::Absence;
pub use addressed::{AddressedModel, addressed_models, may_address_models, model_behind, put_model};
pub use asset_refs::{BadReference, asset_ids, put_names, reference, replace_in_json, replace_texts};
pub use check::{CheckFailure, MissingModel, absent_classes, check};
pub use control::{Control, ControlType, Preprocessor};
pub use convert::Saved;
pub use defaults::Defaults;
pub use embedded::Embedded;
pub use expected::{Expected, expect};
pub use file_input::{FileInput, contents, is_loader, may_hold_contents};
pub use graph::{Graph, INVALID_WORKFLOW, Node};
pub(crate) use images::{INPUT_MARK, nfc};
pub use images::{mark_rerun, use_uploaded};
pub use limits::size_for_aspect_ratio;
pub use model_address::{CivitaiModel, ModelAddress, shown_address};
pub use models::ModelCatalog;
pub use remarks::remarks;
pub use render::USER_LORA;
pub use schema::{ClassSpec, InputKind, Schemas};
pub use template::{Lacking, Lora, Parameters, Template};
pub use templates::Templates;
pub use wording::{closest, closest_files};
