//! Packs that several places name: each once, and no two in one folder.

use url::Url;

use super::Refused;
use crate::config::{NodePack, PackOrigin};

/// A pack, and who names it.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) pack: NodePack,
    pub(super) by: String,
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ({})", self.pack, self.by)
    }
}

/// Each pack once, and those that stand against one named before, or move where that is not allowed. Of two that do not go
/// together the first is taken.
pub(super) fn united(named: Vec<Named>, allow_floating: bool) -> (Vec<NodePack>, Vec<Refused>) {
    let mut packs: Vec<Named> = Vec::new();
    let mut refused: Vec<Refused> = Vec::new();
    for named in named {
        let identity = identity(&named.pack);
        let is_same = |known: &&Named| self::identity(&known.pack) == identity;
        // Names that differ in capital letters alone are mostly one pack, once from the Registry and once from git.
        let is_in_its_place = |known: &&Named| known.pack.name.eq_ignore_ascii_case(&named.pack.name);
        let reason = if let Some(known) = packs.iter().find(is_same) {
            if pin(&known.pack) != pin(&named.pack) {
                Some(format!(
                    "{named} is the pack that {known} names at another version: keep one of them"
                ))
            } else if !is_in_its_place(&known) {
                Some(format!(
                    "{named} is the pack that {known} has in the folder `{}`: keep one of them",
                    known.pack.name
                ))
            } else {
                continue;
            }
        } else if let Some(known) = packs.iter().find(is_in_its_place) {
            Some(format!(
                "{named} has the folder name `{}` as {known} has: keep one of them, or give one another `name` in a TOML manifest",
                named.pack.name
            ))
        } else if named.pack.is_floating() && !allow_floating {
            Some(format!(
                "{named} {}, and what moves may be other code tomorrow: `qwen-image-worker nodes freeze` writes what it is today, with version or commit; CUSTOM_NODES_ALLOW_FLOATING=true takes it as it is",
                lacks(&named.pack)
            ))
        } else {
            None
        };
        refused.extend(reason.map(|reason| Refused {
            position: packs.len(),
            reason,
        }));
        packs.push(named);
    }
    (packs.into_iter().map(|named| named.pack).collect(), refused)
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
