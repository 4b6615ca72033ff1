//! Which template a request gets that names none: the best one under a licence without restrictions for the card at hand.

/// The templates of requests that name none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// Of a request without images.
    pub generate: &'static str,
    /// Of one with images.
    pub edit: &'static str,
}

/// Where nothing is known of a card, and with the demo weights: what the worker's example request runs, and the newest model
/// that edits.
impl Default for Defaults {
    fn default() -> Self {
        Self {
            generate: "qwen-image-lightning",
            edit: "qwen-image-edit-2511-lightning-4",
        }
    }
}

/// A template, and the memory in GB of the smallest card that has room for the largest of its models and a picture's step. Worked
/// out from the sizes of the files (docs/models.md).
type Choice = (&'static str, u32);

/// What generates, the best first.
const GENERATE: &[Choice] = &[("qwen-image-2512-lightning-4", 24), ("qwen-image-lightning", 24)];

/// What edits, the best first.
const EDIT: &[Choice] = &[
    ("qwen-image-edit-2511-lightning-4", 24),
    ("qwen-image-edit-2509-lightning-4", 24),
    ("qwen-image-edit-lightning-4", 24),
];

/// A card of 24 GB tells of some less.
const TOLERATED_MIB: u64 = 1024;

impl Defaults {
    /// The choice for a card with so much memory in MiB (unknown: taken as large). What is installed goes before what would be
    /// fetched, also where it does not fit as a whole: ComfyUI streams what does not.
    pub fn for_card(memory_mib: Option<u64>, is_there: impl Fn(&str) -> bool) -> Self {
        let fits = |choice: &&Choice| {
            let needed = u64::from(choice.1) * 1024;
            memory_mib.is_none_or(|memory| memory + TOLERATED_MIB >= needed)
        };
        let choose = |choices: &'static [Choice], otherwise| {
            let there = || choices.iter().filter(|choice| is_there(choice.0));
            let chosen = there().find(fits).or_else(|| there().next());
            let chosen = chosen.or_else(|| choices.iter().find(fits));
            chosen.map_or(otherwise, |choice| choice.0)
        };
        let usual = Self::default();
        Self {
            generate: choose(GENERATE, usual.generate),
            edit: choose(EDIT, usual.edit),
        }
    }

    /// All that may be chosen.
    pub fn candidates() -> impl Iterator<Item = &'static str> {
        GENERATE.iter().chain(EDIT).map(|choice| choice.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::{ModelCatalog, Templates};

    fn chosen(memory_gb: Option<u64>, there: &[&str]) -> (&'static str, &'static str) {
        // As a driver tells: some of it is its own.
        let memory_mib = memory_gb.map(|gb| gb * 1024 - 400);
        let defaults = Defaults::for_card(memory_mib, |name| there.contains(&name));
        (defaults.generate, defaults.edit)
    }

    #[test]
    fn each_card_gets_the_best_that_fits() {
        let edit = Defaults::default().edit;
        for (memory, expected) in [
            (None, "qwen-image-2512-lightning-4"),
            (Some(80), "qwen-image-2512-lightning-4"),
            (Some(24), "qwen-image-2512-lightning-4"),
            (Some(12), "qwen-image-lightning"),
        ] {
            assert_eq!(chosen(memory, &[]), (expected, edit), "{memory:?}");
        }
    }

    #[test]
    fn what_is_installed_goes_first() {
        let old = ["qwen-image-lightning", "qwen-image-edit-2509-lightning-4"];
        for memory in [None, Some(48), Some(12)] {
            assert_eq!(chosen(memory, &old), (old[0], old[1]), "{memory:?}");
        }
        let new = ["qwen-image-2512-lightning-4"];
        assert_eq!(chosen(Some(12), &new).0, new[0]);
    }

    #[test]
    fn every_choice_is_a_template_and_a_set_that_anybody_may_use() {
        let (templates, catalog) = (Templates::embedded().unwrap(), ModelCatalog::builtin().unwrap());
        let usual = Defaults::default();
        for name in Defaults::candidates().chain([usual.generate, usual.edit]) {
            assert!(templates.get(name).is_some(), "{name}");
            let files = catalog.files(name).unwrap_or_else(|| panic!("{name} is no set"));
            assert!(files.iter().all(|file| catalog.unaccepted(file).is_none()), "{name}");
        }
    }
}
