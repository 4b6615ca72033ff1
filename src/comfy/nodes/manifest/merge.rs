//! Packs that several places name: each once, and no two in one folder.

use url::Url;

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

/// Each pack once, or all that stands against it.
pub(super) fn united(named: Vec<Named>, allow_floating: bool) -> Result<Vec<NodePack>, Vec<String>> {
    let mut packs: Vec<Named> = Vec::new();
    let mut mistakes = Vec::new();
    for named in named {
        let identity = identity(&named.pack);
        let same = packs.iter().find(|known| self::identity(&known.pack) == identity);
        if let Some(known) = same {
            let same_folder = known.pack.name.eq_ignore_ascii_case(&named.pack.name);
            if pin(&known.pack) != pin(&named.pack) {
                mistakes.push(format!(
                    "{known} and {named} are one pack at two versions: keep one of them"
                ));
            } else if !same_folder {
                mistakes.push(format!(
                    "{known} and {named} are one pack in the folders `{}` and `{}`: keep one of them",
                    known.pack.name, named.pack.name
                ));
            }
            continue;
        }
        // Names that differ in capital letters alone are mostly one pack, once from the Registry and once from git.
        let in_its_place = packs
            .iter()
            .find(|known| known.pack.name.eq_ignore_ascii_case(&named.pack.name));
        if let Some(known) = in_its_place {
            mistakes.push(format!(
                "{known} and {named} both have the folder name `{}`: keep one of them, or give one another `name` in a TOML manifest",
                named.pack.name
            ));
            continue;
        }
        packs.push(named);
    }
    let floating: Vec<_> = packs.iter().filter(|named| named.pack.is_floating()).collect();
    if !allow_floating && !floating.is_empty() {
        let floating: Vec<_> = floating
            .into_iter()
            .map(|named| format!("{named} {}", lacks(&named.pack)))
            .collect();
        mistakes.push(format!(
            "{}: what moves may be other code tomorrow. `qwen-image-worker nodes freeze` writes what they are today, as a manifest with versions and commits; CUSTOM_NODES_ALLOW_FLOATING=true takes them as they are",
            floating.join(", ")
        ));
    }
    if mistakes.is_empty() {
        Ok(packs.into_iter().map(|named| named.pack).collect())
    } else {
        Err(mistakes)
    }
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
