//! `models` on the command line.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use super::{hub, vars};
use crate::support::PATIENCE;
use crate::support::binary::binary;
use crate::support::model_hub::{Access, ModelHub, Plain, TOKEN};

/// Runs the binary; gives its output and its log.
async fn models(vars: &BTreeMap<String, String>, arguments: &[&str]) -> (Output, String) {
    let run = binary(vars).arg("models").args(arguments).output();
    let done = tokio::time::timeout(PATIENCE, run)
        .await
        .expect("in time")
        .expect("the binary runs");
    let log = String::from_utf8_lossy(&done.stderr).into_owned();
    (done, log)
}

/// The same, with `--json`: the rows, each as state, file and error.
async fn rows(vars: &BTreeMap<String, String>, arguments: &[&str], code: i32) -> Vec<(String, String, String)> {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let (done, log) = models(vars, &arguments).await;
    assert_eq!(done.status.code(), Some(code), "{arguments:?}: {log}");
    let rows: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {log}"));
    let rows = rows.as_array().expect("a list").iter();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    rows.map(|row| (text(row, "state"), text(row, "file"), text(row, "error")))
        .collect()
}

fn folder(data: &Path) -> std::path::PathBuf {
    data.join("base/models/vae")
}

#[tokio::test]
async fn files_are_pulled_listed_verified_and_removed() {
    let (hub, vae) = hub().await;
    let (data, vars) = vars(&hub, &[]);
    let (done, log) = models(&vars, &["pull", "later"]).await;
    assert!(done.status.success(), "{log}");
    // As the specification says: `docker logs … | grep model`.
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("model vae/later.safetensors"))
        .collect();
    assert!(lines.len() >= 2, "{log}");
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(
        printed.lines().filter(|line| line.starts_with("present")).count(),
        2,
        "{printed}"
    );
    assert_eq!(hub.sent(), vae.size() * 2);

    // All that is there is not fetched again.
    hub.forget();
    rows(&vars, &["pull", "later"], 0).await;
    assert_eq!(hub.sent(), 0);

    let listed = rows(&vars, &["list", "later", "start"], 0).await;
    let states: Vec<(&str, &str)> = listed.iter().map(|row| (row.0.as_str(), row.1.as_str())).collect();
    assert_eq!(
        states,
        [
            ("present", "vae/later.safetensors"),
            ("present", "vae/other.safetensors"),
            ("missing", "vae/start.safetensors"),
        ]
    );

    // One byte is another one: only the sum tells.
    let other = folder(data.path()).join("other.safetensors");
    let mut bytes = std::fs::read(&other).expect("a file");
    *bytes.last_mut().expect("a byte") ^= 1;
    std::fs::write(&other, bytes).expect("a file");
    let verified = rows(&vars, &["verify", "later"], 1).await;
    assert_eq!((verified[0].0.as_str(), verified[1].0.as_str()), ("verified", "wrong"));
    assert!(verified[1].2.contains(&vae.sha256()), "{verified:?}");

    let removed = rows(&vars, &["rm", "vae/other.safetensors", "start"], 0).await;
    assert_eq!((removed[0].0.as_str(), removed[1].0.as_str()), ("removed", "missing"));
    let left: Vec<_> = std::fs::read_dir(folder(data.path()))
        .expect("a folder")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.contains("safetensors"))
        .filter(|name| !name.starts_with('.') || name.contains("part"))
        .collect();
    assert_eq!(left, ["later.safetensors"]);
}

#[tokio::test]
async fn a_file_that_cannot_be_had_is_told_and_the_others_are_pulled() {
    let (hub, _) = hub().await;
    hub.restrict("owner/gated", Access::Gated);
    let (data, mut vars) = vars(&hub, &[]);
    let pulled = rows(&vars, &["pull", "gated", "start"], 1).await;
    assert_eq!((pulled[0].0.as_str(), pulled[1].0.as_str()), ("failed", "present"));
    assert!(pulled[0].2.contains("licence"), "{pulled:?}");
    assert!(folder(data.path()).join("start.safetensors").is_file());

    vars.insert("HF_TOKEN".to_owned(), TOKEN.to_owned());
    rows(&vars, &["pull", "gated"], 0).await;
}

#[tokio::test]
async fn a_manifest_and_single_files_are_taken_from_anywhere() {
    let hub = ModelHub::start().await;
    let vae = super::vae().await;
    let url = hub.put("mine.safetensors", Plain::new(vae.clone()));
    let manifest = format!("files = [{{ url = \"{url}\", target = \"vae/flat/mine.safetensors\" }}]");
    let (data, vars) = vars(&hub, &[("MODELS", &format!("loras/also.safetensors={url}"))]);
    let file = data.path().join("flat.toml");
    std::fs::write(&file, manifest).expect("a file");
    let file = file.display().to_string();
    rows(&vars, &["pull", "files", "--manifest", &file], 0).await;
    let mine = folder(data.path()).join("flat/mine.safetensors");
    assert_eq!(vae.differs(&mine), None);
    std::fs::remove_file(&mine).expect("it is there");
    // The whole manifest is asked for, whatever the environment wants besides.
    let pulled = rows(&vars, &["pull", "--manifest", &file], 0).await;
    assert_eq!(
        pulled,
        [(
            "present".to_owned(),
            "vae/flat/mine.safetensors".to_owned(),
            String::new()
        )]
    );
    assert_eq!(vae.differs(&mine), None);

    // Without a set, those of the environment.
    let pulled = rows(&vars, &["pull"], 0).await;
    assert_eq!(
        pulled,
        [("present".to_owned(), "loras/also.safetensors".to_owned(), String::new())]
    );
}

#[tokio::test]
async fn what_is_wrong_with_the_choice_is_told_before_anything_is_fetched() {
    let hub = ModelHub::start().await;
    let (data, vars) = vars(&hub, &[]);
    for (arguments, said) in [
        (vec!["pull"], "MODEL_SET"),
        (vec!["pull", "qwen-imag"], "qwen-image"),
        (vec!["pull", "--manifest", "nowhere.toml"], "nowhere.toml"),
        (vec!["rm", "../../etc/passwd"], "etc/passwd"),
    ] {
        let (done, log) = models(&vars, &arguments).await;
        assert_eq!(done.status.code(), Some(1), "{arguments:?}: {log}");
        assert!(log.contains(said), "{arguments:?}: {log}");
    }
    let bad = data.path().join("bad.toml");
    std::fs::write(
        &bad,
        "[sets.x]\ntitle = \"x\"\nfiles = [{ repo = \"a/b\", path = \"c.pt\", target = \"../x\" }]",
    )
    .expect("a file");
    let (done, log) = models(&vars, &["pull", "x", "--manifest", &bad.display().to_string()]).await;
    assert_eq!(done.status.code(), Some(1), "{log}");
    assert!(log.contains("../x") && log.contains("bad.toml"), "{log}");
    assert_eq!(hub.requests().len(), 0);
}
