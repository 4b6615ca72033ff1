//! What Hugging Face's own tools have fetched is found and linked, not fetched again.

use std::path::Path;
use std::process::Stdio;

use qwen_image_worker::config::{Config, ModelFile, Origin};
use qwen_image_worker::models::locate::{Found, Places};
use qwen_image_worker::models::volumes;
use tokio::process::Command;

use crate::support::clients;
use crate::support::model_hub::{Content, Fault, Host, ModelHub, Rule};
use crate::support::until;

const PACKAGE: &str = "huggingface_hub==2.4.0";
const REPO: &str = "owner/Some.Model_1";
const PATH: &str = "split_files/vae/a b.safetensors";

/// `hf download` for the file, as a user runs it who has set `HF_HOME`.
async fn hf_download(hub: &ModelHub, home: &Path) -> Command {
    let mut command = Command::new(clients::tool(PACKAGE, "hf").await);
    command.args(["download", REPO, PATH]);
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command
        .env("HF_HOME", home)
        .env("HF_ENDPOINT", hub.url.as_str().trim_end_matches('/'))
        .env("HF_HUB_DISABLE_XET", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The places of a worker with these folders.
fn places(data: &Path, home: &Path, volume: &Path) -> Places {
    let vars = [("DATA_DIR", data), ("HF_HOME", home), ("NETWORK_VOLUMES", volume)];
    let vars = vars.map(|(name, path)| (name.to_owned(), path.display().to_string()));
    let config = Config::from_vars(vars).expect("a good configuration");
    let own = data.join("base/models");
    let volumes = volumes::find(&config.paths.network_volumes, &own);
    Places::new(&config, Some(&own), &volumes)
}

fn wanted(revision: &str, content: &Content) -> ModelFile {
    let origin = Origin::hub(REPO, revision, PATH).expect("a source");
    let mut file = ModelFile::new(origin, "vae/sub/mine.safetensors").expect("a file");
    file.size = Some(content.size());
    file.sha256 = Some(content.sha256());
    file
}

#[tokio::test]
async fn what_hf_download_has_fetched_is_found_and_linked() {
    let hub = ModelHub::start().await;
    let content = Content::safetensors(1, 300_000);
    let commit = hub.push(REPO, "main", [(PATH, &content)]);
    let folder = tempfile::tempdir().expect("a folder");
    let volume = folder.path().join("volume");
    // The user's own cache, and that of RunPod's cached models on the volume.
    for (name, home) in [
        ("own", folder.path().join("hf")),
        ("cached", volume.join("huggingface-cache")),
    ] {
        std::fs::create_dir_all(&volume).expect("a folder");
        let data = folder.path().join(name);
        let unused = folder.path().join("unused");
        let cache = if home.starts_with(&volume) { &unused } else { &home };
        let ended = hf_download(&hub, &home).await.output().await.expect("hf runs");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));

        let places = places(&data, cache, &volume);
        let file = wanted("main", &content);
        let Found::Linkable(found) = places.locate(&file) else {
            panic!("{:?}\n{}", places.locate(&file), places.describe().join("\n"));
        };
        assert_eq!(
            places.locate(&wanted(&commit, &content)),
            Found::Linkable(found.clone())
        );
        let link = places.link(&found, &file).expect("a link");
        assert_eq!(link, data.join("base/models/vae/sub/mine.safetensors"));
        assert_eq!(places.locate(&file), Found::Present(link.clone()));
        assert_eq!(content.differs(&link), None);

        let other = Content::safetensors(2, 300_000);
        assert_eq!(
            places.locate(&ModelFile {
                name: "other.pt".to_owned(),
                ..wanted("main", &other)
            }),
            Found::Missing,
            "the cache's file has another checksum"
        );
        std::fs::remove_dir_all(home).expect("no cache");
        assert_eq!(places.locate(&file), Found::Missing, "the link leads nowhere");
    }
}

#[tokio::test]
async fn what_hf_download_has_fetched_in_part_is_not_found() {
    let hub = ModelHub::start().await;
    let content = Content::safetensors(3, 1_000_000);
    let commit = hub.push(REPO, "main", [(PATH, &content)]);
    hub.fault(Rule::on(Host::Cdn, Fault::Stall(10_000)).method("GET"));
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().join("hf");
    let mut hf = hf_download(&hub, &home).await.spawn().expect("a process");
    let blobs = home.join("hub/models--owner--Some.Model_1/blobs");
    until("hf has begun", async || {
        let blobs = std::fs::read_dir(&blobs).into_iter().flatten().flatten();
        let mut names = blobs.filter_map(|blob| blob.file_name().into_string().ok());
        names.any(|name| name.ends_with(".incomplete"))
    })
    .await;
    hf.kill().await.expect("it ends");
    let places = places(&folder.path().join("data"), &home, &folder.path().join("none"));
    for revision in ["main", &commit] {
        assert_eq!(places.locate(&wanted(revision, &content)), Found::Missing);
    }
}
