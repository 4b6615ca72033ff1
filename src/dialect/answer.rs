//! An answer: a status and a JSON body in which large base64 texts stand without being copied or escaped again. And server-sent
//! events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>) with such bodies.

use bytes::Bytes;
use serde::Serialize;

use crate::job::JobView;

/// A status with a body in pieces. Sent one after another, they are the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body's pieces.
    pub pieces: Vec<Bytes>,
    /// The engine elsewhere that made what it holds: the header `x-engine`.
    pub engine: Option<String>,
}

/// The large texts of a body that is about to be serialised.
#[derive(Debug)]
pub struct Splices {
    mark: String,
    texts: Vec<Bytes>,
}

impl Default for Splices {
    fn default() -> Self {
        // Nobody can know it in advance, so no text of a user holds it.
        Self {
            mark: format!("place-{}", uuid::Uuid::new_v4().simple()),
            texts: Vec::new(),
        }
    }
}

impl Splices {
    /// Keeps `text` and gives what stands for it in the body. These must be serialised in the order in which they
    /// come. `text` must need no escaping in JSON, as is true of base64.
    pub fn insert(&mut self, text: Bytes) -> String {
        self.texts.push(text);
        self.mark.clone()
    }

    /// Serialises the body and puts each text into its place.
    pub fn answer(self, status: u16, body: &impl Serialize) -> Answer {
        let json = match serde_json::to_string(body) {
            Ok(json) => json,
            Err(error) => {
                tracing::error!(%error, "an answer cannot be serialised");
                return Answer {
                    status: 500,
                    pieces: vec![Bytes::from_static(br#"{"error":"the answer cannot be serialised"}"#)],
                    engine: None,
                };
            }
        };
        if self.texts.is_empty() {
            return Answer {
                status,
                pieces: vec![json.into()],
                engine: None,
            };
        }
        let json = Bytes::from(json);
        let mark = self.mark.as_bytes();
        let mut pieces = Vec::with_capacity(self.texts.len() * 2 + 1);
        let mut begin = 0;
        for text in self.texts {
            let Some(at) = find(&json[begin..], mark) else { break };
            pieces.push(json.slice(begin..begin + at));
            pieces.push(text);
            begin += at + mark.len();
        }
        pieces.push(json.slice(begin..));
        Answer {
            status,
            pieces,
            engine: None,
        }
    }
}

impl Answer {
    /// A small body.
    pub fn json(status: u16, body: &impl Serialize) -> Self {
        Splices::default().answer(status, body)
    }

    /// The same, of one job, which an engine elsewhere may have run: the one place from which answers get its name.
    #[must_use]
    pub fn of_job(mut self, view: &JobView) -> Self {
        if let Some(Ok(outcome)) = &view.result {
            self.engine.clone_from(&outcome.engine);
        }
        self
    }

    /// The length of the body, in bytes.
    pub fn length(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// The body in one piece; copies it.
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces.concat()
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

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
    fn each_text_stands_in_its_place() {
        let mut splices = Splices::default();
        let body = serde_json::json!({"a": splices.insert(Bytes::from_static(b"QUJD")), "n": 1, "b": [splices.insert(Bytes::from_static(b"REVG"))]});
        let answer = splices.answer(200, &body);
        assert_eq!(
            String::from_utf8(answer.to_vec()).unwrap(),
            r#"{"a":"QUJD","n":1,"b":["REVG"]}"#
        );
        assert_eq!(answer.length(), answer.to_vec().len());
        assert_eq!(answer.pieces.len(), 5);
    }

    #[test]
    fn a_body_without_places_is_one_piece() {
        let answer = Answer::json(400, &serde_json::json!({"error": "no"}));
        assert_eq!((answer.status, answer.pieces.len()), (400, 1));
    }

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
