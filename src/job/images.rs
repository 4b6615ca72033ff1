//! Images that come with a request.

use std::fmt;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use crate::error::{ErrorKind, JobError};

/// The longest side of an input image, in pixels: the largest size that ComfyUI's own nodes take.
const LONGEST_SIDE: usize = 16_384;
/// The longest name of an input image, in bytes: what file systems take, less room for a suffix of ComfyUI's.
const LONGEST_NAME: usize = 200;
/// The deepest subfolder in a name.
const MOST_COMPONENTS: usize = 4;

/// Base64 as people send it: with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The name under which a graph refers to an uploaded image. Never absolute, never upwards: it cannot leave the
/// folder that it is put into.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// Takes `photo.png` and `folder/photo.png`; refuses everything that could lead elsewhere.
    pub fn parse(name: &str) -> Result<Self, String> {
        let advice = "use a plain file name such as `photo.png`";
        if name.trim().is_empty() {
            return Err(format!("the name is empty; {advice}"));
        }
        if name.len() > LONGEST_NAME {
            return Err(format!(
                "the name has {} bytes, the limit is {LONGEST_NAME}; {advice}",
                name.len()
            ));
        }
        if name.chars().any(|c| c.is_control() || c == '\\' || c == ':') {
            return Err(format!(
                "the name {name:?} holds a control character, `\\` or `:`; {advice}"
            ));
        }
        let components: Vec<&str> = name.split('/').collect();
        if components.len() > MOST_COMPONENTS
            || components
                .iter()
                .any(|part| part.trim().is_empty() || part.trim() == "." || part.trim() == "..")
        {
            return Err(format!(
                "the name {name:?} leads out of its folder or is no file name; {advice}"
            ));
        }
        // ComfyUI reads a trailing `[output]` as the name of another folder.
        if name.ends_with(']') {
            return Err(format!(
                "the name {name:?} ends like ComfyUI's mark for a folder; {advice}"
            ));
        }
        Ok(Self(name.to_owned()))
    }

    /// As the graph writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder part, empty for a plain name.
    pub fn folder(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// The last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(self.0.as_str(), |(_, file)| file)
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An image that the job uploads before its graph runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputImage {
    /// How the graph calls it.
    pub name: ImageName,
    /// `image/png` and so on, from its first bytes.
    pub media_type: &'static str,
    /// The encoded image as it came.
    pub content: Bytes,
}

impl InputImage {
    /// Decodes base64 or a data URI, and looks at the image's header.
    pub fn decode(name: ImageName, text: &str) -> Result<Self, JobError> {
        let invalid = |why: String| JobError::invalid(format!("the image `{name}` {why}"));
        let text = text.trim();
        if text.starts_with("http://") || text.starts_with("https://") {
            return Err(invalid(
                "is a URL; send the image itself as base64 or as a data URI".to_owned(),
            ));
        }
        let encoded = match text.strip_prefix("data:") {
            None => text,
            Some(uri) => {
                let (head, data) = uri
                    .split_once(',')
                    .ok_or_else(|| invalid("is a data URI without a comma".to_owned()))?;
                if !head.ends_with(";base64") {
                    return Err(invalid(
                        "is a data URI that is not base64; it should begin `data:image/png;base64,`".to_owned(),
                    ));
                }
                data
            }
        };
        let decoded = if encoded.bytes().any(|byte| byte.is_ascii_whitespace()) {
            LENIENT.decode(
                encoded
                    .bytes()
                    .filter(|byte| !byte.is_ascii_whitespace())
                    .collect::<Vec<u8>>(),
            )
        } else {
            LENIENT.decode(encoded)
        };
        let content = decoded.map_err(|error| {
            invalid(format!(
                "is no base64 ({error}); encode the file's bytes with the standard alphabet"
            ))
        })?;
        if content.is_empty() {
            return Err(invalid("is empty".to_owned()));
        }
        let format = imagesize::image_type(&content).map_err(|_| {
            invalid(format!(
                "is no image that ComfyUI reads (it begins with {}); send PNG, JPEG or WebP",
                begin_of(&content)
            ))
        })?;
        let size = imagesize::blob_size(&content).map_err(|error| invalid(format!("is damaged: {error}")))?;
        if size.width == 0 || size.height == 0 {
            return Err(invalid(format!("has no pixels ({} x {})", size.width, size.height)));
        }
        if size.width > LONGEST_SIDE || size.height > LONGEST_SIDE {
            let message = format!(
                "the image `{name}` has {} x {} pixels; the limit is {LONGEST_SIDE} a side",
                size.width, size.height
            );
            return Err(JobError::new(ErrorKind::InvalidRequest, message).hint("Scale it down first."));
        }
        Ok(Self {
            name,
            media_type: media_type_of(format),
            content: content.into(),
        })
    }
}

fn begin_of(content: &[u8]) -> String {
    let head = &content[..content.len().min(8)];
    if head.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        return format!("{:?}", String::from_utf8_lossy(head));
    }
    let hex: Vec<String> = head.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("bytes {}", hex.join(" "))
}

fn media_type_of(format: imagesize::ImageType) -> &'static str {
    match format {
        imagesize::ImageType::Png => "image/png",
        imagesize::ImageType::Jpeg => "image/jpeg",
        imagesize::ImageType::Webp => "image/webp",
        imagesize::ImageType::Gif => "image/gif",
        imagesize::ImageType::Bmp => "image/bmp",
        imagesize::ImageType::Tiff => "image/tiff",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PNG of one pixel.
    const PIXEL: &str =
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

    fn decode(text: &str) -> Result<InputImage, String> {
        InputImage::decode(ImageName::parse("a.png").unwrap(), text).map_err(|error| error.full_text())
    }

    #[test]
    fn base64_data_uris_and_line_breaks_are_taken() {
        let plain = decode(PIXEL).unwrap();
        assert_eq!(plain.media_type, "image/png");
        assert_eq!(decode(&format!("data:image/png;base64,{PIXEL}")).unwrap(), plain);
        assert_eq!(
            decode(&format!(" {}\n{}\n", &PIXEL[..40], &PIXEL[40..])).unwrap(),
            plain
        );
        assert_eq!(decode(PIXEL.trim_end_matches('=')).unwrap(), plain);
    }

    #[test]
    fn what_is_no_image_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "is empty"),
            ("!!!", "is no base64"),
            (
                "aGVsbG8gd29ybGQ=",
                "is no image that ComfyUI reads (it begins with \"hello wo\")",
            ),
            ("AAECAwQ=", "begins with bytes 00 01 02 03 04"),
            ("data:image/png,xyz", "not base64"),
            ("data:image/png;base64", "without a comma"),
            ("https://example.com/a.png", "is a URL"),
            (&PIXEL[..20], "is damaged"),
        ] {
            let error = decode(text).unwrap_err();
            assert!(
                error.contains(reason) && error.starts_with("the image `a.png`"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [
            "",
            " ",
            "../../x",
            "..",
            "a/../b",
            "/etc/passwd",
            "a//b",
            "a\\b",
            "C:x",
            "a\0b",
            "x/",
            "a/b/c/d/e",
            ". ",
            "x [output]",
            &"x".repeat(300),
        ] {
            assert!(ImageName::parse(name).is_err(), "{name:?} was taken");
        }
        let name = ImageName::parse("people/anna.png").unwrap();
        assert_eq!((name.folder(), name.file_name()), ("people", "anna.png"));
        assert_eq!(ImageName::parse("ü ñ.png").unwrap().folder(), "");
    }
}
