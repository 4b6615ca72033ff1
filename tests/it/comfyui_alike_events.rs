//! ComfyUI's own API, held against ComfyUI: what its websockets hear, and what ends prompts.

use serde_json::{Value, json};

use crate::support::comfyui::Socket;
use crate::support::comfyui_recording::{Recording, is_the_same, is_the_same_but};

fn is_step_of(id: &str, step: u64) -> impl Fn(&Value) -> bool + '_ {
    move |message| {
        let data = &message["data"];
        message["type"] == "progress" && data["prompt_id"] == id && data["value"].as_u64() >= Some(step)
    }
}

/// The kinds of messages, each once, in the order in which they came first. Which steps are told, when something happens in
/// the midst of them, is a matter of moments.
fn kinds(messages: &[Value]) -> Value {
    let mut kinds: Vec<&Value> = Vec::new();
    for message in messages {
        let kind = message.get("type").unwrap_or(&message["binary"]);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    json!(kinds)
}

/// The end of a prompt that was ended in its midst: the last three messages.
fn end(messages: &[Value]) -> Value {
    json!(messages[messages.len().saturating_sub(3)..])
}

async fn about(recording: &mut Recording<'_>, id: &str) {
    recording.get(&format!("/history/{id}")).await;
    recording.get(&format!("/api/jobs/{id}")).await;
}

#[tokio::test]
async fn previews_for_newer_and_older_clients_and_nothing_for_others() {
    is_the_same_but(
        async |recording| {
            let preview = json!({"extra_data": {"preview_method": "auto"}});
            let mut socket = recording.socket_with_flags().await;
            let id = recording
                .prompt_with(&recording.slow(3, 60, true, 0), &preview)
                .await
                .expect("taken");
            recording.over(&mut socket, &id).await;
            socket.close().await;
            let mut socket = recording.socket().await;
            let (mut bystander, _) = recording.client.socket("bystander").await;
            let id = recording.prompt(&recording.slow(3, 60, true, 1)).await;
            // Which is told first, a step or its picture, differs.
            let mut heard = kinds(&socket.over(&id).await);
            heard.as_array_mut().expect("a list").sort_by_key(ToString::to_string);
            recording.note("an older client", heard);
            // Without a client: only how long the queue is is told.
            let graph = recording.slow(2, 60, true, 2);
            let body = json!({ "prompt": graph });
            let said = recording.post("/prompt", &body).await;
            let id = said.body["prompt_id"].as_str().expect("an id").to_owned();
            recording.client.ended(&id).await;
            recording.idle().await;
            about(recording, &id).await;
            for socket in [&mut socket, &mut bystander] {
                let heard = socket.until(is_empty_queue).await;
                recording.note("what others hear", kinds(&heard));
            }
            socket.close().await;
            bystander.close().await;
            // ComfyUI tells everybody of a prompt without a client.
        },
        &["what others hear"],
    )
    .await;
}

fn is_empty_queue(message: &Value) -> bool {
    message["data"]["status"]["exec_info"]["queue_remaining"] == 0
}

#[tokio::test]
async fn nodes_that_fail() {
    is_the_same(async |recording| {
        let mut socket = recording.socket().await;
        let raise = recording.one("Raise", &json!({"message": "boom: sample failure"}));
        let memory = recording.one(
            "RaiseOOM",
            &json!({"message": "CUDA out of memory. Tried to allocate 20.00 GiB"}),
        );
        // Errors are not cached.
        for graph in [&raise, &raise, &memory] {
            let id = recording.prompt(graph).await;
            recording.over(&mut socket, &id).await;
            about(recording, &id).await;
        }
        socket.close().await;
    })
    .await;
}

#[tokio::test]
async fn interrupts() {
    is_the_same(async |recording| {
        let mut socket = recording.socket_with_flags().await;
        let id = recording.prompt(&recording.slow(1000, 50, false, 0)).await;
        socket.until(is_step_of(&id, 1)).await;
        let nobody = json!({"prompt_id": "00000000-0000-0000-0000-000000000000"});
        recording.post("/interrupt", &nobody).await;
        socket.until(is_step_of(&id, 3)).await;
        recording.post("/api/interrupt", &json!({"prompt_id": id})).await;
        let heard = socket.over(&id).await;
        recording.note("the end", end(&heard));
        about(recording, &id).await;
        // Without a body, and as some clients send it.
        for (number, body) in [(1, None), (2, Some(json!({})))] {
            let id = recording.prompt(&recording.slow(1000, 50, false, number)).await;
            socket.until(is_step_of(&id, 1)).await;
            recording.ask(reqwest::Method::POST, "/interrupt", body.as_ref()).await;
            let heard = socket.over(&id).await;
            recording.note("the end", end(&heard));
            about(recording, &id).await;
        }
        // Nothing runs: the next one is not interrupted.
        recording.post("/interrupt", &json!({})).await;
        let id = recording.prompt(&recording.slow(2, 20, false, 3)).await;
        recording.over(&mut socket, &id).await;
        socket.close().await;
    })
    .await;
}

/// A running prompt and some that wait; gives their ids.
async fn some(recording: &mut Recording<'_>, socket: &mut Socket, number: u32) -> [String; 4] {
    let first = recording.prompt(&recording.slow(1000, 20, false, number)).await;
    socket.until(is_step_of(&first, 1)).await;
    let second = recording.prompt(&recording.slow(1, 1, false, number + 1)).await;
    // None at the front: ours does not pass the one that ComfyUI has already.
    let third = recording.prompt(&recording.slow(1, 1, false, number + 2)).await;
    let fourth = recording.prompt(&recording.slow(1, 1, false, number + 3)).await;
    [first, second, third, fourth]
}

#[tokio::test]
async fn the_queue_and_what_takes_prompts_out_of_it() {
    is_the_same_but(
        async |recording| {
            let mut socket = recording.socket().await;
            let [first, second, third, fourth] = some(recording, &mut socket, 0).await;
            for path in [
                "/queue",
                "/prompt",
                "/api/jobs?status=pending,in_progress",
                "/api/jobs?status=pending&sort_order=asc&limit=2",
            ] {
                recording.get(path).await;
            }
            about(recording, &first).await;
            about(recording, &second).await;
            recording.post("/queue", &json!({"delete": [second]})).await;
            // The one that runs, and one that nobody knows: nothing happens.
            recording.post("/queue", &json!({"delete": [first]})).await;
            recording.post("/queue", &json!({"delete": ["nope"]})).await;
            recording.get("/queue").await;
            recording.post("/interrupt", &json!({"prompt_id": first})).await;
            socket.over(&first).await;
            for id in [&third, &fourth] {
                recording.over(&mut socket, id).await;
            }
            about(recording, &second).await;

            let [first, ..] = some(recording, &mut socket, 10).await;
            recording.post("/api/queue", &json!({"clear": true})).await;
            recording.get("/queue").await;
            recording.post("/interrupt", &json!({})).await;
            socket.over(&first).await;
            socket.close().await;
            // How often in between the length of the queue is told.
        },
        &["what the websocket hears"],
    )
    .await;
}

#[tokio::test]
async fn jobs_that_are_cancelled() {
    is_the_same(async |recording| {
        let mut socket = recording.socket().await;
        let [first, second, third, fourth] = some(recording, &mut socket, 0).await;
        recording.post(&format!("/api/jobs/{second}/cancel"), &json!({})).await;
        recording
            .post("/api/jobs/cancel", &json!({"job_ids": [third, fourth, first]}))
            .await;
        let heard = socket.over(&first).await;
        recording.note("the end", end(&heard));
        for id in [&first, &second, &third] {
            recording.post(&format!("/api/jobs/{id}/cancel"), &json!({})).await;
            about(recording, id).await;
        }
        for body in [
            json!({"job_ids": [first]}),
            json!({"job_ids": ["x"]}),
            json!({"job_ids": [1, {}]}),
            json!({"job_ids": "x"}),
            json!({}),
            json!([]),
        ] {
            recording.post("/api/jobs/cancel", &body).await;
        }
        recording.post("/api/jobs/nonsense/cancel", &json!({})).await;
        socket.close().await;
    })
    .await;
}

#[tokio::test]
async fn clients_that_come_back() {
    is_the_same(async |recording| {
        let mut socket = recording.socket_with_flags().await;
        let id = recording.prompt(&recording.slow(60, 50, true, 0)).await;
        socket.until(is_step_of(&id, 3)).await;
        socket.close().await;
        // The node is told once more, and what follows; flags must be sent again.
        let mut socket = recording.socket().await;
        let heard = socket.until(is_step_of(&id, 1)).await;
        let node = heard.iter().find(|message| message["type"] == "executing");
        recording.note("the node that runs", json!(node));
        recording.note(
            "previews of old",
            json!(heard.iter().any(|message| message["binary"] == 4)),
        );
        socket
            .send(&json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}}))
            .await;
        let mut heard = socket.over(&id).await;
        // One that was on its way before the flags were.
        heard.retain(|message| message["binary"] != 1);
        recording.note("the rest", kinds(&heard));
        about(recording, &id).await;
        // Gone before the end, back after it: nothing is told again.
        let id = recording.prompt(&recording.slow(3, 20, false, 1)).await;
        socket.close().await;
        recording.client.ended(&id).await;
        recording.idle().await;
        let mut socket = recording.socket().await;
        // The prompt first, the websocket after its start.
        socket.send(&json!({"anything": "else"})).await;
        let id = recording.prompt(&recording.slow(2, 20, false, 2)).await;
        recording.over(&mut socket, &id).await;
        socket.close().await;
    })
    .await;
}
