//! Which engine can do what, and what becomes of what it cannot.

use serde_json::Map;

use super::super::list::{EngineKind, Extra, ImagesApi};
use super::super::{gradio, images, kie};
use super::*;
use crate::job::Delivery;

fn asked() -> TemplateRequest {
    TemplateRequest {
        prompt: "a fox".to_owned(),
        ..TemplateRequest::default()
    }
}

fn spec(approximates: &[Approximate]) -> EngineSpec {
    EngineSpec {
        name: "a".to_owned(),
        url: "http://a".parse().unwrap(),
        key: None,
        group: 1,
        capacity: 1,
        timeout: std::time::Duration::from_secs(1),
        queue_timeout: None,
        templates: None,
        is_from_afar: false,
        approximates: approximates.to_vec(),
        sends_unknown_again: false,
        cost: None,
        kind: EngineKind::Gradio,
    }
}

fn told_of(terms: &Terms, approximates: &[Approximate], asked: TemplateRequest) -> Option<String> {
    let request = JobRequest {
        work: Work::Template(asked),
        images: Vec::new(),
        delivery: Delivery::default(),
        org_api_key: None,
        extra_data: Map::new(),
        warnings: Vec::new(),
    };
    terms.cannot(&spec(approximates), &request, &Templates::embedded().unwrap())
}

fn told(terms: &Terms, asked: TemplateRequest) -> String {
    told_of(terms, &[], asked).unwrap_or_default()
}

#[test]
fn what_an_images_api_cannot_express_is_told() {
    let terms = |sends: &[Extra]| images::terms(&ImagesApi::of_text(sends));
    assert_eq!(told(&terms(&[]), asked()), "");
    let seeded = TemplateRequest {
        seed: Some(7),
        ..asked()
    };
    assert_eq!(told(&terms(&[]), seeded.clone()), "it does not take `seed`");
    assert_eq!(told(&terms(&[Extra::Seed]), seeded), "");
    let large = TemplateRequest {
        width: Some(2048),
        ..asked()
    };
    assert!(told(&terms(&[]), large).contains("256 to 1536 pixels a side, not 2048"));
    for name in ["qwen-image-layered-text", "z-image-turbo"] {
        let other = TemplateRequest {
            template: Some(name.to_owned()),
            ..asked()
        };
        assert!(told(&terms(&[]), other).contains(name));
    }
}

#[test]
fn what_a_space_and_kie_cannot_express_is_told() {
    let of = |change: fn(&mut TemplateRequest)| {
        let mut asked = asked();
        change(&mut asked);
        asked
    };
    let (space, kie) = (gradio::TERMS, kie::terms(false, false));
    for (change, by_space, by_kie) in [
        ((|_| {}) as fn(&mut TemplateRequest), "", ""),
        (|asked| asked.aspect_ratio = Some("16:9".to_owned()), "", ""),
        (
            |asked| asked.aspect_ratio = Some("3:2".to_owned()),
            "",
            "of 1:1, 3:4, 9:16, 4:3, 16:9 alone",
        ),
        (
            |asked| (asked.width, asked.height) = (Some(1328), Some(1328)),
            "",
            "none of a width or a height in pixels",
        ),
        (
            |asked| (asked.width, asked.height) = (Some(512), Some(512)),
            "3:2, 2:3 alone",
            "1:1, 3:4",
        ),
        (|asked| asked.width = Some(1328), "2:3 alone", "1:1, 3:4"),
        (
            |asked| asked.seed = Some(1 << 31),
            "`seed` from 0 to 2147483647",
            "`seed` from 0 to 2147483647",
        ),
        (|asked| asked.steps = Some(1), "", "`steps` from 2 to 250"),
        (|asked| asked.steps = Some(101), "`steps` from 1 to 100", ""),
        (
            |asked| asked.cfg = Some(20.5),
            "`cfg` from 0 to 20",
            "`cfg` from 0 to 20",
        ),
        (
            |asked| asked.batch_size = Some(2),
            "does not take `batch_size`",
            "does not take `batch_size`",
        ),
        (
            |asked| asked.negative_prompt = Some("a dog".to_owned()),
            "does not take `negative_prompt`",
            "",
        ),
        (
            |asked| asked.negative_prompt = Some("x".repeat(501)),
            "`negative_prompt`",
            "`negative_prompt` of 500 characters",
        ),
        (
            |asked| asked.prompt = "x".repeat(5_001),
            "",
            "prompts of 5000 characters",
        ),
        (
            |asked| asked.mask = Some("m.png".to_owned()),
            "does not take `mask`",
            "does not take `mask`",
        ),
    ] {
        for (terms, expected) in [(&space, by_space), (&kie, by_kie)] {
            let told = told(terms, of(change));
            assert_eq!(told.is_empty(), expected.is_empty(), "{told:?} is not {expected:?}");
            assert!(told.contains(expected), "{told} is not {expected}");
        }
    }
}

#[test]
fn what_may_be_done_otherwise_is_told() {
    use Approximate::{Cfg, NegativePrompt, Seed, Size, Steps};
    let asked = TemplateRequest {
        negative_prompt: Some("a dog".to_owned()),
        seed: Some((1 << 31) + 5),
        steps: Some(1_000),
        cfg: Some(30.0),
        width: Some(1500),
        height: Some(1000),
        ..asked()
    };
    let all = [Size, Seed, Steps, Cfg, NegativePrompt];
    assert_eq!(told_of(&gradio::TERMS, &all, asked.clone()), None);
    for left_out in all {
        let rest: Vec<_> = all.into_iter().filter(|one| *one != left_out).collect();
        assert!(told_of(&gradio::TERMS, &rest, asked.clone()).is_some(), "{left_out:?}");
    }
    let prompt = Prompt {
        asked,
        size: Some((1500, 1000)),
        is_seed_ours: false,
    };
    let fitted = gradio::TERMS.fit("a", &prompt);
    assert_eq!(
        (fitted.seed, fitted.steps, fitted.cfg),
        (Some(5), Some(100), Some(20.0))
    );
    assert_eq!(
        (fitted.size, fitted.negative_prompt),
        (Some(super::Size::Named("3:2")), None)
    );
    assert_eq!(fitted.warnings.len(), 5, "{:#?}", fitted.warnings);
    assert!(
        fitted
            .warnings
            .iter()
            .all(|warning| warning.starts_with("engine `a` does not take the `"))
    );
    // Without sizes of its own: the next smaller one that fits, as near to the same shape as its steps allow.
    let fitted = images::terms(&ImagesApi::of_text(&[])).fit(
        "a",
        &Prompt {
            asked: TemplateRequest::default(),
            size: Some((2048, 1024)),
            is_seed_ours: true,
        },
    );
    assert_eq!(fitted.size, Some(super::Size::Pixels(1536, 768)));
    assert_eq!(within((100, 200), 256, 1536), (256, 512));
    assert_eq!(within((100, 4000), 256, 1536), (256, 1536));
    assert_eq!(within((512, 512), 256, 1536), (512, 512));
}
