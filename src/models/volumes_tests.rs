use super::*;

/// A volume with empty files at the given paths.
fn volume(files: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    root
}

fn found(roots: &[&Path]) -> Vec<Volume> {
    let roots: Vec<PathBuf> = roots.iter().map(|root| root.to_path_buf()).collect();
    find(&roots, Path::new("/nowhere/models"))
}

/// `text` with the name of the temporary folder taken out.
fn shown(text: &str, root: &tempfile::TempDir) -> String {
    text.replace(root.path().to_str().unwrap(), "/workspace")
}

#[test]
fn both_layouts_are_given_to_comfyui_with_every_kind_and_name() {
    let root = volume(&["models/vae/a.safetensors", "ComfyUI/models/ipadapter/b.bin"]);
    let text = extra_model_paths(&found(&[root.path()]), None).unwrap();
    insta::assert_snapshot!(shown(&text, &root));
}

#[test]
fn a_name_that_means_something_else_to_comfyui_is_left_out() {
    let root = volume(&[
        "models/custom_nodes/x.py",
        "models/base_path/x.pt",
        "models/.cache/x.pt",
        "models/my models/x.pt",
        "models/sams/x.pth",
    ]);
    assert_eq!(others_in(&found(&[root.path()])[0].models[0].path), ["sams"]);
}

#[test]
fn a_volume_is_described_in_one_line() {
    let root = volume(&[
        "models/diffusion_models/qwen/a.safetensors",
        "models/diffusion_models/b.gguf",
        "models/loras/c.safetensors",
        "models/loras/put_loras_here",
    ]);
    assert_eq!(
        shown(&found(&[root.path()])[0].described(), &root),
        "network volume /workspace: 3 model files in /workspace/models (diffusion_models 2, loras 1)"
    );
}

#[test]
fn a_volume_without_models_is_told_where_they_belong() {
    let root = volume(&["checkpoints/a.safetensors"]);
    let volumes = found(&[root.path()]);
    assert_eq!(extra_model_paths(&volumes, None), None);
    assert_eq!(
        shown(&volumes[0].described(), &root),
        "network volume /workspace: no models; they are looked for in /workspace/models/<folder> and \
         /workspace/ComfyUI/models/<folder>, where <folder> is diffusion_models, text_encoders, vae, loras or another \
         of ComfyUI's"
    );
    fs::create_dir_all(root.path().join("models/vae")).unwrap();
    assert_eq!(
        shown(&found(&[root.path()])[0].described(), &root),
        "network volume /workspace: no model files in /workspace/models"
    );
}

#[test]
fn a_root_that_is_not_there_or_is_there_already_is_no_volume() {
    let root = volume(&["models/vae/a.pt"]);
    let link = tempfile::tempdir().unwrap();
    let link = link.path().join("runpod-volume");
    std::os::unix::fs::symlink(root.path(), &link).unwrap();
    let volumes = found(&[
        Path::new("/nowhere"),
        root.path(),
        &link,
        &root.path().join("models/vae/a.pt"),
    ]);
    assert_eq!(volumes.len(), 1);
    assert_eq!(volumes[0].models().collect::<Vec<_>>(), [root.path().join("models")]);
}

#[test]
fn the_models_folder_of_comfyui_itself_is_not_given_twice() {
    let root = volume(&["ComfyUI/models/vae/a.pt"]);
    let own = root.path().join("ComfyUI/models");
    let volumes = find(&[root.path().to_owned()], &own);
    assert_eq!(extra_model_paths(&volumes, None), None);
    assert_eq!(
        shown(&volumes[0].described(), &root),
        "network volume /workspace: 1 model file in /workspace/ComfyUI/models (vae 1), which is ComfyUI's own folder"
    );
}

#[test]
fn a_further_folder_is_given_to_comfyui_once() {
    let root = volume(&["models/vae/a.pt"]);
    let (models, own) = (root.path().join("models"), root.path().join("own"));
    let mut volumes = found(&[root.path()]);
    for known in [&models, &root.path().join("models/../models"), &own] {
        add(&mut volumes, known, &own);
        assert_eq!(volumes.len(), 1, "{}", known.display());
    }
    let further = root.path().join("further");
    add(&mut volumes, &further, &own);
    add(&mut volumes, &further, &own);
    assert_eq!(volumes.len(), 2);
    assert!(
        extra_model_paths(&volumes, None)
            .unwrap()
            .contains("further/text_encoders")
    );
    assert_eq!(
        shown(&volumes[1].described(), &root),
        "models folder /workspace/further: no model files in /workspace/further"
    );
}

#[test]
fn the_file_is_written_only_when_there_is_something_to_tell() {
    let root = volume(&["models/vae/a.pt"]);
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("run/network_volumes.yaml");
    assert_eq!(write(&[], None, &file).unwrap(), None);
    assert!(!file.exists());
    assert_eq!(write(&found(&[root.path()]), None, &file).unwrap(), Some(file.clone()));
    assert!(fs::read_to_string(&file).unwrap().contains("models/vae"));

    let taken = data.path().join("taken");
    fs::write(&taken, "").unwrap();
    let error = write(&found(&[root.path()]), None, &taken.join("x")).unwrap_err();
    assert!(error.full_text().contains("DATA_DIR"), "{error:?}");
}

#[test]
fn custom_nodes_on_a_volume_are_read_only_where_that_is_allowed() {
    let root = tempfile::tempdir().unwrap();
    for folder in [
        "custom_nodes/Pack",
        "ComfyUI/custom_nodes/__pycache__",
        "ComfyUI/models/vae",
    ] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    let volumes = find(&[root.path().to_owned()], Path::new("/nonexistent"));
    assert_eq!(custom_nodes(&volumes, false), [""; 0].map(PathBuf::from));
    assert_eq!(custom_nodes(&volumes, true), [root.path().join("custom_nodes")]);
    fs::write(root.path().join("ComfyUI/custom_nodes/one.py"), "").unwrap();
    let both = ["custom_nodes", "ComfyUI/custom_nodes"].map(|folder| root.path().join(folder));
    assert_eq!(custom_nodes(&volumes, true), both);
    // A ComfyUI that lies there reads its own anyway.
    let volumes = find(&[root.path().to_owned()], &root.path().join("ComfyUI/models"));
    assert_eq!(custom_nodes(&volumes, true), both[..1]);
    assert_eq!(
        uv_cache(&volumes),
        Some(root.path().join(".cache/qwen-image-worker/uv"))
    );
    assert_eq!(uv_cache(&[]), None);
}

#[test]
fn local_copies_come_before_everything_else() {
    let root = volume(&["models/vae/a.safetensors"]);
    let copies = Path::new("/data/local-models");
    let text = extra_model_paths(&found(&[root.path()]), Some(copies)).unwrap();
    let first = text.find("local_copies:\n  is_default: true\n").unwrap();
    assert!(first < text.find("network_volume_1:").unwrap(), "{text}");
    assert!(text.contains("  vae: \"/data/local-models/vae\"\n"), "{text}");
    assert!(extra_model_paths(&[], Some(copies)).is_some());
}
