//! Comfy's own clients of its API v2, unchanged, as judges: what they see, and whether all that was answered is as Comfy's
//! document has it. The scripts in `clients/` use them as their users do.

use serde_json::{Value, json};

use crate::support::clients::{node, python};
use crate::support::judged::{
    Judged, assert_cancels, assert_deleted, assert_errors, assert_events, assert_failed, assert_lists, assert_race,
    assert_refused,
};
use crate::support::text;

const PYTHON: &str = "comfy-sdk==0.5.0";

#[tokio::test]
async fn the_python_client_that_waits() {
    let judged = Judged::start(810_000).await;
    let seen = python(PYTHON, include_str!("clients/comfy_sdk.py"), &judged.plan).await;
    judged.assert_all(&seen).await;

    let assets = &seen["assets"];
    for name in ["hash_is_right", "ids_differ", "same_hash", "fetched"] {
        assert_eq!(assets[name], true, "{name}: {assets:#}");
    }
    assert_eq!(assets["created_new"], json!([true, false, true]));
    assert_eq!(assets["names"], json!(["ein Füchslein.png", "again.png"]));
    assert!(text(assets, "url").starts_with(&judged.base.url), "{assets:#}");
    assert_eq!((&assets["job"], &assets["url_expires"]), (&Value::Null, &Value::Null));

    let runs = &seen["runs"];
    assert_eq!(
        runs["status"],
        json!(["succeeded", "succeeded", "succeeded", "succeeded"])
    );
    for output in runs["outputs"].as_array().expect("outputs") {
        judged.assert_output(output, 0);
    }
    assert_eq!(runs["counts"], json!([1, 1, 0]));
    assert_eq!(runs["asset_of_output"][1], true, "{runs:#}");
    let hash = &runs["asset_of_output"][0];
    // The client has an empty one where the answer has none.
    assert!(*hash == "" || *hash == runs["outputs"][0]["hash"], "{hash}");
    assert_eq!((&runs["no_labels"], &runs["error"]), (&json!({}), &Value::Null));
    assert_refused(&runs["deleted"], "ComfyError", "asset_in_use", 409);
    assert_eq!(
        seen["texts"],
        json!([["text", "2", seen["texts"][0][2], "Grüße vom 狐"]])
    );
    let back = &seen["workflow_back"];
    assert_eq!((text(back, "format"), &back["same"]), ("api", &json!(true)));
    assert_eq!(back["asset"]["1"]["class_type"], "LoadImage");
    assert_events(&seen["events"]);
    assert_cancels(&seen["cancels"]);
    assert!(seen["cancels"]["seconds"].as_f64() < Some(15.0));
    assert_failed(&seen["fails"]["told"]);
    assert_eq!(seen["fails"]["events"], json!(["StatusChange", "failed"]));
    assert_eq!(seen["fails"]["run"]["class"], "JobFailed");
    assert_eq!(seen["org_key"], json!({"status": "succeeded", "graph": true}));
    assert_lists(&seen["lists"]);
    let keys = &seen["keys"];
    assert_refused(&keys["again"][0], "IdempotencyKeyReuse", "idempotency_key_reuse", 422);
    assert_refused(&keys["again"][1], "IdempotencyKeyReuse", "idempotency_key_reuse", 422);
    assert_refused(&keys["refusals"][0], "InvalidWorkflow", "invalid_workflow", 422);
    assert_refused(&keys["refusals"][1], "MissingAsset", "missing_asset", 422);
    assert_race(&keys["race"]);
    assert_errors(&seen["errors"]);
    let errors = &seen["errors"];
    for (name, node) in [("class", "1"), ("input", "2"), ("value", "1")] {
        let nodes = &errors[name]["details"]["node_errors"];
        assert!(nodes[node].is_array() || nodes[node].is_object(), "{name}: {nodes:#}");
    }
    let missing = &errors["asset"]["details"]["missing_ids"];
    assert_eq!(*missing, json!([errors["missing"]]));
    assert_eq!(errors["hash_not_kept"], false);
    let deletes = &seen["deletes"];
    assert_deleted(&deletes["gone"]);
    assert_refused(&deletes["used"], "MissingAsset", "missing_asset", 422);
    assert_eq!(
        (&deletes["left"], &deletes["bytes"]),
        (&json!("other.txt"), &json!(false))
    );
    // The other port is the same worker; another worker has jobs of its own.
    assert_eq!(seen["locked"]["right"]["listed"], json!([true, true]));
    let at_edit = &seen["edit_port"]["listed"];
    assert_eq!((&at_edit[0], &at_edit[1]), (&json!(true), &json!(true)));
    assert_eq!(
        at_edit.as_array().map(|listed| listed.contains(&json!(false))),
        Some(true)
    );
}

#[tokio::test]
async fn the_python_client_of_asyncio() {
    let judged = Judged::start_on_shared(820_000).await;
    let seen = python(PYTHON, include_str!("clients/comfy_sdk_async.py"), &judged.plan).await;
    judged.assert_all(&seen).await;

    let assets = &seen["assets"];
    assert_eq!(
        (&assets["hash_is_right"], &assets["bytes"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(assets["created_new"], json!([true, false, true]));
    assert_eq!((&assets["crowd"], &assets["new_in_crowd"]), (&json!([5, 1]), &json!(1)));
    assert_eq!(
        (&assets["name"], &assets["left"]),
        (&json!("ein Füchslein.png"), &json!("again.png"))
    );
    assert_deleted(&assets["gone"]);
    let runs = &seen["runs"];
    for (number, output) in runs["outputs"].as_array().expect("outputs").iter().enumerate() {
        judged.assert_output(output, number % 4);
    }
    assert_eq!(runs["text"], json!([["text", "2", "Grüße vom 狐"]]));
    assert_eq!((text(runs, "format"), text(runs, "status")), ("api", "succeeded"));
    assert_events(&seen["events"]);
    let many = &seen["many"];
    for number in 0..6 {
        assert_eq!(many["last"][number], json!(["StatusChange", "succeeded"]), "{many:#}");
        assert_eq!(
            (&many["outputs"][number], &many["outputs_told"][number]),
            (&json!(1), &json!(true)),
            "{many:#}"
        );
    }
    assert_cancels(&seen["cancels"]);
    let lists = &seen["lists"];
    for name in ["each_once", "all_there", "by"] {
        assert_eq!(lists[name], true, "{name}: {lists:#}");
    }
    let labels = json!({"client": "acme"});
    assert_eq!(lists["labels"], json!([labels, labels, labels]));
    assert_refused(&lists["number"], "ComfyError", "metadata_invalid", 422);
    let errors = &seen["errors"];
    assert_errors(errors);
    assert_race(&errors["race"]);
    assert_failed(&errors["failed"]);
}

#[tokio::test]
async fn the_npm_client() {
    let judged = Judged::start(830_000).await;
    let seen = node(
        "@comfyorg/sdk@0.1.9 hash-wasm@4.13.0",
        include_str!("clients/comfy_sdk.mjs"),
        &judged.plan,
    )
    .await;
    judged.assert_all(&seen).await;

    let assets = &seen["assets"];
    for name in ["hash_is_right", "same_hash", "ids_differ"] {
        assert_eq!(assets[name], true, "{name}: {assets:#}");
    }
    assert_eq!(assets["created_new"], json!([true, false, true, false]));
    assert_eq!(
        (&assets["name"], &assets["left"]),
        (&json!("ein Füchslein.png"), &json!("again.png"))
    );
    assert_deleted(&assets["gone"]);
    let runs = &seen["runs"];
    for output in runs["outputs"].as_array().expect("outputs") {
        judged.assert_output(output, 0);
    }
    assert_eq!(runs["text"], json!([["text", "2", "Grüße vom 狐"]]));
    let back = &seen["workflow_back"];
    assert_eq!(
        (text(back, "format"), &back["graph"]),
        ("api", &judged.plan["quick"][0])
    );
    assert_events(&seen["events"]);
    assert_cancels(&seen["cancels"]);
    let errors = &seen["errors"];
    assert_errors(errors);
    assert_race(&errors["race"]);
    assert_failed(&errors["failed"]);
    assert_eq!(seen["org_key"], json!({"status": "succeeded"}));
}
