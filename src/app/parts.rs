//! Each part as the configuration has it, before they are put together.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{BuildError, no_client};
use crate::assets::{AssetLimits, Assets};
use crate::boot::Plan;
use crate::comfy::Comfys;
use crate::config::{Config, ModelFile, ReturnImagesAs};
use crate::delivery::DeliverySettings;
use crate::delivery::links::FileLinks;
use crate::delivery::s3::Bucket;
use crate::disk::blocking;
use crate::echo;
use crate::engine::Engine;
use crate::engine::remote::{self, Remote, RemoteEngine};
use crate::executor::{self, Executor};
use crate::http::auth::ApiKeys;
use crate::http::sessions::Sessions;
use crate::models::Models;
use crate::models::locate::Places;
use crate::models::manifest;
use crate::net::guard::AddressGuard;
use crate::queue::store::{Store, StoredJob};
use crate::telemetry::report::SharedReporter;
use crate::workflow::{Defaults, Templates};

/// The most bytes that an answer of a load-balancing endpoint may have (docs.runpod.io, serverless, load balancing).
const LOAD_BALANCER_MAX_BYTES: u64 = 30_000_000;

/// The models of a worker that starts so, those that it is to have from the start, and the templates of requests that name none.
pub(super) async fn models(
    config: &Config,
    plan: &mut Plan,
    reporter: &SharedReporter,
) -> Result<(Models, Vec<ModelFile>, Defaults), BuildError> {
    let catalog = manifest::catalog(&config.models).await?;
    let defaults = plan.defaults(config, &catalog).await;
    let wanted = manifest::wanted(&catalog, &config.models, &plan.default_sets(defaults))?;
    if defaults != Defaults::default() {
        tracing::info!(
            "a request without a template runs `{}`, one with images `{}`: the best for this card of what is installed or can be fetched",
            defaults.generate,
            defaults.edit
        );
    }
    let mut settings = config.models.clone();
    // They have the names of the real ones, which a machine without a GPU has no use for.
    settings.on_demand &= !plan.is_demo();
    let places = match plan.places(config) {
        Some(places) => Some(look_at(places, config.models.debug, plan).await),
        None => None,
    };
    if places.is_none() && !wanted.is_empty() && !matches!(plan, Plan::Front(_)) {
        tracing::warn!(
            "MODEL_SET and MODELS have no effect: COMFYUI_URL names a ComfyUI that somebody else runs. MODEL_DIR tells where it reads its models"
        );
    }
    let models = Models::new(catalog, places, &settings, Arc::clone(reporter)).map_err(no_client("models"))?;
    Ok((models, wanted, defaults))
}

/// Chooses where new models go, and has ComfyUI look there.
async fn look_at(places: Places, debug: bool, plan: &mut Plan) -> Arc<Places> {
    let mut places = places;
    let copies = match &*plan {
        Plan::Start(plan) => plan.copies.clone(),
        Plan::Front(_) | Plan::Attach(_) => None,
    };
    if let Some(copies) = &copies {
        places.look_first_into(copies.folder());
    }
    let places = Arc::new(places);
    let looking = Arc::clone(&places);
    let looked = blocking(move || {
        // Before anything is taken for there that will be removed.
        if let Some(copies) = copies {
            copies.tidy(&looking);
        }
        let described = if debug { looking.describe() } else { Vec::new() };
        (looking.further_folders(), described)
    });
    let (further, described) = looked.await;
    for line in described {
        tracing::info!("{line}");
    }
    plan.read_also(&further);
    places
}

/// What clients uploaded into this folder.
pub(super) async fn assets(config: &Config, folder: &Path, store: &Store) -> Result<Assets, BuildError> {
    let limits = AssetLimits {
        max_bytes: config.assets.max_bytes,
        ttl: config.jobs.result_ttl,
        // Without a key anybody could bring one.
        models: config.assets.models && !config.http.api_keys.is_empty(),
    };
    let opened = Assets::open(folder, store.clone(), limits).await;
    opened.map_err(|source| BuildError::Assets {
        folder: folder.display().to_string(),
        source,
    })
}

/// Removes the input images of jobs that a killed worker had in flight: these jobs bring them again.
pub(super) async fn sweep_inputs(comfy: &Comfys, unfinished: &[StoredJob]) {
    let Some(folders) = comfy.folders().cloned() else {
        return;
    };
    let ours: Vec<_> = unfinished.iter().map(|job| job.id.clone()).collect();
    blocking(move || executor::sweep_inputs(&folders, &ours)).await;
}

/// The sessions of browsers that are kept in this folder.
pub(super) async fn sessions(folder: &Path, keys: &ApiKeys) -> Sessions {
    let (folder, keys) = (folder.to_owned(), keys.clone());
    blocking(move || Sessions::open(&folder, &keys)).await
}

/// The engines elsewhere, in the order of their list; none where there is no list.
pub(super) async fn remotes(
    config: &Config,
    executor: &Arc<Executor>,
    store: &Store,
    bucket: Option<&Bucket>,
) -> Result<Vec<Arc<dyn Engine>>, BuildError> {
    let Some(source) = &config.engines.source else {
        return Ok(Vec::new());
    };
    let guard = AddressGuard::new(config.private_urls.clone());
    let list = remote::read_list(&config.engines, source, &guard).await;
    let front = store.name().await.map_err(BuildError::Store)?;
    let mut engines: Vec<Arc<dyn Engine>> = Vec::new();
    for spec in list.map_err(BuildError::Engines)? {
        let known = |name: &&String| executor.templates().get(name).is_none();
        if let Some(name) = spec.templates.iter().flatten().find(known) {
            let name = echo::cut(name);
            return Err(BuildError::Engines(format!(
                "engine `{}`: templates: there is no template `{name}`",
                spec.name
            )));
        }
        let remote = Remote::new(spec, executor, &front, (bucket, &guard)).map_err(no_client("engines"))?;
        engines.push(Arc::new(RemoteEngine(remote)));
    }
    Ok(engines)
}

/// The key of the links to files, made at the first start.
pub(super) async fn file_links(config: &Config) -> Result<FileLinks, BuildError> {
    let (folder, kept) = (config.paths.data_dir.clone(), config.jobs.result_ttl);
    blocking(move || FileLinks::open(&folder, kept))
        .await
        .map_err(|source| BuildError::Links {
            folder: config.paths.data_dir.display().to_string(),
            source,
        })
}

/// How results go back on this machine.
pub(super) fn delivery(config: &Config) -> Result<DeliverySettings, BuildError> {
    let configured = &config.delivery;
    let bucket = configured.bucket.as_ref().map(Bucket::new).transpose()?;
    let on_runpod = config.platform.on_runpod();
    let form = match configured.return_images_as {
        ReturnImagesAs::Auto if bucket.is_some() => ReturnImagesAs::S3Url,
        // Another request may reach another worker, where the file is not.
        ReturnImagesAs::Auto if on_runpod => ReturnImagesAs::Base64,
        ReturnImagesAs::Auto => ReturnImagesAs::Metadata,
        form => form,
    };
    Ok(DeliverySettings {
        form,
        output_format: configured.output_format,
        quality: configured.quality,
        max_bytes: configured.result_max_bytes.or(config
            .platform
            .endpoint_id
            .as_ref()
            .map(|_| LOAD_BALANCER_MAX_BYTES)),
        bucket,
        guard: AddressGuard::new(config.private_urls.clone()),
    })
}

/// The embedded templates, and those of the user's folder.
pub(crate) fn templates(folder: Option<&Path>) -> Result<Templates, BuildError> {
    let mut files = BTreeMap::new();
    if let Some(folder) = folder {
        let failed = |source| BuildError::TemplateFolder {
            folder: folder.display().to_string(),
            source,
        };
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_str().unwrap_or_default();
            let ending = path.extension().unwrap_or_default();
            if path.is_file() && (ending == "json" || ending == "toml") {
                files.insert(name.to_owned(), std::fs::read_to_string(&path).map_err(failed)?);
            }
        }
    }
    Ok(Templates::load(&files)?)
}
