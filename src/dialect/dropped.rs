//! Fields that are not known, and that say what the picture is made from or how large it is: to leave one out would be to
//! make another picture than was asked for.

use serde_json::Value;

use super::fields::Fields;
use crate::echo;

/// The words of such a field's name.
const WEIGHTY: [&str; 11] = [
    "image",
    "images",
    "img",
    "mask",
    "masks",
    "size",
    "width",
    "height",
    "ratio",
    "resolution",
    "megapixels",
];
/// Words that make another thing of such a name, as of `image_format`: how a picture is handed out, or how many.
const LIGHT: [&str; 8] = [
    "format",
    "quality",
    "count",
    "num",
    "number",
    "base",
    "compression",
    "max",
];
/// A longer text is none of those settings, but a picture itself, as in `image_base64`.
const LONGEST_SETTING: usize = 200;
/// How many of them are named.
const LISTED: usize = 16;
/// Longer names are none.
const LONGEST: usize = 100;

/// Finds fault with each field that nobody took, that is not known, and that asks for something of weight. `advice` says
/// where that belongs.
pub(super) fn refuse(fields: &mut Fields<'_>, advice: &str) {
    let strange = fields
        .strange()
        .filter(|name| fields.get(name).is_some_and(|value| is_weighty(name, value)))
        // Forms send what nobody filled in.
        .filter(|name| fields.says_something(name));
    let names: Vec<String> = strange.take(LISTED).map(echo::cut).collect();
    for name in names {
        fields.problem(
            &name,
            format!("is not known here, and the picture would be another one without it; {advice}"),
        );
    }
}

/// Whether one of the words of a name is: `image1`, `maskUrl` and `aspect_ratio`, but not `generation`, nor `image_format`.
fn is_weighty(name: &str, value: &Value) -> bool {
    if name.len() > LONGEST {
        return false;
    }
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for character in name.chars() {
        let begins = !character.is_alphabetic() || (was_lower && character.is_uppercase());
        if begins {
            words.push(String::new());
        }
        was_lower = character.is_lowercase();
        if character.is_alphabetic()
            && let Some(word) = words.last_mut()
        {
            word.extend(character.to_lowercase());
        }
    }
    let holds = |some: &[&str]| words.iter().any(|word| some.contains(&word.as_str()));
    holds(&WEIGHTY) && (!holds(&LIGHT) || holds_a_picture(value))
}

/// Whether a value is more than a setting.
fn holds_a_picture(value: &Value) -> bool {
    match value {
        Value::String(text) => text.len() > LONGEST_SETTING || text.starts_with("data:"),
        Value::Array(items) => items.iter().any(holds_a_picture),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_tells_whether_the_picture_would_be_another_one() {
        for name in [
            "image",
            "image_urls",
            "imageUrl",
            "Image1",
            "maskUrl",
            "size",
            "imageSize",
            "aspect_ratio",
            "WIDTH",
        ] {
            assert!(is_weighty(name, &json!("x")), "{name}");
        }
        for name in ["", "generation", "sizeable", "promt", "replyRef", &"size_".repeat(100)] {
            assert!(!is_weighty(name, &json!("x")), "{name}");
        }
        for name in [
            "image_format",
            "imageQuality",
            "image_count",
            "num_images",
            "image_base64",
            "image_compression",
            "maxSize",
            "max_width",
        ] {
            assert!(!is_weighty(name, &json!("x")), "{name}");
        }
        for picture in [json!("A".repeat(1_000)), json!(["data:image/png;base64,AAAA"])] {
            assert!(is_weighty("image_base64", &picture));
        }
    }

    #[test]
    fn what_was_filled_in_is_refused_and_the_list_ends() {
        let Value::Object(mut object) = json!({
            "maskUrl": "", "image_urls": [], "width": null, "image": false, "mask": {}, "image_format": "png", "seed_size": 7,
        }) else {
            panic!("an object")
        };
        let mut fields = Fields::new(&mut object, &[]);
        refuse(&mut fields, "ask elsewhere");
        let error = fields.finish().unwrap_err();
        assert_eq!(error.field.as_deref(), Some("seed_size"));
        assert!(error.full_text().contains("ask elsewhere"), "{}", error.full_text());
        let mut many = (0..1000).map(|n| (format!("image{n}"), json!(n))).collect();
        let mut fields = Fields::new(&mut many, &[]);
        refuse(&mut fields, "");
        assert!(fields.finish().unwrap_err().full_text().len() < 4000);
    }
}
