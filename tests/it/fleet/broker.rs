//! What fronts put into the broker: whose it is, how long it is kept, and what becomes of it where the broker refuses it. Nothing here
//! needs a worker: the test writes what one would.

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use qwen_image_worker::error::JobError;
use qwen_image_worker::fleet::{FILES, State};

use super::*;

/// The entry of a job. Fails where the broker does not answer.
async fn look_for(broker: &Context, id: &str) -> Result<Option<Entry>, async_nats::Error> {
    let text = broker.get_key_value(JOBS).await?.get(id).await?;
    Ok(text.map(|text| serde_json::from_slice(&text).expect("an entry")))
}

async fn entry_of(broker: &Context, id: &str) -> Option<Entry> {
    look_for(broker, id).await.expect("the broker answers")
}

/// As a worker ends a job that it cannot do.
async fn fails(broker: &Context, id: &str, why: &str) {
    let bucket = broker.get_key_value(JOBS).await.expect("a front has made it");
    let entry = entry_of(broker, id).await.expect("it is there");
    let error = JobError::internal(why.to_owned());
    let failed = entry.taken("a worker", false).ended(State::Failed, None, Some(error));
    let text = serde_json::to_vec(&failed).expect("JSON");
    bucket.put(id, text.into()).await.expect("it is taken");
}

async fn is_queued(broker: &Context, id: &str) {
    until("the job is in the broker", async || {
        let found = look_for(broker, id).await.ok().flatten();
        found.is_some_and(|entry| entry.state == State::Queued)
    })
    .await;
}

/// How a stream is.
async fn config_of(broker: &Context, stream: &str) -> Config {
    let stream = broker.get_stream(stream).await.expect("a front has made it");
    stream.cached_info().config.clone()
}

fn of_engine(health: &Answer, field: &str) -> Value {
    health.body["engines"][0][field].clone()
}

async fn prompt(front: &Front, id: &str) -> Answer {
    let workflow = slow(1, 20, 7);
    post(front, "/prompt", json!({"prompt": workflow, "prompt_id": id})).await
}

#[tokio::test]
async fn an_id_belongs_to_the_front_that_came_first() {
    let mut nats = Nats::start().await;
    let (first, second) = (Front::start(&nats).await, Front::start(&nats).await);
    let broker = nats.client().await;

    // What is known is refused.
    let id = uuid::Uuid::now_v7().to_string();
    assert_eq!(prompt(&first, &id).await.status, 200);
    is_queued(&broker, &id).await;
    let refused = prompt(&second, &id).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.body.to_string().contains("prompt_id is taken"), "{refused:?}");
    fails(&broker, &id, "the first").await;
    assert!(first.served.end(&id).await.body.to_string().contains("the first"));

    // While nobody can be asked, both are taken in; one of them is told.
    nats.kill().await;
    for front in [&first, &second] {
        until("the front knows", async || {
            of_engine(&front.served.ask("/health").await, "state") == "resting"
        })
        .await;
    }
    let id = uuid::Uuid::now_v7().to_string();
    for front in [&first, &second] {
        let taken = prompt(front, &id).await;
        assert_eq!(
            (taken.status, text(&taken.body, "prompt_id")),
            (200, id.as_str()),
            "{taken:?}"
        );
    }
    nats.start_again().await;
    let state = async |front: &Front| text(&front.status(&id).await.body, "status").to_owned();
    until("one is refused", async || {
        state(&first).await == "FAILED" || state(&second).await == "FAILED"
    })
    .await;
    let (owner, other) = if state(&second).await == "FAILED" {
        (first, second)
    } else {
        (second, first)
    };
    let told = other.status(&id).await.body.to_string();
    assert!(told.contains("another front") && told.contains(&id), "{told}");
    // A front knows its own again.
    let owner = owner.killed().await;
    let (before, state) = (entry_of(&broker, &id).await, owner.status(&id).await.body);
    assert_eq!(text(&state, "status"), "IN_QUEUE", "{state:#}");
    fails(&broker, &id, "the owner's").await;
    let told = owner.served.end(&id).await.body.to_string();
    assert!(told.contains("the owner's"), "{told}");
    assert_eq!(before.map(|entry| entry.round), Some(1), "it was put in once");

    // Its owner has it run again.
    let again = owner
        .served
        .send(Method::POST, &format!("/cancel/{id}"), String::new())
        .await;
    assert_eq!(text(&again.body, "status"), "FAILED");
    assert_eq!(prompt(&owner, &id).await.status, 200);
    is_queued(&broker, &id).await;
    assert_eq!(entry_of(&broker, &id).await.map(|entry| entry.round), Some(2));
}

#[tokio::test]
async fn what_the_broker_refuses_is_not_waited_for() {
    let mut nats = Nats::start().await;
    let front = Front::start_with(&nats, "ack_wait_s = 3\ntimeout_s = 4").await;
    let broker = nats.client().await;
    let rests = async |why: &str| {
        until("the engine rests", async || {
            let health = front.served.ask("/health").await;
            of_engine(&health, "state") == "resting" && of_engine(&health, "reason").to_string().contains(why)
        })
        .await;
    };

    // The files have no room: the job is not put in at all.
    let is = config_of(&broker, &format!("OBJ_{FILES}")).await;
    let full = Config {
        max_bytes: 1000,
        ..is.clone()
    };
    broker.update_stream(&full).await.expect("it is taken");
    let large = post(&front, "/run", large_job()).await;
    let large = text(&large.body, "id").to_owned();
    rests("object store").await;
    assert_eq!(entry_of(&broker, &large).await, None);
    broker.update_stream(&is).await.expect("it is taken");
    is_queued(&broker, &large).await;

    // The stream has none: it is taken back.
    let is = config_of(&broker, STREAM).await;
    let full = Config {
        max_messages: 1,
        discard: DiscardPolicy::New,
        ..is.clone()
    };
    broker.update_stream(&full).await.expect("it is taken");
    let id = front.run(slow(1, 20, 7)).await;
    rests("cannot be sent").await;
    let entry = entry_of(&broker, &id).await.expect("it was put in");
    assert_eq!(entry.state, State::Withdrawn);
    broker.update_stream(&is).await.expect("it is taken");
    is_queued(&broker, &id).await;
    until("both wait", async || nats.jobs().await[0] == 2).await;

    // It answers nothing any more: nobody knows what becomes of what is there.
    nats.start_again_with_jetstream(false).await;
    for id in [&large, &id] {
        let told = front.served.end(id).await.body;
        assert_eq!(text(&told, "status"), "FAILED", "{told:#}");
        assert!(told.to_string().contains("may have run"), "{told:#}");
    }
    let after = front.run(slow(1, 20, 8)).await;
    nats.start_again_with_jetstream(true).await;
    is_queued(&broker, &after).await;
    // What has failed here does not run there later.
    for id in [&large, &id] {
        until("it is cancelled there", async || {
            let entry = entry_of(&broker, id).await.expect("it is there");
            entry.state == State::Cancelled
        })
        .await;
    }
}

#[tokio::test]
async fn fronts_that_want_it_otherwise_follow_the_last_one() {
    let mut nats = Nats::start().await;
    let first = Front::start(&nats).await;
    let broker = nats.client().await;
    let agreed = async || {
        let bucket = broker.get_key_value(JOBS).await.expect("it is there");
        let found = bucket
            .entry("numbers")
            .await
            .expect("it is asked")
            .expect("they are there");
        let numbers: Value = serde_json::from_slice(&found.value).expect("JSON");
        let stream = broker.get_stream(STREAM).await.expect("it is there");
        let consumer = stream
            .get_consumer::<async_nats::jetstream::consumer::pull::Config>(CONSUMER)
            .await;
        let wait = consumer.expect("it is there").cached_info().config.ack_wait.as_secs();
        (numbers["ack_wait_ms"].clone(), wait, found.revision)
    };
    let (numbers, wait, _) = agreed().await;
    assert_eq!((numbers, wait), (json!(3000), 3));
    let second = Front::start_with(&nats, "ack_wait_s = 5").await;
    until("both follow the second", async || {
        let (numbers, wait, _) = agreed().await;
        (numbers, wait) == (json!(5000), 5)
    })
    .await;
    let (_, _, revision) = agreed().await;

    // Whatever was away: the first does not have its own way again, and what is agreed on gets no older.
    nats.start_again_with_jetstream(false).await;
    nats.start_again_with_jetstream(true).await;
    until("both have looked", async || agreed().await.2 >= revision + 2).await;
    for front in [&first, &second] {
        front.is_connected().await;
    }
    let (numbers, wait, _) = agreed().await;
    assert_eq!((numbers, wait), (json!(5000), 5));

    // Nothing outlives what it needs, and what is read is what was written.
    let [entries, messages, files] = [format!("KV_{JOBS}"), STREAM.to_owned(), format!("OBJ_{FILES}")];
    let [entries, messages, files] = [
        config_of(&broker, &entries).await,
        config_of(&broker, &messages).await,
        config_of(&broker, &files).await,
    ];
    assert!(!entries.max_age.is_zero() && entries.max_age < messages.max_age && messages.max_age < files.max_age);
    assert!(!entries.allow_direct && !messages.allow_direct && !files.allow_direct);

    // One that was set up by a release of before becomes so, and keeps what its owner has set.
    let before = Config {
        max_age: std::time::Duration::ZERO,
        max_bytes: 1_000_000_000,
        ..messages.clone()
    };
    broker.update_stream(&before).await.expect("it is taken");
    let _first = first.killed().await;
    let now = config_of(&broker, STREAM).await;
    assert_eq!((now.max_age, now.max_bytes), (messages.max_age, 1_000_000_000));
    assert_eq!(agreed().await.1, 3, "the one that was started last");
}
