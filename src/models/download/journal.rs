//! Which bytes of a part are there, as a file beside it: a line for each range, added after its bytes were written.
//!
//! Lines are only ever added, so that a process can be killed at any moment: what a line says is true, and at most the
//! last one is cut. What the system itself loses with its power is for the hash to find.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::ranges::Ranges;

/// The first line, before the size.
const FORMAT: &str = "qwen-image-worker ranges 2";

/// A journal that lines are added to.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Begins a journal for a file of `size` bytes of which `done` are there. One that is there is replaced. Blocks.
    pub(super) fn begin(path: &Path, size: u64, done: &Ranges) -> io::Result<Self> {
        let mut text = format!("{FORMAT} {size}\n");
        done.iter().for_each(|range| text.push_str(&line(range)));
        let new = path.with_added_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, path)?;
        Ok(Self {
            file: OpenOptions::new().append(true).open(path)?,
            path: path.to_owned(),
        })
    }

    /// Adds a range whose bytes were written. Blocks.
    pub(super) fn add(&self, range: &Range<u64>) {
        // In one call, so that lines of several threads do not mix.
        if let Err(error) = (&self.file).write_all(line(range).as_bytes()) {
            tracing::debug!("cannot write {}: {error}", self.path.display());
        }
    }
}

fn line(range: &Range<u64>) -> String {
    format!("+{}-{}\n", range.start, range.end)
}

/// Which bytes a journal speaks of; [`None`] if it is not there, or for another size. Lines that are not whole count for
/// nothing.
pub(super) fn read(path: &Path, size: u64) -> Option<Ranges> {
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.split_inclusive('\n').map_while(|line| line.strip_suffix('\n'));
    if lines.next()? != format!("{FORMAT} {size}") {
        return None;
    }
    let mut done = Ranges::default();
    for line in lines {
        let range = line.strip_prefix('+').and_then(|line| line.split_once('-'));
        let range = range.and_then(|(start, end)| Some(start.parse().ok()?..end.parse().ok()?));
        if let Some(range) = range.filter(|range| range.end <= size) {
            done.add(range);
        }
    }
    Some(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_read_however_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = Journal::begin(&path, 1000, &Ranges::of(0..10)).unwrap();
        journal.add(&(500..600));
        journal.add(&(10..20));
        let mut expected = Ranges::of(0..20);
        expected.add(500..600);
        assert_eq!(read(&path, 1000), Some(expected.clone()));
        assert_eq!(read(&path, 1001), None);
        // Taken up again, and cut at any byte.
        let journal = Journal::begin(&path, 1000, &expected).unwrap();
        journal.add(&(700..799));
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let Some(done) = read(&path, 1000) else {
                continue;
            };
            for range in done.iter() {
                let known = [0..20, 500..600].contains(range);
                assert!(known, "{range:?} after {length} bytes");
            }
        }
    }

    #[test]
    fn lines_that_are_not_whole_count_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        for lines in [
            "0-5\n", "+0-11\n", "+0-\n", "+7-3\n", "+1+2-3\n", "+0-5", "\0\0\n", "+ 1-2\n", "+-1-2\n",
        ] {
            fs::write(&path, format!("{FORMAT} 10\n{lines}")).unwrap();
            assert_eq!(read(&path, 10), Some(Ranges::default()), "{lines}");
        }
        for text in ["", "\n", "other 10\n+0-5\n", &format!("{FORMAT} 10")] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path, 10), None, "{text}");
        }
    }
}
