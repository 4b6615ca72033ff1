//! Nodes that exist on the page of `ComfyUI` only: notes, knots of wires, switches of groups. The page resolves them before it
//! sends a graph, so no custom node brings their classes; a graph has them where something else than the page's export for the
//! API made it.

/// The page's own, and those of widespread custom nodes that are JavaScript alone (rgthree-comfy, ComfyUI-KJNodes,
/// ComfyUI-Easy-Use, ComfyUI-Custom-Scripts).
const CLASSES: &[&str] = &[
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
pub(super) fn advice(class: &str) -> Option<&'static str> {
    // `workflow>name`, `workflow/name`: a group of nodes under one roof. A subgraph is called by its UUID.
    let is_group = class.starts_with("workflow>") || class.starts_with("workflow/");
    let is_subgraph = uuid::Uuid::try_parse(class).is_ok();
    if is_group || is_subgraph {
        return Some(
            "it stands for several nodes on the page. Export the graph there with Workflow > Export (API), which writes them out",
        );
    }
    CLASSES.contains(&class).then_some(
        "it exists on the page only, which leaves it out of what ComfyUI gets. Export the graph there with Workflow > Export (API), or take the node out and link what stands before it to what stands behind it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_own_classes_are_known() {
        assert!(advice("Note").is_some() && advice("SetNode").is_some() && advice("workflow>upscale").is_some());
        assert!(advice("0f1d9c3e-8a55-4b0e-9a5b-0d8f4a3a2f11").is_some());
        assert!(advice("KSampler").is_none() && advice("note").is_none() && advice("").is_none());
    }
}
