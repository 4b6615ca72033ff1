//! Ids of jobs.

use std::fmt;

/// A job's id: a UUID of version 7, so that ids sort by the time of their making.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct JobId(String);

impl JobId {
    /// A new id.
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    /// Reads an id in the form that [`JobId::as_str`] gives it, and no other, since it may stand in a path.
    pub fn parse(text: &str) -> Option<Self> {
        let id = uuid::Uuid::try_parse(text).ok()?;
        (id.hyphenated().to_string() == text).then(|| Self(text.to_owned()))
    }

    /// The id as text: lower-case letters, digits and hyphens, so it may stand in a path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for JobId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_in_its_own_form_alone() {
        let id = JobId::new();
        assert_eq!(JobId::parse(id.as_str()), Some(id.clone()));
        for text in [
            "",
            "..",
            "job",
            &id.as_str().to_uppercase(),
            &id.as_str().replace('-', ""),
            &format!("{{{id}}}"),
        ] {
            assert_eq!(JobId::parse(text), None, "{text}");
        }
    }
}
