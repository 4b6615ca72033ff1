//! Pictures that are too small for ComfyUI's loader, made into ones that it takes.
//!
//! Where a picture's pixels are of any kind but a few (`nodes.py`, `LoadImage`, which is `FFmpeg`'s), the loader pads it to
//! whole steps of 32 pixels, with a filter that fails (`[fillborders]`) where more than half of a step is to be filled.

use std::io::Cursor;

use bytes::Bytes;
use image::codecs::gif::GifDecoder;
use image::{AnimationDecoder as _, DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, ImageResult, Limits};

use super::image_header::{BadImage, ImageHeader};
use super::image_parts::{Bmp, Tiff, segments};

/// To how many pixels the loader pads.
const STEP: usize = 32;
/// The most pixels that are encoded again here, all frames together.
const MOST_PIXELS: usize = 4_000_000;
/// The most memory that decoding may take.
const MOST_MEMORY: u64 = 64 * 1024 * 1024;

/// The image, or, where ComfyUI's loader would fail at its smallness, the same pixels as a PNG that it takes.
pub(super) fn loadable(content: Bytes, header: &ImageHeader) -> Result<Bytes, BadImage> {
    let ImageHeader { width, height, .. } = *header;
    let is_padded = width % STEP != 0;
    if !is_padded || width.min(height) >= STEP / 2 || is_taken_as_it_is(&content, header) {
        return Ok(content);
    }
    let Some(format) = ImageFormat::from_mime_type(header.media_type).filter(ImageFormat::reading_enabled) else {
        return Err(refused(header));
    };
    let is_animated = header.frames > 1;
    if width * height * header.frames > MOST_PIXELS || (is_animated && format != ImageFormat::Gif) {
        return Err(refused(header));
    }
    let made = if is_animated {
        animation(&content)
    } else {
        still(&content, format)
    };
    made.map(Bytes::from)
        .map_err(|error| BadImage::Wrong(format!("is damaged ({error}); send the whole file")))
}

fn refused(header: &ImageHeader) -> BadImage {
    BadImage::Wrong(format!(
        "has {}; as {} ComfyUI loads it from {} pixels a side, so send it as a PNG with 8 bits a colour, or larger",
        header.pixels(),
        header.media_type,
        STEP / 2
    ))
}

/// Whether its pixels are of the kinds that the loader does not pad.
fn is_taken_as_it_is(content: &[u8], header: &ImageHeader) -> bool {
    match header.media_type {
        // The bits of a sample, and the type of the colours: RGB, with alpha too, or a palette.
        "image/png" => matches!(content.get(24..26), Some([8, 2 | 6] | [_, 3])),
        // Three components of 8 bits, the colours in full or in half of the resolution.
        "image/jpeg" => segments(content).any(|(marker, part)| {
            matches!(marker, 0xc0..=0xc2)
                && matches!(
                    content.get(part),
                    Some([8, _, _, _, _, 3, _, 0x11 | 0x21 | 0x22, _, _, 0x11, _, _, 0x11, ..])
                )
        }),
        // Another loader takes over.
        "image/webp" => header.frames > 1 || content.get(20).is_some_and(|flags| is_animated(content, *flags)),
        // A palette.
        "image/bmp" => Bmp::read(content).is_some_and(|bmp| bmp.bits <= 8),
        "image/tiff" => Tiff::read(content).is_some_and(|tiff| {
            // Bits of a sample, and RGB or a palette.
            let eights = tiff.numbers(258).is_some_and(|mut bits| bits.all(|bits| bits == 8));
            eights && matches!(tiff.numbers(262).and_then(|mut kind| kind.next()), Some(2 | 3))
        }),
        "image/qoi" => true,
        _ => false,
    }
}

/// Whether a WebP is marked as animated (RFC 9649, section 2.7.1).
fn is_animated(content: &[u8], flags: u8) -> bool {
    content.get(12..16) == Some(b"VP8X") && flags & 2 != 0
}

fn still(content: &[u8], format: ImageFormat) -> ImageResult<Vec<u8>> {
    let mut reader = ImageReader::with_format(Cursor::new(content), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_MEMORY);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    let picture = if picture.color().has_alpha() {
        DynamicImage::from(picture.to_rgba8())
    } else {
        DynamicImage::from(picture.to_rgb8())
    };
    let mut made = Cursor::new(Vec::new());
    picture.write_to(&mut made, ImageFormat::Png)?;
    Ok(made.into_inner())
}

/// The frames of a GIF as those of a PNG.
fn animation(content: &[u8]) -> ImageResult<Vec<u8>> {
    let frames = GifDecoder::new(Cursor::new(content))?.into_frames().collect_frames()?;
    let (width, height) = frames.first().map_or((0, 0), |frame| frame.buffer().dimensions());
    let mut made = Vec::new();
    let failed = |error: png::EncodingError| std::io::Error::other(error);
    let mut encoder = png::Encoder::new(&mut made, width, height);
    encoder.set_color(png::ColorType::Rgba);
    let count = u32::try_from(frames.len()).unwrap_or(u32::MAX);
    encoder.set_animated(count, 0).map_err(failed)?;
    let mut writer = encoder.write_header().map_err(failed)?;
    for frame in frames {
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let delay = u16::try_from(numerator / denominator.max(1)).unwrap_or(u16::MAX);
        writer.set_frame_delay(delay, 1000).map_err(failed)?;
        writer.write_image_data(frame.buffer()).map_err(failed)?;
    }
    writer.finish().map_err(failed)?;
    Ok(made)
}

#[cfg(test)]
#[path = "image_tiny_tests.rs"]
mod tests;
