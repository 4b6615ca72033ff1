use super::super::header::{parse, testing};
use super::*;

type Tensors<'a> = &'a [(&'a str, &'a str, &'a [u64])];

fn header(tensors: Tensors<'_>) -> Header {
    parse(&testing::file(tensors), None).unwrap()
}

/// What there is of Qwen-Image in a file.
const QWEN: Tensors<'_> = &[
    ("transformer_blocks.0.attn.to_q.weight", "BF16", &[32, 32]),
    ("transformer_blocks.0.img_mlp.net.0.proj.weight", "BF16", &[64, 32]),
    ("transformer_blocks.0.txt_mod.1.weight", "BF16", &[64, 32]),
];
const SDXL: Tensors<'_> = &[
    (
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
        "F16",
        &[64, 2048],
    ),
    ("first_stage_model.decoder.conv_in.weight", "F16", &[8, 8]),
];

fn judged(lora: Tensors<'_>, model: Tensors<'_>) -> Fit {
    judge(&header(lora), &header(model))
}

#[test]
fn each_way_of_naming_fits() {
    for [down, up] in [
        [
            "transformer_blocks.0.attn.to_q.lora_A.weight",
            "transformer_blocks.0.attn.to_q.lora_B.weight",
        ],
        [
            "diffusion_model.transformer_blocks.0.attn.to_q.lora_down.weight",
            "diffusion_model.transformer_blocks.0.attn.to_q.lora_up.weight",
        ],
        [
            "transformer.transformer_blocks.0.attn.to_q.lora.down.weight",
            "transformer.transformer_blocks.0.attn.to_q.lora.up.weight",
        ],
        [
            "lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight",
            "lora_unet_transformer_blocks_0_attn_to_q.lora_up.weight",
        ],
        [
            "base_model.model.transformer_blocks.0.attn.to_q.lora_A.default.weight",
            "base_model.model.transformer_blocks.0.attn.to_q.lora_B.default.weight",
        ],
    ] {
        assert_eq!(
            judged(&[(down, "F32", &[4, 32]), (up, "F32", &[32, 4])], QWEN),
            Fit::Fits,
            "{down}"
        );
        let wrong = judged(&[(down, "F32", &[4, 48]), (up, "F32", &[48, 4])], QWEN);
        assert!(
            matches!(&wrong, Fit::Wrong(why) if why.contains("another size")),
            "{wrong:?}"
        );
    }
}

#[test]
fn one_weight_that_fits_is_enough_and_packed_ones_say_nothing() {
    let lora: Tensors<'_> = &[
        ("transformer_blocks.0.attn.to_q.lora_A.weight", "F32", &[4, 48]),
        ("transformer_blocks.0.attn.to_q.lora_B.weight", "F32", &[48, 4]),
        ("transformer_blocks.0.img_mlp.net.0.proj.lora_A.weight", "F32", &[4, 32]),
        ("transformer_blocks.0.img_mlp.net.0.proj.lora_B.weight", "F32", &[64, 4]),
    ];
    assert_eq!(judged(lora, QWEN), Fit::Fits);
    let packed: Tensors<'_> = &[("transformer_blocks.0.attn.to_q.weight", "I8", &[16, 32])];
    assert_eq!(judged(&lora[..2], packed), Fit::Fits);
}

#[test]
fn a_lora_for_another_kind_of_model_is_wrong() {
    let sdxl: Tensors<'_> = &[(
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight",
        "F16",
        &[4, 2048],
    )];
    let sd15: Tensors<'_> = &[(
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight",
        "F16",
        &[4, 768],
    )];
    let flux: Tensors<'_> = &[(
        "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
        "F16",
        &[4, 3072],
    )];
    let wan: Tensors<'_> = &[("diffusion_model.blocks.0.cross_attn.k.lora_A.weight", "F16", &[4, 5120])];
    let z_image: Tensors<'_> = &[(
        "diffusion_model.layers.0.attention.to_q.lora_A.weight",
        "F16",
        &[4, 3840],
    )];
    for (lora, model, words) in [
        (sdxl, QWEN, ["SDXL", "Qwen-Image"]),
        (sd15, QWEN, ["Stable Diffusion 1.5", "Qwen-Image"]),
        (sd15, SDXL, ["Stable Diffusion 1.5", "SDXL"]),
        (flux, QWEN, ["Flux", "Qwen-Image"]),
        (wan, QWEN, ["Wan", "Qwen-Image"]),
        (z_image, QWEN, ["Z-Image", "Qwen-Image"]),
    ] {
        let Fit::Wrong(why) = judged(lora, model) else {
            panic!("{words:?}")
        };
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
    }
    assert_eq!(judged(sdxl, SDXL), Fit::Fits);
}

#[test]
fn what_nobody_knows_is_a_warning() {
    let strange: Tensors<'_> = &[("some.thing.lora_A.weight", "F32", &[4, 4])];
    assert!(matches!(judged(strange, QWEN), Fit::Unknown(why) if why.contains("1 parts")));
    let none: Tensors<'_> = &[("some.thing.weight", "F32", &[4, 4])];
    assert!(matches!(judged(none, QWEN), Fit::Unknown(why) if why.contains("no weights of a LoRA")));
    // One for the text encoder alone.
    let text: Tensors<'_> = &[(
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "F32",
        &[4, 4],
    )];
    assert!(matches!(judged(text, QWEN), Fit::Unknown(_)));
    // Attention alone has the same names in several models.
    let attention: Tensors<'_> = &[("transformer_blocks.9.attn.to_q.lora_A.weight", "F32", &[4, 4])];
    assert!(matches!(judged(attention, SDXL), Fit::Unknown(_)));
}
