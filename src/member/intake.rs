//! Takes jobs: asks the broker for one at a time, while an engine has nothing to do.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, AckKind};
use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::{Shared, Standing, described, job};
use crate::fleet::{Bound, Broker, Trouble, ask_worker};

/// How long the broker is asked for a job. Short: what it hands out to one that has left in the meantime waits for the ack wait.
const ASKED_FOR: Duration = Duration::from_secs(3);
/// The time between two looks at what is not there yet.
const LOOK: Duration = Duration::from_secs(1);
/// The time between two looks at whether an engine has nothing to do, where no job of the fleet has ended.
const ROOM: Duration = Duration::from_millis(100);
/// How often what the fleet agrees on is read again.
const READ_AGAIN: Duration = Duration::from_mins(1);

/// Takes jobs until this worker leaves.
pub(super) async fn take_part(shared: Arc<Shared>) {
    let name = format!("qwen-image-worker {}", shared.id);
    let broker = loop {
        match Broker::connect(&shared.address, &name).await {
            Ok(broker) => break broker,
            Err(Trouble(why)) => shared.stands(Standing::Away(why)),
        }
        if wait(&shared, LOOK).await {
            return;
        }
    };
    let answering = answer(Arc::clone(&shared), broker.clone());
    // Asked by others as long as jobs run here, which may be longer than they are taken.
    tokio::spawn(shared.give_up.clone().run_until_cancelled_owned(answering));
    while !shared.leave.is_cancelled() {
        let bound = if broker.is_connected() {
            broker.bind().await
        } else {
            shared.stands(Standing::Away(broker.why_not()));
            if wait(&shared, LOOK / 4).await {
                return;
            }
            continue;
        };
        match bound {
            Ok(bound) => {
                shared.stands(Standing::Connected);
                let (telling, told_to) = (Arc::clone(&shared), bound.clone());
                let telling = async move { described::tell(&telling, &told_to).await };
                tokio::spawn(shared.leave.clone().run_until_cancelled_owned(telling));
                take(&shared, &bound).await;
            }
            Err(Trouble(why)) => {
                shared.stands(Standing::Waiting(why));
                wait(&shared, LOOK).await;
            }
        }
    }
}

/// Takes jobs until the connection breaks, the worker leaves, or it is time to read again what is agreed on.
async fn take(shared: &Arc<Shared>, bound: &Bound) {
    let mut connection = bound.broker.connection();
    let read = Instant::now();
    while read.elapsed() < READ_AGAIN && bound.broker.is_connected() && !shared.leave.is_cancelled() {
        if !shared.has_room() {
            tokio::select! {
                () = shared.freed.notified() => {}
                _ = wait(shared, ROOM) => {}
            }
            continue;
        }
        connection.borrow_and_update();
        // Not given up when the worker leaves: a job that is handed out meanwhile goes back.
        let message = tokio::select! {
            message = next(bound) => message,
            // It died with the connection, and another one is heard of sooner.
            _ = connection.changed() => return,
        };
        match message {
            Ok(Some(message)) if shared.leave.is_cancelled() => {
                let _ = message.ack_with(AckKind::Nak(None)).await;
            }
            Ok(Some(message)) => job::hand_out(shared, bound, message).await,
            Ok(None) => {}
            Err(why) => {
                tracing::warn!("no job could be taken of the fleet: {why}");
                wait(shared, LOOK).await;
                return;
            }
        }
    }
}

async fn next(bound: &Bound) -> Result<Option<jetstream::Message>, String> {
    let batch = bound
        .consumer
        .fetch()
        .max_messages(1)
        .expires(ASKED_FOR)
        .messages()
        .await;
    let mut batch = batch.map_err(|error| error.to_string())?;
    batch.next().await.transpose().map_err(|error| error.to_string())
}

/// Tells other workers which jobs are here.
async fn answer(shared: Arc<Shared>, broker: Broker) {
    loop {
        // It lives on over a connection that is made anew.
        if let Ok(mut asked) = broker.client().subscribe(ask_worker(&shared.id)).await {
            while let Some(question) = asked.next().await {
                let has_it = std::str::from_utf8(&question.payload).is_ok_and(|job| shared.has.lock().contains(job));
                if let Some(reply) = question.reply {
                    let answer = if has_it { job::HAS_IT } else { "no" };
                    let _ = broker.client().publish(reply, answer.into()).await;
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits. Says whether the worker leaves.
async fn wait(shared: &Shared, time: Duration) -> bool {
    tokio::select! {
        () = shared.leave.cancelled() => true,
        () = tokio::time::sleep(time) => false,
    }
}
