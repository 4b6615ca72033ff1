//! What is refused before anything is sent: lists of engines that are wrong, and jobs that no engine can do.

use serde_json::{Value, json};

use super::small;
use crate::images::load;
use crate::support::PATIENCE;
use crate::support::binary::binary;
use crate::support::elsewhere::{Front, SENDS, images, runpod, vars};
use crate::support::images_api::ImagesApi;

/// Bad configuration.
const EXIT_CONFIG: i32 = 64;
const ENDPOINT: &str = "https://api.runpod.ai/v2/ep";

/// What a worker says that does not start.
async fn refused(engines: &str, more: &[(&str, &str)]) -> String {
    let data = tempfile::tempdir().expect("a folder");
    let done = binary(&vars(data.path(), engines, more)).arg("serve").output();
    let done = tokio::time::timeout(PATIENCE, done).await;
    let done = done
        .unwrap_or_else(|_| panic!("it started:\n{engines}"))
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(EXIT_CONFIG), "{engines}\n{said}");
    said
}

#[tokio::test]
async fn a_list_of_engines_that_is_wrong_is_told_at_the_start() {
    let good = runpod("first", ENDPOINT, "");
    let with = |more: &str| runpod("first", ENDPOINT, more);
    let instead = |line: &str, of: &str| {
        assert!(good.contains(of));
        good.replace(of, line)
    };
    let provider = images("second", "https://api.umodelverse.ai/v1", "");
    for (engines, words) in [
        (
            instead("kind = \"runpodd\"", "kind = \"runpod\""),
            &["first", "kind", "runpodd"][..],
        ),
        (instead("", "kind = \"runpod\"\n"), &["first", "kind"]),
        (
            instead("key = \"env:NO_SUCH_KEY\"", "key = \"env:ENDPOINT_KEY\""),
            &["first", "key", "NO_SUCH_KEY"],
        ),
        (
            instead("key = \"rpa_4711\"", "key = \"env:ENDPOINT_KEY\""),
            &["first", "key", "env:"],
        ),
        (instead("", "name = \"first\"\n"), &["name"]),
        (good.clone() + &good, &["first", "name"]),
        (instead("", &format!("url = \"{ENDPOINT}\"\n")), &["first", "url"]),
        (
            instead("url = \"http://api.runpod.ai/v2/ep\"", &format!("url = \"{ENDPOINT}\"")),
            &["first", "url", "http"],
        ),
        (
            instead("url = \"nonsense\"", &format!("url = \"{ENDPOINT}\"")),
            &["first", "url"],
        ),
        (with("capcity = 3"), &["first", "capcity"]),
        (with("capacity = 0"), &["first", "capacity"]),
        (with("capacity = \"many\""), &["first", "capacity"]),
        (with("timeout_s = 0"), &["first", "timeout_s"]),
        (with("unknown = \"perhaps\""), &["first", "unknown", "perhaps"]),
        (with("worker = \"another\""), &["first", "worker", "another"]),
        (
            provider.replace("model = \"Qwen/Qwen-Image\"\n", ""),
            &["second", "model"],
        ),
        (
            provider.replace("\"cfg\"]", "\"colour\"]"),
            &["second", "sends", "colour"],
        ),
        (provider.clone() + "min_side = 2000\n", &["second", "min_side"]),
        ("[[engine]\n".to_owned(), &["ENGINES"]),
        ("[[motor]]\nname = \"first\"\n".to_owned(), &["ENGINES", "motor"]),
        ("[other]\n".to_owned(), &["ENGINES"]),
        (
            "/no/such/engines.toml".to_owned(),
            &["ENGINES", "/no/such/engines.toml"],
        ),
    ] {
        let said = refused(&engines, &[]).await;
        for word in words {
            assert!(said.contains(word), "{word:?} is not in:\n{said}\n{engines}");
        }
        assert!(!said.contains("4711"), "a key is nobody's to read:\n{said}");
    }
    let said = refused(&good, &[("FALLBACK", "sometimes")]).await;
    assert!(said.contains("FALLBACK") && said.contains("sometimes"), "{said}");
    // A key that is empty is none.
    let said = refused(&good, &[("ENDPOINT_KEY", "")]).await;
    assert!(said.contains("first") && said.contains("ENDPOINT_KEY"), "{said}");
}

#[tokio::test]
async fn a_job_that_no_engine_can_do_is_refused_with_the_reason_of_each() {
    let provider = ImagesApi::start().await;
    let takes_little = images("plain", &provider.url, "").replace(SENDS, "sends = [\"seed\"]");
    let one_template = images(
        "edits",
        &provider.url,
        "templates = [\"qwen-image-edit-2511\"]\ngroup = 2",
    );
    let front = Front::start(&(takes_little + &one_template), &[]).await;
    let with = |name: &str, value: Value| {
        let mut input = small(9_600);
        input[name] = value;
        input
    };
    let image = json!([{"name": "in.png", "image": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="}]);
    // Each with words of which one tells why.
    for (input, words) in [
        (
            json!({"workflow": load(&["in.png"]), "images": image}),
            &["workflow", "graph"][..],
        ),
        (with("width", json!(2_048)), &["2048", "1536"]),
        (with("height", json!(128)), &["128", "256"]),
        (with("steps", json!(30)), &["steps"]),
        (with("negative_prompt", json!("rain")), &["negative"]),
        (
            with("batch_size", json!(2)),
            &["batch_size", "`n`", "pictures", "images"],
        ),
        (with("loras", json!([{"name": "a.safetensors"}])), &["lora"]),
        (
            json!({"prompt": "a fox", "template": "qwen-image-edit-2511", "images": image}),
            &["edit_model", "image", "picture"],
        ),
    ] {
        let ended = front.runsync(&input).await;
        ended.failed(&["plain", "edits"]);
        assert_eq!(ended.answer.status, 400, "{:#}", ended.answer.body);
        let said = ended.answer.body.to_string().to_lowercase();
        assert!(
            words.iter().any(|word| said.contains(word)),
            "none of {words:?} is in: {said}"
        );
        let body = json!({ "input": input }).to_string();
        let answer = front.served.send(reqwest::Method::POST, "/run", body).await;
        assert_eq!(answer.status, 400, "{:#}", answer.body);
    }
    assert!(provider.asked().is_empty());
    // In the words of another API.
    let body = json!({"prompt": "a fox", "size": "2048x2048"}).to_string();
    let answer = front
        .served
        .send(reqwest::Method::POST, "/v1/images/generations", body)
        .await;
    assert_eq!(answer.status, 400, "{:#}", answer.body);
    assert!(
        answer.body["error"]["message"]
            .as_str()
            .is_some_and(|said| said.contains("plain")),
        "{:#}",
        answer.body
    );
    assert!(provider.asked().is_empty());
    front.runsync(&small(9_601)).await.by("plain");
    provider.settled();
}
