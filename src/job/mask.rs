//! Masks: pictures whose transparent parts say where another picture is to be changed.

use std::io::Cursor;

use png::{Decoder, DecodingError, Transformations};

use super::image_header::ImageHeader;
use super::images::{ImageContent, InputImage};
use crate::error::JobError;

/// Where the type of its colours stands in a PNG (PNG 3rd edition, section 11.2.1).
const COLOUR_TYPE: usize = 25;
const HINT: &str = "Send a PNG with an alpha channel, in which is transparent what is to be changed in the picture.";

/// Looks at a mask and the image that it belongs to, as far as both are here: a PNG with transparency, of the same size.
/// The size is the one that ComfyUI sees, after a camera's note has turned the picture.
pub fn check_mask(mask: &InputImage, image: &InputImage) -> Result<(), JobError> {
    let ImageContent::Here(content) = &mask.content else {
        return Ok(());
    };
    let Ok(header) = ImageHeader::read(content) else {
        return Ok(());
    };
    if header.media_type != "image/png" || !has_transparency(content) {
        return Err(refusal(mask, "has no transparency").hint(HINT));
    }
    match (mask.size(), image.size()) {
        (Some((width, height)), Some(size)) if size != (width, height) => {
            let why = format!(
                "has {width} x {height} pixels, and its image has {} x {}; they must have the same size",
                size.0, size.1
            );
            Err(refusal(mask, &why))
        }
        _ => Ok(()),
    }
}

/// Looks at the pixels of a mask that is here: with one at least that is transparent, if only in part, it changes
/// something. Takes a core for some milliseconds a megapixel where none is, and next to nothing for most other masks.
pub fn check_mask_pixels(mask: &InputImage) -> Result<(), JobError> {
    let ImageContent::Here(content) = &mask.content else {
        return Ok(());
    };
    match is_opaque(content) {
        Ok(true) => {
            let why = "has no transparent pixel, so that nothing of the picture would be changed";
            Err(refusal(mask, why).hint(HINT))
        }
        // ComfyUI says what is wrong with one that cannot be read.
        Ok(false) | Err(_) => Ok(()),
    }
}

/// Looks whether an image that is here says by its own transparency what is to be changed, where nothing else does. As
/// [`check_mask_pixels`] it takes its time.
pub fn check_own_mask(image: &InputImage) -> Result<(), JobError> {
    let ImageContent::Here(content) = &image.content else {
        return Ok(());
    };
    let is_png = ImageHeader::read(content).is_ok_and(|header| header.media_type == "image/png");
    if is_png && has_transparency(content) && !matches!(is_opaque(content), Ok(true)) {
        return Ok(());
    }
    let why = format!(
        "is missing: it marks what is to be changed, and the image `{}` has nothing transparent that would",
        image.name
    );
    Err(JobError::invalid(format!("mask: {why}"))
        .hint("Send `mask`, a PNG of the image's size in which is transparent what is to be changed, or the image itself as such a PNG.")
        .at("mask"))
}

fn refusal(mask: &InputImage, why: &str) -> JobError {
    JobError::invalid(format!("the mask {why}")).at(mask.name.as_str())
}

fn is_opaque(png: &[u8]) -> Result<bool, DecodingError> {
    let mut decoder = Decoder::new(Cursor::new(png));
    decoder.set_transformations(Transformations::normalize_to_color8() | Transformations::ALPHA);
    let mut reader = decoder.read_info()?;
    let channels = reader.output_color_type().0.samples();
    while let Some(row) = reader.next_row()? {
        // The last channel is the alpha.
        if row
            .data()
            .iter()
            .skip(channels - 1)
            .step_by(channels)
            .any(|alpha| *alpha < u8::MAX)
        {
            return Ok(false);
        }
    }
    Ok(true)
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
        let mut content = Cursor::new(Vec::new());
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
    fn one_transparent_pixel_is_enough_and_none_is_told() {
        let told = |mask: &DynamicImage| {
            check_mask_pixels(&png(mask, "mask")).map_err(|error| (error.field.unwrap_or_default(), error.message))
        };
        let no = Err((
            "mask".into(),
            "the mask has no transparent pixel, so that nothing of the picture would be changed".to_owned(),
        ));
        let mut mask = image::RgbaImage::from_pixel(300, 200, image::Rgba([9, 9, 9, 255]));
        assert_eq!(told(&mask.clone().into()), no);
        mask.put_pixel(299, 199, image::Rgba([9, 9, 9, 254]));
        let mask = DynamicImage::from(mask);
        for mask in [
            mask.to_luma_alpha8().into(),
            mask.to_luma_alpha16().into(),
            mask.to_rgba16().into(),
            mask,
        ] {
            assert_eq!(told(&mask), Ok(()), "{:?}", mask.color());
        }
        assert_eq!(told(&DynamicImage::new_rgb16(3, 2)), no);
    }

    #[test]
    fn a_transparent_colour_of_a_palette_counts_where_it_is_used() {
        for (pixel, opaque) in [(0, true), (1, false)] {
            let mut content = Vec::new();
            let mut encoder = png::Encoder::new(&mut content, 1, 1);
            encoder.set_color(png::ColorType::Indexed);
            encoder.set_palette(vec![1, 2, 3, 4, 5, 6]);
            encoder.set_trns(vec![255, 0]);
            encoder.write_header().unwrap().write_image_data(&[pixel]).unwrap();
            assert_eq!(is_opaque(&content).unwrap(), opaque, "{pixel}");
        }
        // Half a file: what can be read of it is opaque, and what is wrong with it is for ComfyUI to say.
        let whole = png(&DynamicImage::new_rgb8(64, 64), "mask");
        let ImageContent::Here(content) = whole.content else {
            panic!()
        };
        assert!(is_opaque(&content[..content.len() - 30]).is_err());
    }

    /// A JPEG with a camera's note that says how it is to be turned.
    fn photo(width: u32, height: u32, orientation: u8) -> InputImage {
        let mut jpeg = Cursor::new(Vec::new());
        let picture = DynamicImage::new_rgb8(width, height);
        picture.write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
        let jpeg = jpeg.into_inner();
        // One entry: tag 0x0112, a short, one of them.
        let mut note = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        note.extend([orientation, 0, 0, 0, 0, 0, 0]);
        let mut content = jpeg[..2].to_vec();
        content.extend([0xff, 0xe1]);
        content.extend(u16::try_from(note.len() + 2).unwrap().to_be_bytes());
        content.extend(note);
        content.extend(&jpeg[2..]);
        InputImage::from_bytes(ImageName::parse("image_1").unwrap(), content.into()).unwrap()
    }

    #[test]
    fn the_mask_of_a_photo_that_is_turned_has_the_size_that_is_seen() {
        let (flat, upright) = (DynamicImage::new_rgba8(8, 4), DynamicImage::new_rgba8(4, 8));
        for orientation in 1..=8 {
            let image = photo(8, 4, orientation);
            let (fits, other) = if orientation < 5 {
                (&flat, &upright)
            } else {
                (&upright, &flat)
            };
            assert_eq!(check_mask(&png(fits, "mask"), &image), Ok(()), "{orientation}");
            check_mask(&png(other, "mask"), &image).unwrap_err();
        }
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
