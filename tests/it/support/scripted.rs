//! What a stand-in for somebody else's API does when it is asked: well, in given words, or wrong in a given way.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::wire::{Connection, Head};

/// An answer, word for word.
#[derive(Debug, Clone)]
pub(crate) struct Words {
    pub(crate) status: u16,
    headers: Vec<(&'static str, String)>,
    content_type: &'static str,
    pub(crate) body: Vec<u8>,
}

/// How a request is answered.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// As by an API that works.
    Well,
    /// The same after a while.
    Late(Duration),
    /// In these words; nothing is done.
    Says(Words),
    /// Not at all, until the client goes away; what was asked for is done all the same.
    Never,
    /// The connection ends once the whole request was read; what was asked for is done all the same.
    HangUp,
    /// As by an API that works, but the last bytes are missing.
    Cut,
    /// The connection ends before the body was read.
    Unread,
}

impl Words {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content_type: "application/json",
            body: body.to_string().into_bytes(),
        }
    }

    /// A page, as of a proxy or a gateway on the way.
    pub(crate) fn html(status: u16) -> Self {
        Self {
            content_type: "text/html; charset=UTF-8",
            body: format!("<!DOCTYPE html><html><head><title>{status}</title></head><body><h1>Wait</h1></body></html>")
                .into_bytes(),
            ..Self::json(status, &Value::Null)
        }
    }

    /// What is said to be JSON and need not be.
    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self {
            body: body.as_bytes().to_vec(),
            ..Self::json(status, &Value::Null)
        }
    }

    pub(crate) fn file(content_type: &'static str, body: Vec<u8>) -> Self {
        Self {
            content_type,
            body,
            ..Self::json(200, &Value::Null)
        }
    }

    /// The same with a header.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// All of it, as it is sent.
    fn sent(&self) -> Vec<u8> {
        let (status, content_type, length) = (self.status, self.content_type, self.body.len());
        let mut head =
            format!("HTTP/1.1 {status} Said\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n");
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").expect("a string takes all");
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }
}

impl Reply {
    /// Whether it is said in words of its own, so that nothing else is done.
    pub(crate) fn words(&self) -> Option<&Words> {
        match self {
            Self::Says(words) => Some(words),
            _ => None,
        }
    }

    /// Answers; gives the connection back if it may bring another request.
    pub(crate) async fn give(&self, mut connection: Connection, well: &Words) -> Option<Connection> {
        let words = self.words().unwrap_or(well);
        match self {
            Self::Well | Self::Says(_) => {}
            Self::Late(time) => tokio::time::sleep(*time).await,
            Self::Never => {
                connection.closed().await;
                return None;
            }
            Self::HangUp | Self::Unread => {
                connection.reset();
                return None;
            }
            Self::Cut => {
                let sent = words.sent();
                let _ = connection.write(&sent[..sent.len() - 5]).await;
                connection.end().await;
                return None;
            }
        }
        connection.write(&words.sent()).await.ok()?;
        Some(connection)
    }
}

/// Has the requests of each connection answered, one after the other, until what it gives is dropped.
pub(crate) fn serving<A, F>(listener: TcpListener, answer: A) -> AbortOnDropHandle<()>
where
    A: Fn(Connection, Head) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Option<Connection>> + Send + 'static,
{
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(answered(Connection::new(stream), answer.clone()));
                    }
                }
                Some(ended) = connections.join_next() => ended.expect("the stand-in itself does not fail"),
            }
        }
    }))
}

async fn answered<F: Future<Output = Option<Connection>>>(
    mut connection: Connection,
    answer: impl Fn(Connection, Head) -> F,
) {
    while let Some(head) = connection.head().await {
        let Some(same) = answer(connection, head).await else {
            return;
        };
        connection = same;
    }
}
