//! The form of a catalogue: `workflows/models.toml` describes it.

use indexmap::IndexMap;
use serde::Deserialize;

use super::{CatalogError, Licence, ModelCatalog, ModelSet, unite};
use crate::config::{ModelFile, Origin, parse_sha256};

/// The set that files without one belong to.
const PLAIN: &str = "files";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCatalog {
    #[serde(default)]
    sets: IndexMap<String, RawSet>,
    #[serde(default)]
    licences: IndexMap<String, Licence>,
    files: Option<Vec<RawFile>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSet {
    title: Option<String>,
    licence: Option<String>,
    #[serde(default)]
    includes: Vec<String>,
    #[serde(default)]
    files: Vec<RawFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    repo: Option<String>,
    revision: Option<String>,
    path: Option<String>,
    url: Option<String>,
    target: String,
    size: Option<u64>,
    sha256: Option<String>,
}

/// Reads a catalogue: JSON if it begins as an object of JSON does, else TOML.
pub(super) fn read(text: &str) -> Result<ModelCatalog, CatalogError> {
    let text = text.trim_start_matches('\u{feff}');
    let raw = if text.trim_start().starts_with('{') {
        json(text)?
    } else {
        toml(text)?
    };
    let mut sets = raw.sets;
    if let Some(files) = raw.files {
        let plain = RawSet {
            title: None,
            licence: None,
            includes: Vec::new(),
            files,
        };
        if sets.insert(PLAIN.to_owned(), plain).is_some() {
            return Err(CatalogError::Syntax {
                line: None,
                message: format!("there are files outside of sets, and a set `{PLAIN}`, as which they would count"),
            });
        }
    }
    let sets = sets.into_iter().map(|(name, raw)| {
        let set = raw.read(&name)?;
        Ok((name, set))
    });
    Ok(ModelCatalog {
        sets: sets.collect::<Result<_, CatalogError>>()?,
        licences: raw.licences,
        ..ModelCatalog::default()
    })
}

fn toml(text: &str) -> Result<RawCatalog, CatalogError> {
    toml::from_str(text).map_err(|error| CatalogError::Syntax {
        line: error
            .span()
            .and_then(|span| Some(text.get(..span.start)?.matches('\n').count() + 1)),
        // The error as a whole shows the line itself, in which a URL may be secret.
        message: error.message().to_owned(),
    })
}

fn json(text: &str) -> Result<RawCatalog, CatalogError> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        CatalogError::Syntax {
            line: Some(error.line()),
            message: message.strip_suffix(&place).unwrap_or(&message).to_owned(),
        }
    })
}

impl RawSet {
    fn read(self, name: &str) -> Result<ModelSet, CatalogError> {
        let files = self.files.into_iter().enumerate().map(|(index, file)| {
            file.read().map_err(|reason| CatalogError::File {
                set: name.to_owned(),
                entry: index + 1,
                reason,
            })
        });
        let files = files.collect::<Result<Vec<_>, _>>()?;
        Ok(ModelSet {
            title: self.title.unwrap_or_else(|| name.to_owned()),
            licence: self.licence,
            includes: self.includes,
            files: unite(&files).map_err(|conflict| CatalogError::Set {
                set: name.to_owned(),
                conflict,
            })?,
        })
    }
}

impl RawFile {
    fn read(self) -> Result<ModelFile, String> {
        let origin = match (self.repo, self.path, self.url) {
            (Some(repo), Some(path), None) => Origin::hub(&repo, self.revision.as_deref().unwrap_or("main"), &path),
            (None, None, Some(_)) if self.revision.is_some() => {
                return Err("`revision` goes with `repo` and `path`; in an hf:// URL it stands after an @".to_owned());
            }
            (None, None, Some(url)) => url.parse(),
            _ => return Err("it takes either `repo` and `path`, or `url`".to_owned()),
        };
        let file = origin.and_then(|origin| ModelFile::new(origin, &self.target));
        let sha256 = self.sha256.map(|digits| parse_sha256(&digits)).transpose();
        Ok(ModelFile {
            size: self.size,
            sha256: sha256.map_err(|error| format!("`{}`: {error}", self.target.escape_debug()))?,
            ..file.map_err(|error| error.to_string())?
        })
    }
}
