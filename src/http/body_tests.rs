use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A body that sends pieces of so many bytes, one each `pause`, for ever.
fn dripping(bytes: usize, pause: Duration) -> Body {
    Body::from_stream(futures_util::stream::unfold((), move |()| async move {
        tokio::time::sleep(pause).await;
        Some((Ok::<_, Infallible>(Bytes::from(vec![b' '; bytes])), ()))
    }))
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_given_up() {
    let bodies = Bodies::new(100 * LITTLE);
    for (bytes, pause, words) in [
        (1, Duration::MAX, "nothing for 20 s"),
        (1, PIECE_TIME / 2, "not complete after 300 s"),
        (LITTLE, PIECE_TIME / 2, "not complete after 300 s"),
        (STEP / 2, PIECE_TIME / 2, "not complete after 300 s"),
        (STEP / 4, PIECE_TIME / 2, "less than 256 KiB in 30 s"),
    ] {
        let error = bodies
            .read(&HeaderMap::new(), dripping(bytes, pause))
            .await
            .unwrap_err();
        assert!(error.message.contains(words), "{bytes} {}", error.message);
        assert_eq!((error.kind.status(), error.kind.retryable()), (408, true));
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_in_hand_have_a_limit_of_their_own_and_what_is_only_announced_does_not_count() {
    let bodies = Bodies::new(100 * LITTLE);
    let whole = |length: usize| Body::from(vec![b' '; length]);
    let announced = HeaderMap::from_iter([(header::CONTENT_LENGTH, (100 * LITTLE).into())]);
    let mut begun = Vec::new();
    for _ in 0..20 {
        let mut reading = Box::pin(bodies.read(&announced, dripping(1, Duration::MAX)));
        assert!(futures_util::poll!(&mut reading).is_pending());
        begun.push(reading);
    }
    let mut in_hand = Vec::new();
    for _ in 0..LARGEST {
        in_hand.push(bodies.read(&HeaderMap::new(), whole(100 * LITTLE)).await.unwrap());
    }
    let error = bodies.read(&HeaderMap::new(), whole(1)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy);
    assert!(error.message.contains("400 MiB"), "{}", error.message);
    // One that was made sense of is no longer there, and who waits for room has it then.
    let headers = HeaderMap::new();
    let mut waiting = Box::pin(bodies.read(&headers, whole(100 * LITTLE)));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    tokio::time::sleep(ROOM_TIME / 2).await;
    assert!(futures_util::poll!(&mut waiting).is_pending());
    bodies.parsed(in_hand.remove(0), |_| Ok(())).await.unwrap();
    waiting.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_waits_for_room_is_not_slow() {
    let bodies = Bodies::new(100 * LITTLE);
    let mut pace = Pace::default();
    pace.keep(LITTLE).unwrap();
    tokio::time::sleep(STEP_TIME * 2).await;
    pace.pause(STEP_TIME * 2);
    pace.keep(LITTLE + 1).unwrap();
    // Those that have room and wait for more keep it from each other for a while, not for ever.
    let piece = bodies.all_room / 2;
    let halves = [
        bodies.take_room(piece).await.unwrap(),
        bodies.take_room(piece).await.unwrap(),
    ];
    let grow = async |half: OwnedSemaphorePermit, before: Duration| {
        tokio::time::sleep(before).await;
        let more = bodies.take_room(piece).await;
        drop(half);
        more.is_ok()
    };
    let [first, second] = halves;
    let later = Duration::from_secs(1);
    assert_eq!(
        tokio::join!(grow(first, Duration::ZERO), grow(second, later)),
        (false, true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn few_large_bodies_are_made_sense_of_at_once() {
    let bodies = Bodies::new(8 * LITTLE);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let (bodies, now, most) = (bodies.clone(), Arc::clone(&now), Arc::clone(&most));
        tasks.push(tokio::spawn(async move {
            let received = bodies.read(&HeaderMap::new(), Body::from(vec![b' '; LITTLE])).await?;
            let parse = move |_| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            };
            bodies.parsed(received, parse).await
        }));
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert!(most.load(Ordering::SeqCst) <= PARSED_AT_ONCE);
}
