//! Aspect ratios and the sizes that Qwen-Image was trained for.

/// Each ratio with width and height in pixels, from the notes in the official templates (`image_qwen_image`).
const SIZES: &[(&str, (u32, u32))] = &[
    ("1:1", (1328, 1328)),
    ("16:9", (1664, 928)),
    ("9:16", (928, 1664)),
    ("4:3", (1472, 1140)),
    ("3:4", (1140, 1472)),
    ("3:2", (1584, 1056)),
    ("2:3", (1056, 1584)),
];

/// Width and height in pixels for an aspect ratio such as `16:9`; `None` for one that is not in
/// [`aspect_ratios`]. A template may have other sizes:
/// [`Template::size_for_aspect_ratio`](crate::workflow::Template::size_for_aspect_ratio).
pub fn size_for_aspect_ratio(ratio: &str) -> Option<(u32, u32)> {
    let ratio = ratio.trim();
    SIZES.iter().find(|(name, _)| *name == ratio).map(|(_, size)| *size)
}

/// Width and height in pixels as they are written: `1024x1024`, `1024*1024` or `1024×1024`.
pub fn parse(text: &str) -> Option<(u32, u32)> {
    let (width, height) = text.trim().split_once(['x', 'X', '*', '×'])?;
    Some((width.trim().parse().ok()?, height.trim().parse().ok()?))
}

/// The ratios that have a size, for the text of an error.
pub fn aspect_ratios() -> impl Iterator<Item = &'static str> {
    SIZES.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ratio_has_its_size_and_its_turned_one() {
        for ratio in aspect_ratios() {
            let (width, height) = size_for_aspect_ratio(ratio).expect("a size");
            let (a, b) = ratio.split_once(':').expect("a ratio");
            assert_eq!(size_for_aspect_ratio(&format!("{b}:{a}")), Some((height, width)));
        }
        assert_eq!(size_for_aspect_ratio(" 16:9 "), Some((1664, 928)));
        assert_eq!(size_for_aspect_ratio("21:9"), None);
    }

    #[test]
    fn a_size_is_read_in_each_way_of_writing_it() {
        for text in ["1024x768", "1024*768", " 1024 X 768 ", "1024×768"] {
            assert_eq!(parse(text), Some((1024, 768)), "{text}");
        }
        for text in ["", "1024", "x768", "1024x", "1024x768x3", "-1x5", "axb"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
