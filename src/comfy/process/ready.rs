//! Asks a ComfyUI that is starting whether it answers yet.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::command::{Launch, value};
use super::error::ProcessError;
use crate::comfy::client::ComfyClient;

/// How long one answer may take. On a busy machine the first one takes a second; another program may take our connection
/// and say nothing.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// What a ComfyUI that is starting is asked, many times a second for many seconds.
pub(super) struct Question {
    pub(super) port: u16,
    client: ComfyClient,
    temp_dir: PathBuf,
}

impl Question {
    /// For the ComfyUI of `launch`, which was told to listen on `port`.
    pub(super) fn new(port: u16, launch: &Launch) -> Result<Self, ProcessError> {
        let client = ComfyClient::at(&format!("http://127.0.0.1:{port}"));
        Ok(Self {
            port,
            client: client.map_err(|source| ProcessError::NoClient { source: source.into() })?,
            temp_dir: launch.temp_dir(),
        })
    }

    /// Whether it answers. Everything else, such as a refused connection, is no.
    pub(super) async fn is_answered(&self) -> bool {
        let answer = tokio::time::timeout(ANSWER_TIME, self.client.system_stats()).await;
        matches!(answer, Ok(Ok(stats)) if !belongs_to_another(&stats, &self.temp_dir))
    }
}

/// Whether this is the ComfyUI of another worker, which took the port between our choosing it and our ComfyUI's
/// listening on it. `/system_stats` tells its arguments, and the folder for temporary files is each one's own.
/// Older versions, and custom nodes that empty `sys.argv`, tell nothing: that is ours then.
fn belongs_to_another(stats: &Value, temp_dir: &Path) -> bool {
    let arguments = stats.pointer("/system/argv").and_then(Value::as_array);
    let arguments: Vec<&str> = arguments.into_iter().flatten().filter_map(Value::as_str).collect();
    value(&arguments, "--temp-directory")
        .map(Path::new)
        .is_some_and(|theirs| {
            // One that a user gives may be relative; it is then below the folder where both run.
            theirs != temp_dir && !(theirs.is_relative() && temp_dir.ends_with(theirs))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tells_our_own_process_from_another_workers() {
        let is_ours = |arguments: &[&str]| {
            let stats = json!({"system": {"argv": arguments}});
            !belongs_to_another(&stats, Path::new("/run/ours"))
        };
        assert!(!belongs_to_another(&json!({}), Path::new("/run/ours")));
        for ours in [
            &[][..],
            &["--temp-directory", "/run/ours"],
            &["--temp-directory=/run/ours"],
            &["--temp-dir=/run/ours"],
            &["--temp-directory=ours"],
        ] {
            assert!(is_ours(ours), "{ours:?}");
        }
        assert!(!is_ours(&["--temp-directory", "/run/theirs"]));
        assert!(!is_ours(&["--temp-directory=/run/theirs"]));
    }
}
