use super::*;

fn hub(vars: &[(&str, &str)]) -> (Option<HubConfig>, Reader) {
    let vars: Vec<_> = vars
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let mut reader = Reader::default();
    (read(&mut reader, &vars), reader)
}

fn good(vars: &[(&str, &str)]) -> HubConfig {
    hub(vars).0.unwrap()
}

#[test]
fn without_variables_it_is_the_hub_itself() {
    let config = good(&[("HOME", "/home/somebody")]);
    assert_eq!(config.endpoint.as_str(), "https://huggingface.co/");
    assert_eq!(
        config.cache.as_deref(),
        Some(Path::new("/home/somebody/.cache/huggingface/hub"))
    );
    assert!(config.token.is_none());
    assert_eq!(good(&[]).cache, None);
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
        assert_eq!(good(&vars).cache.as_deref(), Some(Path::new(expected)), "{vars:?}");
    }
}

#[test]
fn the_token_is_that_of_the_environment_or_the_one_that_was_kept() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    let folder = home.path().to_str().unwrap();
    let token = |vars: &[(&str, &str)]| {
        let vars: Vec<_> = vars.iter().copied().chain([("HF_HOME", folder)]).collect();
        good(&vars).token.map(|token| token.reveal().to_owned())
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
        let (config, reader) = hub(&[(name, wrong)]);
        assert_eq!(config, None, "{name}");
        let (resolved, mistakes) = reader.finish();
        assert_eq!(mistakes[0].variable, name);
        assert!(mistakes[0].message.contains(words), "{}", mistakes[0]);
        assert!(!format!("{mistakes:?} {resolved:?}").contains("4711"), "{mistakes:?}");
    }
    let (config, reader) = hub(&[
        ("HF_ENDPOINT", "https://u:4711@hub.example.com"),
        ("HF_TOKEN", "hf_4711"),
    ]);
    let shown = format!("{:?} {:?}", config.unwrap().token, reader.finish().0);
    assert!(
        shown.contains("https://hub.example.com") && !shown.contains("4711"),
        "{shown}"
    );
}
