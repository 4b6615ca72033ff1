//! What jobs do with a process that keeps ending.

use std::path::PathBuf;

use tokio::sync::watch;

use super::support::{Fake, get, soon};
use crate::comfy::process::{ComfyProcess, ProcessError};
use crate::comfy::{Boot, Comfy, Folders};

/// The process as jobs see it.
fn comfy(process: &ComfyProcess) -> (Comfy, watch::Sender<Boot>) {
    let (sender, boot) = watch::channel(Boot::Started(process.clone()));
    let [output, input, temp] = ["output", "input", "temp"].map(PathBuf::from);
    let folders = Folders {
        output,
        input,
        temp,
        are_ours: true,
        ..Folders::default()
    };
    (Comfy::supervised(boot, folders), sender)
}

#[tokio::test]
async fn a_job_has_one_that_had_worked_started_once_more_and_no_more() {
    // What ends a process that had worked is a job, most likely, and not the installation.
    let fake = Fake::new("serve() if start in (1, 4) else sys.exit(9)");
    let process = fake.start();
    let (comfy, _sender) = comfy(&process);
    for generation in [1, 4] {
        assert_eq!(soon(comfy.connection()).await.unwrap().generation(), generation);
        let endpoint = soon(process.ready()).await.unwrap();
        get(&endpoint, "/exit/1").await;
        soon(endpoint.exited()).await;
        assert!(matches!(
            soon(process.ready()).await,
            Err(ProcessError::CrashLoop { .. })
        ));
    }
    assert_eq!(fake.starts(), 6);
    // Within a minute.
    soon(comfy.connection()).await.unwrap_err();
    assert_eq!(fake.starts(), 6);
}

#[tokio::test]
async fn no_job_has_one_that_never_worked_started_again() {
    let fake = Fake::new("sys.exit(9)");
    let process = fake.start();
    let (comfy, _sender) = comfy(&process);
    for _ in 0..2 {
        soon(comfy.connection()).await.unwrap_err();
        assert_eq!(fake.starts(), 3);
    }
}
