//! The name of an input image.

use std::fmt;

use crate::workflow::{INPUT_MARK, nfc};

/// The longest name of an input image, in bytes: what file systems take, less room for a suffix of ComfyUI's.
const LONGEST_NAME: usize = 200;
/// The deepest subfolder in a name.
const MOST_COMPONENTS: usize = 4;

/// How ComfyUI marks a name as one of its other folders.
const OTHER_MARKS: [&str; 3] = ["[input]", "[output]", "[temp]"];

/// The name under which a graph refers to an uploaded image. Never absolute, never upwards: it cannot leave the
/// folder that it is put into.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// Takes `photo.png` and `folder/photo.png`; refuses everything that could lead elsewhere. `photo.png [input]` is the
    /// same, as it is to ComfyUI, and so is a name whose letters and accents are composed another way.
    pub fn parse(name: &str) -> Result<Self, String> {
        let name = name.strip_suffix(INPUT_MARK).unwrap_or(name);
        let advice = "use a plain file name such as `photo.png`";
        if name.trim().is_empty() {
            return Err(format!("the name is empty; {advice}"));
        }
        if name.len() > LONGEST_NAME {
            return Err(format!(
                "the name has {} bytes, the limit is {LONGEST_NAME}; {advice}",
                name.len()
            ));
        }
        if name.chars().any(|c| c.is_control() || c == '\\' || c == ':') {
            return Err(format!(
                "the name {name:?} holds a control character, `\\` or `:`; {advice}"
            ));
        }
        let components: Vec<&str> = name.split('/').collect();
        if components.len() > MOST_COMPONENTS
            || components
                .iter()
                .any(|part| part.trim().is_empty() || part.trim() == "." || part.trim() == "..")
        {
            return Err(format!(
                "the name {name:?} leads out of its folder or is no file name; {advice}"
            ));
        }
        // ComfyUI reads these as names of another folder.
        if let Some(mark) = OTHER_MARKS.iter().find(|mark| name.ends_with(**mark)) {
            return Err(format!(
                "the name {name:?} ends like ComfyUI's mark for a file of another folder; leave `{mark}` out, here and in the graph"
            ));
        }
        Ok(Self(nfc(name).into_owned()))
    }

    /// As the graph writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder part, empty for a plain name.
    pub fn folder(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// The last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(self.0.as_str(), |(_, file)| file)
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [
            "",
            " ",
            "../../x",
            "..",
            "a/../b",
            "/etc/passwd",
            "a//b",
            "a\\b",
            "C:x",
            "a\0b",
            "x/",
            "a/b/c/d/e",
            ". ",
            "x [output]",
            "x[temp]",
            "x [input] [input]",
            &"x".repeat(300),
        ] {
            assert!(ImageName::parse(name).is_err(), "{name:?} was taken");
        }
        let name = ImageName::parse("people/anna.png").unwrap();
        assert_eq!((name.folder(), name.file_name()), ("people", "anna.png"));
        assert_eq!(ImageName::parse("ü ñ.png").unwrap().folder(), "");
        for (name, read) in [
            ("clipspace/a-1.5.png [input]", "clipspace/a-1.5.png"),
            ("fu\u{308}r.png", "für.png"),
            ("photo [1]", "photo [1]"),
        ] {
            assert_eq!(ImageName::parse(name).unwrap().as_str(), read);
        }
    }
}
