//! Fields that are not known here, and those of OpenAI's that the models cannot follow: told of, and refused where a picture or
//! a size is lost with them.

use serde_json::Value;

use crate::dialect::fields::Fields;
use crate::echo::cut;

/// Fields of OpenAI's that say nothing about the picture.
const IDLE: &[&str] = &["user", "safety_identifier", "moderation"];

/// Fields of OpenAI's that the Qwen models cannot follow.
const WITHOUT_EFFECT: &[&str] = &["style", "input_fidelity", "complexity"];

/// What other APIs call a size.
const SIZES: &[&str] = &[
    "width",
    "height",
    "aspect_ratio",
    "ratio",
    "image_size",
    "resolution",
    "megapixels",
];

/// What the names of fields hold that other APIs take pictures by.
const PICTURES: &[&str] = &["image", "img", "mask", "markup", "photo", "picture"];

/// The most fields that are complained of.
const MOST: usize = 5;

/// What is to be told of the fields that nobody has read. Complains of those that hold a picture, or, where there is no `size`,
/// another's word for it.
pub(super) fn told(fields: &mut Fields<'_>, has_size: bool) -> Vec<String> {
    let strange = |name: &&str| fields.get(name).is_some();
    let mut warnings: Vec<String> = WITHOUT_EFFECT
        .iter()
        .copied()
        .filter(strange)
        .map(|name| format!("`{name}` has no effect: the models have no such setting"))
        .collect();
    fields.also_knows(IDLE);
    fields.also_knows(WITHOUT_EFFECT);
    let picture = |name: &&str| fields.get(name).is_some_and(|value| is_picture(name, value));
    let pictures: Vec<String> = fields.strange().filter(picture).take(MOST).map(str::to_owned).collect();
    let size = |name: &&str| !has_size && SIZES.contains(name) && fields.says_something(name);
    let sizes: Vec<String> = fields.strange().filter(size).map(str::to_owned).collect();
    for name in &pictures {
        refuse_picture(fields, name);
    }
    for name in &sizes {
        fields.problem(name, "is no field of this API; send `size`, such as `1024x1024`");
    }
    warnings.extend(fields.unknown());
    warnings
}

/// Complains of the files in a form that no field takes.
pub(super) fn refuse_files(fields: &mut Fields<'_>, names: &[String]) {
    for name in names.iter().take(MOST) {
        refuse_picture(fields, name);
    }
}

fn refuse_picture(fields: &mut Fields<'_>, name: &str) {
    let message = "holds a picture that no field of this API takes; send pictures to edit as `image`, and what says where as `mask`";
    fields.problem(&cut(name), message);
}

/// Whether a field that nobody knows holds a picture, or says where one is.
fn is_picture(name: &str, value: &Value) -> bool {
    let is_called_so = || {
        let name = name.to_ascii_lowercase();
        name == "url" || PICTURES.iter().any(|part| name.contains(part))
    };
    match value {
        Value::String(text) => {
            let text = text.trim_start();
            let begins = |begin: &str| {
                text.get(..begin.len())
                    .is_some_and(|head| head.eq_ignore_ascii_case(begin))
            };
            let is_place = || {
                ["http://", "https://", "s3://"].into_iter().any(begins)
                    // No setting is so long, and base64 has no spaces.
                    || (text.len() > 200 && !text.contains(char::is_whitespace))
            };
            begins("data:image/") || (is_place() && is_called_so())
        }
        Value::Array(items) => items.iter().any(|item| is_picture(name, item)),
        Value::Object(object) => object.values().any(|item| is_picture(name, item)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::super::fields::all;
    use super::*;

    fn read(object: Value, has_size: bool) -> (Vec<String>, Option<String>) {
        let Value::Object(mut object): Value = object else {
            panic!("an object")
        };
        let mut fields = Fields::new(&mut object, &all());
        let warnings = told(&mut fields, has_size);
        (warnings, fields.finish().err().map(|error| error.full_text()))
    }

    #[test]
    fn what_is_not_known_is_told_and_what_says_nothing_is_not() {
        let (warnings, error) = read(
            json!({"user": "u", "moderation": "low", "style": "vivid", "qualty": "high", "nothing": null, "image_format": "png"}),
            false,
        );
        assert_eq!(error, None);
        assert_eq!(
            warnings,
            [
                "`style` has no effect: the models have no such setting",
                "the field `qualty` is not known and was ignored; did you mean `quality`?",
                "the field `image_format` is not known and was ignored; did you mean `image`?",
            ]
        );
    }

    #[test]
    fn a_picture_or_a_size_that_would_be_lost_is_refused() {
        let uri = "data:image/png;base64,AAAA";
        for lost in [
            json!({"markup": uri}),
            json!({"reference": [uri]}),
            json!({"anything": {"a": {"b": uri}}}),
            json!({"image_url": "https://example.com/a.png"}),
            json!({"url": "https://example.com/a.png"}),
            json!({"init_image": "A".repeat(4_000)}),
            json!({"mask_url": "HTTPS://example.com/a.png"}),
            json!({"width": 64}),
            json!({"aspect_ratio": "1:1"}),
        ] {
            let name = lost
                .as_object()
                .and_then(|object| object.keys().next().cloned())
                .unwrap();
            let (_, error) = read(lost, false);
            assert!(
                error.is_some_and(|error| error.contains(&format!("{name}: "))),
                "{name}"
            );
        }
        for nothing in [json!(""), json!(" "), json!([]), json!({}), json!(false), json!(null)] {
            assert_eq!(
                read(json!({"width": nothing, "mask_url": nothing}), false).1,
                None,
                "{nothing}"
            );
        }
        // Beside a size it is no more than a field that is not known.
        assert_eq!(read(json!({"width": 64}), true).1, None);
        assert_eq!(read(json!({"referer": "https://example.com/a.png"}), false).1, None);
    }

    #[test]
    fn no_complaint_grows_with_the_request() {
        let many: Map<String, Value> = (0..100_000)
            .map(|n| (format!("image_{n}"), json!("data:image/png;base64,A")))
            .collect();
        let (warnings, error) = read(Value::Object(many), false);
        assert!(error.is_some_and(|error| error.len() < 4_000));
        assert!(warnings.len() < 30);
    }
}
