//! Server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>): in pieces, so that a picture
//! within goes out without being copied.

use bytes::Bytes;
use serde::Serialize;

use super::answer::Answer;

/// An event, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name.
    pub name: &'static str,
    /// One line of JSON, in pieces.
    pub data: Vec<Bytes>,
}

impl Event {
    /// An event with a small body.
    pub(super) fn new(name: &'static str, body: &impl Serialize) -> Self {
        Self::of(name, Answer::json(200, body))
    }

    /// An event whose data is the body of an answer.
    pub(super) fn of(name: &'static str, answer: Answer) -> Self {
        let data = answer.pieces;
        Self { name, data }
    }

    /// The event as it stands in a stream.
    pub fn framed(self) -> Vec<Bytes> {
        framed(format!("event: {}\ndata: ", self.name), self.data)
    }

    /// The data in one piece.
    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.data.concat()).expect("JSON is UTF-8")
    }
}

/// Events of fewer bytes go out in one piece: copying those costs less than more pieces on the wire.
const SMALL: usize = 256 * 1024;

/// A body between what stands before it in a stream and the empty line after it.
pub(super) fn framed(begin: impl Into<Bytes>, body: Vec<Bytes>) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(body.len() + 2);
    pieces.push(begin.into());
    pieces.extend(body);
    pieces.push(Bytes::from_static(b"\n\n"));
    if pieces.iter().map(Bytes::len).sum::<usize>() < SMALL {
        return vec![pieces.concat().into()];
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_text_is_not_copied_and_a_small_event_is_one_piece() {
        let small = framed("data: ", vec![Bytes::from_static(b"{"), Bytes::from_static(b"}")]);
        assert_eq!(small, [Bytes::from_static(b"data: {}\n\n")]);
        let large = Bytes::from(vec![b'x'; SMALL]);
        let pieces = framed("data: ", vec![large.clone()]);
        assert_eq!(pieces.concat().len(), "data: ".len() + SMALL + 2);
        assert_eq!(pieces[1].as_ptr(), large.as_ptr());
    }
}
