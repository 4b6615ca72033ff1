//! Images that come with a request, and other files that its graph loads as it does images.

use std::fmt;
use std::io::Cursor;

use base64::Engine as _;
use bytes::Bytes;
use image::metadata::Orientation;
use image::{ImageDecoder as _, ImageReader};
use url::Url;

use super::assets::AssetContent;
use super::image_header::{BadImage, ImageHeader};
use super::image_tiny::loadable;
use super::medium::{Medium, TAKEN};
use crate::display::redacted;
use crate::encoding::LENIENT;
use crate::error::JobError;
use crate::net::segment;
use crate::workflow::{FileInput, INPUT_MARK, nfc};

/// The most images of a request, other files counted too.
pub const MOST_IMAGES: usize = 64;

/// The longest address of an image, in bytes. Signed ones have some hundred, and servers take no more than 8 KiB.
const LONGEST_URL: usize = 8 * 1024;

/// The longest name of an input image, in bytes: what file systems take, less room for a suffix of ComfyUI's.
const LONGEST_NAME: usize = 200;
/// The deepest subfolder in a name.
const MOST_COMPONENTS: usize = 4;

/// How ComfyUI marks a name as one of its other folders.
const OTHER_MARKS: [&str; 3] = ["[input]", "[output]", "[temp]"];

/// The name under which a graph refers to an uploaded image. Never absolute, never upwards: it cannot leave the
/// folder that it is put into.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// Takes `photo.png` and `folder/photo.png`; refuses everything that could lead elsewhere. `photo.png [input]` is the
    /// same, as it is to ComfyUI, and so is a name whose letters and accents are composed another way.
    pub fn parse(name: &str) -> Result<Self, String> {
        let name = name.strip_suffix(INPUT_MARK).unwrap_or(name);
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
        // ComfyUI reads these as names of another folder.
        if let Some(mark) = OTHER_MARKS.iter().find(|mark| name.ends_with(**mark)) {
            return Err(format!(
                "the name {name:?} ends like ComfyUI's mark for a file of another folder; leave `{mark}` out, here and in the graph"
            ));
        }
        Ok(Self(nfc(name).into_owned()))
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

/// An image that the job uploads before its graph runs, or another file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputImage {
    /// How the graph calls it.
    pub name: ImageName,
    /// The image, or where it is.
    pub content: ImageContent,
    /// Where in the request it stood.
    pub origin: Origin,
}

/// Where in a request a file stood: errors call it after that.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Among the images.
    #[default]
    Images,
    /// Among the files that may be of any kind.
    Files,
    /// In the graph itself, where the name of a file should stand.
    Graph(Box<FileInput>),
}

/// An image, or where it is.
#[derive(Clone, PartialEq, Eq)]
pub enum ImageContent {
    /// The encoded image as it came. Its header was looked at.
    Here(Bytes),
    /// Where it is to be fetched: `http`, `https`, or `s3` with the bucket as its host.
    At(Url),
    /// A file that was uploaded before, and lies on this machine's disk.
    Asset(Box<AssetContent>),
}

/// What a place in a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Pictures alone.
    Pictures,
    /// What a graph's loaders take: pictures, audio, video, 3D models, latents.
    Media,
}

impl fmt::Debug for ImageContent {
    /// Without the bytes, and without what may be secret in a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(content) => write!(f, "Here({} bytes)", content.len()),
            Self::At(url) => write!(f, "At({})", redacted(url)),
            Self::Asset(asset) => write!(f, "Asset({}, {} bytes)", asset.id, asset.bytes),
        }
    }
}

impl InputImage {
    /// Reads what a request holds in place of an image: base64, a data URI, or a URL (`http`, `https`, `s3`). An image
    /// that is there is looked at; one at a URL is fetched, and looked at, before the job's turn.
    pub fn from_text(name: ImageName, text: &str) -> Result<Self, JobError> {
        Self::from_text_as(name, text, Origin::Images, Takes::Pictures)
    }

    /// [`Self::from_text`] where more than pictures may be taken.
    pub fn from_text_as(name: ImageName, text: &str, origin: Origin, takes: Takes) -> Result<Self, JobError> {
        let text = text.trim();
        let content = match scheme(text) {
            Some(scheme) if scheme == "data" => decode_data_uri(text),
            Some(scheme) => match location(&scheme, text) {
                Ok(url) => {
                    return Ok(Self {
                        name,
                        content: ImageContent::At(url),
                        origin,
                    });
                }
                Err(why) => Err(why),
            },
            None => decode_base64(text),
        };
        let content = content.map_err(|why| origin.invalid(&name, &why))?;
        Self::looked_at(name, content.into(), origin, takes, "")
    }

    /// Takes an encoded image, and looks at it.
    pub fn from_bytes(name: ImageName, content: Bytes) -> Result<Self, JobError> {
        Self::looked_at(name, content, Origin::Images, Takes::Pictures, "")
    }

    /// Takes what was looked at before, in base64.
    pub fn stored(name: ImageName, encoded: &str, origin: Origin) -> Result<Self, JobError> {
        let content =
            decode_base64(encoded).map_err(|why| JobError::internal(format!("the stored image `{name}` {why}")))?;
        Ok(Self {
            name,
            content: ImageContent::Here(content.into()),
            origin,
        })
    }

    /// Looks at a file, without decoding it. `whence` is where it came from, ` from https://…`, or nothing. One that
    /// ComfyUI's loader would fail at for its smallness is made into a PNG.
    pub fn looked_at(
        name: ImageName,
        content: Bytes,
        origin: Origin,
        takes: Takes,
        whence: &str,
    ) -> Result<Self, JobError> {
        let looked_at = match Medium::of(&content).filter(|_| takes == Takes::Media) {
            Some(medium) if medium.is_cut_off(&content) => Err(BadImage::Wrong(format!(
                "is {} ({}) that is cut off: the end of the file is missing; send the whole file",
                medium.what, medium.format
            ))),
            Some(_) => Ok(content),
            None => ImageHeader::read(&content).and_then(|header| loadable(content, &header)),
        };
        let content = looked_at.map_err(|bad| {
            let error = origin.invalid(&name, &format!("{whence} {bad}"));
            match bad {
                BadImage::Unknown(_) if takes == Takes::Media => error.hint(TAKEN),
                BadImage::TooLarge(_) => error.hint("Scale it down first."),
                BadImage::Unknown(_) | BadImage::Wrong(_) => error,
            }
        })?;
        Ok(Self {
            name,
            content: ImageContent::Here(content),
            origin,
        })
    }

    /// Width and height in pixels, as ComfyUI loads it: turned, where a camera's note says so. [`None`] for one that is
    /// still at its URL.
    pub fn size(&self) -> Option<(usize, usize)> {
        let ImageContent::Here(content) = &self.content else {
            return None;
        };
        let ImageHeader { width, height, .. } = ImageHeader::read(content).ok()?;
        Some(if lies_on_its_side(content) {
            (height, width)
        } else {
            (width, height)
        })
    }

    /// Where it is to be fetched; [`None`]: it is here.
    pub fn url(&self) -> Option<&Url> {
        match &self.content {
            ImageContent::Here(_) | ImageContent::Asset(_) => None,
            ImageContent::At(url) => Some(url),
        }
    }
}

impl Origin {
    /// What errors call the file.
    pub fn subject(&self, name: &ImageName) -> String {
        match self {
            Self::Images => format!("the image `{name}`"),
            Self::Files => format!("the file `{name}`"),
            Self::Graph(place) => format!("the file in {place}"),
        }
    }

    /// The field of the request that errors name.
    pub fn field(&self, name: &ImageName) -> String {
        match self {
            Self::Images | Self::Files => name.as_str().to_owned(),
            Self::Graph(_) => "workflow".to_owned(),
        }
    }

    /// A request in which something is wrong with the file: the text goes on after what it is called.
    fn invalid(&self, name: &ImageName, why: &str) -> JobError {
        let gap = if why.starts_with(' ') { "" } else { " " };
        JobError::invalid(format!("{}{gap}{why}", self.subject(name))).at(self.field(name))
    }
}

/// Whether a camera's note turns the picture by 90 degrees, one way or the other. No pixel is decoded.
fn lies_on_its_side(content: &[u8]) -> bool {
    let orientation = || {
        let reader = ImageReader::new(Cursor::new(content)).with_guessed_format().ok()?;
        reader.into_decoder().ok()?.orientation().ok()
    };
    matches!(
        orientation(),
        Some(Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH)
    )
}

/// The scheme of a URL, in lower case. Base64 has no colon.
fn scheme(text: &str) -> Option<String> {
    let (scheme, _) = text.get(..text.len().min(32)).unwrap_or(text).split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    is_scheme.then(|| scheme.to_ascii_lowercase())
}

/// Reads a URL. The errors do not repeat it: it may hold a secret.
fn location(scheme: &str, text: &str) -> Result<Url, String> {
    if text.len() > LONGEST_URL {
        return Err(format!(
            "has an address of {} bytes, the limit is {LONGEST_URL}; send the image itself as base64",
            text.len()
        ));
    }
    match scheme {
        "http" | "https" => match Url::parse(text) {
            Ok(url) if url.has_host() => Ok(url),
            Ok(_) => Err("is a URL without a host".to_owned()),
            Err(error) => Err(format!(
                "is a URL that cannot be read ({error}); it should read https://HOST/PATH"
            )),
        },
        "s3" => {
            // A key is written as it is: `?`, `#` and `%` mean themselves.
            let rest = text.get("s3://".len()..).filter(|_| text[..5].ends_with("://"));
            let parts = rest.and_then(|rest| rest.split_once('/'));
            let (bucket, key) = parts
                .filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
                .ok_or("is no S3 address; it should read s3://BUCKET/KEY")?;
            let key: Vec<String> = key.split('/').map(segment).collect();
            Url::parse(&format!("s3://{bucket}/{}", key.join("/"))).map_err(|error| {
                format!("is an S3 address that cannot be read ({error}); it should read s3://BUCKET/KEY")
            })
        }
        other => Err(format!(
            "has an address of the scheme `{other}`; send http, https or s3, a data URI, or base64"
        )),
    }
}

fn decode_data_uri(uri: &str) -> Result<Vec<u8>, String> {
    let (head, data) = uri.split_once(',').ok_or("is a data URI without a comma")?;
    if !head.to_ascii_lowercase().ends_with(";base64") {
        return Err("is a data URI that is not base64; it should begin `data:image/png;base64,`".to_owned());
    }
    decode_base64(data)
}

fn decode_base64(encoded: &str) -> Result<Vec<u8>, String> {
    let decoded = if encoded.bytes().any(|byte| byte.is_ascii_whitespace()) {
        let plain: Vec<u8> = encoded.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        LENIENT.decode(plain)
    } else {
        LENIENT.decode(encoded)
    };
    decoded.map_err(|error| {
        format!("is no base64 ({error}); encode the file's bytes with the standard alphabet, or send a URL (http, https, s3)")
    })
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
