//! Answers, and what is done wrong with them on the wire.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::super::wire::{Connection, Head};
use super::content::Content;
use super::fault::Fault;
use super::link::{Link, Paces};

/// An answer as it should be.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    /// The file, or the text, of which the body is a part.
    pub(super) content: Content,
    /// Where the body begins and ends in it.
    pub(super) from: u64,
    pub(super) to: u64,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The connection takes the next request.
    Next,
    /// The connection is closed.
    Close,
    /// The connection is reset.
    Reset,
    /// Nothing more comes.
    Stall,
    /// Each byte takes this long.
    Drip(Duration),
}

/// What is sent after the headers.
struct Body {
    /// How many bytes of it come in any case.
    until: u64,
    end: End,
    /// The place in the file of a byte that is changed.
    flipped: Option<u64>,
}

impl Reply {
    /// A short answer.
    pub(super) fn text(status: u16, text: impl Into<String>) -> Self {
        let content = Content::literal(text.into());
        Self {
            status,
            headers: vec![("Content-Type", "text/plain; charset=utf-8".to_owned())],
            from: 0,
            to: content.size(),
            content,
        }
    }

    /// An HTML page.
    pub(super) fn page() -> Self {
        let mut reply = Self::text(
            200,
            "<!doctype html><title>Log in</title><form>Log in to download</form>",
        );
        reply.headers = vec![("Content-Type", "text/html; charset=utf-8".to_owned())];
        reply
    }

    /// A file, or the part of it that the request asks for.
    pub(super) fn file(head: &Head, content: &Content, etag: Option<&str>, last_modified: Option<&str>) -> Self {
        let size = content.size();
        let mut reply = Self {
            status: 200,
            headers: vec![
                ("Content-Type", "application/octet-stream".to_owned()),
                ("Accept-Ranges", "bytes".to_owned()),
            ],
            content: content.clone(),
            from: 0,
            to: size,
        };
        reply.headers.extend(etag.map(|etag| ("ETag", etag.to_owned())));
        reply
            .headers
            .extend(last_modified.map(|date| ("Last-Modified", date.to_owned())));
        let condition = head.header("if-range");
        let same = condition.is_empty()
            || Some(condition) == etag.filter(|etag| !etag.starts_with("W/"))
            || Some(condition) == last_modified;
        let Some((from, to)) = range(head.header("range"), size).filter(|_| same) else {
            return reply;
        };
        if from >= to {
            reply.status = 416;
            reply.headers.push(("Content-Range", format!("bytes */{size}")));
            reply.to = 0;
            return reply;
        }
        reply.status = 206;
        (reply.from, reply.to) = (from, to);
        reply
    }

    /// Sends it, with a fault; gives the connection back if it may bring another request.
    pub(super) async fn send(
        mut self,
        mut connection: Connection,
        head: &Head,
        fault: Option<Fault>,
        (link, paces): (Link, &mut Paces),
        sent: &Arc<AtomicU64>,
    ) -> Option<Connection> {
        let size = self.content.size();
        let (mut length, mut total, mut is_sized) = (0, 0, true);
        let mut body = Body {
            until: u64::MAX,
            end: End::Next,
            flipped: None,
        };
        match fault {
            None | Some(Fault::Answer(..) | Fault::Page | Fault::Redirect(_)) => {}
            Some(Fault::Silence) => {
                connection.closed().await;
                return None;
            }
            Some(Fault::HangUp) => return None,
            Some(Fault::Stall(after)) => (body.until, body.end) = (after, End::Stall),
            Some(Fault::Cut(after)) => (body.until, body.end) = (after, End::Close),
            Some(Fault::Reset(after)) => (body.until, body.end) = (after, End::Reset),
            Some(Fault::Drip(after, pause)) => (body.until, body.end) = (after, End::Drip(pause)),
            Some(Fault::Flip(place)) => body.flipped = Some(place),
            Some(Fault::Whole) => (self.status, self.from, self.to) = (200, 0, size),
            Some(Fault::Unsized) => {
                (self.status, self.from, self.to) = (200, 0, size);
                (is_sized, body.end) = (false, End::Close);
            }
            Some(Fault::Length(by)) => {
                length = by;
                if by > 0 {
                    body.end = End::Close;
                } else {
                    body.until = (self.to - self.from).saturating_add_signed(by);
                }
            }
            Some(Fault::Misplaced(by)) => {
                self.from = self.from.saturating_add_signed(by).min(size - 1);
                self.to = self.to.saturating_add_signed(by).clamp(self.from + 1, size);
            }
            Some(Fault::Total(by)) => total = by,
        }
        let mut text = format!("HTTP/1.1 {} Said\r\n", self.status);
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if self.status == 206 {
            let (from, last, size) = (self.from, self.to - 1, size.saturating_add_signed(total));
            let _ = write!(text, "Content-Range: bytes {from}-{last}/{size}\r\n");
        }
        if is_sized {
            let length = (self.to - self.from).saturating_add_signed(length);
            let _ = write!(text, "Content-Length: {length}\r\n");
        }
        text.push_str("\r\n");
        connection.write(text.as_bytes()).await.ok()?;
        if head.method == "HEAD" {
            return is_sized.then_some(connection);
        }
        self.send_body(&mut connection, &body, (link, paces), sent).await.ok()?;
        match body.end {
            End::Next | End::Drip(_) => return Some(connection),
            End::Close => connection.end().await,
            End::Reset => connection.reset(),
            End::Stall => connection.closed().await,
        }
        None
    }

    async fn send_body(
        &self,
        connection: &mut Connection,
        body: &Body,
        (link, paces): (Link, &mut Paces),
        sent: &AtomicU64,
    ) -> io::Result<()> {
        let until = self.to.min(self.from.saturating_add(body.until));
        let mut at = self.from;
        while at < self.to {
            let most = match body.end {
                _ if at < until => link.piece().min(until - at),
                End::Drip(pause) => {
                    tokio::time::sleep(pause).await;
                    1
                }
                _ => return Ok(()),
            };
            let piece = self.content.piece(at, most.min(self.to - at));
            let length = piece.len() as u64;
            paces.wait(link, length).await;
            match body.flipped.and_then(|place| place.checked_sub(at)) {
                Some(place) if place < length => {
                    let mut piece = piece.to_vec();
                    piece[usize::try_from(place).expect("an index")] ^= 1;
                    connection.write(&piece).await?;
                }
                _ => connection.write(piece).await?,
            }
            sent.fetch_add(length, Ordering::Relaxed);
            at += length;
        }
        Ok(())
    }
}

/// Where a range begins and ends in a file of this size; empty when it is not in it, [`None`] when it is none.
fn range(header: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => Some((first, size.min(last + 1))),
        (Ok(first), Err(_)) => Some((first, size)),
        (Err(_), Ok(last)) => Some((size.saturating_sub(last), size)),
        _ => None,
    }
}
