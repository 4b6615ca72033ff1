//! The connection to the broker, and what is asked of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State as Connection;
use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::kv::{CreateErrorKind, Operation, Store, UpdateErrorKind};
use async_nats::jetstream::object_store::ObjectStore;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use async_nats::jetstream::{self, Context, context::ContextBuilder, message::PublishMessage};
use async_nats::{Client, ConnectOptions, Event};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

use super::{Entry, MOST_INLINE, Message, Numbers, Parcel, SUBJECT};
use crate::config::{BrokerAddress, BrokerLogin};
use crate::display::error_chain;
use crate::echo::cut;
use crate::net::dial;

/// The longest that the broker may take for an answer.
const ANSWER: Duration = Duration::from_secs(3);
/// The longest that it may be silent before the connection is taken for dead: two of these.
const PING: Duration = Duration::from_secs(5);
/// The longest wait between two tries to connect.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// The longest that an object may take, whatever its size.
const OBJECT: Duration = Duration::from_mins(2);
/// The most bytes of an object. It is held in memory.
const LARGEST_OBJECT: u64 = 300 * 1024 * 1024;

/// Why something could not be had of the broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(pub String);

pub(super) fn trouble(what: &str) -> impl FnOnce(&(dyn std::error::Error + 'static)) -> Trouble {
    move |error| Trouble(format!("{what}: {}", error_chain(error)))
}

/// A connection, which is made anew whenever it breaks.
#[derive(Clone)]
pub struct Broker {
    client: Client,
    pub(super) jetstream: Context,
    events: Arc<Events>,
}

/// What was heard of the connection.
#[derive(Debug, Default)]
struct Events {
    connected: watch::Sender<bool>,
    last_error: Mutex<Option<String>>,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// Begins to connect. It may be a while until that is done.
    pub async fn connect(address: &BrokerAddress, name: &str) -> Result<Self, Trouble> {
        let events = Arc::new(Events::default());
        let heard = Arc::clone(&events);
        let options = ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .ping_interval(PING)
            .request_timeout(Some(ANSWER))
            .reconnect_delay_callback(|tries| {
                let factor = 2_u32.saturating_pow(u32::try_from(tries).unwrap_or(u32::MAX).min(8));
                (Duration::from_millis(25) * factor).min(LONGEST_WAIT)
            })
            .event_callback(move |event| {
                heard.hear(&event);
                std::future::ready(())
            });
        let options = match dial::client_config() {
            Ok(tls) => options.tls_client_config(tls),
            Err(error) => {
                return Err(Trouble(format!(
                    "the TLS settings of this machine cannot be used: {error}"
                )));
            }
        };
        let options = match address.login() {
            None => options,
            Some(BrokerLogin::Token(token)) => options.token(token.reveal().to_owned()),
            Some(BrokerLogin::User(user, password)) => {
                options.user_and_password(user.clone(), password.reveal().to_owned())
            }
        };
        let connected = options.connect(address.servers()).await;
        let client = connected.map_err(|error| trouble("the broker cannot be connected to")(&error))?;
        Ok(Self {
            jetstream: ContextBuilder::new()
                .timeout(ANSWER)
                .ack_timeout(ANSWER)
                .build(client.clone()),
            client,
            events,
        })
    }

    /// Whether the connection stands.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == Connection::Connected
    }

    /// Tells whether the connection stands, whenever that changes.
    pub fn connection(&self) -> watch::Receiver<bool> {
        self.events.connected.subscribe()
    }

    /// Why it does not stand.
    pub fn why_not(&self) -> String {
        let last = self.events.last_error.lock().clone();
        last.unwrap_or_else(|| "nobody answers".to_owned())
    }

    /// What tells without being kept.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl Events {
    fn hear(&self, event: &Event) {
        match event {
            Event::Connected => {
                *self.last_error.lock() = None;
                self.connected.send_replace(true);
            }
            Event::Disconnected | Event::Closed => {
                self.connected.send_replace(false);
            }
            Event::ServerError(error) => *self.last_error.lock() = Some(cut(&error_chain(error))),
            Event::ClientError(error) => *self.last_error.lock() = Some(cut(&error.to_string())),
            Event::SlowConsumer(_) | Event::LameDuckMode | Event::Draining => {}
        }
    }
}

/// A broker that is set up.
#[derive(Clone)]
pub struct Bound {
    /// The connection.
    pub broker: Broker,
    /// What is agreed on.
    pub numbers: Numbers,
    /// Hands jobs out.
    pub consumer: Consumer<pull::Config>,
    pub(super) entries: Store,
    pub(super) files: ObjectStore,
    pub(super) stream: Stream,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound")
            .field("numbers", &self.numbers)
            .finish_non_exhaustive()
    }
}

impl Bound {
    /// A job's entry and its revision.
    pub async fn entry(&self, job: &str) -> Result<Option<(Entry, u64)>, Trouble> {
        let found = self.entries.entry(job).await;
        let found = found.map_err(|error| trouble("the job's entry cannot be read")(&error))?;
        let found = found.filter(|found| found.operation == Operation::Put);
        let read = |found: jetstream::kv::Entry| Ok((serde_json::from_slice(&found.value)?, found.revision));
        let read = found.map(read).transpose();
        read.map_err(|error: serde_json::Error| trouble("the job's entry is not understood")(&error))
    }

    /// Puts an entry where there is none. [`None`]: there is one.
    pub async fn create(&self, job: &str, entry: &Entry) -> Result<Option<u64>, Trouble> {
        let text = serde_json::to_vec(entry).unwrap_or_default();
        match self.entries.create(job, text.into()).await {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(trouble("the job's entry cannot be written")(&error)),
        }
    }

    /// Changes an entry that has this revision. [`None`]: it has another by now.
    pub async fn update(&self, job: &str, entry: &Entry, revision: u64) -> Result<Option<u64>, Trouble> {
        let text = serde_json::to_vec(entry).unwrap_or_default();
        match self.entries.update(job, text.into(), revision).await {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(None),
            Err(error) => Err(trouble("the job's entry cannot be written")(&error)),
        }
    }

    /// Changes an entry, whatever its revision, as long as there is one and `change` gives one. Gives what it is then, or is without
    /// a change.
    pub async fn change(
        &self,
        job: &str,
        change: impl Fn(&Entry) -> Option<Entry> + Send,
    ) -> Result<Option<(Entry, u64)>, Trouble> {
        loop {
            let Some((entry, revision)) = self.entry(job).await? else {
                return Ok(None);
            };
            let Some(changed) = change(&entry) else {
                return Ok(Some((entry, revision)));
            };
            if let Some(revision) = self.update(job, &changed, revision).await? {
                return Ok(Some((changed, revision)));
            }
        }
    }

    /// Sends a job. The broker has it once, however often it is sent. Gives its place.
    pub async fn send(&self, message: &Message) -> Result<u64, Trouble> {
        let text = serde_json::to_vec(message).unwrap_or_default();
        let publish = PublishMessage::build().payload(text.into()).message_id(message.id());
        let failed = |error: async_nats::error::Error<PublishErrorKind>| trouble("the job cannot be sent")(&error);
        let sent = self
            .broker
            .jetstream
            .send_publish(SUBJECT, publish)
            .await
            .map_err(failed)?;
        Ok(sent.await.map_err(failed)?.sequence)
    }

    /// Whether the broker still has what was sent.
    pub async fn has(&self, place: u64) -> Result<bool, Trouble> {
        match self.stream.get_raw_message(place).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(false),
            Err(error) => Err(trouble("the job's message cannot be looked for")(&error)),
        }
    }

    /// Tells without being kept; who does not listen does not hear it.
    pub async fn tell(&self, subject: String, content: impl Into<Bytes>) {
        // While there is no connection nobody listens.
        if self.broker.is_connected()
            && let Err(error) = self.broker.client.publish(subject, content.into()).await
        {
            tracing::debug!("something is not told: {error}");
        }
    }

    /// Puts a file into the object store; one of that name is replaced.
    pub async fn put(&self, name: &str, content: &[u8]) -> Result<(), Trouble> {
        let mut content = content;
        match tokio::time::timeout(OBJECT, self.files.put(name, &mut content)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(trouble("a file cannot be put into the object store")(&error)),
            Err(_) => Err(Trouble(format!(
                "a file took longer than {} s to be put",
                OBJECT.as_secs()
            ))),
        }
    }

    /// Gets one. [`None`]: there is none.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, Trouble> {
        const WHAT: &str = "a file cannot be had of the object store";
        let read = async {
            let object = match self.files.get(name).await {
                Ok(object) => object,
                Err(error) if error.kind() == jetstream::object_store::GetErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(trouble(WHAT)(&error)),
            };
            let mut content = Vec::new();
            let read = object.take(LARGEST_OBJECT).read_to_end(&mut content).await;
            read.map_err(|error| trouble(WHAT)(&error))?;
            Ok(Some(content.into()))
        };
        let late = || Trouble(format!("a file took longer than {} s to be had", OBJECT.as_secs()));
        tokio::time::timeout(OBJECT, read).await.unwrap_or_else(|_| Err(late()))
    }

    /// Removes one, where that can be done.
    pub async fn remove(&self, name: &str) {
        if let Err(error) = self.files.delete(name).await {
            tracing::debug!("a file in the object store is left until it is old: {error}");
        }
    }

    /// Wraps a text, which goes into the object store under `name` where it is large.
    pub async fn pack(&self, name: &str, text: &[u8]) -> Result<Parcel, Trouble> {
        if text.len() <= MOST_INLINE
            && let Ok(text) = std::str::from_utf8(text)
        {
            return Ok(Parcel::Here(text.to_owned()));
        }
        self.put(name, text).await?;
        Ok(Parcel::Object(name.to_owned()))
    }

    /// What is in it. [`None`]: it is not there any more.
    pub async fn unpack(&self, parcel: &Parcel) -> Result<Option<Bytes>, Trouble> {
        match parcel {
            Parcel::Here(text) => Ok(Some(Bytes::copy_from_slice(text.as_bytes()))),
            Parcel::Object(name) => self.get(name).await,
        }
    }
}
