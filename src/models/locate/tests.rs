use std::os::unix::fs::symlink;

use super::*;

/// A machine of folders: a ComfyUI of ours, a volume, a cache of the Hub's tools.
struct Machine {
    root: tempfile::TempDir,
    vars: Vec<(String, String)>,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut machine = Self { root, vars: Vec::new() };
        machine.set("DATA_DIR", "data");
        machine.set("HF_HUB_CACHE", "cache");
        machine.set("NETWORK_VOLUMES", "volume");
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// Sets a variable to a path of the machine.
    fn set(&mut self, name: &str, path: &str) {
        let path = self.path(path).display().to_string();
        self.vars.retain(|(known, _)| known != name);
        self.vars.push((name.to_owned(), path));
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// A file in a cache, as `huggingface_hub` leaves it.
    fn cache(&self, cache: &str, text: &str) -> PathBuf {
        let repo = format!("{cache}/models--o--r");
        self.write(&format!("{repo}/refs/main"), "abc");
        let blob = self.write(&format!("{repo}/blobs/1"), text);
        let file = self.path(&format!("{repo}/snapshots/abc/x.pt"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        symlink(blob, &file).unwrap();
        file
    }

    fn config(&self) -> Config {
        Config::from_vars(self.vars.clone()).unwrap()
    }

    fn places_with(&self, own: &str) -> Places {
        let (config, own) = (self.config(), self.path(own));
        let volumes = volumes::find(&config.paths.network_volumes, &own);
        let mut places = Places::new(&config, Some(&own), &volumes);
        places.runpod_cache = self.path("runpod/cache");
        places
    }

    fn places(&self) -> Places {
        self.places_with("data/base/models")
    }
}

fn lora() -> ModelFile {
    "loras/sub/y.pt=hf://o/r/x.pt".parse().unwrap()
}

fn sized(size: u64) -> ModelFile {
    ModelFile {
        size: Some(size),
        ..lora()
    }
}

#[test]
fn a_file_in_any_of_comfyuis_folders_is_present() {
    for path in [
        "data/base/models/loras/sub/y.pt",
        "volume/models/loras/sub/y.pt",
        "volume/ComfyUI/models/loras/sub/y.pt",
        "named/loras/sub/y.pt",
    ] {
        let mut machine = Machine::new();
        machine.set("MODEL_DIR", "named");
        assert_eq!(machine.places().locate(&lora()), Found::Missing);
        let path = machine.write(path, "12345");
        assert_eq!(machine.places().locate(&lora()), Found::Present(path.clone()));
        assert_eq!(machine.places().locate(&sized(5)), Found::Present(path.clone()));
        let wrong = Found::WrongSize {
            path,
            found: 5,
            expected: 6,
        };
        assert_eq!(machine.places().locate(&sized(6)), wrong);
    }
}

#[test]
fn the_old_name_of_a_folder_counts_and_another_name_of_the_file_does_not() {
    let machine = Machine::new();
    let clip = machine.write("volume/models/clip/x.pt", "");
    machine.write("volume/models/loras/y.pt", "");
    let places = machine.places();
    let encoder: ModelFile = "text_encoders=hf://o/r/x.pt".parse().unwrap();
    assert_eq!(places.locate(&encoder), Found::Present(clip));
    assert_eq!(places.locate(&lora()), Found::Missing);
}

#[test]
fn what_comfyui_looks_at_first_counts() {
    let mut machine = Machine::new();
    machine.set("COMFYUI_DIR", "comfyui");
    let yaml = |first: &str| format!("mine:\n  base_path: ../ui\n  is_default: {first}\n  loras: Lora\n");
    machine.write("comfyui/models/loras/sub/y.pt", "own");
    machine.write("ui/Lora/sub/y.pt", "extra");
    machine.write("comfyui/extra_model_paths.yaml", &yaml("false"));
    let located = || machine.places_with("comfyui/models").locate(&lora());
    assert_eq!(located(), Found::Present(machine.path("comfyui/models/loras/sub/y.pt")));
    machine.write("comfyui/extra_model_paths.yaml", &yaml("true"));
    assert_eq!(located(), Found::Present(machine.path("ui/Lora/sub/y.pt")));
    machine.write("comfyui/extra_model_paths.yaml", "a: [");
    let places = machine.places_with("comfyui/models");
    let lines = places.describe();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("extra_model_paths.yaml are not known")),
        "{lines:?}"
    );
}

#[test]
fn a_file_in_a_cache_is_linked() {
    for cache in ["cache", "volume/huggingface-cache/hub"] {
        let machine = Machine::new();
        let cached = machine.cache(cache, "12345");
        let places = machine.places();
        assert_eq!(places.locate(&sized(5)), Found::Linkable(cached.clone()));
        assert!(matches!(places.locate(&sized(4)), Found::WrongSize { found: 5, .. }));
        let link = places.link(&cached, &lora()).unwrap();
        assert_eq!(link, machine.path("data/base/models/loras/sub/y.pt"));
        assert_eq!(places.locate(&sized(5)), Found::Present(link.clone()));
        assert_eq!(fs::read_to_string(&link).unwrap(), "12345");
        assert_eq!(places.link(&cached, &lora()).unwrap(), link);
    }
    let machine = Machine::new();
    let cached = machine.write("runpod/cache/o/r/main/x.pt", "12345");
    assert_eq!(machine.places().locate(&sized(5)), Found::Linkable(cached));
    assert_eq!(
        machine
            .places()
            .locate(&"loras=https://storage.example.com/x.pt".parse().unwrap()),
        Found::Missing
    );
}

#[test]
fn a_good_file_in_one_cache_outweighs_a_wrong_one_in_another() {
    let machine = Machine::new();
    machine.cache("cache", "123");
    let good = machine.cache("volume/huggingface-cache/hub", "12345");
    assert_eq!(machine.places().locate(&sized(5)), Found::Linkable(good));
}

#[test]
fn a_dangling_link_is_replaced_and_a_file_never() {
    let machine = Machine::new();
    let cached = machine.cache("cache", "12345");
    let places = machine.places();
    let link = machine.write("data/base/models/loras/sub/y.pt", "mine");
    assert!(matches!(places.link(&cached, &lora()), Err(LocateError::Taken(_))));
    assert_eq!(fs::read_to_string(&link).unwrap(), "mine");
    fs::remove_file(&link).unwrap();
    symlink(machine.path("gone"), &link).unwrap();
    assert_eq!(places.locate(&lora()), Found::Linkable(cached.clone()));
    assert_eq!(places.link(&cached, &lora()).unwrap(), link);
    assert_eq!(fs::read_to_string(&link).unwrap(), "12345");
    fs::remove_file(&link).unwrap();
    fs::create_dir(&link).unwrap();
    assert!(matches!(places.link(&cached, &lora()), Err(LocateError::Taken(_))));
}

#[test]
fn links_never_go_onto_a_volume() {
    let mut machine = Machine::new();
    let cached = machine.cache("cache", "12345");
    machine.set("COMFYUI_DIR", "volume/ComfyUI");
    fs::create_dir_all(machine.path("volume/ComfyUI/models")).unwrap();
    let places = machine.places_with("volume/ComfyUI/models");
    let link = places.link(&cached, &lora()).unwrap();
    assert_eq!(link, machine.path("data/linked-models/loras/sub/y.pt"));
    assert_eq!(places.locate(&lora()), Found::Present(link));
    assert!(places.further_folders().contains(&machine.path("data/linked-models")));

    // A folder of ComfyUI's may itself be a link to the volume.
    let machine = Machine::new();
    let cached = machine.cache("cache", "12345");
    fs::create_dir_all(machine.path("volume/models/loras")).unwrap();
    fs::create_dir_all(machine.path("data/base/models")).unwrap();
    symlink(
        machine.path("volume/models/loras"),
        machine.path("data/base/models/loras"),
    )
    .unwrap();
    let link = machine.places().link(&cached, &lora()).unwrap();
    assert_eq!(link, machine.path("data/linked-models/loras/sub/y.pt"));

    let mut machine = Machine::new();
    let cached = machine.cache("cache", "12345");
    fs::create_dir(machine.path("volume")).unwrap();
    machine.set("DATA_DIR", "volume/data");
    let places = machine.places_with("volume/data/base/models");
    assert!(matches!(places.link(&cached, &lora()), Err(LocateError::NoFolder)));
}

#[test]
fn new_files_go_to_the_volume_in_the_layout_that_is_there() {
    let machine = Machine::new();
    let target = |machine: &Machine| machine.places().download_dir().unwrap().to_owned();
    assert_eq!(target(&machine), machine.path("data/base/models"));
    assert_eq!(machine.places().further_folders(), [machine.path("data/base/models")]);

    fs::create_dir(machine.path("volume")).unwrap();
    let places = machine.places();
    assert!(
        !machine.path("volume/models").exists(),
        "nothing is made before it is asked for"
    );
    assert_eq!(places.download_dir(), Some(machine.path("volume/models").as_path()));
    assert_eq!(places.further_folders(), [machine.path("volume/models")]);
    machine.write("volume/models/loras/sub/y.pt", "");
    assert!(matches!(places.locate(&lora()), Found::Present(_)));

    fs::remove_dir_all(machine.path("volume/models")).unwrap();
    fs::create_dir_all(machine.path("volume/ComfyUI/models")).unwrap();
    assert_eq!(target(&machine), machine.path("volume/ComfyUI/models"));
}

#[test]
fn new_files_go_where_the_user_says() {
    let mut machine = Machine::new();
    fs::create_dir(machine.path("volume")).unwrap();
    machine.set("MODEL_DIR", "named");
    let places = machine.places();
    assert_eq!(places.download_dir(), Some(&*machine.path("named")));
    assert_eq!(places.further_folders(), [machine.path("named")]);
    assert!(!machine.path("volume/models").exists());
}

#[test]
fn a_volume_that_cannot_be_written_to_is_told() {
    let machine = Machine::new();
    // A file where the folder belongs: root may write anywhere else.
    machine.write("volume/models/put_here", "");
    fs::remove_dir_all(machine.path("volume/models")).unwrap();
    machine.write("volume/models", "");
    let places = machine.places();
    assert_eq!(places.download_dir(), Some(machine.path("data/base/models").as_path()));
    let lines = places.describe();
    let refused = format!(
        "models: new models cannot go to {}",
        machine.path("volume/models").display()
    );
    assert!(lines.iter().any(|line| line.starts_with(&refused)), "{lines:?}");
}

#[test]
fn nothing_is_made_in_a_workspace_that_nobody_named() {
    let machine = Machine::new();
    fs::create_dir(machine.path("volume")).unwrap();
    let mut config = machine.config();
    config.paths.network_volumes_are_chosen = false;
    let own = machine.path("own");
    let volumes = volumes::find(&config.paths.network_volumes, &own);
    assert_eq!(volumes.len(), 1);
    let places = Places::new(&config, Some(&own), &volumes);
    assert_eq!(places.download_dir(), Some(own.as_path()));
}

#[test]
fn with_a_comfyui_of_somebody_elses_there_may_be_no_place() {
    let mut machine = Machine::new();
    let cached = machine.cache("cache", "");
    let attached = |machine: &Machine| {
        let config = machine.config();
        let volumes = volumes::find(&config.paths.network_volumes, Path::new(""));
        Places::new(&config, None, &volumes)
    };
    let places = attached(&machine);
    assert_eq!(places.download_dir(), None);
    assert!(places.further_folders().is_empty());
    assert!(matches!(places.link(&cached, &lora()), Err(LocateError::NoFolder)));
    assert!(places.describe().last().unwrap().contains("set MODEL_DIR"));
    machine.set("MODEL_DIR", "named");
    let present = machine.write("named/loras/sub/y.pt", "");
    assert_eq!(attached(&machine).locate(&lora()), Found::Present(present));
}

#[test]
fn each_place_is_described() {
    let machine = Machine::new();
    machine.write("data/base/models/vae/a.pt", "");
    machine.write("volume/models/loras/b.pt", "");
    machine.cache("cache", "");
    let text = machine.places().describe().join("\n");
    insta::assert_snapshot!(text.replace(machine.root.path().to_str().unwrap(), ""), @r"
    models: ComfyUI's own models folder: 1 model file in /data/base/models (vae 1)
    models: network volume: 1 model file in /volume/models (loras 1)
    models: Hugging Face cache /cache: o/r
    models: Hugging Face cache /volume/huggingface-cache/hub: not there
    models: RunPod's cached models /runpod/cache: not there
    models: new ones go to /volume/models
    ");
}
