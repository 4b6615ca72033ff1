//! Our own manifest, in TOML.
//!
//! ```toml
//! # Further Python packages, as in a requirements.txt. They stand above the first [[pack]].
//! packages = ["opencv-python-headless>=4.10"]
//!
//! [[pack]]                                    # of the Comfy Registry
//! id = "comfyui-kjnodes"
//! version = "1.1.7"
//!
//! [[pack]]                                    # a git repository
//! repository = "https://github.com/city96/ComfyUI-GGUF"
//! commit = "6ea2651e7df66d7585f6ffee804b20e92fb38b8a"   # in full; `reference` for a branch or tag, which moves
//! name = "gguf"                               # its folder under custom_nodes; not needed
//!
//! [[pack]]                                    # a folder of this machine, from this file's own folder
//! folder = "packs/mine"
//! ```

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Document;
use crate::config::{NodePack, PackOrigin, is_commit, public_address};
use crate::echo;

const TOP_KEYS: [&str; 2] = ["pack", "packages"];
const PACK_KEYS: [&str; 7] = ["id", "version", "repository", "commit", "reference", "folder", "name"];

/// What a frozen manifest begins with.
const HEAD: &str = "# Custom nodes of qwen-image-worker, as they were when `qwen-image-worker nodes freeze` wrote this.\n\
                    # CUSTOM_NODES_MANIFEST names this file.\n";

/// Reads a manifest; `base` is the folder that it lies in.
pub(super) fn read(text: &str, base: Option<&Path>) -> Document {
    let mut document = Document::default();
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let line = error.span().map(|span| line(text, span.start));
        let place = line.map_or_else(String::new, |line| format!("line {line}: "));
        // The error as a whole shows the line itself, in which a password may stand.
        document.mistakes.push(format!("{place}{}", error.message()));
    }
    if !document.mistakes.is_empty() {
        return document;
    }
    // The table has its keys by the alphabet; people read by lines.
    let mut keys: Vec<_> = table.get_ref().iter().collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in keys {
        let line = line(text, key.span().start);
        match &**key.get_ref() {
            "packages" => packages(text, value, &mut document),
            "pack" => match value.get_ref().as_array() {
                Some(packs) => packs.iter().for_each(|pack| take(text, pack, base, &mut document)),
                None => document
                    .mistakes
                    .push(format!("line {line}: packs are written as [[pack]]")),
            },
            other => document.mistakes.push(unknown(line, other, &TOP_KEYS)),
        }
    }
    // A file without any text waits for somebody to fill it.
    if document == Document::default() && !text.trim().is_empty() {
        document.warnings.push("it names no pack".to_owned());
    }
    document
}

fn line(text: &str, at: usize) -> usize {
    text.get(..at).map_or(0, |before| before.matches('\n').count()) + 1
}

fn unknown(line: usize, key: &str, known: &[&str]) -> String {
    let known: Vec<_> = known.iter().map(|key| format!("`{key}`")).collect();
    format!(
        "line {line}: `{}` is unknown; known are {}",
        echo::cut(key),
        known.join(", ")
    )
}

fn packages(text: &str, value: &Spanned<DeValue<'_>>, document: &mut Document) {
    let Some(items) = value.get_ref().as_array() else {
        let line = line(text, value.span().start);
        document
            .mistakes
            .push(format!("line {line}: `packages` is a list of texts"));
        return;
    };
    for item in items {
        let line = line(text, item.span().start);
        match item.get_ref().as_str() {
            Some(package) => match requirement(package) {
                Ok(package) => document.packages.push(package),
                Err(error) => document.mistakes.push(format!("line {line}: {error}")),
            },
            None => document
                .mistakes
                .push(format!("line {line}: `packages` is a list of texts")),
        }
    }
}

/// A requirement that names a package: no option of pip's, no path, no second line.
pub(super) fn requirement(text: &str) -> Result<String, String> {
    let text = text.trim();
    let name_end = text.find(|letter: char| !(letter.is_ascii_alphanumeric() || "._-".contains(letter)));
    let (name, rest) = text.split_at(name_end.unwrap_or(text.len()));
    let rest = rest.trim_start();
    let begins = |text: &str| text.starts_with(|first: char| first.is_ascii_alphanumeric());
    let continues = rest.is_empty() || rest.starts_with(['[', '(', '<', '>', '=', '!', '~', ';', '@']);
    if !begins(name) || !continues || text.contains(char::is_control) {
        return Err(format!(
            "the package `{}` is no requirement of the form name, name==1.2.3 or name @ https://…",
            // An address may have a password.
            echo::cut(text.split("://").next().unwrap_or_default())
        ));
    }
    Ok(text.to_owned())
}

fn take(text: &str, entry: &Spanned<DeValue<'_>>, base: Option<&Path>, document: &mut Document) {
    let at = line(text, entry.span().start);
    let Some(table) = entry.get_ref().as_table() else {
        document
            .mistakes
            .push(format!("line {at}: packs are written as [[pack]]"));
        return;
    };
    let before = document.mistakes.len();
    let mut keys: Vec<_> = table.iter().collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in keys {
        let line = line(text, key.span().start);
        let key = &**key.get_ref();
        if key == "packages" {
            let advice = "it stands above the first [[pack]]";
            document
                .mistakes
                .push(format!("line {line}: `packages` is none of a pack's: {advice}"));
        } else if !PACK_KEYS.contains(&key) {
            document.mistakes.push(unknown(line, key, &PACK_KEYS));
        } else if !value.get_ref().is_str() {
            document.mistakes.push(format!("line {line}: `{key}` is no text"));
        }
    }
    if document.mistakes.len() > before {
        return;
    }
    let value = |key: &str| table.get(key).and_then(|value| value.get_ref().as_str());
    let pack = pack(&value, base);
    document.take(&format!("the pack of line {at}"), pack);
}

/// A pack by the texts of its keys.
fn pack<'a>(value: &impl Fn(&str) -> Option<&'a str>, base: Option<&Path>) -> Result<NodePack, String> {
    let stray = |keys: &[&str], with: &str| match keys.iter().find(|key| value(key).is_some()) {
        Some(key) => Err(format!("has `{key}`, which goes with `{with}`")),
        None => Ok(()),
    };
    let pack = match (value("id"), value("repository"), value("folder")) {
        (Some(id), None, None) => {
            stray(&["commit", "reference"], "repository")?;
            NodePack::registry(id, value("version"))?
        }
        (None, Some(repository), None) => {
            stray(&["version"], "id")?;
            git(repository, value("commit"), value("reference"))?
        }
        (None, None, Some(folder)) => {
            stray(&["version"], "id")?;
            stray(&["commit", "reference"], "repository")?;
            let folder = Path::new(folder);
            match base {
                Some(base) => NodePack::folder(folder).and_then(|_| NodePack::folder(&base.join(folder)))?,
                None if folder.is_absolute() => NodePack::folder(folder)?,
                None => {
                    return Err("has a relative `folder`, but the manifest lies in none: write it in full".to_owned());
                }
            }
        }
        _ => return Err("takes one of `id`, `repository` and `folder`".to_owned()),
    };
    value("name").map_or(Ok(pack.clone()), |name| pack.named(name))
}

fn git(repository: &str, commit: Option<&str>, reference: Option<&str>) -> Result<NodePack, String> {
    let written: Result<NodePack, _> = repository.parse();
    if let Ok(NodePack { origin, .. }) = written
        && matches!(origin, PackOrigin::Git { reference: Some(_), .. })
    {
        return Err("has a `repository` with an @ behind it: write what follows as `commit`".to_owned());
    }
    match (commit, reference) {
        (Some(_), Some(_)) => Err("has both `commit` and `reference`: keep one of them".to_owned()),
        (Some(commit), None) if !is_commit(commit) => Err(format!(
            "has the `commit` `{}`, which is none in full (40 hexadecimal digits); a branch or tag is a `reference`",
            echo::cut(commit)
        )),
        (pin, None) | (None, pin) => NodePack::git(repository, pin),
    }
}

/// A manifest of these packs, which [`super::read`] reads back to the same. Passwords in addresses are left out, and a
/// comment says so.
pub fn freeze(packs: &[NodePack], packages: &[String]) -> String {
    let mut text = HEAD.to_owned();
    if !packages.is_empty() {
        text.push_str("\npackages = [\n");
        for package in packages {
            let _ = writeln!(text, "    {},", quoted(package));
        }
        text.push_str("]\n");
    }
    for pack in packs {
        text.push_str("\n[[pack]]\n");
        let mut key = |key: &str, value: &str| {
            // Writing to a text does not fail.
            let _ = writeln!(text, "{key} = {}", quoted(value));
        };
        let plain = match &pack.origin {
            PackOrigin::Registry { id, version } => {
                key("id", id);
                if let Some(version) = version {
                    key("version", version);
                }
                NodePack::registry(id, None)
            }
            PackOrigin::Git { repository, reference } => {
                let address = public_address(repository);
                key("repository", &address);
                if let Some(reference) = reference {
                    key(if is_commit(reference) { "commit" } else { "reference" }, reference);
                }
                NodePack::git(&address, None)
            }
            PackOrigin::Folder(folder) => {
                key("folder", &folder.to_string_lossy());
                NodePack::folder(folder)
            }
        };
        if plain.is_ok_and(|plain| plain.name != pack.name) {
            key("name", &pack.name);
        }
        if let PackOrigin::Git { repository, .. } = &pack.origin
            && public_address(repository) != *repository
        {
            text.push_str("# The address has a user name or password, which is not written here.\n");
        }
    }
    text
}

/// A text of TOML. What JSON escapes, TOML does in the same way; it wants one more.
fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
