//! What is wrong with graphs, in ComfyUI's words, and what of them runs all the same.

use super::*;

/// What is taken of a graph, and the faults of what is not.
fn taken(mut graph: Graph) -> Result<(Vec<String>, Value), Value> {
    let models = ModelCatalog::builtin().unwrap();
    let mut checked = Checked::default();
    while let Err(failure) = check(&graph, &schemas(), &models) {
        let left = without_what_fails(&mut graph, &failure.error, &mut checked);
        left.map_err(|refusal| read(&refusal.answer()))?;
    }
    let answer = accepted(&JobId::new(), 1, &checked, &[]);
    Ok((
        graph.nodes.keys().cloned().collect(),
        read(&answer)["node_errors"].take(),
    ))
}

#[test]
fn each_fault_is_told_in_comfyuis_words() {
    let said = taken(changed(|graph| {
        graph["3"]["inputs"]["steps"] = json!(0);
        graph["3"]["inputs"]["cfg"] = json!("high");
        graph["3"]["inputs"]["denoise"] = json!(7);
        graph["3"]["inputs"]["sampler_name"] = json!("eular");
        graph["38"]["inputs"]["type"] = json!("umt");
        graph["58"]["inputs"].as_object_mut().unwrap().shift_remove("height");
        graph["66"]["inputs"]["model"] = json!(["6", 0]);
        graph["8"]["inputs"]["vae"] = json!([39, 0]);
    }));
    let mut said = said.unwrap_err();
    assert_eq!(said["error"]["type"], "prompt_outputs_failed_validation");
    assert!(
        said["error"]["details"]
            .as_str()
            .unwrap()
            .contains("node 3 (KSampler), steps"),
        "{said:#}"
    );
    // Ours, and told elsewhere.
    for (_, node) in said["node_errors"].as_object_mut().unwrap() {
        for error in node["errors"].as_array_mut().unwrap() {
            error["extra_info"].as_object_mut().unwrap().shift_remove("advice");
        }
    }
    insta::assert_json_snapshot!(said["node_errors"]);
}

#[test]
fn classes_that_are_not_there_refuse_the_whole_prompt() {
    let mut said = taken(changed(|graph| graph["8"]["class_type"] = json!("VAEDecoder"))).unwrap_err();
    let advice = said["error"]["extra_info"]
        .as_object_mut()
        .unwrap()
        .shift_remove("advice");
    assert!(advice.unwrap().as_str().unwrap().contains("VAEDecode"));
    let title = example()["8"]["_meta"]["title"]
        .as_str()
        .unwrap_or("VAEDecoder")
        .to_owned();
    assert_eq!(
        said,
        json!({
            "error": {
                "type": "missing_node_type",
                "message": format!("Node '{title}' not found. The custom node may not be installed."),
                "details": "Node ID '#8'",
                "extra_info": {"node_id": "8", "class_type": "VAEDecoder", "node_title": title},
            },
            "node_errors": {},
        })
    );
}

#[test]
fn outputs_that_are_whole_run_without_the_others() {
    let two = |graph: &mut Value| {
        graph["100"] = json!({"class_type": "SaveImage", "inputs": {"images": ["99", 0], "filename_prefix": "x"}});
        graph["99"] = json!({"class_type": "VAEDecode", "inputs": {"samples": ["98", 0], "vae": ["39", 0]}});
        graph["98"] = json!({"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "batch_size": 1}});
    };
    let (nodes, errors) = taken(changed(two)).unwrap();
    assert!(nodes.contains(&"60".to_owned()), "{nodes:?}");
    assert!(
        !nodes.iter().any(|id| ["98", "99", "100"].contains(&id.as_str())),
        "{nodes:?}"
    );
    assert_eq!(errors["98"]["dependent_outputs"], json!(["100"]));
    assert_eq!(errors["98"]["class_type"], "EmptySD3LatentImage");
    assert_eq!(errors["98"]["errors"][0]["type"], "required_input_missing");
    assert_eq!(errors["98"]["errors"][0]["details"], "height");
    assert_eq!(errors.as_object().unwrap().len(), 1);
    // Where neither is, nothing runs.
    let said = taken(changed(|graph| {
        two(graph);
        graph["3"]["inputs"]["steps"] = json!(0);
    }));
    let said = said.unwrap_err();
    assert_eq!(said["error"]["type"], "prompt_outputs_failed_validation");
    assert_eq!(said["node_errors"].as_object().unwrap().len(), 2);
}

#[test]
fn nodes_in_a_circle_are_told_each_and_links_to_nothing_as_comfyui_stumbles() {
    let said = taken(changed(|graph| {
        graph["66"]["inputs"]["model"] = json!(["73", 0]);
        graph["73"]["inputs"]["model"] = json!(["66", 0]);
    }));
    let errors = said.unwrap_err()["node_errors"].take();
    for id in ["66", "73"] {
        assert_eq!(errors[id]["errors"][0]["type"], "dependency_cycle", "{errors:#}");
        assert_eq!(errors[id]["errors"][0]["extra_info"]["node_id"], id);
        assert_eq!(errors[id]["dependent_outputs"], json!(["60"]));
    }
    let said = taken(changed(|graph| graph["60"]["inputs"]["images"] = json!(["9999", 0]))).unwrap_err();
    assert_eq!(
        said["node_errors"]["60"]["errors"][0]["type"],
        "exception_during_validation"
    );
    assert_eq!(said["node_errors"]["60"]["errors"][0]["details"], "'9999'");
    let said = taken(changed(|graph| drop(graph.as_object_mut().unwrap().shift_remove("60")))).unwrap_err();
    assert_eq!(said["error"]["type"], "prompt_no_outputs");
}

#[test]
fn of_some_outputs_only_what_they_need_is_left() {
    let two = || {
        changed(|graph| {
            graph["100"] = json!({"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "x"}});
        })
    };
    let mut graph = two();
    narrowed(
        &mut graph,
        &["100".to_owned(), "3".to_owned()],
        &["60".to_owned(), "100".to_owned()],
    )
    .unwrap();
    assert!(graph.get("100").is_some() && graph.get("60").is_none() && graph.get("3").is_some());
    let refusal = narrowed(&mut two(), &["3".to_owned()], &["60".to_owned()]).unwrap_err();
    assert_eq!(read(&refusal.answer())["error"]["type"], "prompt_no_outputs");
    // Where ComfyUI has not told of them, they are believed.
    narrowed(&mut two(), &["3".to_owned()], &[]).unwrap();
    assert!(narrowed(&mut two(), &["none".to_owned()], &[]).is_err());
}
