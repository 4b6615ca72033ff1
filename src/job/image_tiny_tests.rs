//! Small pictures of every kind, before and after.

use image::{GrayImage, ImageEncoder as _, Rgb, RgbImage, Rgba, RgbaImage};

use super::*;

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Bytes {
    let mut content = Cursor::new(Vec::new());
    picture.write_to(&mut content, format).unwrap();
    content.into_inner().into()
}

fn made(content: &Bytes) -> Result<Bytes, BadImage> {
    loadable(content.clone(), &ImageHeader::read(content).unwrap())
}

/// A picture of one colour.
fn plain(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_pixel(width, height, Rgb([200, 40, 90])).into()
}

#[test]
fn what_the_loader_pads_is_made_into_a_png_of_the_same_pixels() {
    for (width, height) in [(1, 1), (8, 8), (15, 40), (40, 15), (33, 9)] {
        for (picture, format) in [
            (plain(width, height), ImageFormat::Bmp),
            (plain(width, height), ImageFormat::WebP),
            (plain(width, height).to_luma8().into(), ImageFormat::Png),
            (plain(width, height).to_luma8().into(), ImageFormat::Jpeg),
            (plain(width, height).to_luma_alpha8().into(), ImageFormat::Png),
            (plain(width, height).to_rgb16().into(), ImageFormat::Png),
        ] {
            let what = format!("{format:?} {:?} {width} x {height}", picture.color());
            let png = made(&encoded(&picture, format)).unwrap();
            let header = ImageHeader::read(&png).unwrap();
            assert_eq!(header.media_type, "image/png", "{what}");
            assert!(is_taken_as_it_is(&png, &header), "{what}");
            let seen = image::load_from_memory(&png).unwrap();
            assert_eq!(seen.to_rgba8(), picture.to_rgba8(), "{what}");
        }
    }
}

#[test]
fn bare_pixels_are_made_into_a_png_too() {
    for (head, pixels) in [("P5\n8 9\n255\n", 72), ("P6\n8 9\n65535\n", 432)] {
        let mut content = head.as_bytes().to_vec();
        content.resize(head.len() + pixels, 7);
        let png = made(&content.into()).unwrap();
        let header = ImageHeader::read(&png).unwrap();
        assert_eq!((header.media_type, header.width, header.height), ("image/png", 8, 9));
    }
}

#[test]
fn what_the_loader_takes_stays_as_it_is() {
    for (picture, format) in [
        (plain(8, 8), ImageFormat::Png),
        (plain(8, 8).to_rgba8().into(), ImageFormat::Png),
        (plain(8, 8), ImageFormat::Jpeg),
        (plain(16, 17), ImageFormat::Bmp),
        (plain(32, 3), ImageFormat::Bmp),
        (plain(64, 1), ImageFormat::WebP),
        (plain(99, 16).to_luma8().into(), ImageFormat::Png),
    ] {
        let content = encoded(&picture, format);
        assert_eq!(made(&content).unwrap(), content, "{format:?} {}", picture.width());
    }
}

#[test]
fn a_small_animation_keeps_its_frames() {
    let mut content = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut content);
    let colours = [[250, 0, 0, 255], [0, 250, 0, 255], [0, 0, 250, 255]];
    for colour in colours {
        let frame = RgbaImage::from_pixel(9, 7, Rgba(colour));
        encoder.encode_frame(image::Frame::new(frame)).unwrap();
    }
    drop(encoder);
    let png = made(&content.into()).unwrap();
    let header = ImageHeader::read(&png).unwrap();
    assert_eq!((header.media_type, header.frames), ("image/png", 3));
    let decoder = image::codecs::png::PngDecoder::new(Cursor::new(&png)).unwrap();
    let frames = decoder.apng().unwrap().into_frames().collect_frames().unwrap();
    let seen: Vec<_> = frames.iter().map(|frame| frame.buffer().get_pixel(4, 4).0).collect();
    assert_eq!(seen, colours);
}

#[test]
fn a_camera_s_note_is_not_lost() {
    let mut jpeg = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new(&mut jpeg);
    // To be turned by 90 degrees.
    encoder
        .set_exif_metadata(b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec())
        .unwrap();
    let picture = GrayImage::from_pixel(12, 5, image::Luma([90]));
    encoder
        .write_image(picture.as_raw(), 12, 5, image::ExtendedColorType::L8)
        .unwrap();
    let header = ImageHeader::read(&made(&jpeg.into()).unwrap()).unwrap();
    assert_eq!((header.width, header.height), (5, 12));
}

#[test]
fn what_cannot_be_made_anew_is_refused_with_what_to_do() {
    let header = |media_type, frames| ImageHeader {
        media_type,
        width: 8,
        height: 9,
        frames,
    };
    let told = |header| loadable(Bytes::from_static(b"?"), &header).unwrap_err().to_string();
    assert_eq!(
        told(header("image/avif", 1)),
        "has 8 x 9 pixels; as image/avif ComfyUI loads it from 16 pixels a side, so send it as a PNG with 8 bits a colour, or larger"
    );
    assert!(told(header("image/gif", 1_000_000)).contains("in each of its 1000000 frames"));
    assert!(told(header("image/bmp", 1)).contains("is damaged"));
}
