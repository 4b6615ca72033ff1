//! The references of a repository, and finding one among them.

use std::collections::{BTreeMap, BTreeSet};

use super::address::Address;
use super::{Commit, GitError};

/// How many similar names an error shows.
const NEAR: usize = 3;

/// How similar a name must be to be shown, from 0 to 1.
const SIMILAR: f64 = 0.8;

/// A commit cut shorter than this could be a word.
const SHORTEST_COMMIT: usize = 7;

/// Full names of references, `refs/tags/v0.46.0`, each with the commit behind it.
#[derive(Debug, Default)]
pub(super) struct Refs(BTreeMap<String, Commit>);

impl Refs {
    /// Takes what a server says of one. A name that ends with `^{}` is the commit behind the annotated tag before it.
    pub(super) fn add(&mut self, name: &str, commit: Commit) {
        match name.strip_suffix("^{}") {
            Some(tag) => {
                self.0.insert(tag.to_owned(), commit);
            }
            None => {
                self.0.entry(name.to_owned()).or_insert(commit);
            }
        }
    }

    /// The tags, by name.
    pub(super) fn tags(&self) -> impl Iterator<Item = &str> {
        self.0.keys().filter_map(|name| name.strip_prefix("refs/tags/"))
    }

    fn branches(&self) -> impl Iterator<Item = &str> {
        self.0.keys().filter_map(|name| name.strip_prefix("refs/heads/"))
    }

    pub(super) fn default_branch(&self, address: &Address) -> Result<Commit, GitError> {
        self.0.get("HEAD").cloned().ok_or_else(|| GitError::NoDefault {
            repository: address.to_string(),
        })
    }

    /// The commit that a name means: a tag, with or without its `v`, else a branch, else a full name of any reference.
    pub(super) fn find(&self, address: &Address, reference: &str) -> Result<Commit, GitError> {
        let names = [
            format!("refs/tags/{reference}"),
            format!("refs/tags/v{reference}"),
            format!("refs/heads/{reference}"),
            reference.to_owned(),
        ];
        if let Some(commit) = names.iter().find_map(|name| self.0.get(name)) {
            return Ok(commit.clone());
        }
        let repository = address.to_string();
        let reference = reference.to_owned();
        if reference.len() >= SHORTEST_COMMIT && reference.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(GitError::Abbreviated { repository, reference });
        }
        Err(GitError::UnknownReference {
            near: self.near(&reference),
            repository,
            reference,
        })
    }

    /// Tags and branches of a similar name, the most similar first.
    fn near(&self, reference: &str) -> Vec<String> {
        let name = |text: &str| text.trim_start_matches('v').to_lowercase();
        let wanted = name(reference);
        let known: BTreeSet<&str> = self.tags().chain(self.branches()).collect();
        let mut found: Vec<(f64, &str)> = known
            .into_iter()
            .map(|known| (strsim::jaro_winkler(&wanted, &name(known)), known))
            .filter(|(similarity, _)| *similarity >= SIMILAR)
            .collect();
        // Of equals the newest, which has the later name.
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| b.1.cmp(a.1)));
        found.iter().take(NEAR).map(|(_, name)| (*name).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(digit: char) -> Commit {
        Commit(digit.to_string().repeat(40))
    }

    fn refs() -> Refs {
        let mut refs = Refs::default();
        for (name, digit) in [
            ("HEAD", '1'),
            ("refs/heads/main", '1'),
            ("refs/heads/v0.2", '2'),
            ("refs/tags/v0.1", '3'),
            ("refs/tags/v0.1^{}", '4'),
            ("refs/tags/v0.2", '5'),
            ("refs/pull/7/head", '6'),
        ] {
            refs.add(name, commit(digit));
        }
        refs
    }

    #[test]
    fn a_tag_goes_before_a_branch_and_is_peeled() {
        let address = Address::parse("https://host/a").unwrap();
        for (reference, digit) in [
            ("v0.1", '4'),
            ("0.1", '4'),
            ("v0.2", '5'),
            ("main", '1'),
            ("HEAD", '1'),
            ("refs/heads/v0.2", '2'),
            ("refs/pull/7/head", '6'),
        ] {
            assert_eq!(refs().find(&address, reference).unwrap(), commit(digit), "{reference}");
        }
        assert_eq!(refs().default_branch(&address).unwrap(), commit('1'));
        assert_eq!(refs().tags().collect::<Vec<_>>(), ["v0.1", "v0.2"]);
    }

    #[test]
    fn an_unknown_name_is_told_with_those_near_it() {
        let address = Address::parse("https://me:s3cret@host/a").unwrap();
        let text = refs().find(&address, "0.3").unwrap_err().to_string();
        assert_eq!(
            text,
            r#"there is no tag or branch "0.3" in https://host/a; there is v0.2, v0.1"#
        );
        let text = refs().find(&address, "quite-another").unwrap_err().to_string();
        assert_eq!(text, r#"there is no tag or branch "quite-another" in https://host/a"#);
    }

    #[test]
    fn a_commit_that_is_cut_short_asks_for_all_digits() {
        let address = Address::parse("https://host/a").unwrap();
        let error = refs().find(&address, "1111111").unwrap_err();
        assert!(matches!(error, GitError::Abbreviated { .. }), "{error}");
        assert!(error.hint().contains("40 digits"));
    }
}
