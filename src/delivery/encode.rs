//! Still images from one format into another.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{PngDecoder, PngEncoder};
use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat as Coding, ImageReader, Limits, RgbImage};

use crate::config::ImageFormat;

/// The longest side of an image that is decoded, in pixels: the longest that ComfyUI makes.
const MAX_SIDE: u32 = 16_384;
/// The most pixels of an image that is decoded; they take up to 8 bytes each.
const MAX_PIXELS: u64 = 100_000_000;
/// The most bytes that decoding may take in memory.
const MAX_MEMORY: u64 = 2 * 8 * MAX_PIXELS;

/// Why an image stays as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// It has several frames.
    #[error("it is animated, and other formats are for still images")]
    Animated,
    /// Its format is none that is read here.
    #[error("only PNG, JPEG and WebP images can be made into another format")]
    Unsupported,
    /// It has too many pixels.
    #[error("its {0} x {1} pixels are more than can be decoded")]
    TooManyPixels(u32, u32),
    /// It is damaged.
    #[error("it cannot be decoded: {0}")]
    Undecodable(#[source] ImageError),
    /// The format cannot hold it, and why.
    #[error("it cannot be encoded as {0}: {1}")]
    Unencodable(&'static str, String),
}

/// A still image, decoded.
#[derive(Debug)]
pub struct Picture(DynamicImage);

impl Picture {
    /// Decodes a PNG, JPEG or WebP, whatever its name says. Takes milliseconds for each megapixel: not for the
    /// async runtime.
    pub fn decode(content: &[u8]) -> Result<Self, EncodeError> {
        let coding = image::guess_format(content).map_err(|_| EncodeError::Unsupported)?;
        let animated = match coding {
            Coding::Png => PngDecoder::new(Cursor::new(content)).and_then(|decoder| decoder.is_apng()),
            Coding::WebP => WebPDecoder::new(Cursor::new(content)).map(|decoder| decoder.has_animation()),
            Coding::Jpeg => Ok(false),
            _ => return Err(EncodeError::Unsupported),
        };
        if animated.map_err(EncodeError::Undecodable)? {
            return Err(EncodeError::Animated);
        }
        let mut reader = ImageReader::with_format(Cursor::new(content), coding);
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(MAX_MEMORY);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(EncodeError::Undecodable)?;
        let (width, height) = decoder.dimensions();
        if width.max(height) > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
            return Err(EncodeError::TooManyPixels(width, height));
        }
        let orientation = decoder.orientation().map_err(EncodeError::Undecodable)?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(EncodeError::Undecodable)?;
        // Where the orientation is written down beside the pixels it would be lost.
        image.apply_orientation(orientation);
        Ok(Self(image))
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.0.width(), self.0.height())
    }

    /// The image as a file of the given format. `quality`, 1 to 100, is that of JPEG and WebP, which have 8 bits a
    /// channel; transparency becomes white in JPEG. Not for the async runtime.
    pub fn encode(&self, format: ImageFormat, quality: u8) -> Result<Vec<u8>, EncodeError> {
        let failed = |reason: String| EncodeError::Unencodable(format.as_str(), reason);
        let mut file = Vec::new();
        match format {
            ImageFormat::Png => {
                let written = self.0.write_with_encoder(PngEncoder::new(&mut file));
                written.map_err(|error| failed(error.to_string()))?;
            }
            ImageFormat::Jpeg => {
                let written = self
                    .without_alpha()
                    .write_with_encoder(JpegEncoder::new_with_quality(&mut file, quality));
                written.map_err(|error| failed(error.to_string()))?;
            }
            ImageFormat::Webp => {
                let (width, height) = self.size();
                let quality = f32::from(quality);
                let encoded = if self.0.color().has_alpha() {
                    let pixels = self.0.to_rgba8();
                    webp::Encoder::from_rgba(&pixels, width, height).encode_simple(false, quality)
                } else {
                    let pixels = self.0.to_rgb8();
                    webp::Encoder::from_rgb(&pixels, width, height).encode_simple(false, quality)
                };
                file.extend_from_slice(&encoded.map_err(|error| failed(format!("{error:?}")))?);
            }
        }
        Ok(file)
    }

    /// The image on white.
    fn without_alpha(&self) -> RgbImage {
        if !self.0.color().has_alpha() {
            return self.0.to_rgb8();
        }
        let pixels = self.0.to_rgba8();
        let mut opaque = RgbImage::new(pixels.width(), pixels.height());
        for (from, to) in pixels.pixels().zip(opaque.pixels_mut()) {
            let [red, green, blue, alpha] = from.0;
            to.0 = [red, green, blue].map(|channel| on_white(channel, alpha));
        }
        opaque
    }
}

/// A channel of a pixel that lies on white, rounded to the nearest.
fn on_white(channel: u8, alpha: u8) -> u8 {
    let (channel, alpha) = (u32::from(channel), u32::from(alpha));
    let mixed = (channel * alpha + 255 * (255 - alpha) + 127) / 255;
    u8::try_from(mixed).unwrap_or(u8::MAX)
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
