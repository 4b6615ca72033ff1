//! What is no good is refused with the reason, at the field that it stands in, and leaves nothing.

use serde_json::{Value, json};

use super::{FOLDER, World, file, input};
use crate::support::Answer;
use crate::support::civitai::{self, Sends, Version};
use crate::support::model_hub::{Content, Fault, Host, Plain, Rule};

impl World {
    /// A LoRA that is refused.
    async fn refused(&self, lora: &Value, words: &[&str]) -> Answer {
        let answer = self.worker.run(input(json!([lora]))).await;
        let said = format!("{lora}: {:#}", answer.body);
        assert_eq!(answer.status, 400, "{said}");
        assert_eq!(answer.body["field"], "loras[0]", "{said}");
        for word in words {
            assert!(answer.error().contains(word), "no `{word}`: {said}");
        }
        assert!(!said.contains(civitai::KEY) && !said.contains("Signature"), "{said}");
        answer
    }

    /// The files that were fetched, parts of some included.
    fn there(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.models.join(FOLDER)).into_iter().flatten();
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|name| !name.ends_with(".on-demand")).collect();
        names.sort();
        names
    }
}

/// One with a weight of this name and of these sides.
fn with_weight(name: &str, sides: [u64; 2]) -> Vec<u8> {
    let size = sides[0] * sides[1] * 2;
    let header = json!({name: {"dtype": "F16", "shape": sides, "data_offsets": [0, size]}});
    file(&header, &vec![0; usize::try_from(size).expect("small")])
}

#[tokio::test]
async fn what_is_no_good_is_refused_with_the_reason_and_leaves_nothing() {
    let world = World::new(&[("URL_MODEL_MAX_GB", "0.05")]).await;
    let flux = with_weight(
        "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
        [4, 3072],
    );
    let mut tar = vec![b'a'; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    let good = world.other("not to be had", 0);
    let lies = json!({"w": {"dtype": "F16", "shape": [4, 4], "data_offsets": [0, 32]}});
    let versions = [
        (
            20,
            Version {
                early: true,
                ..Version::good(&good)
            },
        ),
        (
            21,
            Version {
                sha256: Some("AB".repeat(32)),
                ..Version::good(&good)
            },
        ),
        (
            22,
            Version {
                format: "PickleTensor",
                ..Version::good(b"\x80\x02}q\x00.")
            },
        ),
        (
            23,
            Version {
                base: "Flux.1 D",
                ..Version::good(&flux)
            },
        ),
        (
            24,
            Version {
                sends: Sends::Endless,
                sha256: None,
                ..Version::good(&good)
            },
        ),
        (25, Version::good(b"\x80\x02}q\x00. and what it runs")),
    ];
    for (id, version) in versions {
        world.civitai.put(id, version);
    }
    let hub = |name: &str, content: &[u8]| world.on_hub(name, content);
    world
        .hub
        .fault(Rule::on(Host::Files, Fault::Page).file("page.safetensors"));
    world.hub.fault(
        Rule::on(Host::Files, Fault::Redirect("http://10.0.0.1/x.safetensors".to_owned())).file("inside.safetensors"),
    );
    world
        .hub
        .fault(Rule::on(Host::Files, Fault::Redirect("{}".to_owned())).file("round.safetensors"));
    let plain = |name: &str| {
        let content = Content::literal(good.clone());
        world.hub.put(name, Plain::new(content)).to_string()
    };
    for (url, words) in [
        (
            "civitai:20".to_owned(),
            &["civitai:20", "status 401", "CIVITAI_TOKEN"][..],
        ),
        ("civitai:21".to_owned(), &["SHA-256", "abab", "another version"]),
        ("civitai:22".to_owned(), &["PickleTensor", "any code"]),
        (
            "civitai:23".to_owned(),
            &["Flux", "Qwen-Image", "its page says: Flux.1 D"],
        ),
        ("civitai:24".to_owned(), &["more than the", "bytes that it should have"]),
        ("civitai:25".to_owned(), &["pickle", "any code"]),
        ("civitai:26".to_owned(), &["no such model or version"]),
        ("civitai:1@21".to_owned(), &["of model 500"]),
        (hub("tar.safetensors", &tar), &["tar archive", ".safetensors"]),
        (hub("pickle.pt", b"x"), &["any code"]),
        (hub("flux.safetensors", &flux), &["Flux", "Qwen-Image"]),
        (hub("lies.safetensors", &file(&lies, &[0; 31])), &["header that lies"]),
        (
            hub(
                "cannot.safetensors",
                &file(
                    &json!({"w": {"dtype": "F16", "shape": [4, 4], "data_offsets": [0, 31]}}),
                    &[0; 31],
                ),
            ),
            &["cannot be right"],
        ),
        (
            hub("large.safetensors", &with_weight("w", [30_000, 1_000])),
            &["the most is", "URL_MODEL_MAX_GB"],
        ),
        (
            "hf://owner/style/none.safetensors".to_owned(),
            &["no file none.safetensors"],
        ),
        (
            "hf://owner/none/x.safetensors".to_owned(),
            &["does not exist, or it is private"],
        ),
        (plain("page.safetensors"), &["web page"]),
        (
            plain("inside.safetensors"),
            &["10.0.0.1", "not public", "Name a public address"],
        ),
        (plain("round.safetensors"), &["redirect"]),
        (
            "https://10.0.0.1/x.safetensors".to_owned(),
            &["10.0.0.1", "ALLOW_PRIVATE_URLS"],
        ),
        (
            "https://169.254.169.254/latest/meta-data".to_owned(),
            &["169.254.169.254"],
        ),
        (
            "https://models.example.com/x.safetensors".to_owned(),
            &["models.example.com", "URL_MODELS"],
        ),
    ] {
        world.refused(&json!({ "url": url }), words).await;
    }
    let there = world.there();
    for content in [good, flux] {
        let name = Content::literal(content).sha256();
        assert!(!there.iter().any(|there| there.contains(&name)), "{there:#?}");
    }
    // The LoRA that is for another model was not fetched for that.
    let fetched = world.civitai.fetched(23);
    assert_eq!(fetched.len(), 3, "where it is, and its header: {fetched:#?}");

    // What is wrong before anybody is asked.
    for (loras, words) in [
        (json!(vec!["civitai:7"; 17]), &["17 entries", "16"][..]),
        (
            json!([{"url": "civitai:7", "strength": "abc"}]),
            &["loras[0]", "`strength`"],
        ),
        (
            json!([{"url": "civitai:7", "strength": 99}]),
            &["loras[0]", "`strength`", "20"],
        ),
        (json!([{"url": "x.safetensors"}]), &["loras[0]", "`url`"]),
        (json!([{"url": "civitai:7", "name": "x"}]), &["loras[0]", "both"]),
    ] {
        let answer = world.worker.run(input(loras)).await;
        assert_eq!(answer.status, 400, "{:#}", answer.body);
        for word in words {
            assert!(answer.error().contains(word), "{word}: {}", answer.error());
        }
    }
    // In a graph the node is named.
    let mut graph: Value =
        serde_json::from_str(include_str!("../../../workflows/qwen-image-lightning.json")).expect("a graph");
    for url in ["https://10.0.0.1/x.safetensors", "civitai:23"] {
        graph["lora"]["inputs"]["lora_name"] = json!(url);
        let answer = world.worker.run(json!({ "workflow": graph })).await;
        assert_eq!(
            (answer.status, &answer.body["field"]),
            (400, &json!("workflow")),
            "{:#}",
            answer.body
        );
        assert!(
            answer.error().contains("node lora (LoraLoaderModelOnly), lora_name"),
            "{}",
            answer.error()
        );
    }
}
