//! Masks: pictures whose transparent parts say where another picture is to be changed.

use super::image_header::ImageHeader;
use super::images::{ImageContent, InputImage};
use crate::error::JobError;

/// Where the type of its colours stands in a PNG (PNG 3rd edition, section 11.2.1).
const COLOUR_TYPE: usize = 25;

/// Looks at a mask and the image that it belongs to, as far as both are here: a PNG with transparency, of the same size.
pub fn check_mask(mask: &InputImage, image: &InputImage) -> Result<(), JobError> {
    let ImageContent::Here(content) = &mask.content else {
        return Ok(());
    };
    let invalid = |why: String| JobError::invalid(format!("the mask {why}")).at(mask.name.as_str());
    let header = |content| ImageHeader::read(content).ok();
    let Some(size) = header(content).map(|header| (header.media_type, header.width, header.height)) else {
        return Ok(());
    };
    let (media_type, width, height) = size;
    if media_type != "image/png" || !has_transparency(content) {
        return Err(invalid("has no transparency".to_owned())
            .hint("Send a PNG with an alpha channel; what is transparent in it is changed in the picture."));
    }
    if let ImageContent::Here(content) = &image.content
        && let Some(image) = header(content)
        && (image.width, image.height) != (width, height)
    {
        return Err(invalid(format!(
            "has {width} x {height} pixels, and its image has {} x {}; they must have the same size",
            image.width, image.height
        )));
    }
    Ok(())
}

/// Whether a PNG has an alpha channel, or colours that are transparent.
fn has_transparency(png: &[u8]) -> bool {
    let with_alpha = png.get(COLOUR_TYPE).is_some_and(|colour| matches!(colour, 4 | 6));
    // The chunk stands before the picture's data; a search that finds its name elsewhere takes a mask that does nothing.
    with_alpha
        || png
            .windows(4)
            .take_while(|name| *name != b"IDAT")
            .any(|name| name == b"tRNS")
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, ImageFormat};

    use super::*;
    use crate::job::ImageName;

    fn png(image: &DynamicImage, name: &str) -> InputImage {
        let mut content = std::io::Cursor::new(Vec::new());
        image.write_to(&mut content, ImageFormat::Png).unwrap();
        InputImage::from_bytes(ImageName::parse(name).unwrap(), content.into_inner().into()).unwrap()
    }

    #[test]
    fn a_mask_has_transparency_and_the_size_of_its_image() {
        let image = png(&DynamicImage::new_rgb8(8, 4), "image_1");
        let told =
            |mask: DynamicImage| check_mask(&png(&mask, "mask"), &image).map_err(|error| (error.field, error.message));
        assert_eq!(told(DynamicImage::new_rgba8(8, 4)), Ok(()));
        assert_eq!(told(DynamicImage::new_luma_a8(8, 4)), Ok(()));
        let (field, message) = told(DynamicImage::new_rgb8(8, 4)).unwrap_err();
        assert_eq!(
            (field.as_deref(), message.as_str()),
            (Some("mask"), "the mask has no transparency")
        );
        let (_, message) = told(DynamicImage::new_rgba8(4, 8)).unwrap_err();
        assert!(
            message.contains("has 4 x 8 pixels, and its image has 8 x 4"),
            "{message}"
        );
    }

    #[test]
    fn what_is_not_here_yet_is_looked_at_later() {
        let away =
            |name: &str| InputImage::from_text(ImageName::parse(name).unwrap(), "https://example.com/a.png").unwrap();
        let here = png(&DynamicImage::new_rgba8(8, 4), "mask");
        assert!(check_mask(&away("mask"), &here).is_ok());
        assert!(check_mask(&here, &away("image_1")).is_ok());
    }
}
