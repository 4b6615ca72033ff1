//! The model files of the templates that came later: control files, Layered, Z-Image. They are written when a graph names them,
//! and not at each start. Their tensors stand in `family.txt`, as ComfyUI 0.30.0 has them at the widths that
//! `qwen_image_worker_demo.py` sets.

use super::models::{EDIT, Fill, ModelFile, Source, Tensor, lora};
use crate::config::model_folder::kind_of;
use crate::workflow::MissingModel;

const LIST: &str = include_str!("family.txt");

const fn file(folder: &'static str, name: &'static str, seed: u64, source: Source) -> ModelFile {
    ModelFile {
        folder,
        name,
        seed,
        source,
    }
}

/// Every file that is written when it is asked for. Names keep the number format of the real file; the values are bfloat16 in
/// all.
#[rustfmt::skip]
pub(super) const FILES: &[ModelFile] = &[
    file("diffusion_models", "qwen_image_edit_2511_int8_convrot", 0, Source::Trained(EDIT)),
    file("diffusion_models", "qwen_image_layered_bf16", 102, Source::Listed("layered")),
    file("diffusion_models", "qwen_image_layered_control_bf16", 103, Source::Listed("layered")),
    file("diffusion_models", "z_image_bf16", 104, Source::Listed("z-image")),
    file("diffusion_models", "z_image_int8_convrot", 105, Source::Listed("z-image")),
    file("diffusion_models", "z_image_turbo_bf16", 106, Source::Listed("z-image")),
    file("diffusion_models", "z_image_turbo_int8_convrot", 107, Source::Listed("z-image")),
    file("loras", "Wuli-Qwen-Image-2512-Turbo-LoRA-2steps-V1.0-bf16", 108, Source::Built(lora)),
    file("loras", "Qwen-Image-Edit-2509-Relight", 109, Source::Built(lora)),
    file("loras", "qwen_image_union_diffsynth_lora", 110, Source::Built(lora)),
    file("controlnet", "Qwen-Image-2512-Fun-Controlnet-Union-2602", 111, Source::Listed("fun-2512")),
    file("controlnet", "Qwen-Image-InstantX-ControlNet-Union", 112, Source::Listed("instantx-union")),
    file("controlnet", "Qwen-Image-InstantX-ControlNet-Inpainting", 113, Source::Listed("instantx-inpainting")),
    file("model_patches", "qwen_image_canny_diffsynth_controlnet", 114, Source::Listed("diffsynth")),
    file("model_patches", "Z-Image-Turbo-Fun-Controlnet-Union", 115, Source::Listed("z-image-fun")),
    file("text_encoders", "qwen_3_4b", 116, Source::Listed("qwen-3")),
    // The same values: another picture must come from another model, and not from how its text encoder is stored.
    file("text_encoders", "qwen_3_4b_fp8_mixed", 116, Source::Listed("qwen-3")),
    file("vae", "ae", 117, Source::Listed("ae")),
    file("vae", "qwen_image_layered_vae", 118, Source::Listed("layered-vae")),
];

/// The files for those of the models that a graph names and ComfyUI lacks which are among these.
pub(super) fn files_for(missing: &[MissingModel]) -> Vec<&'static ModelFile> {
    let known = |missing: &MissingModel| {
        let name = missing.name.strip_suffix(".safetensors")?;
        let fits =
            |file: &&ModelFile| file.name == name && missing.folder.is_none_or(|folder| kind_of(folder) == file.folder);
        FILES.iter().find(fits)
    };
    missing.iter().filter_map(known).collect()
}

/// The tensors of a part of the list.
pub(super) fn tensors(part: &str) -> Vec<Tensor> {
    let heading = format!("[{part}]");
    let lines = LIST.lines().skip_while(|line| *line != heading).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    lines.filter_map(parse).flatten().collect()
}

/// The tensors of a line: one, or one for each number of a range in its name.
fn parse(line: &str) -> Option<Vec<Tensor>> {
    let mut words = line.split(' ');
    let (name, fill, shape) = (words.next()?, words.next()?, words.next()?);
    let fill = match fill {
        "ones" => Fill::Constant(1.0),
        "zeros" => Fill::Constant(0.0),
        "normal" => Fill::Normal,
        "fan_in" => Fill::FanIn,
        _ => return None,
    };
    let shape: Vec<usize> = shape.split('x').map(|side| side.parse().ok()).collect::<Option<_>>()?;
    let tensor = |name: String| Tensor {
        name,
        fill,
        shape: shape.clone(),
    };
    let Some((before, rest)) = name.split_once('{') else {
        return Some(vec![tensor(name.to_owned())]);
    };
    let (range, after) = rest.split_once('}')?;
    let (first, last) = range.split_once('-')?;
    let numbers = first.parse::<u32>().ok()?..=last.parse().ok()?;
    Some(
        numbers
            .map(|number| tensor(format!("{before}{number}{after}")))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_list_is_read() {
        for line in LIST
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with(['#', '[']))
        {
            assert!(parse(line).is_some_and(|tensors| !tensors.is_empty()), "{line}");
        }
        let counts: Vec<_> = [
            "z-image",
            "qwen-3",
            "ae",
            "z-image-fun",
            "instantx-union",
            "fun-2512",
            "diffsynth",
            "layered",
            "layered-vae",
        ]
        .map(|part| tensors(part).len())
        .into();
        assert_eq!(counts, [453, 35, 244, 136, 45, 174, 26, 46, 194]);
        let layers = tensors("z-image");
        assert!(
            layers
                .iter()
                .any(|tensor| tensor.name == "layers.29.attention.qkv.weight" && tensor.shape == [192, 64])
        );
    }

    #[test]
    fn what_is_missing_is_found_by_folder_and_name() {
        let missing = |folder, name: &str| MissingModel {
            folder,
            name: name.to_owned(),
        };
        let ae = missing(Some("vae"), "ae.safetensors");
        let known = files_for(&[ae.clone(), missing(Some("clip"), "qwen_3_4b.safetensors")]);
        assert_eq!(known.len(), 2);
        for other in [
            missing(Some("loras"), "ae.safetensors"),
            missing(None, "mine.safetensors"),
            missing(None, "ae"),
        ] {
            assert_eq!(files_for(&[ae.clone(), other]).len(), 1);
        }
    }
}
