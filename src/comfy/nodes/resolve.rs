//! One resolution for all packs, and, where that fails, which of them is at fault.

use super::NodesError;
use super::base::normalized;
use super::environment::{Lock, Packages, Unresolved};
use super::error::Failure;
use crate::echo;

/// One who asks for packages: a pack, or the manifest itself.
pub(super) struct Party {
    /// How messages name it.
    pub(super) name: String,
    /// Requirements, one a line.
    pub(super) lines: Vec<String>,
}

/// What came of it.
pub(super) struct Resolved {
    pub(super) lock: Lock,
    /// Those that were left out, by their position, with the reason.
    pub(super) left_out: Vec<(usize, Failure)>,
    /// Whether uv had to do with its cache.
    pub(super) offline: bool,
}

/// Resolves what `parties` ask for together. Who cannot be reconciled with ComfyUI's own packages and with those before it
/// is left out.
pub(super) async fn resolve(packages: &Packages<'_>, parties: &[Party]) -> Result<Resolved, NodesError> {
    let all: Vec<&str> = lines(parties.iter()).collect();
    let mut offline = false;
    match packages.resolve(&all, offline).await {
        Ok(lock) => {
            return Ok(Resolved {
                lock,
                left_out: Vec::new(),
                offline,
            });
        }
        Err(Unresolved::Fatal(error)) => return Err(error.into()),
        Err(Unresolved::Requirements(_)) => {}
        Err(Unresolved::Network(_)) => {
            // One place that one pack names, or the index itself? uv is on every index.
            offline = matches!(packages.resolve(&["uv"], false).await, Err(Unresolved::Network(_)));
            if offline && let Ok(lock) = packages.resolve(&all, offline).await {
                return Ok(Resolved {
                    lock,
                    left_out: Vec::new(),
                    offline,
                });
            }
        }
    }

    let mut accepted: Vec<&Party> = Vec::new();
    let mut left_out = Vec::new();
    let mut lock = Lock::default();
    for (position, party) in parties.iter().enumerate() {
        if party.lines.is_empty() {
            continue;
        }
        let together: Vec<&str> = lines(accepted.iter().copied().chain([party])).collect();
        match packages.resolve(&together, offline).await {
            Ok(found) => {
                lock = found;
                accepted.push(party);
            }
            Err(Unresolved::Fatal(error)) => return Err(error.into()),
            Err(Unresolved::Network(reason)) => {
                let reason = format!(
                    "its Python packages cannot be fetched: {reason}. Check the connection; the next start tries again"
                );
                left_out.push((position, Failure::passing(reason)));
            }
            Err(Unresolved::Requirements(reason)) if offline => {
                let reason = format!(
                    "the Python index is not reached, and its packages are not in uv's cache: {reason}. Check the connection; the next start tries again"
                );
                left_out.push((position, Failure::passing(reason)));
            }
            Err(Unresolved::Requirements(reason)) => {
                let reason = explain(packages, party, &accepted, &reason).await;
                let reason = format!("{reason}. Another version of the pack may ask for others");
                left_out.push((position, Failure::lasting(reason)));
            }
        }
    }
    Ok(Resolved {
        lock,
        left_out,
        offline,
    })
}

fn lines<'a>(parties: impl Iterator<Item = &'a Party>) -> impl Iterator<Item = &'a str> {
    parties.flat_map(|party| party.lines.iter().map(String::as_str))
}

/// Which demand of `party` is not met, and what it meets.
async fn explain(packages: &Packages<'_>, party: &Party, accepted: &[&Party], whole: &str) -> String {
    let fails = async |lines: &[&str]| match packages.resolve(lines, false).await {
        Err(Unresolved::Requirements(reason)) => Some(reason),
        _ => None,
    };
    for line in &party.lines {
        let shown = echo::cut(line);
        if let Some(reason) = fails(&[line]).await {
            let name = name(line);
            return match packages.base.version(name) {
                Some(version) => format!(
                    "it needs `{shown}`, and ComfyUI's own environment has {name} {version}, which no pack may replace"
                ),
                None if is_of_base(packages, &reason) => {
                    format!("it needs `{shown}`, which does not go with ComfyUI's own packages: {reason}")
                }
                None => format!("it needs `{shown}`, which cannot be had: {reason}"),
            };
        }
    }
    for other in accepted {
        for line in &party.lines {
            let together: Vec<&str> = lines([*other].into_iter()).chain([line.as_str()]).collect();
            let Some(reason) = fails(&together).await else { continue };
            let shown = echo::cut(line);
            let same = other
                .lines
                .iter()
                .find(|theirs| normalized(name(theirs)) == normalized(name(line)));
            let theirs = same.map_or_else(String::new, |theirs| format!(" needs `{}`", echo::cut(theirs)));
            return if theirs.is_empty() {
                format!("it needs `{shown}`, which does not go with {}: {reason}", other.name)
            } else {
                format!("it needs `{shown}`, and {}{theirs}, which comes before it", other.name)
            };
        }
    }
    format!("what it needs does not go with ComfyUI's own packages and the packs before it: {whole}")
}

/// Whether a reason speaks of a package that ComfyUI has, by a version of its own.
fn is_of_base(packages: &Packages<'_>, reason: &str) -> bool {
    let mut words = reason.split([' ', ',']);
    words.any(|word| {
        word.split_once("==")
            .is_some_and(|(name, version)| packages.base.version(name) == Some(version))
    })
}

/// The name at the beginning of a requirement.
fn name(line: &str) -> &str {
    let end = line.find(|letter: char| !letter.is_ascii_alphanumeric() && !"-_.".contains(letter));
    &line[..end.unwrap_or(line.len())]
}
