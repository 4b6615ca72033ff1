//! What is put down of a job that an engine elsewhere is given: before it is sent, and with the engine's own id of it once that is
//! known. It stands where the prompt's id of a ComfyUI stands.

/// A job at an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ticket {
    /// What the engine speaks.
    pub(super) kind: String,
    /// Where it is.
    pub(super) url: String,
    /// The engine's id of the job; [`None`]: it is about to be sent.
    pub(super) id: Option<String>,
}

/// How one begins; a prompt's id is a UUID.
const BEGIN: &str = "elsewhere ";
/// In the place of an id that is not known yet.
const NO_ID: &str = "?";

impl Ticket {
    /// As it is kept.
    pub(super) fn text(&self) -> String {
        let id = self.id.as_deref().unwrap_or(NO_ID);
        format!("{BEGIN}{} {} {id}", self.kind, self.url)
    }

    /// Reads it back; [`None`] for what is none, such as the prompt of a ComfyUI.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (kind, rest) = text.strip_prefix(BEGIN)?.split_once(' ')?;
        let (url, id) = rest.rsplit_once(' ')?;
        Some(Self {
            kind: kind.to_owned(),
            url: url.to_owned(),
            id: (id != NO_ID).then(|| id.to_owned()),
        })
    }

    /// Whether it is of the engine that speaks this, there.
    pub(super) fn is_at(&self, kind: &str, url: &str) -> bool {
        self.kind == kind && self.url == url
    }
}

/// Whether a text is a ticket: its job may be at an engine elsewhere.
pub fn is_ticket(text: &str) -> bool {
    Ticket::read(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_read_back() {
        for id in [None, Some("sync-1-u1".to_owned())] {
            let ticket = Ticket {
                kind: "runpod".to_owned(),
                url: "https://api.runpod.ai/v2/x".to_owned(),
                id,
            };
            let read = Ticket::read(&ticket.text()).unwrap();
            assert_eq!(read, ticket);
            assert!(
                read.is_at("runpod", "https://api.runpod.ai/v2/x")
                    && !read.is_at("openai", "https://api.runpod.ai/v2/x")
            );
        }
        assert!(!is_ticket(&uuid::Uuid::now_v7().to_string()));
    }
}
