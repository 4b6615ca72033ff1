use proptest::prelude::*;

use super::*;

fn grid(size: u64, smallest: u64) -> Grid {
    Grid::new(Some(size), 10, &vec![false; blocks_of(Some(size), 10)], smallest)
}

#[test]
fn pieces_come_from_the_front_and_get_smaller() {
    let mut done = [false; 100];
    done[..10].fill(true);
    let mut grid = Grid::new(Some(995), 10, &done, 10);
    assert_eq!((grid.front(), grid.written()), (100, 100));
    let mut lengths = Vec::new();
    let mut at = 100;
    while let Some(id) = grid.claim(4) {
        let rest = grid.rest(id);
        assert_eq!(rest.start, at);
        at = rest.end;
        lengths.push(rest.end - rest.start);
        grid.advance(id, rest.end - rest.start);
        assert!(grid.rest(id).is_empty());
        grid.release(id);
    }
    assert_eq!(lengths[..3], [40, 40, 40]);
    assert!(lengths.is_sorted_by(|a, b| a >= b));
    assert_eq!(lengths.last(), Some(&5));
    assert!(grid.is_complete());
    assert_eq!((grid.front(), grid.written()), (995, 995));
}

#[test]
fn what_is_given_back_is_handed_out_again() {
    let mut grid = grid(100, 50);
    let first = grid.claim(2).unwrap();
    assert_eq!(grid.rest(first), 0..50);
    assert_eq!(grid.advance(first, 25), 0..2);
    assert_eq!(grid.rest(first), 25..50);
    grid.release(first);
    let second = grid.claim(1).unwrap();
    assert_eq!(grid.rest(second), 20..100, "from the block that is not whole");
    assert!(!grid.has_free());
}

#[test]
fn a_slow_piece_is_cut_in_two() {
    let mut grid = grid(1000, 100);
    let slow = grid.claim(1).unwrap();
    grid.advance(slow, 205);
    assert_eq!(grid.cut_slowest(Instant::now()), None);
    let later = Instant::now() + Duration::from_secs(3);
    let second = grid.cut_slowest(later).unwrap();
    assert_eq!(grid.rest(second), 610..1000);
    assert_eq!(grid.rest(slow), 205..610);
    // The first goes no further than its new end.
    assert_eq!(grid.advance(slow, 500), 20..61);
    assert!(grid.rest(slow).is_empty());
    grid.release(slow);
    assert!(!grid.has_free());
    assert_eq!(grid.advance(second, 390), 61..100);
    assert!(grid.is_complete());
}

#[test]
fn a_hopeless_piece_is_taken_away() {
    let mut grid = grid(1000, 100);
    let slow = grid.claim(1).unwrap();
    grid.advance(slow, 15);
    let later = Instant::now() + Duration::from_secs(3);
    let second = grid.cut_slowest(later).unwrap();
    assert_eq!(grid.rest(second), 10..1000);
    assert!(grid.rest(slow).is_empty());
    // What it was writing then counts for nothing.
    assert!(grid.advance(slow, 20).is_empty());
    // The second has twice the time for its first byte.
    assert_eq!(grid.cut_slowest(Instant::now() + SLOW), None);
    let third = grid.cut_slowest(Instant::now() + SLOW * 2).unwrap();
    assert!(grid.rest(second).is_empty());
    grid.release(slow);
    grid.release(second);
    assert!(!grid.has_free());
    assert_eq!(grid.advance(third, 990), 1..100);
    assert!(grid.is_complete());
}

#[test]
fn a_size_that_only_the_end_tells() {
    let mut grid = Grid::new(None, 10, &vec![false; blocks_of(None, 10)], 100);
    let id = grid.claim(1).unwrap();
    grid.advance(id, 70);
    assert_eq!((grid.front(), grid.written()), (70, 70));
    assert!(!grid.is_complete());
    assert_eq!(grid.cut_slowest(Instant::now() + SLOW * 2), None);
    grid.end_at(70);
    assert!(grid.is_complete());
    assert_eq!(grid.front(), 70);
}

#[test]
fn what_comes_in_one_go_comes_from_the_first_gap() {
    let mut grid = Grid::new(Some(50), 10, &[true, false, true, false, false], 10);
    let id = grid.claim(2).unwrap();
    assert_eq!((grid.rest(id), grid.written()), (10..20, 20));
    grid.keep_front();
    grid.release(id);
    let id = grid.claim(1).unwrap();
    assert_eq!((grid.rest(id), grid.written()), (10..50, 10));
    assert_eq!(grid.advance(id, 40), 1..5);
    assert!(grid.is_complete());
}

proptest! {
    #[test]
    fn whatever_happens_each_byte_comes(size in 0_u64..300, steps in prop::collection::vec((0_u8..4, 0_u64..40), 0..80)) {
        let mut grid = grid(size, 20);
        let mut there = vec![false; usize::try_from(size).unwrap()];
        let mut pieces = Vec::new();
        let mut come = |grid: &mut Grid, id, most: u64| {
            let rest = grid.rest(id);
            let count = most.min(rest.end.saturating_sub(rest.start));
            let range = index(rest.start)..index(rest.start + count);
            if count > 0 {
                there[range].fill(true);
            }
            for block in grid.advance(id, count) {
                assert!(there[index(grid.start_of(block))..index(grid.end_of(block))].iter().all(|there| *there));
            }
        };
        for (what, number) in steps {
            let at = usize::try_from(number).unwrap();
            match what {
                0 => pieces.extend(grid.claim(3)),
                1 => pieces.extend(grid.cut_slowest(Instant::now() + SLOW * 1000)),
                2 if !pieces.is_empty() => grid.release(pieces.remove(at % pieces.len())),
                3 if !pieces.is_empty() => come(&mut grid, pieces[at % pieces.len()], number),
                _ => {}
            }
        }
        for id in pieces {
            grid.release(id);
        }
        while let Some(id) = grid.claim(3) {
            come(&mut grid, id, size);
            grid.release(id);
        }
        prop_assert!(grid.is_complete());
        prop_assert_eq!(grid.front(), size);
        prop_assert!(there.into_iter().all(|there| there));
    }
}
