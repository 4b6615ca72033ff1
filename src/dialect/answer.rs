//! An answer: a status and a JSON body in which large base64 texts stand without being copied or escaped again.

use bytes::Bytes;
use serde::Serialize;

/// A status with a body in pieces. Sent one after another, they are the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body's pieces.
    pub pieces: Vec<Bytes>,
}

/// Places for large texts in a body that is about to be serialised.
#[derive(Debug)]
pub struct Places {
    mark: String,
    texts: Vec<Bytes>,
}

impl Default for Places {
    fn default() -> Self {
        // Nobody can know it in advance, so no text of a user holds it.
        Self {
            mark: format!("place-{}", uuid::Uuid::new_v4().simple()),
            texts: Vec::new(),
        }
    }
}

impl Places {
    /// Keeps `text` and gives what stands for it in the body. Places must be serialised in the order in which they
    /// are taken. `text` must need no escaping in JSON, as is true of base64.
    pub fn take(&mut self, text: Bytes) -> String {
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
                };
            }
        };
        if self.texts.is_empty() {
            return Answer {
                status,
                pieces: vec![json.into()],
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
        Answer { status, pieces }
    }
}

impl Answer {
    /// A small body.
    pub fn json(status: u16, body: &impl Serialize) -> Self {
        Places::default().answer(status, body)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_stands_in_its_place() {
        let mut places = Places::default();
        let body = serde_json::json!({"a": places.take(Bytes::from_static(b"QUJD")), "n": 1, "b": [places.take(Bytes::from_static(b"REVG"))]});
        let answer = places.answer(200, &body);
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
}
