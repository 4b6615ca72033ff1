//! `control` of a request: a picture whose edges, depth or poses another is made after.

use super::fields::{CONTROL, CONTROL_FIELDS, CONTROL_IMAGE, CONTROL_STRENGTH, CONTROL_TYPE, IMAGES};
use super::input::said;
use crate::dialect::fields::Fields;
use crate::echo;
use crate::job::{ImageName, InputImage};
use crate::workflow::{Control, ControlType};

/// Reads it, and the picture that it brings, which is named as the field is.
pub(super) fn read(
    fields: &mut Fields<'_>,
    images: &[InputImage],
    told: &mut Vec<String>,
) -> Option<(Control, Option<InputImage>)> {
    let mut object = fields.read(&CONTROL).filter(|object| !object.is_empty())?;
    let mut inner = Fields::within("control.", &mut object, CONTROL_FIELDS);
    let kind = said(&mut inner, &CONTROL_TYPE).and_then(|name| {
        let kind = ControlType::parse(&name);
        if kind.is_none() {
            let known: Vec<_> = ControlType::names().collect();
            inner.problem(
                CONTROL_TYPE.name,
                format!("`{}` is none of {}", echo::cut(&name), known.join(", ")),
            );
        }
        kind
    });
    let strength = inner.read(&CONTROL_STRENGTH);
    let text = said(&mut inner, &CONTROL_IMAGE);
    let is_taken = images.iter().any(|image| image.name.as_str() == CONTROL.name);
    let mut picture = None;
    match text {
        None if images.is_empty() => inner.problem(
            CONTROL_IMAGE.name,
            "is missing: send the control picture here, or as the first of `images`",
        ),
        None => {}
        Some(_) if is_taken => fields.problem(
            IMAGES.name,
            format!("has an image of the name `{}`; give it another name", CONTROL.name),
        ),
        Some(text) => {
            let decoded = ImageName::parse(CONTROL.name)
                .and_then(|name| InputImage::from_text(name, &text).map_err(|error| error.full_text()));
            match decoded {
                Ok(image) => picture = Some(image),
                Err(message) => inner.problem(CONTROL_IMAGE.name, message),
            }
        }
    }
    told.extend(inner.unknown());
    fields.adopt(inner);
    let control = Control {
        image: picture.as_ref().map(|picture| picture.name.to_string()),
        kind,
        strength,
    };
    Some((control, picture))
}
