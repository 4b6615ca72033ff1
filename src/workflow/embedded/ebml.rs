//! WebM and Matroska (RFC 8794, RFC 9559): elements of id, length and content, within one another. Metadata are simple tags, with
//! a name and a text.

use super::Texts;
use super::reader::Reader;

const SEGMENT: u32 = 0x1853_8067;
const TAGS: u32 = 0x1254_c367;
const TAG: u32 = 0x7373;
const SIMPLE_TAG: u32 = 0x67c8;
const NAME: u32 = 0x45a3;
const TEXT: u32 = 0x4487;

/// An element: its id, and what is in it.
struct Element<'a> {
    id: u32,
    content: &'a [u8],
}

/// The next element. One of unknown length goes on to the end of what it is in.
fn next<'a>(elements: &mut Reader<'a>) -> Option<Element<'a>> {
    let id = number(elements, 4, false)?;
    let (length, is_known) = length(elements)?;
    let content = elements.take_up_to(if is_known { length } else { usize::MAX });
    Some(Element {
        id: u32::try_from(id).ok()?,
        content,
    })
}

/// A number of variable length: the zeros before the first one tell how many bytes follow. An id keeps that mark.
fn number(reader: &mut Reader<'_>, longest: u32, without_mark: bool) -> Option<u64> {
    let first = *reader.0.first()?;
    let more = first.leading_zeros();
    if more >= longest {
        return None;
    }
    let bytes = reader.take(usize::try_from(more + 1).ok()?)?;
    let mut number = u64::from(first);
    if without_mark {
        number &= (0x7f_u64) >> more;
    }
    for byte in &bytes[1..] {
        number = number << 8 | u64::from(*byte);
    }
    Some(number)
}

/// A length, and whether it is known: all ones say that it is not.
fn length(reader: &mut Reader<'_>) -> Option<(usize, bool)> {
    let more = reader.0.first()?.leading_zeros();
    let length = number(reader, 8, true)?;
    let unknown = (1_u64 << (7 * (more + 1))) - 1;
    Some((usize::try_from(length).ok()?, length != unknown))
}

/// Calls `each` for the elements of this id.
fn each<'a>(content: &'a [u8], id: u32, mut each: impl FnMut(&'a [u8])) {
    let mut elements = Reader(content);
    while let Some(element) = next(&mut elements) {
        if element.id == id {
            each(element.content);
        }
    }
}

pub(super) fn read(content: &[u8], texts: &mut Texts) {
    each(content, SEGMENT, |segment| {
        each(segment, TAGS, |tags| {
            each(tags, TAG, |tag| {
                each(tag, SIMPLE_TAG, |simple| {
                    simple_tag(simple, texts);
                });
            });
        });
    });
}

fn simple_tag(content: &[u8], texts: &mut Texts) -> Option<()> {
    let (mut name, mut text) = (None, None);
    each(content, NAME, |found| name = Some(found));
    each(content, TEXT, |found| text = Some(found));
    texts.add(&super::decoded(name?), text?);
    Some(())
}
