//! Headers of images that were made, and of those that were made up.

use super::*;

const PNG_END: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";

/// A PNG's header that claims the size. There is nothing behind it but the end.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut content = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    content.extend(width.to_be_bytes());
    content.extend(height.to_be_bytes());
    content.extend([8, 2, 0, 0, 0, 0, 0, 0, 0]);
    content.extend(PNG_END);
    content
}

/// The same with an animation of so many frames.
fn animated_png(width: u32, height: u32, frames: u32) -> Vec<u8> {
    let mut content = png(width, height);
    content.truncate(content.len() - PNG_END.len());
    content.extend(b"\0\0\0\x08acTL");
    content.extend(frames.to_be_bytes());
    content.extend([0; 8]);
    content.extend(PNG_END);
    content
}

/// A GIF of so many frames of one size, without pixels.
fn gif(width: u16, height: u16, frames: usize) -> Vec<u8> {
    let mut content = b"GIF89a".to_vec();
    content.extend(width.to_le_bytes());
    content.extend(height.to_le_bytes());
    // A table of two colours.
    content.extend([0x80, 0, 0, 1, 2, 3, 4, 5, 6]);
    for _ in 0..frames {
        content.extend(b"\x21\xf9\x04\0\0\0\0\0");
        content.extend([0x2c, 0, 0, 0, 0]);
        content.extend(width.to_le_bytes());
        content.extend(height.to_le_bytes());
        content.extend([0, 2, 2, 0x44, 1, 0]);
    }
    content.push(0x3b);
    content
}

/// A WebP of so many frames of one size, without pixels.
fn webp(width: u32, height: u32, frames: usize) -> Vec<u8> {
    let mut chunks = b"WEBPVP8X\x0a\0\0\0\x02\0\0\0".to_vec();
    chunks.extend(&(width - 1).to_le_bytes()[..3]);
    chunks.extend(&(height - 1).to_le_bytes()[..3]);
    for _ in 0..frames {
        chunks.extend(b"ANMF\x01\0\0\0x\0");
    }
    let mut content = b"RIFF".to_vec();
    content.extend(u32::try_from(chunks.len()).unwrap().to_le_bytes());
    content.extend(chunks);
    content
}

fn refused(content: &[u8]) -> String {
    ImageHeader::read(content).unwrap_err().to_string()
}

#[test]
fn frames_are_counted() {
    for (content, media_type, frames) in [
        (png(3, 2), "image/png", 1),
        (animated_png(3, 2, 7), "image/png", 7),
        (gif(3, 2, 1), "image/gif", 1),
        (gif(3, 2, 5), "image/gif", 5),
        (webp(3, 2, 0), "image/webp", 1),
        (webp(3, 2, 4), "image/webp", 4),
    ] {
        let header = ImageHeader::read(&content).unwrap();
        assert_eq!(
            (header.media_type, header.width, header.height, header.frames),
            (media_type, 3, 2, frames)
        );
    }
}

#[test]
fn what_would_fill_the_memory_is_refused_by_its_header() {
    ImageHeader::read(&png(10_000, 10_000)).unwrap();
    for (content, words) in [
        (
            png(30_000, 30_000),
            "has 30000 x 30000 pixels; the limit is 16384 a side",
        ),
        (png(u32::MAX, 1), "16384 a side"),
        (png(16_000, 16_000), "the limit is 100 megapixels in all"),
        (
            animated_png(1_000, 1_000, 101),
            "has 1000 x 1000 pixels in each of its 101 frames; the limit is 100 megapixels",
        ),
        (animated_png(1_000, 1_000, u32::MAX), "megapixels"),
        (gif(4_000, 4_000, 7), "its 7 frames"),
        (webp(4_000, 4_000, 7), "its 7 frames"),
        (png(0, 5), "has no pixels (0 x 5)"),
    ] {
        let refused = refused(&content);
        assert!(refused.contains(words), "{refused}");
    }
}

#[test]
fn a_file_that_breaks_off_anywhere_is_no_panic() {
    for whole in [animated_png(3, 2, 7), gif(3, 2, 3), webp(3, 2, 3)] {
        for length in 0..whole.len() {
            let _ = ImageHeader::read(&whole[..length]);
        }
    }
}

/// A box of boxes, or of bytes (ISO/IEC 14496-12).
fn boxed(name: &[u8], inner: &[u8]) -> Vec<u8> {
    let mut content = u32::try_from(inner.len() + 8).unwrap().to_be_bytes().to_vec();
    content.extend(name);
    content.extend(inner);
    content
}

/// The header of an AVIF of 48 by 24 pixels, and what follows it.
fn avif(more: &[u8]) -> Vec<u8> {
    let size = boxed(b"ispe", &[0, 0, 0, 0, 0, 0, 0, 48, 0, 0, 0, 24]);
    let properties = boxed(b"iprp", &boxed(b"ipco", &size));
    let mut meta = vec![0; 4];
    meta.extend(properties);
    let mut content = boxed(b"ftyp", b"avif\0\0\0\0avifmif1");
    content.extend(boxed(b"meta", &meta));
    content.extend(more);
    content
}

#[test]
fn a_still_avif_is_taken_and_a_film_is_not() {
    let still = avif(&boxed(b"mdat", &[0; 32]));
    let header = ImageHeader::read(&still).unwrap();
    assert_eq!((header.media_type, header.width, header.height), ("image/avif", 48, 24));
    let film = avif(&boxed(b"moov", &[0; 32]));
    assert_eq!(refused(&film), "is an animated AVIF; send PNG, JPEG or WebP");
    let mut heic = still;
    heic[8..12].copy_from_slice(b"heic");
    assert!(refused(&heic).contains("is of the format HEIF"), "{}", refused(&heic));
}

#[test]
fn what_is_no_image_is_told_what_it_is() {
    for (content, words) in [
        ("", "is empty"),
        (
            "hello world",
            "is no image that ComfyUI reads (it begins with \"hello wo\")",
        ),
        ("<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG"),
        ("\u{feff}<?xml version=\"1.0\"?>\n<!-- a fox --><svg>", "is an SVG"),
        ("\n<!DOCTYPE html><html><body><svg/></body></html>", "an HTML page"),
        ("<html><head></head></html>", "an HTML page"),
        ("<fox></fox>", "begins with \"<fox></f\""),
        ("%PDF-1.7 abcdef", "begins with \"%PDF-1.7\" as application/pdf does)"),
        (
            "\x40\0\0\0\0\0\0\0{\"__metadata__\":{}}",
            "is a file of weights (safetensors), which no request brings",
        ),
        (
            "RIFF\x24\0\0\0WAVEfmt ",
            "is an audio file (audio/x-wav) and no picture",
        ),
        (
            "\0\0\0\x20ftypisom\0\0\x02\0isomiso2",
            "is a video (video/mp4) and no picture",
        ),
    ] {
        let refused = refused(content.as_bytes());
        assert!(refused.contains(words), "{content}: {refused}");
    }
}
