//! Sets of bytes of a file, as ranges.

use std::ops::Range;

/// A set of byte positions: sorted ranges that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// The bytes of one range.
    pub(super) fn of(range: Range<u64>) -> Self {
        let mut ranges = Self::default();
        ranges.add(range);
        ranges
    }

    /// Adds the bytes of `range`.
    pub(super) fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|known| known.end < range.start);
        let last = self.0.partition_point(|known| known.start <= range.end);
        let mut merged = range;
        if let Some(touched) = self.0.get(first..last).filter(|touched| !touched.is_empty()) {
            merged.start = merged.start.min(touched[0].start);
            merged.end = merged.end.max(touched[touched.len() - 1].end);
        }
        self.0.splice(first..last, [merged]);
    }

    /// Takes up to `most` bytes from the lowest range out of the set.
    pub(super) fn take_first(&mut self, most: u64) -> Option<Range<u64>> {
        let first = self.0.first_mut()?;
        let end = first.start.saturating_add(most.max(1)).min(first.end);
        let taken = first.start..end;
        first.start = end;
        if first.is_empty() {
            self.0.remove(0);
        }
        Some(taken)
    }

    /// The bytes of `0..size` that are not in the set.
    pub(super) fn missing(&self, size: u64) -> Self {
        let mut missing = Vec::new();
        let mut at = 0;
        for known in &self.0 {
            if known.start >= size {
                break;
            }
            if at < known.start {
                missing.push(at..known.start);
            }
            at = known.end;
        }
        if at < size {
            missing.push(at..size);
        }
        Self(missing)
    }

    /// How many bytes from the first one on are in the set without a gap.
    pub(super) fn front(&self) -> u64 {
        self.0
            .first()
            .filter(|first| first.start == 0)
            .map_or(0, |first| first.end)
    }

    /// How many bytes are in the set.
    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "these are sets with one range")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_become_one() {
        let mut ranges = Ranges::default();
        ranges.add(10..20);
        ranges.add(30..40);
        ranges.add(20..30);
        assert_eq!(ranges.0, [10..40]);
        ranges.add(0..5);
        assert_eq!(ranges.0, [0..5, 10..40]);
        ranges.add(4..11);
        assert_eq!(ranges.0, [0..40]);
        assert_eq!(ranges.front(), 40);
        assert_eq!(ranges.missing(50).0, [40..50]);
        assert_eq!(ranges.missing(30).0, []);
    }

    #[test]
    fn the_first_bytes_are_taken_first() {
        let mut ranges = Ranges::of(5..20);
        ranges.add(30..31);
        assert_eq!(ranges.take_first(10), Some(5..15));
        assert_eq!(ranges.take_first(10), Some(15..20));
        assert_eq!(ranges.take_first(10), Some(30..31));
        assert_eq!(ranges.take_first(10), None);
    }

    proptest! {
        #[test]
        fn a_set_holds_what_was_added(added in prop::collection::vec((0_u64..64, 0_u64..12), 0..20)) {
            let mut ranges = Ranges::default();
            let mut plain = [false; 80];
            for (start, length) in added {
                ranges.add(start..start + length);
                for position in start..start + length {
                    plain[usize::try_from(position).unwrap()] = true;
                }
            }
            let held = |ranges: &Ranges, at: u64| ranges.iter().any(|range| range.contains(&at));
            let missing = ranges.missing(80);
            for (at, &there) in (0..).zip(&plain) {
                prop_assert_eq!(held(&ranges, at), there);
                prop_assert_eq!(held(&missing, at), !there);
            }
            prop_assert!(ranges.0.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert_eq!(ranges.len() + missing.len(), 80);
        }
    }
}
