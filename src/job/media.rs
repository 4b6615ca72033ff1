//! Audio and video, and what else is no picture: what the first bytes of a file say.

use infer::MatcherType;

/// Whether a file is audio or video: what to call it, and its media type. [`None`] for everything else, pictures too.
pub(super) fn audio_or_video(content: &[u8]) -> Option<(&'static str, &'static str)> {
    if let Some(brand) = brand(content) {
        // A file made of boxes says by its first brand what it is (ISO/IEC 14496-12, section 4.3). There are many brands of
        // videos, and few of pictures.
        return match brand {
            b"avif" | b"avis" | b"avio" | b"MA1A" | b"MA1B" | b"mif1" | b"mif2" | b"msf1" | b"miaf" | b"heic"
            | b"heix" | b"heis" | b"heim" | b"hevc" | b"hevx" | b"hevm" | b"hevs" | b"jpeg" | b"jpgs" | b"jxl "
            | b"crx " => None,
            b"M4A " | b"M4B " | b"M4P " => Some(("an audio file", "audio/mp4")),
            b"qt  " => Some(("a video", "video/quicktime")),
            _ => Some(("a video", "video/mp4")),
        };
    }
    match content {
        // `DocType` stands somewhere in the first header (RFC 8794, section 11.2).
        [0x1a, 0x45, 0xdf, 0xa3, ..] => {
            let is_webm = content[..content.len().min(64)].windows(4).any(|name| name == b"webm");
            let media_type = if is_webm { "video/webm" } else { "video/x-matroska" };
            return Some(("a video", media_type));
        }
        // Layers of MPEG audio that are less common, and AAC with a checksum.
        [0xff, 0xe2 | 0xe3 | 0xfa | 0xfc | 0xfd, ..] => return Some(("an audio file", "audio/mpeg")),
        [0xff, 0xf0 | 0xf8, ..] => return Some(("an audio file", "audio/aac")),
        // Packets of a transport stream, the first two of them.
        [0x47, ..] if content.get(188) == Some(&0x47) => return Some(("a video", "video/mp2t")),
        // A program stream.
        [0, 0, 1, 0xba, ..] => return Some(("a video", "video/mpeg")),
        [b'O', b'g', b'g', b'S', ..] => return Some(("an audio file", "audio/ogg")),
        _ => {}
    }
    let found = infer::get(content)?;
    match found.matcher_type() {
        MatcherType::Audio => Some(("an audio file", found.mime_type())),
        MatcherType::Video => Some(("a video", found.mime_type())),
        _ => None,
    }
}

/// What a file is that is neither picture nor audio nor video, as far as that is known.
pub(super) fn something_else(content: &[u8]) -> Option<&'static str> {
    let found = infer::get(content)?;
    matches!(
        found.matcher_type(),
        MatcherType::App | MatcherType::Archive | MatcherType::Book | MatcherType::Doc | MatcherType::Font
    )
    .then(|| found.mime_type())
}

/// The format of a file of weights, GGUF or safetensors, by its first bytes.
pub fn weights(content: &[u8]) -> Option<&'static str> {
    if content.starts_with(b"GGUF") {
        return Some("GGUF");
    }
    // The length of the header, and the header in JSON.
    let (length, rest) = content.split_first_chunk()?;
    let is_safetensors = u64::from_le_bytes(*length) < 100_000_000 && rest.starts_with(b"{\"");
    is_safetensors.then_some("safetensors")
}

/// The first brand of a file made of boxes.
fn brand(content: &[u8]) -> Option<&[u8; 4]> {
    let (head, _) = content.split_first_chunk::<12>()?;
    (head[4..8] == *b"ftyp").then(|| head.last_chunk()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_send_is_known_by_its_first_bytes() {
        let mut stream = vec![0; 400];
        (stream[0], stream[188]) = (0x47, 0x47);
        for (content, media_type) in [
            (&b"RIFF\x24\0\0\0WAVEfmt "[..], "audio/x-wav"),
            (b"ID3\x03\0\0\0\0\0\0", "audio/mpeg"),
            (b"\xff\xfb\x90\x64\0\0\0\0", "audio/mpeg"),
            (b"\xff\xfa\x90\x64\0\0\0\0", "audio/mpeg"),
            (b"\xff\xf1\x50\x80\0\0\0\0", "audio/aac"),
            (b"fLaC\0\0\0\x22", "audio/x-flac"),
            (b"OggS\0\x02\0\0", "audio/ogg"),
            (b"\0\0\0\x20ftypM4A \0\0\0\0", "audio/mp4"),
            (b"\0\0\0\x20ftypisom\0\0\x02\0", "video/mp4"),
            (b"\0\0\0\x20ftypmp42\0\0\x02\0", "video/mp4"),
            (b"\0\0\0\x20ftyp3gp4\0\0\x02\0", "video/mp4"),
            (b"\0\0\0\x14ftypqt  \0\0\x02\0", "video/quicktime"),
            (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm", "video/webm"),
            (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x88matroska", "video/x-matroska"),
            (b"RIFF\x24\0\0\0AVI LIST", "video/x-msvideo"),
            (b"FLV\x01\x05\0\0\0\x09", "video/x-flv"),
            (b"\0\0\x01\xba\x44\0\x04\0", "video/mpeg"),
            (&stream, "video/mp2t"),
        ] {
            let found = audio_or_video(content).map(|(_, media_type)| media_type);
            assert_eq!(found, Some(media_type), "{:?}", String::from_utf8_lossy(content));
        }
    }

    #[test]
    fn pictures_and_rubbish_are_neither() {
        for content in [
            &b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"[..],
            b"\xff\xd8\xff\xe0\0\x10JFIF",
            b"GIF89a\x01\0\x01\0",
            b"BM\0\0\0\0\0\0",
            b"RIFF\x24\0\0\0WEBPVP8 ",
            b"\0\0\0\x1cftypavif\0\0\0\0",
            b"\0\0\0\x1cftypheic\0\0\0\0",
            b"hello world, this is no song",
            b"%PDF-1.7",
            b"",
            b"\0\0\0\x20ftyp",
        ] {
            assert_eq!(audio_or_video(content), None, "{:?}", String::from_utf8_lossy(content));
        }
    }

    #[test]
    fn weights_are_known_too() {
        assert_eq!(weights(b"\x40\0\0\0\0\0\0\0{\"__metadata__\":{}}"), Some("safetensors"));
        assert_eq!(weights(b"GGUF\x03\0\0\0"), Some("GGUF"));
        assert_eq!(weights(b"\xff\xff\xff\xff\0\0\0\0{\""), None);
        assert_eq!(something_else(b"PK\x03\x04\x14\0\0\0\x08\0"), Some("application/zip"));
    }
}
