//! A pack of custom nodes, as `CUSTOM_NODES` and the manifests name it.
//!
//! ```text
//! comfyui-kjnodes@1.1.7                                   id and version of the Comfy Registry
//! https://github.com/city96/ComfyUI-GGUF@6ea2651e7df66d7585f6ffee804b20e92fb38b8a   a git repository and a commit
//! git+https://…@…, ssh://git@…@…, git@host:owner/name.git@…, file:///…@…            the same
//! /packs/mine, ./mine                                     a folder of this machine
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::display::redacted;
use crate::echo;

/// The longest name of a folder, in bytes (`NAME_MAX` of Linux).
const LONGEST_NAME: usize = 255;
/// The longest id of the Registry (`_REGISTRY_ID_RE` in `command/build.py` of comfy-cli 1.23).
const LONGEST_ID: usize = 100;
/// Schemes of addresses that git fetches from.
const GIT_SCHEMES: [&str; 5] = ["https", "http", "ssh", "git", "file"];

/// A pack of custom nodes that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePack {
    /// The name of its folder under `custom_nodes`: one path component, not hidden.
    pub name: String,
    /// Where it comes from.
    pub origin: PackOrigin,
}

/// Where a pack comes from. Prints without passwords; its serialized form has them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackOrigin {
    /// The Comfy Registry (registry.comfy.org).
    Registry {
        /// `comfyui-kjnodes`.
        id: String,
        /// `1.1.7`; [`None`]: the newest, which moves.
        version: Option<String>,
    },
    /// A git repository.
    Git {
        /// `https://…`, `file://…`.
        repository: String,
        /// A commit in full, in lower case; anything else, or [`None`] for the default branch, moves.
        reference: Option<String>,
    },
    /// A folder of this machine.
    Folder(PathBuf),
}

impl NodePack {
    /// A pack of the Comfy Registry. Its folder is its id, as ComfyUI-Manager has it (`_cnr_install` in
    /// `glob/manager_core.py` of comfyui-manager 4.3). The version `latest` is none.
    pub fn registry(id: &str, version: Option<&str>) -> Result<Self, String> {
        check_id(id)?;
        check_folder_name(id)?;
        let version = version.filter(|version| *version != "latest");
        if version == Some("nightly") {
            return Err("has the version `nightly`, which is the repository's newest commit and not of the Registry: name the repository and a commit, as in https://github.com/owner/name@COMMIT".to_owned());
        }
        version.map_or(Ok(()), check_version)?;
        Ok(Self {
            name: id.to_owned(),
            origin: PackOrigin::Registry {
                id: id.to_owned(),
                version: version.map(str::to_owned),
            },
        })
    }

    /// A pack in a git repository: its address, and a commit, tag or branch. Its folder has the repository's name, as git
    /// itself has it.
    pub fn git(repository: &str, reference: Option<&str>) -> Result<Self, String> {
        let url = git_address(repository)?;
        let reference = match reference {
            Some(reference) => Some(checked_reference(reference)?),
            None => None,
        };
        let mut segments = url.path_segments().into_iter().flatten();
        let last = segments.rfind(|segment| !segment.is_empty()).unwrap_or_default();
        let name = percent_decode_str(last).decode_utf8();
        let name = name.map_err(|_| "has a name that is no UTF-8".to_owned())?;
        let name = name.strip_suffix(".git").unwrap_or(&name).to_owned();
        if name.is_empty() {
            return Err("names a host, but no repository there".to_owned());
        }
        check_folder_name(&name)?;
        Ok(Self {
            name,
            origin: PackOrigin::Git {
                repository: url.into(),
                reference,
            },
        })
    }

    /// A pack in a folder of this machine, under the folder's own name.
    pub fn folder(path: &Path) -> Result<Self, String> {
        if path.starts_with("~") {
            return Err("begins with `~`, which nobody expands here: write the folder's path in full".to_owned());
        }
        let name = path.file_name().and_then(std::ffi::OsStr::to_str);
        let name = name.ok_or_else(|| "ends in no name of a folder: write its path in full".to_owned())?;
        check_folder_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            origin: PackOrigin::Folder(path.to_owned()),
        })
    }

    /// The same pack in a folder of another name.
    pub fn named(self, name: &str) -> Result<Self, String> {
        check_folder_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            ..self
        })
    }

    /// Whether what it names may be something else tomorrow. A folder is its owner's, and is not counted.
    pub fn is_floating(&self) -> bool {
        match &self.origin {
            PackOrigin::Registry { version, .. } => version.is_none(),
            PackOrigin::Git { reference, .. } => !reference.as_deref().is_some_and(is_commit),
            PackOrigin::Folder(_) => false,
        }
    }
}

/// Whether a text is the full name of a commit: 40 hexadecimal digits.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a text can be the id of a pack in the Registry.
pub fn is_registry_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    text.len() <= LONGEST_ID && text.starts_with(|first: char| first.is_ascii_alphanumeric()) && text.bytes().all(plain)
}

fn check_id(id: &str) -> Result<(), String> {
    if is_registry_id(id) {
        return Ok(());
    }
    Err(format!(
        "has `{}`, which is no id of the Comfy Registry (letters, digits, `.`, `_` and `-`, at most {LONGEST_ID}); a pack is written as id@version, as the address of its repository (https://…@commit), or as a folder (/… or ./…)",
        echo::cut(id)
    ))
}

/// The Registry's versions are three numbers with dots (`/nodes/{nodeId}/install` in its API description); some old
/// ones have what semantic versioning allows behind them.
fn check_version(version: &str) -> Result<(), String> {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+');
    let is_right = numbers.split('.').count() == 3
        && numbers.split('.').all(number)
        && version.len() <= LONGEST_ID
        && version.bytes().all(rest);
    if is_right {
        return Ok(());
    }
    Err(format!(
        "has the version `{}`, which is none of the Comfy Registry's: three numbers with dots, such as 1.1.7",
        echo::cut(version)
    ))
}

/// Whether a name can be that of a folder under `custom_nodes` from which ComfyUI loads nodes.
fn check_folder_name(name: &str) -> Result<(), String> {
    let what = if name.is_empty() || name.trim() != name {
        "is empty, or has space around it"
    } else if name.len() > LONGEST_NAME {
        "has more than 255 bytes"
    } else if name.contains(['/', '\\']) || name.contains(char::is_control) {
        "has a slash, a backslash or a control character in it"
    } else if name.starts_with('.') {
        "begins with a dot, so it is hidden"
    } else if name.to_ascii_lowercase().ends_with(".disabled") || name == "__pycache__" {
        "is one that ComfyUI passes over"
    } else {
        return Ok(());
    };
    Err(format!("has the folder name `{}`, which {what}", echo::cut(name)))
}

/// What git itself allows in a reference (`git check-ref-format`), and nothing that a program could take for an option.
/// A commit is given in lower case.
fn checked_reference(reference: &str) -> Result<String, String> {
    let forbidden = |letter: char| letter.is_whitespace() || letter.is_control() || "~^:?*[\\".contains(letter);
    let is_wrong = reference.is_empty()
        || reference.len() > LONGEST_NAME
        || reference.starts_with(['-', '/', '.'])
        || reference.ends_with(['/', '.'])
        || reference.contains("..")
        || reference.contains("@{")
        || reference.contains("//")
        || reference.contains(forbidden);
    if is_wrong {
        return Err(format!(
            "has `{}` after the @, which is no commit, tag or branch",
            echo::cut(reference)
        ));
    }
    Ok(if is_commit(reference) {
        reference.to_ascii_lowercase()
    } else {
        reference.to_owned()
    })
}

/// The address of a git repository, without `git+` and a slash at the end. The error does not show it.
fn git_address(text: &str) -> Result<Url, String> {
    let text = text.strip_prefix("git+").unwrap_or(text);
    let url = match scp_address(text) {
        Some(address) => Url::parse(&address),
        None => Url::parse(text),
    };
    let mut url = url.map_err(|error| format!("is no URL of a git repository: {error}"))?;
    if !GIT_SCHEMES.contains(&url.scheme()) {
        return Err(format!(
            "has the scheme {}, from which git does not fetch; it takes https, http, ssh, git and file",
            url.scheme()
        ));
    }
    check_no_query(url.as_str())?;
    if url.scheme() == "file" && url.host_str().is_some_and(|host| host != "localhost") {
        return Err("has a host between file:// and the path, which begins with a third slash".to_owned());
    }
    let segments = url.path_segments().into_iter().flatten();
    let segments: Vec<_> = segments.filter(|segment| !segment.is_empty()).collect();
    if let (Some("github.com" | "www.github.com"), [owner, name, _, ..]) = (url.host_str(), &segments[..]) {
        return Err(format!(
            "is a page of GitHub and no repository: write https://github.com/{owner}/{name}@COMMIT"
        ));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

fn check_no_query(address: &str) -> Result<(), String> {
    match address.find(['?', '#']).map(|place| &address[place..=place]) {
        Some("#") => Err("has a `#` in it: a commit, tag or branch is written after an @".to_owned()),
        Some(_) => Err("has a query (`?…`), which the address of a git repository has not".to_owned()),
        None => Ok(()),
    }
}

/// `git@host:owner/name.git`, as git takes it too, as a URL.
fn scp_address(text: &str) -> Option<String> {
    let (before, path) = text.split_once(':')?;
    let (user, host) = before.split_once('@')?;
    if text.contains("://") || before.contains('/') || user.is_empty() || host.is_empty() {
        return None;
    }
    Some(format!("ssh://{user}@{host}/{}", path.trim_start_matches('/')))
}

/// Parts an address and the reference behind it. The @ of `user:password@host` is none that parts them, nor is one with
/// which a name begins; a branch with a slash goes after `.git@`.
fn parted(text: &str) -> (&str, Option<&str>) {
    let text = text.trim_end_matches('/');
    let authority = match text.split_once("://") {
        Some((scheme, rest)) => scheme.len() + 3 + rest.find('/').unwrap_or(rest.len()),
        None => text.find(':').map_or(text.len(), |colon| colon + 1),
    };
    let path = &text[authority..];
    let after_git = path.rfind(".git@").map(|place| place + 4);
    let last = path.rfind('@');
    let last = last.filter(|&place| !path[place..].contains('/') && place > 0 && !path[..place].ends_with('/'));
    match after_git.or(last) {
        Some(place) => (&text[..authority + place], Some(&path[place + 1..])),
        None => (text, None),
    }
}

/// The address of a repository without what may be secret: a password, and a user name but for ssh, which needs it.
pub fn public_address(repository: &str) -> String {
    let Ok(url) = Url::parse(repository) else {
        return "an address that cannot be read".to_owned();
    };
    let user = url.username().to_owned();
    let mut public = redacted(&url);
    if url.scheme() == "ssh" && !user.is_empty() {
        public = public.replacen("://", &format!("://{user}@"), 1);
    }
    public
}

impl fmt::Display for NodePack {
    /// As it is written in `CUSTOM_NODES`, without passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)
    }
}

impl fmt::Display for PackOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |f: &mut fmt::Formatter<'_>, what: &Option<String>| match what {
            Some(what) => write!(f, "@{what}"),
            None => Ok(()),
        };
        match self {
            Self::Registry { id, version } => {
                f.write_str(id)?;
                at(f, version)
            }
            Self::Git { repository, reference } => {
                f.write_str(&public_address(repository))?;
                at(f, reference)
            }
            Self::Folder(folder) => folder.display().fmt(f),
        }
    }
}

impl fmt::Debug for PackOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodePack {
    type Err = String;

    /// Reads an entry of `CUSTOM_NODES`. The error says what is wrong with it (`has …`, `is …`), and shows nothing of an
    /// address.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains("://") || scp_address(text).is_some() {
            // Before it is parted: what a query says may be secret, and is not shown as a reference.
            check_no_query(text)?;
            let (repository, reference) = parted(text);
            return Self::git(repository, reference);
        }
        if text.starts_with(['/', '.', '~']) {
            return Self::folder(Path::new(text));
        }
        if let Some((owner, name)) = text.split_once('/')
            && is_registry_id(owner)
        {
            return Err(format!(
                "is no id of the Comfy Registry; for a repository of GitHub write https://github.com/{owner}/{}, and @COMMIT after it",
                echo::cut(name)
            ));
        }
        match text.split_once('@') {
            Some((id, version)) => Self::registry(id, Some(version)),
            None => Self::registry(text, None),
        }
    }
}

#[cfg(test)]
#[path = "node_pack_tests.rs"]
mod tests;
