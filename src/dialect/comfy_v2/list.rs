//! `GET /api/v2/jobs`: jobs in pages, the newest first.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use utoipa::ToSchema;

use super::jobs::Status;
use super::refusal::{Code, Refusal};
use super::time::time;
use crate::dialect::answer::Answer;
use crate::echo;
use crate::job::{JobId, JobState, JobView, Place};

/// Jobs of a page, unless the request says otherwise, and at most.
pub const USUAL_LIMIT: usize = 50;
/// The most jobs of a page.
pub const MOST_JOBS: usize = 100;
/// The most labels that a list is filtered by, as the documentation of this API has it.
const MOST_FILTERS: usize = 3;

/// What a list is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Labels that its jobs all have.
    pub metadata: BTreeMap<String, String>,
    /// What its jobs are; [`None`]: anything.
    pub statuses: Option<Vec<Status>>,
    /// The most jobs of the page.
    pub limit: usize,
    /// What they come after.
    pub after: Option<Place>,
}

impl Asked {
    /// Reads what stands behind the `?`: `limit`, `cursor`, `status=a,b`, and `metadata[KEY]=VALUE`.
    pub fn parse(query: &str) -> Result<Self, Refusal> {
        let mut asked = Self {
            metadata: BTreeMap::new(),
            statuses: None,
            limit: USUAL_LIMIT,
            after: None,
        };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "limit" => asked.limit = limit(&value)?,
                "cursor" if value.is_empty() => {}
                "cursor" => asked.after = Some(place(&value)?),
                "status" => asked.statuses = Some(statuses(&value)?),
                other if other.starts_with("metadata") => asked.filter(other, &value)?,
                other => {
                    let message = format!(
                        "`{}` is not known here; a list takes `limit`, `cursor`, `status` and `metadata[KEY]`",
                        echo::cut(other)
                    );
                    return Err(Refusal::new(Code::InvalidRequest, message));
                }
            }
        }
        Ok(asked)
    }

    fn filter(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        let wrong = |message: String| Err(Refusal::new(Code::InvalidMetadataFilter, message));
        let key = name.strip_prefix("metadata[").and_then(|rest| rest.strip_suffix(']'));
        let Some(key) = key.filter(|key| !key.is_empty()) else {
            let name = echo::cut(name);
            return wrong(format!("`{name}` is no filter; write `metadata[KEY]=VALUE`"));
        };
        if self.metadata.contains_key(key) {
            let key = echo::cut(key);
            return wrong(format!(
                "`metadata[{key}]` stands there twice; a list has one value of each label"
            ));
        }
        if self.metadata.len() == MOST_FILTERS {
            return wrong(format!(
                "there are more than {MOST_FILTERS} filters; leave some out, and filter the list"
            ));
        }
        self.metadata.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// The states that its jobs may be in, as the store has them.
    pub fn states(&self) -> Option<Vec<JobState>> {
        let statuses = self.statuses.as_ref()?;
        let may_be = |state: &JobState| statuses.iter().any(|status| status.may_be(*state));
        Some(JobState::ALL.into_iter().filter(may_be).collect())
    }

    /// Whether a job belongs in the list, by its state.
    pub fn has(&self, view: &JobView) -> bool {
        let statuses = self.statuses.as_ref();
        statuses.is_none_or(|statuses| statuses.contains(&Status::of(view)))
    }
}

fn limit(text: &str) -> Result<usize, Refusal> {
    let limit = text.parse().ok().filter(|limit| (1..=MOST_JOBS).contains(limit));
    limit.ok_or_else(|| {
        let message = format!(
            "`limit` is `{}`, and must be a number from 1 to {MOST_JOBS}",
            echo::cut(text)
        );
        Refusal::new(Code::InvalidRequest, message)
    })
}

fn statuses(text: &str) -> Result<Vec<Status>, Refusal> {
    let read = |word: &str| {
        Status::ALL
            .into_iter()
            .find(|status| status.as_str() == word)
            .ok_or_else(|| {
                let known: Vec<_> = Status::ALL.iter().map(|status| status.as_str()).collect();
                let message = format!("`status` has `{}`, and takes {}", echo::cut(word), known.join(", "));
                Refusal::new(Code::InvalidRequest, message)
            })
    };
    text.split(',').map(str::trim).map(read).collect()
}

/// The place that a cursor tells: `CREATED:ID` in base64, which is nobody's business but ours.
fn place(cursor: &str) -> Result<Place, Refusal> {
    let read = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let (created, id) = text.split_once(':')?;
        Some(Place {
            created: created.parse().ok()?,
            id: JobId::parse(id)?.as_str().to_owned(),
        })
    };
    read().ok_or_else(|| {
        let message = "`cursor` is none of this list; send `next_cursor` as the page before has it, or none";
        Refusal::new(Code::InvalidCursor, message)
    })
}

/// Jobs in a page.
#[derive(Serialize, ToSchema)]
pub struct JobList<'a> {
    jobs: Vec<Listed<'a>>,
    /// Where the next page begins; null on the last one.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// A job in a list.
#[derive(Serialize, ToSchema)]
struct Listed<'a> {
    id: &'a str,
    #[schema(schema_with = super::jobs::statuses)]
    status: &'static str,
    /// RFC 3339.
    create_time: String,
    /// RFC 3339: its begin or its end, whatever came last.
    update_time: String,
    /// Its labels.
    metadata: BTreeMap<&'a str, &'a str>,
}

/// A page. `next` is the place of its last job, where others follow.
pub fn page(views: &[JobView], next: Option<&Place>) -> Answer {
    let jobs = views.iter().map(|view| {
        let owner = view.policy.v2.as_deref();
        let metadata = owner.into_iter().flat_map(|owner| &owner.metadata);
        let update = match view.state {
            JobState::Queued => view.created,
            JobState::Running => view.created + view.delay,
            _ => view.created + view.delay + view.execution,
        };
        Listed {
            id: view.id.as_str(),
            status: Status::of(view).as_str(),
            create_time: time(view.created),
            update_time: time(update),
            metadata: metadata.map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        }
    });
    let body = JobList {
        jobs: jobs.collect(),
        next_cursor: next.map(|place| URL_SAFE_NO_PAD.encode(format!("{}:{}", place.created, place.id))),
    };
    Answer::json(200, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_asked_for_in_pages_and_by_labels() {
        let asked = Asked::parse("metadata%5Bclient%5D=acme&metadata[run]=7&limit=2&status=queued,expired").unwrap();
        assert_eq!(asked.metadata["client"], "acme");
        assert_eq!((asked.limit, asked.metadata.len()), (2, 2));
        assert_eq!(asked.states(), Some(vec![JobState::Queued, JobState::TimedOut]));
        assert_eq!(Asked::parse("").unwrap().states(), None);
        for (query, code) in [
            ("limit=0", Code::InvalidRequest),
            ("limit=101", Code::InvalidRequest),
            ("limit=x", Code::InvalidRequest),
            ("status=done", Code::InvalidRequest),
            ("offset=1", Code::InvalidRequest),
            ("cursor=x", Code::InvalidCursor),
            ("cursor=MTp4", Code::InvalidCursor),
            ("metadata=x", Code::InvalidMetadataFilter),
            ("metadata[]=x", Code::InvalidMetadataFilter),
            ("metadata[a=x", Code::InvalidMetadataFilter),
            ("metadata[a]=x&metadata[a]=y", Code::InvalidMetadataFilter),
            (
                "metadata[a]=&metadata[b]=&metadata[c]=&metadata[d]=",
                Code::InvalidMetadataFilter,
            ),
        ] {
            assert_eq!(Asked::parse(query).unwrap_err().code(), code, "{query}");
        }
    }

    #[test]
    fn a_cursor_comes_back_as_it_was() {
        let place = Place {
            created: 1_764_371_374_311_166,
            id: JobId::new().as_str().to_owned(),
        };
        let answer = page(&[], Some(&place));
        let body: serde_json::Value = serde_json::from_slice(&answer.to_vec()).unwrap();
        let cursor = body["next_cursor"].as_str().unwrap();
        assert_eq!(Asked::parse(&format!("cursor={cursor}")).unwrap().after, Some(place));
    }
}
