//! The names of objects, and their public addresses.

use std::collections::HashSet;
use std::time::SystemTime;

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use url::Url;

use super::Upload;
use crate::net::segment;

/// A day in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Day {
    /// `2026-11-21`.
    date: String,
}

impl Day {
    /// The day of a time.
    pub(super) fn of(time: SystemTime) -> Self {
        let text = DateTime::from(time).fmt(DateTimeFormat::DateTime).unwrap_or_default();
        // It fails for years that four digits cannot say.
        let date = text.get(..10).unwrap_or("1970-01-01").to_owned();
        Self { date }
    }

    /// `11-26`: the bucket that RunPod's own upload takes when none is named (runpod-python, `rp_upload.py`,
    /// `time.strftime("%m-%y")`).
    pub(super) fn month_and_year(&self) -> String {
        format!("{}-{}", &self.date[5..7], &self.date[2..4])
    }
}

/// The keys of a job's files, in order, no two alike.
pub(super) fn keys(prefix: &str, job: &str, day: &Day, uploads: &[Upload]) -> Vec<String> {
    let mut taken = HashSet::new();
    uploads
        .iter()
        .map(|upload| {
            let mut key = key(prefix, job, day, upload);
            let mut count = 1;
            while !taken.insert(key.clone()) {
                count += 1;
                key = numbered(prefix, job, day, upload, count);
            }
            key
        })
        .collect()
}

fn key(prefix: &str, job: &str, day: &Day, upload: &Upload) -> String {
    let folder = upload.subfolder.split(['/', '\\']).filter(|part| !part.is_empty());
    // A name's own slashes make no folder.
    let parts: Vec<String> = folder.chain([upload.filename.as_str()]).map(harmless).collect();
    let name = parts.join("/");
    let folder = prefix.replace("{job_id}", &harmless(job)).replace("{date}", &day.date);
    if folder.contains("{filename}") {
        folder.replace("{filename}", &name)
    } else {
        format!("{folder}/{name}")
    }
}

/// The key of a further file of the same name: `name-2.png`.
fn numbered(prefix: &str, job: &str, day: &Day, upload: &Upload, count: usize) -> String {
    let name = &upload.filename;
    let filename = match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() => format!("{stem}-{count}.{ending}"),
        _ => format!("{name}-{count}"),
    };
    let renamed = Upload {
        filename,
        ..upload.clone()
    };
    key(prefix, job, day, &renamed)
}

/// One part of a key that leads nowhere else: no slash, nothing that is not seen, and not `.` or `..`, which clients
/// take out of an address.
fn harmless(part: &str) -> String {
    if part.is_empty() || part.bytes().all(|byte| byte == b'.') {
        return "_".repeat(part.len().max(1));
    }
    let replace = |letter: char| {
        if letter.is_control() || matches!(letter, '/' | '\\') {
            '_'
        } else {
            letter
        }
    };
    part.chars().map(replace).collect()
}

/// The address of an object below the address under which its bucket is public.
pub(super) fn public_address(base: &Url, key: &str) -> String {
    let mut path = base.path().trim_end_matches('/').to_owned();
    for part in key.split('/') {
        path.push('/');
        path.push_str(&segment(part));
    }
    let mut address = base.clone();
    address.set_path(&path);
    address.into()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::delivery::s3::Content;

    fn day() -> Day {
        Day::of(UNIX_EPOCH + Duration::from_hours(498_679))
    }

    fn upload(subfolder: &str, filename: &str) -> Upload {
        Upload {
            subfolder: subfolder.to_owned(),
            filename: filename.to_owned(),
            content: Content::Bytes(Bytes::new()),
        }
    }

    fn key_of(prefix: &str, subfolder: &str, filename: &str) -> String {
        keys(prefix, "job-1", &day(), &[upload(subfolder, filename)]).remove(0)
    }

    #[test]
    fn days() {
        assert_eq!(day().date, "2026-11-21");
        assert_eq!(day().month_and_year(), "11-26");
        assert_eq!(Day::of(UNIX_EPOCH).month_and_year(), "01-70");
    }

    #[test]
    fn a_prefix_is_a_folder_or_the_whole_key() {
        assert_eq!(key_of("{job_id}", "", "a.png"), "job-1/a.png");
        assert_eq!(key_of("{job_id}", "sub/deep", "a.png"), "job-1/sub/deep/a.png");
        assert_eq!(key_of("x/{date}", "", "a.png"), "x/2026-11-21/a.png");
        assert_eq!(
            key_of("{date}/{job_id}-{filename}", "", "a.png"),
            "2026-11-21/job-1-a.png"
        );
        assert_eq!(key_of("{filename}", "", "{job_id}.png"), "{job_id}.png");
    }

    #[test]
    fn names_lead_nowhere_else() {
        assert_eq!(key_of("{job_id}", "../..", "a.png"), "job-1/__/__/a.png");
        assert_eq!(key_of("{job_id}", "/etc//x/", "/../a.png"), "job-1/etc/x/_.._a.png");
        assert_eq!(key_of("{job_id}", ".", ".."), "job-1/_/__");
        assert_eq!(key_of("{job_id}", "a\\b", "c\\d\r\n\0.png"), "job-1/a/b/c_d___.png");
        assert_eq!(key_of("{job_id}", "", ""), "job-1/_");
        let keys = keys("{job_id}", "../x", &day(), &[upload("", "a.png")]);
        assert_eq!(keys, [".._x/a.png"]);
    }

    #[test]
    fn no_two_are_alike() {
        let uploads = [
            upload("", "a.png"),
            upload("", "a.png"),
            upload("sub", "a.png"),
            upload("", "a-2.png"),
            upload("", "a.png"),
            upload("", "none"),
            upload("", "none"),
        ];
        assert_eq!(
            keys("{job_id}", "j", &day(), &uploads),
            [
                "j/a.png",
                "j/a-2.png",
                "j/sub/a.png",
                "j/a-2-2.png",
                "j/a-3.png",
                "j/none",
                "j/none-2"
            ]
        );
    }

    #[test]
    fn public_addresses_are_escaped() {
        for (base, key, expected) in [
            ("https://cdn.example.com", "j/a.png", "https://cdn.example.com/j/a.png"),
            (
                "https://cdn.example.com/x/",
                "j/a.png",
                "https://cdn.example.com/x/j/a.png",
            ),
            (
                "https://cdn.example.com/x",
                "j/a b+c#d?e%f&ü.png",
                "https://cdn.example.com/x/j/a%20b%2Bc%23d%3Fe%25f%26%C3%BC.png",
            ),
        ] {
            assert_eq!(public_address(&base.parse().unwrap(), key), expected);
        }
    }

    proptest! {
        #[test]
        fn every_key_stays_below_its_prefix(subfolder: String, filename: String) {
            let key = key_of("p/{job_id}", &subfolder, &filename);
            prop_assert!(key.starts_with("p/job-1/"));
            prop_assert!(key.split('/').all(|part| !["", ".", ".."].contains(&part)));
            prop_assert!(!key.contains(char::is_control));
            let address: Url = public_address(&"https://cdn.example.com/x".parse().unwrap(), &key).parse().unwrap();
            prop_assert!(address.path().starts_with("/x/p/job-1/"));
            prop_assert_eq!(address.query(), None);
        }
    }
}
