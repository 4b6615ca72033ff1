//! Arguments of ComfyUI's command line, as its `argparse` reads them.

/// The value that `arguments` give to `flag`, in either form. Of several the last one counts.
pub fn value<'a>(arguments: &'a [impl AsRef<str>], flag: &str) -> Option<&'a str> {
    let position = arguments
        .iter()
        .rposition(|argument| is_flag(argument.as_ref(), flag))?;
    match arguments[position].as_ref().split_once('=') {
        Some((_, value)) => Some(value),
        None => arguments.get(position + 1).map(AsRef::as_ref),
    }
}

/// Whether `argument` is `flag`, `flag=value`, or a short form of it. A form so short that it could be another flag
/// as well is refused by ComfyUI, so it does not matter what we make of it.
pub(super) fn is_flag(argument: &str, flag: &str) -> bool {
    let name = argument.split_once('=').map_or(argument, |(name, _)| name);
    name.len() > "--x".len() && flag.starts_with(name)
}
