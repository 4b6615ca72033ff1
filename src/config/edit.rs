//! The Edit Plus API.

use serde::Deserialize;

use super::variable::{Reader, Variable, integer, text};

/// How the Edit Plus API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditConfig {
    /// A port of its own, beside `/edit` on the port of everything; 0 takes a free one. [`None`]: there is none.
    pub port: Option<u16>,
    /// Whether somebody chose that port. One that is taken is an error then.
    pub port_is_chosen: bool,
    /// The template of requests that name no model.
    pub template: String,
}

const EDIT_PORT: Variable = Variable {
    name: "EDIT_PORT",
    kind: "port, 0 to 65535, or none",
    default: Some("8189"),
    example: "none",
    meaning: "Port of the Edit Plus API, which is served under `/edit` on `PORT` too; `0` takes a free one and logs it. Not set, and 8189 is taken: a warning, and there is none.",
    secret: false,
};
const EDIT_TEMPLATE: Variable = Variable {
    name: "EDIT_TEMPLATE",
    kind: "name of a template",
    default: Some("qwen-image-edit-2511"),
    example: "qwen-image-edit-2509",
    meaning: "The workflow template of Edit Plus requests that name no `model`. It must take three images.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[&EDIT_PORT, &EDIT_TEMPLATE];

#[derive(Deserialize, Default)]
struct Raw {
    edit_port: Option<String>,
    edit_template: Option<String>,
}

fn port(text: &str) -> Result<Option<u16>, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    integer(0..=u16::MAX)(text)
        .map(Some)
        .map_err(|message| format!("{message}, nor none"))
}

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<EditConfig> {
    let raw: Raw = reader.raw(vars);
    let port_is_chosen = raw.edit_port.is_some();
    let port = reader.value(&EDIT_PORT, raw.edit_port, port);
    let template = reader.value(&EDIT_TEMPLATE, raw.edit_template, text);
    Some(EditConfig {
        port: port?,
        port_is_chosen,
        template: template?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_or_none() {
        assert_eq!(port("8189"), Ok(Some(8189)));
        assert_eq!(port("None"), Ok(None));
        assert_eq!(port("x").unwrap_err(), "is no whole number from 0 to 65535, nor none");
    }
}
