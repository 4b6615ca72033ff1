//! A store that the first release left, with jobs in each state.

use std::path::Path;

use rusqlite::Connection;
use serde_json::json;

use super::*;
use crate::comfy::Comfy;
use crate::executor::testing::{FakeComfy, executor_on};

const RELEASE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/src/queue/store/tests/fixtures/release-0.1.0"
);

/// The ids in it.
const QUEUED: &str = "01a2269f-5811-7744-a335-4fdb4b3c8800";
const RUNNING: &str = "01a2269f-5816-72e4-81d0-ffe1198b66fc";
const COMPLETED: &str = "01a2269f-5817-71aa-b28e-2ed872021196";
const FAILED: &str = "01a2269f-5820-71ac-bdf5-4bd126141caf";
const WEBHOOK: &str = "msg_01a2269f582c75008b2e8bfc4e9812f4";

/// Makes the store in a folder.
fn lay_out(data: &Path) {
    let release = Path::new(RELEASE);
    let database = Connection::open(data.join("jobs.db")).unwrap();
    let dump = std::fs::read_to_string(release.join("jobs.sql")).unwrap();
    database.execute_batch(&dump).unwrap();
    std::fs::create_dir(data.join("jobs")).unwrap();
    for body in std::fs::read_dir(release.join("jobs")).unwrap() {
        let body = body.unwrap();
        std::fs::copy(body.path(), data.join("jobs").join(body.file_name())).unwrap();
    }
}

/// ComfyUI runs everything at once.
fn answer(path: &str, submitted: &[String]) -> (u16, String) {
    let class = |class: &str, input: serde_json::Value| json!({class: {"input": {"optional": input}, "output": ["IMAGE"], "output_node": true}});
    let body = match path {
        "/object_info/LoadImage" => class("LoadImage", json!({"image": [["a.png"], {"image_upload": true}]})),
        "/object_info/SaveImage" => class("SaveImage", json!({"images": ["IMAGE"], "filename_prefix": ["STRING"]})),
        "/upload/image" => json!({"name": "cat.png", "subfolder": "", "type": "input"}),
        "/queue" => json!({"queue_running": [], "queue_pending": []}),
        _ => match path.strip_prefix("/history/") {
            Some(id) if submitted.iter().any(|known| known == id) => json!({id: {
                "status": {"status_str": "success", "messages": []},
                "outputs": {"2": {"images": [{"filename": "made.png", "subfolder": "", "type": "output"}]}},
            }}),
            _ => json!({}),
        },
    };
    (200, body.to_string())
}

#[tokio::test]
async fn a_store_of_the_first_release_is_gone_on_with() {
    let data = tempfile::tempdir().unwrap();
    lay_out(data.path());
    let fake = FakeComfy::start(answer).await;
    let comfy = Comfy::attached(&fake.url.parse().unwrap()).unwrap();
    let settings = JobsConfig {
        queue_ttl: Duration::MAX,
        result_ttl: Duration::MAX,
        ..settings()
    };
    let queue = testing::queue(executor_on(comfy, data.path()), data.path(), settings).await;

    for id in [QUEUED, RUNNING] {
        let view = queue.wait(id).await.unwrap();
        let outcome = view.result.unwrap().unwrap_or_else(|error| panic!("{id}: {error}"));
        assert_eq!((view.state, outcome.files.len()), (JobState::Completed, 1), "{id}");
    }
    assert_eq!(fake.submitted.lock().unwrap().len(), 2);

    let view = queue.view(COMPLETED).await.unwrap();
    assert_eq!(
        (view.state, view.delay, view.execution),
        (
            JobState::Completed,
            Duration::from_micros(20_138),
            Duration::from_micros(531)
        )
    );
    assert!(view.result.unwrap().unwrap().warnings[0].starts_with("mind the gap"));
    let id = view.id;
    let files = queue.store().expired_now(&id).await.unwrap().unwrap().files;
    let files: Vec<_> = files.into_iter().map(|file| file.filename).collect();
    assert_eq!(files, ["release_00002_.png", "release_00003_.png"]);
    let due = queue.store().due_webhooks(SystemTime::now(), &[], 8).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!(queue.store().webhook_job(WEBHOOK).await.unwrap(), Some(id));

    let view = queue.view(FAILED).await.unwrap();
    let platform = queue.platform_jobs().await.unwrap();
    assert_eq!(view.result.unwrap().unwrap_err().message, "no such model");
    assert_eq!(platform.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), [view.id]);
}
