//! An executor on a ComfyUI that never starts, for tests.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{DeliverySettings, Executor, Fetcher, Settings};
use crate::comfy::{Boot, Comfy, Folders};
use crate::config::{Config, ImagesConfig, PrivateUrls, ReturnImagesAs};
use crate::models::Models;
use crate::net::guard::AddressGuard;
use crate::telemetry::report::SilentReporter;
use crate::workflow::{ModelCatalog, Templates};

/// An executor with ComfyUI's folders under `data`, and what says how far the start of ComfyUI is.
pub(crate) fn executor(data: &Path) -> (Arc<Executor>, watch::Sender<Boot>) {
    let (boot, started) = watch::channel(Boot::Preparing);
    let folders = Folders {
        output: data.join("output"),
        input: data.join("input"),
        temp: data.join("temp"),
        are_ours: true,
    };
    let delivery = DeliverySettings {
        form: ReturnImagesAs::Metadata,
        output_format: None,
        quality: 90,
        max_bytes: None,
        bucket: None,
        guard: AddressGuard::new(PrivateUrls::All),
    };
    let images = ImagesConfig {
        max_bytes: 1_000_000,
        timeout: Duration::from_mins(1),
        buckets: Vec::new(),
    };
    let settings = Settings {
        prefetch: 1,
        retries: 1,
        cancel_grace: Duration::from_secs(1),
        stall_timeout: Duration::from_secs(10),
        fetcher: Fetcher::new(&images, &delivery).unwrap(),
        delivery,
        safety: None,
        org_api_key: None,
        reconnect_attempts: 0,
        reconnect_delay: Duration::ZERO,
        websocket_trace: false,
        warnings: Vec::new(),
    };
    let templates = Templates::load(&BTreeMap::new()).unwrap();
    let comfy = Comfy::supervised(started, folders);
    let config = Config::from_vars([("HOME".to_owned(), data.display().to_string())]).unwrap();
    let catalog = ModelCatalog::builtin().unwrap();
    let models = Models::new(catalog, None, &config.models, Arc::new(SilentReporter)).unwrap();
    let executor = Executor::new(comfy, templates, models, settings);
    (executor, boot)
}
