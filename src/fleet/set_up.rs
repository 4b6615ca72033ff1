//! What a front makes in the broker, and what workers look for there.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::kv::{self, CreateErrorKind, Operation, Store, UpdateErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, Stream};

use super::broker::trouble;
use super::{Bound, Broker, CONSUMER, FILES, JOBS, NUMBERS, Numbers, STREAM, SUBJECT, Trouble};

/// How long the broker knows the ids of messages that were sent.
const KNOWN_FOR: Duration = Duration::from_mins(10);
/// How much longer than an entry its message is kept, and the files than the message: what is left of a job must not miss the rest.
const ROOM: Duration = Duration::from_hours(1);

/// What a front wants of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What fronts and workers are to agree on.
    pub numbers: Numbers,
    /// On how many servers of a cluster everything is kept.
    pub replicas: usize,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Numbers {
            ack_wait_ms,
            retries,
            kept_s,
            ..
        } = self.numbers;
        let (ack_wait_s, replicas) = (ack_wait_ms / 1000, self.replicas);
        write!(
            f,
            "ack_wait_s = {ack_wait_s}, JOB_RETRIES = {retries}, replicas = {replicas}, kept for {kept_s} s"
        )
    }
}

impl Broker {
    /// Makes what is not there yet. `is_first`: all is made to be as this front wants it; else it is left as it is, since another
    /// front may have been started in the meantime. Gives what was there as well. For the front alone: workers that did so would
    /// fight while versions change.
    pub async fn set_up(&self, wanted: Wanted, is_first: bool) -> Result<(Bound, Option<Wanted>), Trouble> {
        // Before anything is changed that those of another version use.
        let found = self.found().await?;
        let (before, revision) = found.unzip();
        if let Some(why) = before.and_then(|before| before.numbers.refused()) {
            return Err(Trouble(why));
        }
        let Wanted { numbers, replicas } = before.filter(|_| !is_first).unwrap_or(wanted);
        let kept = numbers.kept();
        // As the client's own `create_key_value` makes it, which asks older servers for what they cannot tell.
        let bucket = Config {
            name: format!("KV_{JOBS}"),
            description: Some("Jobs of qwen-image-worker".to_owned()),
            subjects: vec![format!("$KV.{JOBS}.>")],
            max_messages_per_subject: 1,
            max_age: kept,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            num_replicas: replicas,
            ..Config::default()
        };
        self.made("the bucket of jobs", bucket, is_first).await?;
        let entries = self.jetstream.get_key_value(JOBS).await;
        let entries = entries.map_err(|error| trouble("the bucket of jobs cannot be used")(&error))?;
        let store = Config {
            name: format!("OBJ_{FILES}"),
            subjects: vec![format!("$O.{FILES}.C.>"), format!("$O.{FILES}.M.>")],
            max_age: kept + 2 * ROOM,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            num_replicas: replicas,
            ..Config::default()
        };
        self.made("the object store", store, is_first).await?;
        let files = self.jetstream.get_object_store(FILES).await;
        let files = files.map_err(|error| trouble("the object store cannot be used")(&error))?;
        let queue = Config {
            name: STREAM.to_owned(),
            subjects: vec![SUBJECT.to_owned()],
            retention: RetentionPolicy::WorkQueue,
            // A broker that is killed forgets that some were removed, and hands them out no more.
            max_age: kept + ROOM,
            duplicate_window: KNOWN_FOR,
            num_replicas: replicas,
            ..Config::default()
        };
        let stream = self.made("the stream of jobs", queue, is_first).await?;
        let consumer = stream.create_consumer(pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: numbers.ack_wait(),
            // What was lost is counted in the entry: freezes and restarts of the broker use deliveries up.
            max_deliver: -1,
            // It is of all workers together.
            max_ack_pending: -1,
            ..pull::Config::default()
        });
        let consumer = consumer
            .await
            .map_err(|error| trouble("the consumer of jobs cannot be made")(&error))?;
        // An older server drops what it does not know.
        let is = consumer.cached_info().config.ack_wait;
        if is != numbers.ack_wait() {
            return Err(Trouble(format!(
                "the broker gave the consumer {CONSUMER} an ack wait of {} s, not {} s",
                is.as_secs(),
                numbers.ack_wait().as_secs()
            )));
        }
        if !keep(&entries, numbers, revision).await? && is_first {
            return Err(Trouble("another front sets the fleet up at the moment".to_owned()));
        }
        let bound = Bound {
            broker: self.clone(),
            entries,
            files,
            stream,
            consumer,
            numbers,
        };
        Ok((bound, before))
    }

    /// What is set up, by whomever, and the revision of the numbers.
    async fn found(&self) -> Result<Option<(Wanted, u64)>, Trouble> {
        let Some(stream) = self.there(&format!("KV_{JOBS}")).await? else {
            return Ok(None);
        };
        let entries = self.jetstream.get_key_value(JOBS).await;
        let entries = entries.map_err(|error| trouble("the bucket of jobs cannot be used")(&error))?;
        let replicas = stream.cached_info().config.num_replicas;
        let found = numbers_in(&entries).await?;
        Ok(found.map(|(numbers, revision)| (Wanted { numbers, replicas }, revision)))
    }

    /// The stream of this name. [`None`] only where the broker says that there is none.
    async fn there(&self, name: &str) -> Result<Option<Stream>, Trouble> {
        match self.jetstream.get_stream(name).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(told) if told.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
                _ => Err(trouble("the broker does not tell what is there")(&error)),
            },
        }
    }

    /// A stream that is kept for as long, and on as many servers, as is wanted; what somebody has set besides stays so, as far as
    /// servers of the version 2.9 know it.
    async fn made(&self, what: &str, wanted: Config, is_first: bool) -> Result<Stream, Trouble> {
        let Some(there) = self.there(&wanted.name).await? else {
            let made = self.jetstream.create_stream(wanted).await;
            return made.map_err(|error| trouble(&format!("{what} cannot be made"))(&error));
        };
        let is = &there.cached_info().config;
        if is.retention != wanted.retention || is.subjects != wanted.subjects {
            return Err(Trouble(format!(
                "the stream {} is none that a front of ours has made; remove it",
                wanted.name
            )));
        }
        let config = Config {
            max_age: wanted.max_age,
            num_replicas: wanted.num_replicas,
            // What was written must be read, and not what another server of a cluster knew before.
            allow_direct: false,
            ..is.clone()
        };
        if !is_first || config == *is {
            return Ok(there);
        }
        let updated = self.jetstream.update_stream(&config).await;
        updated.map_err(|error| trouble(&format!("{what} cannot be changed"))(&error))?;
        let there = self.jetstream.get_stream(&config.name).await;
        there.map_err(|error| trouble(&format!("{what} cannot be used"))(&error))
    }

    /// Looks for what a front has made. Fails where there is none yet, or where it is of another version.
    pub async fn bind(&self) -> Result<Bound, Trouble> {
        const MISSING: &str = "no front has set the fleet up yet";
        let entries = self.jetstream.get_key_value(JOBS).await;
        let entries = entries.map_err(|error| trouble(MISSING)(&error))?;
        let (numbers, _) = numbers_in(&entries).await?.ok_or_else(|| Trouble(MISSING.to_owned()))?;
        if let Some(why) = numbers.refused() {
            return Err(Trouble(why));
        }
        let files = self.jetstream.get_object_store(FILES).await;
        let files = files.map_err(|error| trouble(MISSING)(&error))?;
        let stream = self.jetstream.get_stream(STREAM).await;
        let stream = stream.map_err(|error| trouble(MISSING)(&error))?;
        let consumer = stream.get_consumer(CONSUMER).await;
        let consumer = consumer.map_err(|error| Trouble(format!("{MISSING}: {error}")))?;
        Ok(Bound {
            broker: self.clone(),
            entries,
            files,
            stream,
            consumer,
            numbers,
        })
    }
}

/// The numbers, and their revision.
async fn numbers_in(entries: &Store) -> Result<Option<(Numbers, u64)>, Trouble> {
    let found = entries.entry(NUMBERS).await;
    let found = found.map_err(|error| trouble("the numbers of the fleet cannot be read")(&error))?;
    let found = found.filter(|found| found.operation == Operation::Put);
    let read = |found: kv::Entry| Ok((serde_json::from_slice(&found.value)?, found.revision));
    let read = found.map(read).transpose();
    read.map_err(|error: serde_json::Error| trouble("the numbers of the fleet are not understood")(&error))
}

/// Writes the numbers, also where they are the same: they would be too old otherwise, as entries are at some time. False: somebody
/// has written others since `revision`.
async fn keep(entries: &Store, numbers: Numbers, revision: Option<u64>) -> Result<bool, Trouble> {
    const WHAT: &str = "the numbers of the fleet cannot be kept";
    let text = serde_json::to_vec(&numbers).unwrap_or_default().into();
    match revision {
        Some(revision) => match entries.update(NUMBERS, text, revision).await {
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
            kept => kept.map(|_| true).map_err(|error| trouble(WHAT)(&error)),
        },
        None => match entries.create(NUMBERS, text).await {
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(false),
            kept => kept.map(|_| true).map_err(|error| trouble(WHAT)(&error)),
        },
    }
}
