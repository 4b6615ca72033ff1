//! Programs that other people built on OpenAI's Images API or beside it. Most of them read `b64_json` alone, some `url` alone, and
//! none says which where OpenAI knows by the name of the model. The scripts in `clients/` use the packages unchanged; what cannot be
//! installed is replayed as its source sends it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, Rgba, RgbaImage};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::support::clients::{node, python};
use crate::support::{Worker, http, text};

const AI_SDK: &str = "ai@6.0.326 @ai-sdk/openai@3.0.141 @runpod/ai-sdk-provider@1.4.0";
const BUILT_ON: &str = "haystack-ai==3.4.1 litellm==1.110.2 langchain-community==0.4.2";
const MCP: &str = "image-generation-mcp==1.12.1 mcp-gpt-image==0.4.0 --ignore-requires-python";
const KEY: &str = "a-key-of-the-tests";
/// The SHA-256 of no bytes.
const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn png(pixel: impl Fn(u32, u32) -> [u8; 4]) -> Vec<u8> {
    let mut content = std::io::Cursor::new(Vec::new());
    let image = RgbaImage::from_fn(64, 64, |x, y| Rgba(pixel(x, y)));
    image.write_to(&mut content, ImageFormat::Png).expect("a PNG");
    content.into_inner()
}

fn picture() -> Vec<u8> {
    png(|x, _| [if x < 32 { 200 } else { 20 }, 90, 90, 255])
}

async fn worker_and_plan() -> (Worker, Value) {
    let worker = Worker::beside_shared(&[("API_KEY", KEY)]).await;
    let plan = json!({
        "base": format!("{}/v1", worker.url),
        "key": KEY,
        "image": STANDARD.encode(picture()),
        "mask": STANDARD.encode(png(|x, _| [0, 0, 0, if x < 32 { 0 } else { 255 }])),
    });
    (worker, plan)
}

/// What a script saw is a picture: a digest of what is not empty.
#[track_caller]
fn assert_digest(digest: &Value) {
    let text = digest.as_str().unwrap_or_else(|| panic!("no picture: {digest}"));
    assert!(text.len() == 64 && text != OF_NOTHING, "{digest}");
}

#[tokio::test]
async fn vercels_ai_sdk() {
    let (_worker, mut plan) = worker_and_plan().await;
    let names = [
        "gpt-image-1",
        "gpt-image-1-mini",
        "gpt-image-1.5",
        "gpt-image-2",
        "gpt-image-2.5-flare",
        "gpt-image-2.6-sunburst",
        "chatgpt-image-latest",
        "dall-e-3",
        "Qwen/Qwen-Image",
    ];
    plan["names"] = json!(names);
    let seen = node(AI_SDK, include_str!("clients/ai_sdk.mjs"), &plan).await;
    for name in names {
        assert_eq!(seen["generated"][name]["type"], "image/png", "{name}: {seen:#}");
        assert_digest(&seen["generated"][name]["digest"]);
    }
    for name in ["gpt-image-2.5-flare", "Qwen/Qwen-Image-Edit-2511", "dall-e-2"] {
        assert_digest(&seen["edited"][name]["digest"]);
    }
    assert_eq!(seen["webp"], json!(["image/webp", "image/webp"]));
    let refused = &seen["refused"];
    assert_eq!(
        (text(refused, "name"), &refused["status"]),
        ("AI_APICallError", &json!(400)),
        "{seen:#}"
    );
    assert!(
        text(refused, "message").contains("size: `8x8` is out of range"),
        "{seen:#}"
    );
}

/// What a program that is built on the API gave, by the names of the models.
async fn built_on(program: &str) -> Value {
    let (_worker, mut plan) = worker_and_plan().await;
    plan["program"] = json!(program);
    python(BUILT_ON, include_str!("clients/openai_built_on.py"), &plan).await
}

#[tokio::test]
async fn haystack() {
    let seen = built_on("haystack").await;
    assert_digest(&seen["gpt-image-2"]);
    assert_digest(&seen["Qwen/Qwen-Image"]);
}

#[tokio::test]
async fn langchain() {
    let seen = built_on("langchain").await;
    assert_digest(&seen["dall-e-3"]);
    assert_digest(&seen["Qwen/Qwen-Image"]);
}

#[tokio::test]
async fn litellm() {
    let seen = built_on("litellm").await;
    assert_digest(&seen["openai/gpt-image-1 edit"]);
    assert_digest(&seen["openai/Qwen/Qwen-Image-Edit-2511 edit"]);
    let [inline, address] = [0, 1].map(|at| seen["openai/Qwen/Qwen-Image"][at].clone());
    assert_digest(&inline);
    assert_eq!(inline, address, "both are one picture");
    assert_digest(&seen["openai/gpt-image-1"][0]);
    assert_eq!(seen["openai/gpt-image-1"][1], Value::Null);
    assert_eq!(seen["openai/dall-e-3"][0], Value::Null);
    assert_digest(&seen["openai/dall-e-3"][1]);
}

#[tokio::test]
async fn mcp_servers() {
    let (_worker, plan) = worker_and_plan().await;
    let seen = python(MCP, include_str!("clients/openai_mcp.py"), &plan).await;
    let made = seen["image_generation_mcp"].as_object().expect("pictures");
    assert_eq!(made.len(), 5, "{seen:#}");
    for picture in made.values() {
        assert_eq!(picture[0], "image/png", "{seen:#}");
        assert_digest(&picture[1]);
    }
    let expected = json!({
        "gpt-image-2.5-flare xhigh": ["png"],
        "gpt-image-2.5-sunburst max": ["webp"],
        "gpt-image-2.5-flare auto": ["jpeg"],
        "edit": ["png"],
    });
    assert_eq!(seen["mcp_gpt_image"], expected);
}

/// Its answer to a request as an application's source sends it.
async fn asked(request: reqwest::RequestBuilder) -> Value {
    let answer = request.bearer_auth(KEY).send().await.expect("an answer");
    let status = answer.status();
    let body: Value = answer.json().await.expect("JSON");
    assert_eq!(status, 200, "{body:#}");
    body
}

#[track_caller]
fn assert_b64_alone(answer: &Value, format: ImageFormat) {
    let picture = answer["data"][0].as_object().expect("a picture");
    // Open WebUI and others take the address first, where there is one, and some fetch public ones alone.
    assert!(!picture.contains_key("url"), "{answer:#}");
    let content = STANDARD.decode(text(&answer["data"][0], "b64_json")).expect("base64");
    assert_eq!(image::guess_format(&content).ok(), Some(format));
}

fn file(name: &'static str) -> Part {
    let part = Part::bytes(picture()).file_name(name);
    part.mime_str("image/png").expect("a media type")
}

#[tokio::test]
async fn applications_as_they_are_written() {
    let (worker, _) = worker_and_plan().await;
    let at = |path: &str| http().post(format!("{}/v1/images/{path}", worker.url));
    // LibreChat, `image_gen_oai`; with a size, since its own is `auto`.
    let librechat = json!({
        "model": "gpt-image-1", "prompt": "a harbour", "n": 1, "background": "auto", "output_format": "webp",
        "output_compression": 100, "quality": "auto", "size": "64x64",
    });
    assert_b64_alone(&asked(at("generations").json(&librechat)).await, ImageFormat::WebP);
    // LibreChat, `image_edit_oai`.
    let form = Form::new()
        .text("model", "gpt-image-1")
        .text("prompt", "make it night")
        .text("quality", "auto")
        .text("size", "256x256")
        .part("image[]", file("a.png"));
    assert_b64_alone(&asked(at("edits").multipart(form)).await, ImageFormat::Png);
    // n8n: what it makes and what it edits.
    let n8n = json!({"prompt": "a harbour", "model": "gpt-image-1-mini", "size": "64x64", "quality": "low"});
    assert_b64_alone(&asked(at("generations").json(&n8n)).await, ImageFormat::Png);
    let form = Form::new()
        .part("image[]", file("a.png"))
        .part("image[]", file("b.png"))
        .text("prompt", "make it night")
        .text("model", "gpt-image-1")
        .text("n", "1")
        .text("size", "256x256")
        .text("input_fidelity", "low")
        .text("output_format", "jpeg")
        .text("quality", "auto");
    let edited = asked(at("edits").multipart(form)).await;
    assert_b64_alone(&edited, ImageFormat::Jpeg);
    assert!(
        edited["warnings"]
            .to_string()
            .contains("`input_fidelity` has no effect"),
        "{edited:#}"
    );
    // Open WebUI, by the name of the model.
    let open_webui = json!({"model": "gpt-image-1", "prompt": "a harbour", "n": 1, "size": "64x64"});
    assert_b64_alone(
        &asked(at("generations?api-version=2025-04-01").json(&open_webui)).await,
        ImageFormat::Png,
    );
    let mut own = open_webui.clone();
    own["model"] = json!("Qwen/Qwen-Image");
    own["response_format"] = json!("b64_json");
    assert_b64_alone(&asked(at("generations").json(&own)).await, ImageFormat::Png);
}

#[tokio::test]
async fn both_forms_are_one_picture_with_its_seed() {
    let (worker, _) = worker_and_plan().await;
    let body = json!({"prompt": "a harbour", "size": "64x64", "quality": "low", "seed": 7, "qualty": "high"});
    let request = http().post(format!("{}/v1/images/generations", worker.url));
    let answer = asked(request.json(&body)).await;
    let picture = &answer["data"][0];
    let inline = STANDARD.decode(text(picture, "b64_json")).expect("base64");
    let fetched = http().get(text(picture, "url")).send().await.expect("an answer");
    assert!(fetched.bytes().await.expect("a picture") == inline);
    assert_eq!(answer["seed"], 7);
    let warnings = answer["warnings"].to_string();
    assert!(warnings.contains("`qualty` is not known"), "{answer:#}");
}

#[tokio::test]
async fn runpods_provider_for_the_ai_sdk() {
    let (worker, mut plan) = worker_and_plan().await;
    plan["bases"] = json!({"root": worker.url, "v2": format!("{}/v2/qwen-image-t2i", worker.url)});
    let seen = node(AI_SDK, include_str!("clients/runpod_ai_sdk.mjs"), &plan).await;
    for name in ["root", "v2"] {
        let seen = &seen[name];
        for picture in ["generated", "same", "edited"] {
            assert_digest(&seen[picture]["digest"]);
            let address = format!("{}/files/", worker.url);
            assert!(text(&seen[picture], "url").starts_with(&address), "{seen:#}");
        }
        assert_eq!(seen["generated"]["type"], "image/png");
        assert_eq!(seen["edited"]["type"], "image/jpeg", "{seen:#}");
        assert_ne!(seen["generated"]["digest"], seen["same"]["digest"], "a seed of its own");
    }
    assert_eq!(
        seen["root"]["same"]["digest"], seen["v2"]["same"]["digest"],
        "the same seed"
    );
    assert_eq!(seen["refused"]["status"], 400, "{seen:#}");
    assert!(
        text(&seen["refused"], "message").contains("num_inference_steps: must be a whole number"),
        "{seen:#}"
    );
}
