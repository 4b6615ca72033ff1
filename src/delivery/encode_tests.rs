//! Each way from one format to another, and the images that stay as they are.

use image::{ImageBuffer, Rgb, Rgba};

use super::*;

const FORMATS: [ImageFormat; 3] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Webp];

/// A picture with detail, so that its quality matters.
fn picture() -> DynamicImage {
    let pixels = ImageBuffer::from_fn(96, 64, |x, y| {
        let noise = x.wrapping_mul(2_654_435_761).rotate_left(y) ^ y.wrapping_mul(40_503);
        let [red, green, blue, _] = noise.to_le_bytes();
        Rgb([red, green, blue])
    });
    DynamicImage::ImageRgb8(pixels)
}

fn png(image: DynamicImage) -> Vec<u8> {
    Picture(image).encode(ImageFormat::Png, 0).unwrap()
}

fn coding(content: &[u8]) -> Coding {
    image::guess_format(content).unwrap()
}

#[test]
fn each_format_becomes_each_other_in_the_same_size() {
    for from in FORMATS {
        let source = Picture(picture()).encode(from, 90).unwrap();
        for to in FORMATS {
            let file = Picture::decode(&source).unwrap().encode(to, 90).unwrap();
            let expected = match to {
                ImageFormat::Png => Coding::Png,
                ImageFormat::Jpeg => Coding::Jpeg,
                ImageFormat::Webp => Coding::WebP,
            };
            assert_eq!(coding(&file), expected, "{from:?} to {to:?}");
            assert_eq!(Picture::decode(&file).unwrap().size(), (96, 64), "{from:?} to {to:?}");
        }
    }
}

#[test]
fn less_quality_is_less_bytes() {
    let picture = Picture(picture());
    for format in [ImageFormat::Jpeg, ImageFormat::Webp] {
        let sizes = [95, 80, 60, 40, 10].map(|quality| picture.encode(format, quality).unwrap().len());
        assert!(sizes.is_sorted_by(|more, less| more > less), "{format:?}: {sizes:?}");
    }
}

#[test]
fn transparency_is_kept_in_webp_and_white_in_jpeg() {
    let pixels = ImageBuffer::from_pixel(32, 32, Rgba([200_u8, 0, 0, 0]));
    let source = png(DynamicImage::ImageRgba8(pixels));
    let picture = Picture::decode(&source).unwrap();
    let webp = Picture::decode(&picture.encode(ImageFormat::Webp, 90).unwrap()).unwrap();
    assert_eq!(webp.0.to_rgba8().get_pixel(5, 5).0[3], 0);
    let jpeg = Picture::decode(&picture.encode(ImageFormat::Jpeg, 90).unwrap()).unwrap();
    let white = jpeg.0.to_rgb8().get_pixel(5, 5).0;
    assert!(white.iter().all(|channel| *channel > 250), "{white:?}");
}

#[test]
fn half_transparent_is_half_white() {
    assert_eq!([0, 128, 255].map(|alpha| on_white(0, alpha)), [255, 127, 0]);
    assert_eq!([0, 128, 255].map(|alpha| on_white(255, alpha)), [255, 255, 255]);
}

#[test]
fn sixteen_bits_become_eight_where_the_format_has_no_more() {
    let pixels = ImageBuffer::from_pixel(16, 16, Rgb([0xffff_u16, 0x8080, 0]));
    let source = png(DynamicImage::ImageRgb16(pixels));
    let picture = Picture::decode(&source).unwrap();
    assert_eq!(picture.0.color(), image::ColorType::Rgb16);
    for format in [ImageFormat::Jpeg, ImageFormat::Webp] {
        let file = picture.encode(format, 100).unwrap();
        let [red, green, blue] = Picture::decode(&file).unwrap().0.to_rgb8().get_pixel(8, 8).0;
        assert!(
            red > 245 && green.abs_diff(128) < 8 && blue < 10,
            "{format:?}: {red} {green} {blue}"
        );
    }
}

#[test]
fn grey_images_are_encoded_too() {
    for image in [picture().grayscale(), DynamicImage::new_luma_a8(8, 8)] {
        let picture = Picture::decode(&png(image)).unwrap();
        for format in FORMATS {
            picture.encode(format, 80).unwrap();
        }
    }
}

/// A PNG of two frames, as far as a decoder looks before it decodes.
fn animated_png() -> Vec<u8> {
    let still = png(picture());
    // After the signature (8 bytes) and IHDR (25 bytes): acTL with its length, two frames, no repeats, and its CRC.
    let mut chunk = vec![0, 0, 0, 8];
    chunk.extend_from_slice(b"acTL\0\0\0\x02\0\0\0\0");
    let mut crc = flate2::Crc::new();
    crc.update(&chunk[4..]);
    chunk.extend_from_slice(&crc.sum().to_be_bytes());
    [&still[..33], &chunk, &still[33..]].concat()
}

#[test]
fn animated_images_stay_as_they_are() {
    let frame = vec![128_u8; 16 * 16 * 3];
    let mut config = webp::WebPConfig::new().unwrap();
    config.lossless = 1;
    let mut encoder = webp::AnimEncoder::new(16, 16, &config);
    encoder.add_frame(webp::AnimFrame::from_rgb(&frame, 16, 16, 0));
    let other = vec![20_u8; 16 * 16 * 3];
    encoder.add_frame(webp::AnimFrame::from_rgb(&other, 16, 16, 100));
    let webp = encoder.encode().to_vec();
    for content in [animated_png(), webp] {
        let decoded = Picture::decode(&content);
        assert!(matches!(decoded, Err(EncodeError::Animated)), "{decoded:?}");
    }
    let gif = Picture::decode(b"GIF89a\x01\0\x01\0\0\0\0;");
    assert!(matches!(gif, Err(EncodeError::Unsupported)), "{gif:?}");
}

#[test]
fn rubbish_stays_as_it_is() {
    for content in [b"".as_slice(), b"rubbish", b"<svg/>"] {
        assert!(matches!(Picture::decode(content), Err(EncodeError::Unsupported)));
    }
    let whole = png(picture());
    let cut = Picture::decode(&whole[..whole.len() / 2]);
    assert!(matches!(cut, Err(EncodeError::Undecodable(_))), "{cut:?}");
}

#[test]
fn images_that_are_too_large_are_not_decoded() {
    let mut huge = png(picture());
    // Width and height in IHDR, and its CRC.
    huge[16..20].copy_from_slice(&40_000_u32.to_be_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(&huge[12..29]);
    huge[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let decoded = Picture::decode(&huge);
    assert!(
        matches!(decoded, Err(EncodeError::TooManyPixels(40_000, _))),
        "{decoded:?}"
    );
}
