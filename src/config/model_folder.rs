//! `ComfyUI`'s kinds of model, and the folders they lie in.

/// `ComfyUI`'s kinds of model, each with the names of its folder, the usual one first: `folder_paths.py` of
/// `ComfyUI` 0.30.0, less `custom_nodes` and `datasets`, which are no models.
pub const KINDS: &[(&str, &[&str])] = &[
    ("checkpoints", &["checkpoints"]),
    ("configs", &["configs"]),
    ("loras", &["loras"]),
    ("vae", &["vae"]),
    ("text_encoders", &["text_encoders", "clip"]),
    ("diffusion_models", &["diffusion_models", "unet"]),
    ("clip_vision", &["clip_vision"]),
    ("style_models", &["style_models"]),
    ("embeddings", &["embeddings"]),
    ("diffusers", &["diffusers"]),
    ("vae_approx", &["vae_approx"]),
    ("controlnet", &["controlnet", "t2i_adapter"]),
    ("gligen", &["gligen"]),
    ("upscale_models", &["upscale_models"]),
    ("latent_upscale_models", &["latent_upscale_models"]),
    ("hypernetworks", &["hypernetworks"]),
    ("photomaker", &["photomaker"]),
    ("classifiers", &["classifiers"]),
    ("model_patches", &["model_patches"]),
    ("audio_encoders", &["audio_encoders"]),
    ("background_removal", &["background_removal"]),
    ("frame_interpolation", &["frame_interpolation"]),
    ("geometry_estimation", &["geometry_estimation"]),
    ("optical_flow", &["optical_flow"]),
    ("detection", &["detection"]),
];

/// The kind of model that lies in a folder of this name; [`None`] for a folder that only custom nodes know.
pub fn known_kind(folder: &str) -> Option<&'static str> {
    let of_kind = |(_, names): &&(&str, &[&str])| names.contains(&folder);
    KINDS.iter().find(of_kind).map(|(kind, _)| *kind)
}

/// The kind of model that lies in a folder of this name: the folder's own name where only custom nodes know it.
pub fn kind_of(folder: &str) -> &str {
    known_kind(folder).unwrap_or(folder)
}

/// The names of the folders in which models of a kind lie, the usual one first.
pub fn folders_of(kind: &str) -> impl Iterator<Item = &str> {
    let known = KINDS.iter().find(|(name, _)| *name == kind);
    let names = known.map(|(_, names)| *names).unwrap_or_default();
    names.iter().copied().chain(known.is_none().then_some(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_comes_once_with_its_own_name_first() {
        let mut kinds: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), KINDS.len());
        assert!(KINDS.iter().all(|(kind, names)| names[0] == *kind));
    }

    #[test]
    fn old_names_of_folders_are_of_the_same_kind() {
        assert_eq!(kind_of("unet"), "diffusion_models");
        assert_eq!(kind_of("ipadapter"), "ipadapter");
        assert_eq!(
            folders_of("text_encoders").collect::<Vec<_>>(),
            ["text_encoders", "clip"]
        );
        assert_eq!(folders_of("ipadapter").collect::<Vec<_>>(), ["ipadapter"]);
    }
}
