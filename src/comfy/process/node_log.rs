//! What ComfyUI's log says of custom nodes while they are imported (`nodes.py`, `main.py` of 0.3 and 0.30). What is said at
//! which level differs, and `COMFY_LOG_LEVEL` hides some of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

/// The most remarks that are kept of one start.
const MOST_REMARKS: usize = 4_000;

/// One thing that ComfyUI said of a pack.
#[derive(Debug, Clone, PartialEq)]
pub struct Remark {
    /// The pack's folder or file.
    pub pack: PathBuf,
    /// What was said of it.
    pub said: Said,
}

/// What ComfyUI says of a pack.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// Its import took so many seconds.
    Imported {
        /// To a tenth.
        seconds: f64,
        /// Whether its classes are there.
        done: bool,
    },
    /// Its import, or what describes its nodes, raised this.
    Raised(String),
    /// It has neither of the two names by which ComfyUI finds nodes.
    NoMappings,
    /// Its prestartup script raised this; ComfyUI goes on with the pack all the same.
    PrestartupRaised(String),
}

/// What was said in the start that runs, or ran last. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct NodeLog(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    generation: u64,
    remarks: Vec<Remark>,
}

impl NodeLog {
    /// The remarks of a start, oldest first.
    pub fn of(&self, generation: u64) -> Vec<Remark> {
        let noted = self.0.lock();
        if noted.generation == generation {
            noted.remarks.clone()
        } else {
            Vec::new()
        }
    }

    /// Takes a line, without its level. `before` is the line before it, which ends a traceback, maybe.
    pub(super) fn line(&self, generation: u64, line: &str, before: impl FnOnce() -> Option<String>) {
        let Some(mut remark) = read(line) else { return };
        if let Said::Raised(error) = &mut remark.said
            && error.is_empty()
        {
            // An exception without a message is only named by the traceback.
            *error = before().unwrap_or_default();
        }
        let mut noted = self.0.lock();
        if noted.generation != generation {
            *noted = Noted {
                generation,
                ..Noted::default()
            };
        }
        if noted.remarks.len() < MOST_REMARKS {
            noted.remarks.push(remark);
        }
    }
}

/// What a line says of a pack; [`None`] for all other lines.
fn read(line: &str) -> Option<Remark> {
    let line = line.trim();
    let remark = |pack: &str, said| {
        (!pack.is_empty()).then(|| Remark {
            pack: PathBuf::from(pack),
            said,
        })
    };
    if let Some(rest) = line.strip_prefix("Cannot import ") {
        // `strip`ped of the space at its end where there is no message.
        let (pack, error) = rest.split_once(" module for custom nodes:")?;
        return remark(pack, Said::Raised(error.trim().to_owned()));
    }
    if let Some(rest) = line.strip_prefix("Error while calling comfy_entrypoint in ") {
        // A path may hold `: `, and the message is likelier to.
        let (pack, error) = rest.split_once(": ").or_else(|| Some((rest.strip_suffix(':')?, "")))?;
        return remark(pack, Said::Raised(error.to_owned()));
    }
    if let Some(rest) = line.strip_prefix("comfy_entrypoint in ") {
        let ends = [
            " is not callable, skipping.",
            " did not return a ComfyExtension, skipping.",
            " did not return a list of nodes, skipping.",
        ];
        return ends.iter().find_map(|end| {
            let said = format!("its comfy_entrypoint{}", end.trim_end_matches(", skipping."));
            remark(rest.strip_suffix(end)?, Said::Raised(said))
        });
    }
    if let Some(rest) = line.strip_prefix("Skip ") {
        let (pack, _) = rest.split_once(" module for custom nodes due to the lack of NODE_CLASS_MAPPINGS")?;
        return remark(pack, Said::NoMappings);
    }
    if let Some(rest) = line.strip_prefix("Failed to execute startup-script: ") {
        let (script, error) = rest.split_once(" / ")?;
        let pack = Path::new(script).parent()?.to_str()?;
        return remark(pack, Said::PrestartupRaised(error.to_owned()));
    }
    let (seconds, rest) = line.split_once(" seconds")?;
    let seconds: f64 = seconds.parse().ok()?;
    if let Some(pack) = rest.strip_prefix(": ") {
        return remark(pack, Said::Imported { seconds, done: true });
    }
    remark(
        rest.strip_prefix(" (IMPORT FAILED): ")?,
        Said::Imported { seconds, done: false },
    )
}

#[cfg(test)]
#[path = "node_log_tests.rs"]
mod tests;
