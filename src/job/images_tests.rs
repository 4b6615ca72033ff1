//! Images as requests hold them.

use super::*;

/// A PNG of one pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

fn decode(text: &str) -> Result<InputImage, String> {
    InputImage::from_text(ImageName::parse("a.png").unwrap(), text).map_err(|error| error.full_text())
}

#[test]
fn base64_data_uris_and_line_breaks_are_taken() {
    let plain = decode(PIXEL).unwrap();
    let ImageContent::Here(content) = &plain.content else {
        panic!("{plain:?}");
    };
    assert_eq!(ImageHeader::read(content).unwrap().media_type, "image/png");
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
        ("data:image/svg+xml;base64,PHN2Zz48L3N2Zz4=", "is an SVG"),
        ("ftp://storage.example.com/a.png", "the scheme `ftp`"),
        ("file:///etc/passwd", "the scheme `file`"),
        ("https://", "cannot be read"),
        ("s3:bucket/key", "s3://BUCKET/KEY"),
        ("s3://bucket", "s3://BUCKET/KEY"),
        ("s3://bucket/", "s3://BUCKET/KEY"),
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
fn a_url_is_kept_and_shown_without_its_secrets() {
    let image = decode("HTTPS://user:pass@storage.example.com/a%20b.png?X-Amz-Signature=4711#part").unwrap();
    let url = image.url().unwrap();
    assert_eq!(
        url.as_str(),
        "https://user:pass@storage.example.com/a%20b.png?X-Amz-Signature=4711#part"
    );
    let debug = format!("{image:?}");
    assert!(!debug.contains("4711") && !debug.contains("pass"), "{debug}");
    let image = decode("s3://pictures/people/anna 100%#1?.png").unwrap();
    assert_eq!(
        image.url().unwrap().as_str(),
        "s3://pictures/people/anna%20100%25%231%3F.png"
    );
}

#[test]
fn an_address_is_no_longer_than_addresses_are() {
    let error = decode(&format!("https://example.com/{}", "a".repeat(8 * 1024))).unwrap_err();
    assert!(
        error.contains("has an address of 8212 bytes") && error.len() < 200,
        "{error}"
    );
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
        "x[temp]",
        "x [input] [input]",
        &"x".repeat(300),
    ] {
        assert!(ImageName::parse(name).is_err(), "{name:?} was taken");
    }
    let name = ImageName::parse("people/anna.png").unwrap();
    assert_eq!((name.folder(), name.file_name()), ("people", "anna.png"));
    assert_eq!(ImageName::parse("ü ñ.png").unwrap().folder(), "");
    for (name, read) in [
        ("clipspace/a-1.5.png [input]", "clipspace/a-1.5.png"),
        ("fu\u{308}r.png", "für.png"),
        ("photo [1]", "photo [1]"),
    ] {
        assert_eq!(ImageName::parse(name).unwrap().as_str(), read);
    }
}
