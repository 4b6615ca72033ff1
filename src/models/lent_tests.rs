//! Uploaded models among ComfyUI's, for as long as a job has them.

use std::sync::Arc;

use super::*;
use crate::config::Config;
use crate::job::{ContentHash, ModelPlace};
use crate::models::locate::Places;
use crate::telemetry::report::SilentReporter;
use crate::workflow::ModelCatalog;

/// A ComfyUI with a folder for models, and an uploaded one.
struct Bench {
    data: tempfile::TempDir,
    models: Models,
    asset: AssetContent,
}

impl Bench {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let vars = [
            ("HOME", data.path().display().to_string()),
            ("NETWORK_VOLUMES", "none".to_owned()),
        ];
        let config = Config::from_vars(vars.map(|(name, value)| (name.to_owned(), value))).unwrap();
        let own = data.path().join("models");
        fs::create_dir_all(own.join("loras")).unwrap();
        let places = Arc::new(Places::new(&config, Some(&own), &[]));
        let catalog = ModelCatalog::builtin().unwrap();
        let models = Models::new(catalog, Some(places), &config.models, Arc::new(SilentReporter)).unwrap();
        fs::write(data.path().join("blob"), "weights").unwrap();
        let asset = AssetContent {
            id: "0192f0c1-7d5e-7c3a-9f10-0123456789ab".to_owned(),
            hash: ContentHash::of(b"weights"),
            bytes: 7,
            content_type: "application/octet-stream".to_owned(),
            file_path: Some("models/loras/style.safetensors".to_owned()),
            model: Some(ModelPlace {
                folder: "loras".to_owned(),
                name: "style.safetensors".to_owned(),
            }),
        };
        Self { data, models, asset }
    }

    async fn lend(&self) -> Loan {
        self.lend_as("style.safetensors").await
    }

    async fn lend_as(&self, name: &str) -> Loan {
        let blob = self.data.path().join("blob");
        let mut asset = self.asset.clone();
        asset.model.as_mut().unwrap().name = name.to_owned();
        let source = File::open(&blob).unwrap();
        self.models.lend(&asset, blob, source).await.unwrap()
    }

    fn path(&self, loan: &str) -> PathBuf {
        self.data.path().join("models/loras").join(loan)
    }

    /// Waits until it is gone.
    async fn gone(&self, path: &Path) {
        for _ in 0..500 {
            if !path.exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} is still there", path.display());
    }
}

#[tokio::test]
async fn a_model_is_there_as_long_as_somebody_has_it() {
    let bench = Bench::new();
    let (first, second) = tokio::join!(bench.lend(), bench.lend());
    let digits = &bench.asset.hash.hex()[..DIGITS];
    assert_eq!(
        first.name(),
        format!("qwen-image-worker-assets/{digits}/style.safetensors")
    );
    assert_eq!(first.name(), second.name());
    let path = bench.path(first.name());
    assert_eq!(fs::read(&path).unwrap(), b"weights");
    assert!(fs::metadata(&path).unwrap().permissions().readonly());
    drop(first);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(path.exists());
    let other = bench.lend_as("other.safetensors").await;
    drop(second);
    bench.gone(&path).await;
    let other_path = bench.path(other.name());
    assert!(other_path.exists());
    drop(other);
    bench.gone(other_path.parent().unwrap()).await;
    let again = bench.lend().await;
    assert_eq!(fs::read(bench.path(again.name())).unwrap(), b"weights");
    assert_eq!(fs::read(bench.data.path().join("blob")).unwrap(), b"weights");
}

#[tokio::test]
async fn what_a_killed_worker_left_is_removed_and_nothing_else() {
    let bench = Bench::new();
    let loan = bench.lend().await;
    let path = bench.path(loan.name());
    // As a kill does.
    std::mem::forget(loan);
    let own = bench.path("own.safetensors");
    fs::write(&own, "x").unwrap();
    bench.models.sweep_lent();
    assert!(!path.exists() && own.exists());
}

#[test]
fn one_on_another_file_system_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let (source, path) = (folder.path().join("source"), folder.path().join("a/b/x.gguf"));
    fs::write(&source, "weights").unwrap();
    let file = File::open(&source).unwrap();
    // What cannot be linked, as that on another file system cannot.
    let elsewhere = folder.path().join("not-there");
    for _ in 0..2 {
        make(&file, &elsewhere, &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"weights");
        assert!(fs::metadata(&path).unwrap().permissions().readonly());
    }
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test]
async fn without_a_folder_of_models_it_is_told() {
    let bench = Bench::new();
    let config = Config::from_vars([("HOME".to_owned(), bench.data.path().display().to_string())]).unwrap();
    let catalog = ModelCatalog::builtin().unwrap();
    let models = Models::new(catalog, None, &config.models, Arc::new(SilentReporter)).unwrap();
    let blob = bench.data.path().join("blob");
    let source = File::open(&blob).unwrap();
    let error = models.lend(&bench.asset, blob, source).await.unwrap_err();
    assert!(error.message.contains("`style.safetensors`"), "{}", error.message);
    models.sweep_lent();
}
