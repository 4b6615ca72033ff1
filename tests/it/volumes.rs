//! Models on network volumes, as the real ComfyUI lists them.

use serde_json::Value;

use crate::support::{Worker, fresh_data, http};

/// What ComfyUI lists for one kind of model.
async fn listed(comfy: &str, path: &str) -> Vec<String> {
    let answer = http().get(format!("{comfy}{path}")).send().await.expect("an answer");
    let names: Value = answer.json().await.expect("JSON");
    let names = names.as_array().unwrap_or_else(|| panic!("{path}: {names}"));
    names.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[tokio::test]
async fn comfyui_lists_the_models_of_a_volume_in_both_layouts() {
    let (data, mut vars) = fresh_data();
    let volume = tempfile::tempdir().expect("a folder");
    let put = |path: &str| {
        let path = volume.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, "").expect("a file");
    };
    put("models/diffusion_models/one.safetensors");
    put("ComfyUI/models/unet/qwen/two.safetensors");
    put("ComfyUI/models/ipadapter/three.bin");
    vars.insert("NETWORK_VOLUMES".into(), volume.path().display().to_string());
    let mut worker = Worker::start(vars).await;
    worker.data = Some(data);
    worker.ready().await;
    let comfy = worker.comfy_url().await;

    let models = listed(&comfy, "models/diffusion_models").await;
    for name in ["one.safetensors", "qwen/two.safetensors"] {
        assert!(models.iter().any(|model| model == name), "{name} is not in {models:?}");
    }
    assert_eq!(listed(&comfy, "models/ipadapter").await, ["three.bin"]);

    // Each kind that this ComfyUI knows is looked for on the volume, also when its folder comes later. A diffusers model is
    // a folder; data sets and custom nodes are no models; the other one was seen above.
    let kinds = listed(&comfy, "models").await;
    let kinds = kinds
        .iter()
        .filter(|kind| !["diffusers", "datasets", "custom_nodes", "ipadapter"].contains(&kind.as_str()));
    for kind in kinds {
        // Classifiers have no ending.
        for name in ["later.safetensors", "later.yaml", "later"] {
            put(&format!("models/{kind}/{name}"));
        }
        let models = listed(&comfy, &format!("models/{kind}")).await;
        assert!(
            models.iter().any(|model| model.starts_with("later")),
            "{kind}: {models:?}"
        );
    }
}
