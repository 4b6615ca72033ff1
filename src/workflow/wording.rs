//! How a check says things: types, values and lists in words, and the names that were meant, perhaps.

use super::absence::Absence;
use super::schema::InputKind;
use super::value::range;
use crate::echo;

/// Longer names are not compared; nobody mistypes those, and the comparison is quadratic.
const COMPARED_CHARS: usize = 100;

/// How alike two names must be, from 0 to 1.
const ALIKE: f64 = 0.6;

/// At most `count` of `candidates`, the closest to `name` first; none where nothing comes near. Case does not count.
pub fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>, count: usize) -> Vec<&'a str> {
    closest_by(name, candidates, count, str::to_lowercase)
}

/// As [`closest`], for file names: folder and extension do not count.
pub fn closest_files<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>, count: usize) -> Vec<&'a str> {
    closest_by(name, candidates, count, |name| {
        let file = file_name(name);
        file.rsplit_once('.').map_or(file, |(stem, _)| stem).to_lowercase()
    })
}

/// The last part of a path, written either way.
pub(super) fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// `` `a`, `b` or `c` ``
pub(super) fn any_of(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

fn closest_by<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    count: usize,
    key: impl Fn(&str) -> String,
) -> Vec<&'a str> {
    let wanted = key(name);
    if count == 0 || wanted.is_empty() || wanted.len() > COMPARED_CHARS {
        return Vec::new();
    }
    let mut scored: Vec<(f64, &str)> = candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= COMPARED_CHARS)
        .map(|candidate| (likeness(&wanted, &key(candidate)), candidate))
        .filter(|(score, _)| *score >= ALIKE)
        .collect();
    scored.sort_by(|(a, a_name), (b, b_name)| b.total_cmp(a).then_with(|| a_name.cmp(b_name)));
    scored.dedup_by(|(_, a), (_, b)| a == b);
    scored.into_iter().take(count).map(|(_, name)| name).collect()
}

/// From 0 to 1: few edits apart, or one the beginning of the other.
fn likeness(a: &str, b: &str) -> f64 {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let is_beginning = short.len() >= 4 && long.starts_with(short);
    if !is_beginning && (short.chars().count() as f64) < ALIKE * long.chars().count() as f64 {
        // So many letters are missing that the comparison is not worth its time.
        return 0.0;
    }
    let edits = strsim::normalized_damerau_levenshtein(a, b);
    if is_beginning { edits.max(0.8) } else { edits }
}

/// `a whole number from 1 to 10000`, `a link to an output of type MODEL`
pub(super) fn expected(kind: &InputKind) -> String {
    let within = |range: Option<String>| match range {
        Some(range) if range.starts_with("at ") => format!(" of {range}"),
        Some(range) => format!(" {range}"),
        None => String::new(),
    };
    match kind {
        InputKind::Int { min, max } => format!("a whole number{}", within(range(*min, *max))),
        InputKind::Float { min, max } => format!("a number{}", within(range(*min, *max))),
        InputKind::String => "text".to_owned(),
        InputKind::Boolean => "true or false".to_owned(),
        InputKind::Combo(options) if (1..=8).contains(&options.len()) => {
            any_of(&options.iter().map(|option| &**option).collect::<Vec<_>>())
        }
        InputKind::Combo(_) => "one of a list of names".to_owned(),
        InputKind::Link(kind) if &**kind == "*" => "a link to another node".to_owned(),
        InputKind::Link(kind) => format!("a link to an output of type {kind}"),
        InputKind::Autogrow | InputKind::Unchecked => "a value".to_owned(),
    }
}

/// `only output 0, IMAGE`, `outputs 0 to 1: IMAGE, MASK`
pub(super) fn outputs_in_words(outputs: &[Option<Box<str>>]) -> String {
    let types: Vec<_> = outputs.iter().map(|kind| kind.as_deref().unwrap_or("?")).collect();
    match types.as_slice() {
        [] => "no output".to_owned(),
        [one] => format!("only output 0, {one}"),
        many => format!("outputs 0 to {}: {}", many.len() - 1, many.join(", ")),
    }
}

/// Nodes that exist on the page of `ComfyUI` only: notes, knots of wires, switches of groups. The page resolves them before it
/// sends a graph, so no custom node brings their classes; a graph has them where something else than the page's export for the
/// API made it. The page's own, and those of widespread custom nodes that are JavaScript alone (rgthree-comfy, ComfyUI-KJNodes,
/// ComfyUI-Easy-Use, ComfyUI-Custom-Scripts).
const PAGE_ONLY: &[&str] = &[
    "MarkdownNote",
    "Note",
    "PrimitiveNode",
    "Reroute",
    "GetNode",
    "SetNode",
    "easy getNode",
    "easy setNode",
    "ReroutePrimitive|pysssss",
    "Bookmark (rgthree)",
    "Fast Actions Button (rgthree)",
    "Fast Bypasser (rgthree)",
    "Fast Groups Bypasser (rgthree)",
    "Fast Groups Muter (rgthree)",
    "Fast Muter (rgthree)",
    "Label (rgthree)",
    "Mute / Bypass Relay (rgthree)",
    "Mute / Bypass Repeater (rgthree)",
    "Node Collector (rgthree)",
    "Random Unmuter (rgthree)",
    "Reroute (rgthree)",
];

/// What to do about a class that no `ComfyUI` has because it is the page's alone; [`None`] for any other class.
pub(super) fn page_only_advice(class: &str) -> Option<&'static str> {
    // `workflow>name`, `workflow/name`: a group of nodes under one roof. A subgraph is called by its UUID.
    let is_group = class.starts_with("workflow>") || class.starts_with("workflow/");
    let is_subgraph = uuid::Uuid::try_parse(class).is_ok();
    if is_group || is_subgraph {
        return Some(
            "it stands for several nodes on the page. Export the graph there with Workflow > Export (API), which writes them out",
        );
    }
    PAGE_ONLY.contains(&class).then_some(
        "it exists on the page only, which leaves it out of what ComfyUI gets. Export the graph there with Workflow > Export (API), or take the node out and link what stands before it to what stands behind it",
    )
}

/// Whence a class comes that ComfyUI does not have, and what to do.
pub(super) fn remedy(absence: &Absence) -> String {
    match absence {
        Absence::Broken {
            pack,
            sure,
            failure,
            step,
        } => {
            let comes = if *sure { "comes" } else { "may come" };
            let step = step.as_ref().map(|step| format!(". {step}")).unwrap_or_default();
            format!(
                "it {comes} with {}, which {}{step}",
                echo::cut(pack),
                failure.trim_end_matches('.')
            )
        }
        Absence::LeftOut { pack, version, sure } => {
            let version = version
                .as_ref()
                .map(|version| format!(" {}", echo::cut(version)))
                .unwrap_or_default();
            let pack = echo::cut(pack);
            if *sure {
                format!(
                    "it comes with {pack}{version}, which is loaded without it: its lines in ComfyUI's log may say why; else take another version of the pack"
                )
            } else {
                format!(
                    "the name stands in the sources of {pack}{version}, which is loaded and did not register such a class: if it is that pack's, its lines in ComfyUI's log may say why; else install the custom node that provides it"
                )
            }
        }
        Absence::NotAsked {
            pack,
            version,
            attached,
        } => {
            let pack = echo::cut(pack);
            match version.as_ref().map(|version| echo::cut(version)) {
                _ if *attached => {
                    format!("it comes with the custom nodes {pack}: install them in the ComfyUI at COMFYUI_URL")
                }
                Some(version) => format!("it comes with {pack}: add `{pack}@{version}` to CUSTOM_NODES"),
                None => format!(
                    "it comes with {pack}: add `{pack}@VERSION` to CUSTOM_NODES, with a version that the Comfy Registry has of it"
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_come_first_and_strangers_not_at_all() {
        let classes = ["KSampler", "KSamplerAdvanced", "VAEDecode", "SaveImage"];
        assert_eq!(closest("ksampler", classes, 3), ["KSampler", "KSamplerAdvanced"]);
        assert_eq!(closest("KSmapler", classes, 3), ["KSampler"]);
        assert_eq!(closest("VAEDecoder", classes, 1), ["VAEDecode"]);
        assert!(closest("UltimateSDUpscale", classes, 3).is_empty());
        assert!(closest("", classes, 3).is_empty());
        assert!(closest(&"K".repeat(100_000), classes, 3).is_empty());
    }

    #[test]
    fn files_are_compared_without_folder_and_extension() {
        let files = [
            "qwen/qwen_image_vae.safetensors",
            "ae.safetensors",
            "Qwen_Image_fp8_e4m3fn.safetensors",
        ];
        assert_eq!(
            closest_files("qwen_image_vae.sft", files, 1),
            ["qwen/qwen_image_vae.safetensors"]
        );
        assert_eq!(
            closest_files("qwen_image_fp8.safetensors", files, 1),
            ["Qwen_Image_fp8_e4m3fn.safetensors"]
        );
        assert!(closest_files("flux.safetensors", files, 3).is_empty());
    }

    #[test]
    fn names_are_joined_as_people_do() {
        assert_eq!(any_of(&["a"]), "`a`");
        assert_eq!(any_of(&["a", "b", "c"]), "`a`, `b` or `c`");
    }

    #[test]
    fn the_pages_own_classes_are_known() {
        assert!(
            page_only_advice("Note").is_some()
                && page_only_advice("SetNode").is_some()
                && page_only_advice("workflow>upscale").is_some()
        );
        assert!(page_only_advice("0f1d9c3e-8a55-4b0e-9a5b-0d8f4a3a2f11").is_some());
        assert!(
            page_only_advice("KSampler").is_none()
                && page_only_advice("note").is_none()
                && page_only_advice("").is_none()
        );
    }
}
