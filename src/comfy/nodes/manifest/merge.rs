//! Packs that several places name: each once, and no two in one folder.

use url::Url;

use crate::config::{NodePack, PackOrigin};

/// A pack, and who names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The pack.
    pub pack: NodePack,
    /// `CUSTOM_NODES`, or the manifest.
    pub by: String,
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ({})", self.pack, self.by)
    }
}

/// Each pack once, in the order in which they were named, and why it is refused: it does not go together with one that was
/// taken before, or it moves where that is not allowed. What was refused stands in nobody's way.
pub fn united(named: Vec<Named>, allow_floating: bool) -> Vec<(NodePack, Option<String>)> {
    let mut packs: Vec<(Named, Option<String>)> = Vec::new();
    for named in named {
        let is_there = |(known, _): &(Named, _)| {
            is_same(&known.pack, &named.pack)
                && pin(&known.pack) == pin(&named.pack)
                && is_in_one_folder(&known.pack, &named.pack)
        };
        if packs.iter().any(is_there) {
            continue;
        }
        let taken = || {
            packs
                .iter()
                .filter(|(_, refusal)| refusal.is_none())
                .map(|(known, _)| known)
        };
        let same = taken().find(|known| is_same(&known.pack, &named.pack));
        let neighbour = taken().find(|known| is_in_one_folder(&known.pack, &named.pack));
        let refusal = match (same, neighbour) {
            (Some(known), _) if pin(&known.pack) != pin(&named.pack) => Some(format!(
                "{named} is the pack that {known} names at another version: keep one of them"
            )),
            (Some(known), _) => Some(format!(
                "{named} is the pack that {known} has in the folder `{}`: keep one of them",
                known.pack.name
            )),
            (None, Some(known)) => Some(format!(
                "{named} has the folder name `{}` as {known} has: keep one of them, or give one another `name` in a TOML manifest",
                named.pack.name
            )),
            (None, None) if named.pack.is_floating() && !allow_floating => Some(format!(
                "{named} {}, and what moves may be other code tomorrow: `qwen-image-worker nodes freeze` writes what it is today, with version or commit; CUSTOM_NODES_ALLOW_FLOATING=true takes it as it is",
                lacks(&named.pack)
            )),
            (None, None) => None,
        };
        packs.push((named, refusal));
    }
    packs
        .into_iter()
        .map(|(named, refusal)| (named.pack, refusal))
        .collect()
}

fn is_same(one: &NodePack, other: &NodePack) -> bool {
    identity(one) == identity(other)
}

/// Names that differ in capital letters alone are mostly one pack, once from the Registry and once from git.
fn is_in_one_folder(one: &NodePack, other: &NodePack) -> bool {
    one.name.to_lowercase() == other.name.to_lowercase()
}

/// What a floating pack has not.
fn lacks(pack: &NodePack) -> &'static str {
    match &pack.origin {
        PackOrigin::Registry { .. } => "names no version",
        PackOrigin::Git { reference: None, .. } => "names no commit",
        PackOrigin::Git {
            reference: Some(reference),
            ..
        } if reference.len() >= 7 && reference.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            "names no commit in full, which has 40 digits"
        }
        PackOrigin::Git { .. } => "names a branch or tag, no commit",
        PackOrigin::Folder(_) => "is a folder",
    }
}

/// What makes it the pack that it is, whichever version.
fn identity(pack: &NodePack) -> String {
    match &pack.origin {
        PackOrigin::Registry { id, .. } => format!("registry {}", id.to_ascii_lowercase()),
        PackOrigin::Git { repository, .. } => format!("git {}", place(repository)),
        PackOrigin::Folder(folder) => format!("folder {}", folder.display()),
    }
}

/// The host and path of a repository, by which it is the same over https and ssh, with `.git` and without.
fn place(repository: &str) -> String {
    let Ok(url) = Url::parse(repository) else {
        return repository.to_owned();
    };
    let host = url.host_str().unwrap_or_default();
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    // GitHub makes no difference.
    let path = if host == "github.com" {
        path.to_ascii_lowercase()
    } else {
        path.to_owned()
    };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{host}{port}{path}")
}

fn pin(pack: &NodePack) -> Option<&str> {
    match &pack.origin {
        PackOrigin::Registry { version, .. } => version.as_deref(),
        PackOrigin::Git { reference, .. } => reference.as_deref(),
        PackOrigin::Folder(_) => None,
    }
}
