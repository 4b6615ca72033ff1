//! Which arguments a ComfyUI knows. One that it does not know ends it at once (`main.py: error: unrecognized arguments`), so
//! ours are left out where a version, older or newer, has none of that name.

use std::fs;
use std::path::Path;

/// Where ComfyUI declares its arguments.
const DECLARED: &str = "comfy/cli_args.py";

/// The arguments that one ComfyUI knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flags {
    /// [`None`]: they are not known, so that all count as known.
    names: Option<Vec<String>>,
}

impl Flags {
    /// Reads what the tree in `root` declares; takes a millisecond.
    pub(super) fn of(root: &Path) -> Self {
        let text = fs::read_to_string(root.join(DECLARED));
        Self::declared(&text.unwrap_or_default())
    }

    fn declared(text: &str) -> Self {
        // Every second part of the text stands between quotes, or does not; what looks like a flag is one.
        let parts = text.split(['"', '\'']);
        let is_flag = |part: &&str| {
            part.strip_prefix("--").is_some_and(|name| {
                !name.is_empty()
                    && name
                        .chars()
                        .all(|letter| letter.is_ascii_alphanumeric() || "-_".contains(letter))
            })
        };
        let names: Vec<String> = parts.filter(is_flag).map(str::to_owned).collect();
        // A file without this one is no list that we know how to read.
        let is_list = names.iter().any(|name| name == "--listen");
        Self {
            names: is_list.then_some(names),
        }
    }

    /// Whether ComfyUI knows `flag`, as far as can be told.
    pub(super) fn know(&self, flag: &str) -> bool {
        self.names
            .as_ref()
            .is_none_or(|names| names.iter().any(|name| name == flag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_is_known_and_nothing_else() {
        let flags = Flags::declared(
            "parser.add_argument(\"--listen\", type=str, help=\"Overrides --base-directory.\")\n\
             parser.add_argument('--cpu', action='store_true')\n\
             g.add_argument(\"--fp8_e4m3fn-unet\", help=\"don't\")\n\
             parser.add_argument(\"--port\", type=int)\n",
        );
        for flag in ["--listen", "--cpu", "--fp8_e4m3fn-unet", "--port"] {
            assert!(flags.know(flag), "{flag}");
        }
        assert!(!flags.know("--base-directory") && !flags.know("--database-url"));
    }

    #[test]
    fn without_a_list_everything_counts_as_known() {
        assert!(Flags::declared("from comfy.options import parser").know("--database-url"));
        assert!(Flags::of(Path::new("/nowhere")).know("--database-url"));
    }
}
