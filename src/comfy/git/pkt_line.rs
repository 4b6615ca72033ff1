//! The frames of git's protocols: four hexadecimal digits with the length of all, then the content. Lengths below four
//! stand for themselves. See gitprotocol-common(5) and gitprotocol-v2(5).

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// `0000`: the end of a message.
    Flush,
    /// `0001`: the end of a part of one.
    Delimiter,
    /// `0002`: the end of an answer.
    End,
    /// Content.
    Data(&'a [u8]),
}

impl<'a> Packet<'a> {
    /// The content as a line of text, without its line break.
    pub(super) fn line(self) -> Option<&'a str> {
        let Self::Data(bytes) = self else { return None };
        let text = std::str::from_utf8(bytes).ok()?;
        Some(text.strip_suffix('\n').unwrap_or(text))
    }
}

/// Bytes that are no frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The first frame in `bytes`, and what follows; [`None`] while it is not complete.
pub(super) fn next(bytes: &[u8]) -> Result<Option<(Packet<'_>, &[u8])>, Malformed> {
    let Some((digits, rest)) = bytes.split_at_checked(4) else {
        return Ok(None);
    };
    let digits = std::str::from_utf8(digits).map_err(|_| Malformed)?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Malformed);
    }
    let length = usize::from_str_radix(digits, 16).map_err(|_| Malformed)?;
    let packet = match length {
        0 => Packet::Flush,
        1 => Packet::Delimiter,
        2 => Packet::End,
        3 => return Err(Malformed),
        _ => {
            let Some((content, rest)) = rest.split_at_checked(length - 4) else {
                return Ok(None);
            };
            return Ok(Some((Packet::Data(content), rest)));
        }
    };
    Ok(Some((packet, rest)))
}

/// All frames in `bytes`, which must be complete.
pub(super) fn all(mut bytes: &[u8]) -> Result<Vec<Packet<'_>>, Malformed> {
    let mut packets = Vec::new();
    while !bytes.is_empty() {
        let (packet, rest) = next(bytes)?.ok_or(Malformed)?;
        packets.push(packet);
        bytes = rest;
    }
    Ok(packets)
}

/// A message of two parts: lines with their frames, a delimiter between the parts, a flush at the end.
pub(super) fn message(head: &[&str], body: &[&str]) -> String {
    let frame = |line: &&str| format!("{:04x}{line}\n", line.len() + 5);
    let part = |lines: &[&str]| lines.iter().map(frame).collect::<String>();
    format!("{}0001{}0000", part(head), part(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_come() {
        let bytes = b"0009want\n00010000";
        assert_eq!(next(&bytes[..3]), Ok(None));
        assert_eq!(next(&bytes[..8]), Ok(None));
        let packets = all(bytes).unwrap();
        assert_eq!(packets, [Packet::Data(b"want\n"), Packet::Delimiter, Packet::Flush]);
        assert_eq!(packets[0].line(), Some("want"));
    }

    #[test]
    fn what_is_no_frame_is_told() {
        for bytes in [&b"<htm"[..], b"0003", b"+00a", "ü00".as_bytes(), b"000afew"] {
            assert_eq!(all(bytes), Err(Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn a_message_has_its_frames() {
        assert_eq!(
            message(&["command=fetch"], &["done"]),
            "0012command=fetch\n00010009done\n0000"
        );
    }
}
