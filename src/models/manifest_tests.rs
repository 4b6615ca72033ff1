use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::HeaderMap;
use axum::response::Redirect;
use axum::routing::get;

use super::*;
use crate::config::Config;
use crate::net::manifest::LARGEST;
use crate::net::testing::serve;

fn config(vars: &[(&str, &str)]) -> ModelsConfig {
    let vars = vars
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_vars(vars).unwrap().models
}

/// Answers with the `Authorization` that came, as the title of a set.
async fn authorization(headers: HeaderMap) -> String {
    let sent = headers
        .get("authorization")
        .map_or("none", |value| value.to_str().unwrap());
    format!("[sets.seen]\ntitle = '{sent}'")
}

async fn seen(vars: &[(&str, &str)]) -> String {
    let catalog = catalog(&config(vars)).await.unwrap();
    catalog
        .sets()
        .find(|(name, _)| *name == "seen")
        .unwrap()
        .1
        .title
        .clone()
}

const MINE: &str = "[sets.mine]\nincludes = ['qwen-base']\nfiles = [{ url = 'hf://o/r/x.pt', target = 'loras' }]";

#[tokio::test]
async fn a_users_manifest_and_files_are_added_to_ours() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("models.toml");
    std::fs::write(&path, MINE).unwrap();
    let config = config(&[
        ("MODEL_MANIFEST", path.to_str().unwrap()),
        ("MODEL_SET", "mine,qwen-image"),
        ("MODELS", "vae/y.pt=hf://o/r/y.pt,loras=hf://o/r/x.pt"),
    ]);
    let catalog = catalog(&config).await.unwrap();
    let targets: Vec<_> = wanted(&catalog, &config, &["nope"])
        .unwrap()
        .iter()
        .map(ModelFile::target)
        .collect();
    assert_eq!(
        targets,
        [
            "text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors",
            "vae/qwen_image_vae.safetensors",
            "loras/x.pt",
            "diffusion_models/qwen_image_fp8_e4m3fn.safetensors",
            "vae/y.pt",
        ]
    );
    assert!(catalog.lookup("y.pt").is_some());
}

#[tokio::test]
async fn without_a_choice_the_default_is_wanted_and_none_is_none() {
    let unset = config(&[]);
    let catalog = catalog(&unset).await.unwrap();
    assert_eq!(wanted(&catalog, &unset, &["qwen-base"]).unwrap().len(), 2);
    let none = config(&[("MODEL_SET", "none"), ("MODELS", "vae/y.pt=hf://o/r/y.pt")]);
    assert_eq!(wanted(&catalog, &none, &["qwen-base"]).unwrap().len(), 1);
}

#[tokio::test]
async fn unknown_sets_and_two_sources_are_told() {
    let typo = config(&[("MODEL_SET", "qwen-imag")]);
    let catalog = catalog(&typo).await.unwrap();
    let said = wanted(&catalog, &typo, &[]).unwrap_err().to_string();
    assert!(
        said.starts_with("there is no model set `qwen-imag` (did you mean qwen-image or ")
            && said.contains("qwen-base, "),
        "{said}"
    );
    let other = config(&[
        ("MODEL_SET", "qwen-base"),
        ("MODELS", "vae/qwen_image_vae.safetensors=hf://o/r/y.pt"),
    ]);
    let said = wanted(&catalog, &other, &[]).unwrap_err().to_string();
    assert!(
        said.contains("`vae/qwen_image_vae.safetensors` is described twice") && said.contains("hf://o/r@main/y.pt"),
        "{said}"
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("models.json");
    let told = async || {
        let config = config(&[("MODEL_MANIFEST", path.to_str().unwrap())]);
        let said = catalog(&config).await.unwrap_err().to_string();
        assert!(
            said.contains("models.json") && said.contains("MODEL_MANIFEST"),
            "{said}"
        );
        said
    };
    assert!(told().await.contains("No such file"));
    std::fs::write(&path, "{\"set\": {}}").unwrap();
    assert!(told().await.contains("line 1: unknown field `set`"));
    std::fs::write(&path, "[sets.a]\nincludes = ['b']").unwrap();
    assert!(told().await.contains("includes `b`"));
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(told().await.contains("UTF-8"));
    std::fs::write(&path, "#".repeat(LARGEST + 1)).unwrap();
    assert!(told().await.contains("more than 1000000 bytes"));
}

#[tokio::test]
async fn a_manifest_is_fetched_with_the_token_of_its_host_alone() {
    let other = serve(Router::new().route("/m", get(authorization))).await;
    let router = Router::new().route("/m", get(authorization)).route(
        "/to",
        get(move || {
            let target = format!("{other}/m");
            async move { Redirect::temporary(&target) }
        }),
    );
    let server = serve(router).await;
    let (url, redirected) = (format!("{server}/m"), format!("{server}/to"));
    let tokens = ("MODEL_TOKENS", "127.0.0.1=abc,storage.example.com=def");
    assert_eq!(seen(&[("MODEL_MANIFEST", &url)]).await, "none");
    assert_eq!(seen(&[("MODEL_MANIFEST", &url), tokens]).await, "Bearer abc");
    let hub = [("HF_ENDPOINT", server.as_str()), ("HF_TOKEN", "hf_1")];
    assert_eq!(seen(&[("MODEL_MANIFEST", &url), hub[0], hub[1]]).await, "Bearer hf_1");
    assert_eq!(seen(&[("MODEL_MANIFEST", &url), hub[1]]).await, "none");
    assert_eq!(seen(&[("MODEL_MANIFEST", &redirected), tokens]).await, "none");
}

#[tokio::test]
async fn a_passing_failure_is_tried_again_and_others_are_told_without_secrets() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let router = Router::new()
        .route(
            "/flaky",
            get(move || {
                let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
                let status = if first {
                    StatusCode::SERVICE_UNAVAILABLE
                } else {
                    StatusCode::OK
                };
                async move { (status, MINE) }
            }),
        )
        .route("/closed", get(|| async { StatusCode::FORBIDDEN }))
        .route("/page", get(|| async { "<html>" }))
        .route("/big", get(|| async { "#".repeat(LARGEST + 1) }));
    let server = serve(router).await;
    let told = async |path: &str| {
        let config = config(&[("MODEL_MANIFEST", &format!("{server}/{path}?sig=4711"))]);
        catalog(&config).await.map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(told("flaky").await, Ok(()));
    assert_eq!(tries.load(Ordering::SeqCst), 2);
    for (path, words) in [
        ("closed", "403 Forbidden; MODEL_TOKENS=127.0.0.1=… gives it a token"),
        ("none", "404 Not Found"),
        ("page", "line 1"),
        ("big", "more than 1000000 bytes"),
    ] {
        let said = told(path).await.unwrap_err();
        assert!(said.contains(words) && !said.contains("4711"), "{said}");
        assert!(said.contains(&format!("{server}/{path} cannot be")), "{said}");
    }
}
