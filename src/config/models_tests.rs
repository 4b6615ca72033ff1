use std::path::Path;

use super::*;
use crate::config::{Mistake, Resolved};

fn config(vars: &[(&str, &str)]) -> (ModelsConfig, Vec<Resolved>, Vec<Mistake>) {
    let mut reader = Reader::of(vars);
    (read(&mut reader), reader.resolved, reader.mistakes)
}

fn good(vars: &[(&str, &str)]) -> ModelsConfig {
    let (config, _, mistakes) = config(vars);
    assert_eq!(mistakes, []);
    config
}

#[test]
fn nothing_set_is_a_good_configuration() {
    let config = good(&[]);
    assert_eq!((config.sets, config.manifest, config.dir), (None, None, None));
    assert!(config.files.is_empty() && config.tokens.is_empty());
    assert!(config.parallel && config.on_demand && !config.debug);
}

#[test]
fn sets_are_named_once_or_none_is() {
    assert_eq!(good(&[("MODEL_SET", "None")]).sets, Some(Vec::new()));
    assert_eq!(
        good(&[("MODEL_SET", "qwen-image, mine,qwen-image,")]).sets,
        Some(vec!["qwen-image".to_owned(), "mine".to_owned()])
    );
}

#[test]
fn a_manifest_is_a_file_or_a_url() {
    assert_eq!(
        good(&[("MODEL_MANIFEST", "/v/models.toml")]).manifest,
        Some(ManifestSource::File("/v/models.toml".into()))
    );
    let (config, resolved, _) = config(&[("MODEL_MANIFEST", "https://u:4711@h.example.com/m.json?sig=4711")]);
    let shown = format!("{config:?} {resolved:?}");
    assert!(
        shown.contains("https://h.example.com/m.json") && !shown.contains("4711"),
        "{shown}"
    );
}

#[test]
fn files_are_listed_with_their_targets() {
    let text = "loras/a.safetensors=hf://o/r/b.safetensors, vae = https://models.example.com/c.sft?token=4711&x=1\n\
                hf://o/r@abc/split_files/text_encoders/d.safetensors,\n";
    let (config, resolved, _) = config(&[("MODELS", text)]);
    let targets: Vec<_> = config.files.iter().map(ModelFile::target).collect();
    assert_eq!(
        targets,
        ["loras/a.safetensors", "vae/c.sft", "text_encoders/d.safetensors"]
    );
    let shown = resolved.iter().find(|resolved| resolved.name == "MODELS").unwrap();
    assert_eq!(
        shown.value.as_deref(),
        Some(
            "loras/a.safetensors=hf://o/r@main/b.safetensors,vae/c.sft=https://models.example.com/c.sft,\
             text_encoders/d.safetensors=hf://o/r@abc/split_files/text_encoders/d.safetensors"
        )
    );
    assert!(!format!("{config:?}").contains("4711"));
}

#[test]
fn tokens_are_for_their_hosts() {
    let config = good(&[
        ("MODEL_TOKENS", "models.example.com=a=b, Storage.Example.com=c"),
        ("CIVITAI_TOKEN", "d"),
    ]);
    let token = |host| config.token(host).map(Secret::reveal);
    assert_eq!(token("models.example.com"), Some("a=b"));
    assert_eq!(token("eu.storage.example.com"), Some("c"));
    assert_eq!(token("civitai.com"), Some("d"));
    assert_eq!(token("notcivitai.com"), None);
    let both = good(&[("MODEL_TOKENS", "civitai.com=e"), ("CIVITAI_TOKEN", "d")]);
    assert_eq!(both.token("civitai.com").map(Secret::reveal), Some("e"));
}

#[test]
fn folders_and_sizes_are_read() {
    let config = good(&[("MODEL_DIR", "/v/models"), ("MODEL_CACHE_GB", "0.5"), ("HOME", "/h")]);
    assert_eq!(config.dir.as_deref(), Some(Path::new("/v/models")));
    assert_eq!(config.cache_max_bytes, Some(500_000_000));
    assert_eq!(
        good(&[("MODEL_DIR", "~/m"), ("HOME", "/h")]).dir.as_deref(),
        Some(Path::new("/h/m"))
    );
}

#[test]
fn mistakes_are_told_by_name_and_without_secrets() {
    for (name, wrong, words) in [
        ("MODEL_SET", ",", "names no set"),
        ("MODEL_SET", "none,qwen-image", "beside"),
        ("MODEL_MANIFEST", "ftp://h.example.com/4711", "no http or https URL"),
        ("MODELS", "loras/x.safetensors", "no address"),
        (
            "MODELS",
            "https://h.example.com/x.safetensors?t=4711",
            "which kind of model",
        ),
        (
            "MODELS",
            "vae/a.pt=hf://o/r/a.pt,../x.pt=hf://o/r/x.pt",
            "in entry 2, the target `../x.pt` may leave",
        ),
        (
            "MODELS",
            "clip/a.pt=hf://o/r/a.pt,text_encoders=hf://o/r/a.pt",
            "two entries for `text_encoders/a.pt`",
        ),
        ("MODEL_DOWNLOAD_PARALLEL", "maybe", "neither true nor false"),
        ("MODEL_CACHE_GB", "0", "above 0"),
        ("MODEL_CACHE_GB", "NaN", "above 0"),
        ("MODEL_TOKENS", "4711", "host=token"),
        ("MODEL_TOKENS", "a b=4711", "name of a host"),
        ("MODEL_TOKENS", "a.example.com=47 11", "entry 1 is no token"),
        (
            "MODEL_TOKENS",
            "a.example.com=4711,A.example.com=x",
            "two entries for a.example.com",
        ),
        ("CIVITAI_TOKEN", "47 11", "no token"),
    ] {
        let (_, resolved, mistakes) = config(&[(name, wrong)]);
        assert_eq!(mistakes.len(), 1, "{name}={wrong}: {mistakes:?}");
        assert_eq!(mistakes[0].variable, name);
        assert!(mistakes[0].message.contains(words), "{}", mistakes[0]);
        assert!(!format!("{mistakes:?} {resolved:?}").contains("4711"), "{mistakes:?}");
    }
}

fn read_hub(vars: &[(&str, &str)]) -> (HubConfig, Reader) {
    let mut reader = Reader::of(vars);
    (hub(&mut reader), reader)
}

fn good_hub(vars: &[(&str, &str)]) -> HubConfig {
    let (config, reader) = read_hub(vars);
    assert_eq!(reader.mistakes, []);
    config
}

#[test]
fn without_variables_it_is_the_hub_itself() {
    let config = good_hub(&[("HOME", "/home/somebody")]);
    assert_eq!(config.endpoint.as_str(), "https://huggingface.co/");
    assert_eq!(
        config.cache.as_deref(),
        Some(Path::new("/home/somebody/.cache/huggingface/hub"))
    );
    assert!(config.token.is_none());
    assert_eq!(good_hub(&[]).cache, None);
}

#[test]
fn folders_follow_those_that_are_set() {
    let home = ("HOME", "/home/somebody");
    for (vars, expected) in [
        (vec![("XDG_CACHE_HOME", "/c")], "/c/huggingface/hub"),
        (
            vec![("XDG_CACHE_HOME", "/c"), ("HF_HOME", "~/hf")],
            "/home/somebody/hf/hub",
        ),
        (vec![("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/hub")], "/hub"),
        (vec![("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
    ] {
        let vars: Vec<_> = vars.into_iter().chain([home]).collect();
        assert_eq!(good_hub(&vars).cache.as_deref(), Some(Path::new(expected)), "{vars:?}");
    }
}

#[test]
fn the_token_is_that_of_the_environment_or_the_one_that_was_kept() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    let folder = home.path().to_str().unwrap();
    let token = |vars: &[(&str, &str)]| {
        let vars: Vec<_> = vars.iter().copied().chain([("HF_HOME", folder)]).collect();
        good_hub(&vars).token.map(|token| token.reveal().to_owned())
    };
    assert_eq!(token(&[]), None);
    std::fs::write(&file, "hf_kept\n").unwrap();
    assert_eq!(token(&[]).as_deref(), Some("hf_kept"));
    assert_eq!(
        token(&[("HUGGING_FACE_HUB_TOKEN", "hf_old")]).as_deref(),
        Some("hf_old")
    );
    assert_eq!(
        token(&[("HUGGING_FACE_HUB_TOKEN", "hf_old"), ("HF_TOKEN", "hf_new")]).as_deref(),
        Some("hf_new")
    );
    let other = home.path().join("other");
    std::fs::write(&other, "hf_other").unwrap();
    assert_eq!(
        token(&[("HF_TOKEN_PATH", other.to_str().unwrap())]).as_deref(),
        Some("hf_other")
    );
    std::fs::write(&file, "no token").unwrap();
    assert_eq!(token(&[]), None);
}

#[test]
fn mistakes_are_told_without_secrets() {
    for (name, wrong, words) in [
        ("HF_ENDPOINT", "hub.example.com", "is no http or https URL"),
        ("HF_ENDPOINT", "https://u:4711@hub.example.com/?a=4711", "has a query"),
        ("HF_TOKEN", "hf 4711", "neither spaces"),
    ] {
        let Reader { resolved, mistakes, .. } = read_hub(&[(name, wrong)]).1;
        assert_eq!(mistakes[0].variable, name);
        assert!(mistakes[0].message.contains(words), "{}", mistakes[0]);
        assert!(!format!("{mistakes:?} {resolved:?}").contains("4711"), "{mistakes:?}");
    }
    let (config, reader) = read_hub(&[
        ("HF_ENDPOINT", "https://u:4711@hub.example.com"),
        ("HF_TOKEN", "hf_4711"),
    ]);
    let shown = format!("{:?} {:?}", config.token, reader.resolved);
    assert!(
        shown.contains("https://hub.example.com") && !shown.contains("4711"),
        "{shown}"
    );
}
