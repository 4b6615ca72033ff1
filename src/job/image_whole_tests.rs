//! Images cut off at each byte, and with something behind their end.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, ImageFormat, RgbImage};

use crate::job::ImageHeader;

/// A JPEG of libjpeg's: colours in half of the resolution, and a mark to begin anew after every second unit.
const SUBSAMPLED: &str = "\
    /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDACgcHiMeGSgjISMtKygwPGRBPDc3PHtYXUlkkYCZlo+AjIqgtObDoKrarYqMyP/L2u71////m8H///\
    /6/+b9//j/2wBDASstLTw1PHZBQXb4pYyl+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj/wAARCAAY\
    ACgDASIAAhEBAxEB/8QAGQABAQADAQAAAAAAAAAAAAAAAAMBAgQF/8QAHBAAAgIDAQEAAAAAAAAAAAAAAAIBAxIhMRFB/8QAGAEBAQADAAAAAA\
    AAAAAAAAAAAwQAAQX/xAAcEQADAQADAQEAAAAAAAAAAAAAAQIRAxIhEzH/3QAEAAL/2gAMAwEAAhEDEQA/APMrU661I1qXacE12dQZUaUylK1m\
    GbN9cgvWpGtTrrUKownW09Z//9CzTgmuzqAaTOb+/I4Cf54ByU6rz8OOtTEzm/vyOAHT6ot5n4kf/9HWtSzzimMdkAZymzdvrDwVqAA2vQJXh/\
    /Z";

/// Something to see, of 40 by 20 pixels.
fn picture() -> DynamicImage {
    let shade = |x: u32, y: u32| u8::try_from((x * 37 + y * 91) % 256).unwrap_or_default();
    RgbImage::from_fn(40, 20, |x, y| image::Rgb([shade(x, y), shade(y, x), 90])).into()
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut content = Cursor::new(Vec::new());
    picture().write_to(&mut content, format).unwrap();
    content.into_inner()
}

fn qoi() -> Vec<u8> {
    let mut content = b"qoif\0\0\0\x28\0\0\0\x14\x03\0".to_vec();
    content.extend([0xfe, 9, 9, 9]);
    content.extend([0xfd; 13]);
    content.extend(b"\0\0\0\0\0\0\0\x01");
    content
}

fn tga() -> Vec<u8> {
    let mut content = b"\0\0\x02\0\0\0\0\0\0\0\0\0\x28\0\x14\0\x18\0".to_vec();
    content.extend(picture().into_rgb8().into_raw());
    content
}

/// A box of boxes, or of bytes.
fn boxed(name: &[u8], inner: &[u8]) -> Vec<u8> {
    let mut content = u32::try_from(inner.len() + 8).unwrap().to_be_bytes().to_vec();
    content.extend(name);
    content.extend(inner);
    content
}

fn avif() -> Vec<u8> {
    let size = boxed(b"ispe", &[0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 20]);
    let meta = [&[0; 4][..], &boxed(b"iprp", &boxed(b"ipco", &size))].concat();
    [
        boxed(b"ftyp", b"avif\0\0\0\0avifmif1"),
        boxed(b"meta", &meta),
        boxed(b"mdat", &[9; 300]),
    ]
    .concat()
}

/// A TIFF of one strip that lies behind its directory.
fn tiff() -> Vec<u8> {
    let entry = |tag: u16, kind: u16, value: u32| {
        [
            &tag.to_le_bytes()[..],
            &kind.to_le_bytes(),
            &1_u32.to_le_bytes(),
            &value.to_le_bytes(),
        ]
        .concat()
    };
    let entries = [
        (256, 3, 40),
        (257, 3, 20),
        (258, 3, 8),
        (262, 3, 1),
        (273, 4, 86),
        (279, 4, 800),
    ];
    let mut content = b"II\x2a\0\x08\0\0\0\x06\0".to_vec();
    content.extend(
        entries
            .into_iter()
            .flat_map(|(tag, kind, value)| entry(tag, kind, value)),
    );
    content.extend([0; 4]);
    content.extend(picture().into_luma8().into_raw());
    content
}

/// How many bytes may go from the end without a loss of pixels.
fn all() -> Vec<(&'static str, Vec<u8>, usize)> {
    vec![
        ("png", encoded(ImageFormat::Png), 0),
        // The mark at the end.
        ("jpeg", encoded(ImageFormat::Jpeg), 2),
        ("webp", encoded(ImageFormat::WebP), 0),
        ("gif", encoded(ImageFormat::Gif), 1),
        ("bmp", encoded(ImageFormat::Bmp), 0),
        (
            "ppm",
            [&b"P6\n40 20\n255\n"[..], &picture().into_rgb8().into_raw()].concat(),
            0,
        ),
        ("qoi", qoi(), 0),
        ("tga", tga(), 0),
        ("avif", avif(), 0),
        ("tiff", tiff(), 0),
    ]
}

#[test]
fn an_image_that_is_all_there_is_taken_whatever_comes_after_it() {
    for (name, mut content, _) in all() {
        let header = ImageHeader::read(&content).unwrap();
        assert_eq!((header.width, header.height), (40, 20), "{name}");
        content.extend(b"Motion photos have a video here \0\0");
        assert_eq!(ImageHeader::read(&content).unwrap(), header, "{name}");
    }
}

#[test]
fn an_image_that_breaks_off_anywhere_is_refused() {
    for (name, content, spare) in all() {
        for length in 0..content.len() - spare {
            // A TGA has no mark by which it would be known without its size.
            let refused = ImageHeader::read(&content[..length]);
            assert!(refused.is_err(), "{name}: {length} of {} bytes", content.len());
        }
        let half = ImageHeader::read(&content[..content.len() / 2])
            .unwrap_err()
            .to_string();
        assert!(half.contains("cut off"), "{name}: {half}");
        ImageHeader::read(&content[..content.len() - spare]).unwrap();
    }
}

#[test]
fn the_parts_before_a_jpeg_s_data_do_not_end_it() {
    let plain = encoded(ImageFormat::Jpeg);
    // A camera's note with a small picture in it, which has an end of its own.
    let mut note = b"Exif\0\0".to_vec();
    note.extend(&plain);
    let mut content = plain[..2].to_vec();
    content.extend([0xff, 0xe1]);
    content.extend(u16::try_from(note.len() + 2).unwrap().to_be_bytes());
    content.extend(note);
    content.extend(&plain[2..]);
    ImageHeader::read(&content).unwrap();
    for length in [content.len() - 3, content.len() - 300, content.len() * 2 / 3] {
        let refused = ImageHeader::read(&content[..length]).unwrap_err().to_string();
        assert!(refused.contains("is cut off"), "{length}: {refused}");
    }
}

#[test]
fn a_jpeg_without_its_end_mark_has_all_pixels_or_not() {
    let subsampled = STANDARD.decode(SUBSAMPLED).unwrap();
    let grey = {
        let mut content = Cursor::new(Vec::new());
        let picture = DynamicImage::from(picture().into_luma8());
        picture.write_to(&mut content, ImageFormat::Jpeg).unwrap();
        content.into_inner()
    };
    for content in [subsampled, grey] {
        for spare in 0..=2 {
            ImageHeader::read(&content[..content.len() - spare]).unwrap();
        }
        for length in 0..content.len() - 2 {
            ImageHeader::read(&content[..length]).unwrap_err();
        }
    }
}

#[test]
fn samples_of_two_bytes_and_pixels_of_one_bit_have_their_length() {
    for (head, pixels) in [
        (&b"P5\n# a fox\n40 20\n255\n"[..], 800),
        (b"P6 40 20 65535\n", 4800),
        (b"P4\n40 20\n", 100),
    ] {
        let mut content = head.to_vec();
        content.resize(head.len() + pixels, 7);
        ImageHeader::read(&content).unwrap();
        let refused = ImageHeader::read(&content[..content.len() - 1])
            .unwrap_err()
            .to_string();
        assert!(refused.contains("is cut off"), "{refused}");
    }
    // Text says nothing of its length.
    ImageHeader::read(b"P3\n2 1\n255\n1 2 3 4 5 6\n").unwrap();
}
