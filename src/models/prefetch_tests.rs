use super::*;

#[test]
fn the_text_encoder_comes_first_and_the_vae_last() {
    let kinds = ["vae", "loras", "upscale_models", "diffusion_models", "text_encoders"];
    let mut order = kinds;
    order.sort_by_key(|kind| place_of(kind));
    assert_eq!(
        order,
        ["text_encoders", "diffusion_models", "loras", "vae", "upscale_models"]
    );
}

#[test]
fn the_disk_is_left_to_comfyui_while_it_reads_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let beside = Beside {
        root: folder.path().to_owned(),
        ..Beside::default()
    };
    let device = fs::metadata(folder.path()).unwrap().dev();
    // No process yet: it is about to read.
    let mut watch = Watch::new(&beside);
    assert_eq!(watch.reserved(), device);
    watch.read_at = Instant::now().checked_sub(2 * LEFT_TO_COMFYUI).unwrap();
    assert_eq!(watch.reserved(), 0, "it has been silent");
    // Whatever this process has read by now, it differs from nothing.
    beside.pid.store(std::process::id(), Ordering::Relaxed);
    if bytes_read(std::process::id()).is_some() {
        assert_eq!(watch.reserved(), device);
    }
    beside.is_ready.store(true, Ordering::Relaxed);
    assert_eq!(watch.reserved(), 0);
}

#[test]
fn a_summary_tells_bytes_seconds_and_pace() {
    let read = Read {
        bytes: 20_000_000_000,
        there: 1_200_000_000,
        is_whole: false,
    };
    assert_eq!(
        summary(read, Duration::from_secs(10)),
        "20.00 GB in 10.0 s, 2.00 GB/s; 1.20 GB were there; the rest is left"
    );
}

#[test]
fn memory_is_left_to_others() {
    let gib = 1 << 30;
    assert_eq!(room_in((60 * gib, 64 * gib)), 52 * gib);
    assert_eq!(room_in((4 * gib, 8 * gib)), 0);
}

/// A worker with a folder of models.
async fn models(folder: &tempfile::TempDir) -> Models {
    let vars = [
        ("DATA_DIR", folder.path().display().to_string()),
        ("NETWORK_VOLUMES", "none".to_owned()),
    ];
    let config = crate::config::Config::from_vars(vars.map(|(name, value)| (name.to_owned(), value))).unwrap();
    let catalog = crate::models::manifest::catalog(&config.models).await.unwrap();
    let places = Places::new(&config, Some(&folder.path().join("models")), &[]);
    let reporter = Arc::new(crate::telemetry::report::SilentReporter);
    Models::new(catalog, Some(Arc::new(places)), &config.models, reporter).unwrap()
}

#[tokio::test]
async fn what_the_manifest_does_not_know_is_found_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["unet/mine.safetensors", "vae/mine_too.safetensors"] {
        let path = folder.path().join("models").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let models = models(&folder).await;
    let found = models
        .on_disk(&names(&["mine_too.safetensors", "mine.safetensors"]), &[])
        .await;
    let order: Vec<&str> = found.items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(
        (order.as_slice(), found.is_whole),
        (&["mine.safetensors", "mine_too.safetensors"][..], true)
    );
    let found = models
        .on_disk(&names(&["mine.safetensors", "gone.safetensors"]), &[])
        .await;
    assert_eq!((found.items.len(), found.is_whole), (1, false));
}

#[tokio::test]
async fn what_jobs_name_before_reading_begins_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("models/vae/a.safetensors");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "x").unwrap();
    let models = models(&folder).await;
    let planned = models.plan_prefetch();
    let _held = models.hold(vec!["elsewhere.safetensors".to_owned()]).await;
    let items = models.on_disk(&["a.safetensors".to_owned()], &[]).await.items;
    let read = models
        .prefetch(planned, items, Beside::default(), CancellationToken::new())
        .await;
    assert_eq!((read.bytes, read.is_whole), (0, false));
    assert!(matches!(*models.0.ahead.borrow(), Ahead::Over));
}
