//! What the first bytes of an image say of it. Nothing is decoded, so an image that would fill the memory once it is
//! decoded costs nothing here.

use std::fmt;

use imagesize::{Compression, ImageType};

use super::image_parts::{Bmp, boxes, bytes_at, chunks};
use super::image_whole::{Gif, is_cut_off};
use super::media::{something_else, weights};
use super::medium::Medium;

/// The longest side of an input image, in pixels: the largest size that ComfyUI's own nodes take.
const LONGEST_SIDE: usize = 16_384;
/// The most pixels of an input image, all its frames together. ComfyUI's loader makes 12 bytes of each, in the memory of
/// the machine.
const MOST_PIXELS: usize = 100_000_000;

const ADVICE: &str = "send PNG, JPEG or WebP";

/// What the first bytes of an image say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageHeader {
    /// `image/png` and so on.
    pub media_type: &'static str,
    /// Width in pixels, as the file stores it: a camera's note that the picture is to be turned is not looked at.
    pub width: usize,
    /// Height in pixels, likewise.
    pub height: usize,
    /// Pictures in the file that ComfyUI loads one by one, at least 1.
    pub frames: usize,
}

impl ImageHeader {
    /// Looks at an image. What ComfyUI's loader cannot read, or what would take too much memory, is refused; the error
    /// continues a sentence that names the image.
    pub fn read(content: &[u8]) -> Result<Self, BadImage> {
        if content.is_empty() {
            return Err(BadImage::Wrong(format!("is empty; {ADVICE}")));
        }
        if let Some(Medium { what, format, .. }) = Medium::of(content) {
            return Err(BadImage::Wrong(format!(
                "is {what} ({format}) and no picture; {ADVICE}"
            )));
        }
        let Ok(format) = imagesize::image_type(content) else {
            return Err(BadImage::Unknown(not_an_image(content)));
        };
        let Some(media_type) = media_type_of(format) else {
            let format = format!("{format:?}").to_ascii_uppercase();
            let format = format.split('(').next().unwrap_or_default();
            return Err(BadImage::Wrong(format!(
                "is of the format {format}, which ComfyUI does not load whole; {ADVICE}"
            )));
        };
        // A track, whose frames would all be loaded (ISO/IEC 14496-12, section 8.2.1).
        if media_type == "image/avif" && boxes(content).any(|(name, _)| name == *b"moov") {
            return Err(BadImage::Wrong(format!("is an animated AVIF; {ADVICE}")));
        }
        let damaged =
            |why: &dyn fmt::Display| BadImage::Wrong(format!("is damaged or cut off ({why}); send the whole file"));
        let (width, height) = if media_type == "image/bmp" {
            let bmp = Bmp::read(content).ok_or_else(|| damaged(&"its header is not whole"))?;
            (bmp.width, bmp.height)
        } else {
            let size = imagesize::blob_size(content).map_err(|error| damaged(&error))?;
            (size.width, size.height)
        };
        let header = Self {
            media_type,
            width,
            height,
            frames: frames(media_type, content),
        };
        header.check()?;
        if is_cut_off(media_type, content, width, height) {
            return Err(BadImage::Wrong(
                "is cut off: the end of the file is missing; send the whole file".to_owned(),
            ));
        }
        Ok(header)
    }

    fn check(&self) -> Result<(), BadImage> {
        let Self {
            width, height, frames, ..
        } = *self;
        if width == 0 || height == 0 {
            return Err(BadImage::Wrong(format!("has no pixels ({width} x {height})")));
        }
        if width > LONGEST_SIDE || height > LONGEST_SIDE {
            return Err(BadImage::TooLarge(format!(
                "has {width} x {height} pixels; the limit is {LONGEST_SIDE} a side"
            )));
        }
        if (width * height).saturating_mul(frames) > MOST_PIXELS {
            return Err(BadImage::TooLarge(format!(
                "has {}; the limit is {} megapixels in all",
                self.pixels(),
                MOST_PIXELS / 1_000_000
            )));
        }
        Ok(())
    }

    /// `640 x 480 pixels`, `640 x 480 pixels in each of its 3 frames`
    pub(super) fn pixels(&self) -> String {
        let Self {
            width, height, frames, ..
        } = self;
        match frames {
            1 => format!("{width} x {height} pixels"),
            _ => format!("{width} x {height} pixels in each of its {frames} frames"),
        }
    }
}

/// Why an image is refused. The text continues `the image NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadImage {
    /// It is none, or is damaged.
    Wrong(String),
    /// Nobody knows what it is.
    Unknown(String),
    /// It has too many pixels.
    TooLarge(String),
}

impl fmt::Display for BadImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(why) | Self::Unknown(why) | Self::TooLarge(why) => f.write_str(why),
        }
    }
}

/// The formats that `LoadImage` of ComfyUI 0.30 loads; each was tried. It turns a picture as a camera's note says.
fn media_type_of(format: ImageType) -> Option<&'static str> {
    match format {
        ImageType::Png => Some("image/png"),
        ImageType::Jpeg => Some("image/jpeg"),
        ImageType::Webp => Some("image/webp"),
        ImageType::Gif => Some("image/gif"),
        ImageType::Bmp => Some("image/bmp"),
        ImageType::Tiff => Some("image/tiff"),
        ImageType::Heif(Compression::Av1) => Some("image/avif"),
        ImageType::Pnm => Some("image/x-portable-anymap"),
        ImageType::Qoi => Some("image/qoi"),
        ImageType::Tga => Some("image/x-tga"),
        ImageType::Dds(_) => Some("image/vnd-ms.dds"),
        _ => None,
    }
}

/// What it is instead, in words that continue a sentence.
fn not_an_image(content: &[u8]) -> String {
    let head = String::from_utf8_lossy(&content[..content.len().min(1024)]).to_ascii_lowercase();
    let head = head.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    if head.starts_with('<') {
        // Which of the two comes first: a page may hold drawings.
        let at = |mark: &str| head.find(mark).unwrap_or(usize::MAX);
        let page = at("<html").min(at("<!doctype html")).min(at("<head")).min(at("<body"));
        if at("<svg") < page {
            return format!("is an SVG, which ComfyUI does not draw; {ADVICE}");
        }
        if page < usize::MAX {
            return format!("is no image but an HTML page; {ADVICE}, or the address of the image itself");
        }
    }
    if let Some(format) = weights(content) {
        return format!(
            "is a file of weights ({format}), which no request brings; it belongs into ComfyUI's `models` folder"
        );
    }
    let known = something_else(content).map_or(String::new(), |media_type| format!(" as {media_type} does"));
    format!(
        "is no image that ComfyUI reads (it begins with {}{known}); {ADVICE}",
        begin_of(content)
    )
}

fn begin_of(content: &[u8]) -> String {
    let head = &content[..content.len().min(8)];
    if head.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        return format!("{:?}", String::from_utf8_lossy(head));
    }
    let hex: Vec<String> = head.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("bytes {}", hex.join(" "))
}

/// The pictures in a file that may hold several and whose loader takes them all: animated PNG and WebP, GIF.
fn frames(media_type: &str, content: &[u8]) -> usize {
    let counted = match media_type {
        "image/png" => frames_of_png(content),
        "image/webp" => frames_of_webp(content),
        "image/gif" => Gif::read(content).map(|gif| gif.frames),
        _ => None,
    };
    counted.unwrap_or(1).max(1)
}

/// `num_frames` of the `acTL` chunk, which stands before the first `IDAT` (PNG 3rd edition, section 11.3.6).
fn frames_of_png(content: &[u8]) -> Option<usize> {
    let mut head = chunks(content).take_while(|(name, ..)| !matches!(name, b"IDAT" | b"IEND"));
    let (_, control, _) = head.find(|(name, ..)| name == b"acTL")?;
    usize::try_from(u32::from_be_bytes(bytes_at(content, control.start)?)).ok()
}

/// The number of `ANMF` chunks (RFC 9649, section 2.7).
fn frames_of_webp(content: &[u8]) -> Option<usize> {
    let (mut at, mut frames) = (12_usize, 0_usize);
    while let Some(name) = content.get(at..at.checked_add(4)?) {
        let length = usize::try_from(u32::from_le_bytes(*content.get(at + 4..)?.first_chunk()?)).ok()?;
        frames += usize::from(name == b"ANMF");
        // Chunks begin at even places.
        at = at.checked_add(8)?.checked_add(length)?.checked_next_multiple_of(2)?;
    }
    Some(frames)
}

#[cfg(test)]
#[path = "image_header_tests.rs"]
mod tests;
