//! What the servers do wrong, and when.

use std::ops::Range;
use std::time::Duration;

/// One of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Host {
    /// The Hugging Face Hub.
    Hub,
    /// Where the Hub's signed URLs lead.
    Cdn,
    /// A server of files that is no Hub.
    Files,
}

/// What is done wrong with one request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Another answer, with these headers.
    Answer(u16, Vec<(&'static str, String)>),
    /// An HTML page, as of a site that wants a login.
    Page,
    /// A redirect; `{}` stands for the request's own URL.
    Redirect(String),
    /// No answer at all; the connection stays.
    Silence,
    /// No answer; the connection ends.
    HangUp,
    /// After this many bytes of the body nothing more comes; the connection stays.
    Stall(u64),
    /// After this many bytes of the body the connection ends.
    Cut(u64),
    /// The same by a reset.
    Reset(u64),
    /// After this many bytes of the body each byte takes this long.
    Drip(u64, Duration),
    /// The byte at this place of the file is another one; only an answer that has it counts.
    Flip(u64),
    /// The range that was asked for is ignored: the whole file, with 200.
    Whole,
    /// The whole file, with 200 and no word of its size: its end is that of the connection.
    Unsized,
    /// Content-Length is more than what comes by this; less, and the rest does not come.
    Length(i64),
    /// The range comes from another place, by this far, and `Content-Range` says so.
    Misplaced(i64),
    /// `Content-Range` tells another size of the file, by this.
    Total(i64),
}

/// A fault, and the requests that meet it.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    host: Host,
    fault: Fault,
    method: Option<&'static str>,
    file: String,
    /// Requests that go well before it.
    after: usize,
    /// Requests that meet it; [`None`]: all.
    times: Option<usize>,
    met: usize,
}

impl Rule {
    /// Every request to a server.
    pub(crate) fn on(host: Host, fault: Fault) -> Self {
        Self {
            host,
            fault,
            method: None,
            file: String::new(),
            after: 0,
            times: None,
            met: 0,
        }
    }

    /// Only those with this method.
    pub(crate) fn method(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only those for a file whose path ends so.
    pub(crate) fn file(mut self, end: &str) -> Self {
        end.clone_into(&mut self.file);
        self
    }

    /// Not the first ones.
    pub(crate) fn after(mut self, requests: usize) -> Self {
        self.after = requests;
        self
    }

    /// Only so many.
    pub(crate) fn times(mut self, requests: usize) -> Self {
        self.times = Some(requests);
        self
    }

    /// The fault, if this request is to meet it.
    pub(super) fn meet(&mut self, host: Host, method: &str, file: &str, body: Range<u64>) -> Option<Fault> {
        let has_it = match self.fault {
            Fault::Flip(place) => body.contains(&place),
            _ => true,
        };
        let meant =
            has_it && self.host == host && self.method.is_none_or(|only| only == method) && file.ends_with(&self.file);
        if !meant {
            return None;
        }
        self.met += 1;
        let faulty = self.met > self.after && self.times.is_none_or(|times| self.met <= self.after + times);
        faulty.then(|| self.fault.clone())
    }

    /// Whether it was met as often as it was meant to be.
    pub(super) fn is_spent(&self) -> bool {
        self.met >= self.after + self.times.unwrap_or(1)
    }
}
