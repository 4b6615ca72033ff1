use super::*;
use crate::dialect::gradio::Refusal;

const HASH: &str = "some-session";

fn refused() -> Snapshot {
    Snapshot::Refused(Arc::new(Refusal::from(&JobError::invalid("No"))))
}

fn add(sessions: &Sessions) -> (JobId, CancellationToken) {
    let (id, stop) = (JobId::new(), CancellationToken::new());
    sessions.add(HASH, id.clone(), 42, stop.clone()).unwrap();
    (id, stop)
}

#[test]
fn a_stream_ends_with_the_last_event_and_not_before() {
    let sessions = Sessions::default();
    assert!(sessions.listen(HASH).is_none(), "it has no events");
    let ((first, stop), (second, _)) = (add(&sessions), add(&sessions));
    let listener = sessions.listen(HASH).unwrap();
    sessions.show(HASH, &first, refused());
    let later = Instant::now() + SETTLING;
    let news = listener.news(later, 0, None).unwrap();
    assert_eq!((news.ended.len(), news.last), (1, false));
    sessions.show(HASH, &second, refused());
    let news = listener.news(later, 0, None).unwrap();
    assert_eq!((news.ended[0].id.clone(), news.last), (second, true));
    assert!(sessions.listen(HASH).is_none(), "nothing is kept of it");
    // The client comes back while the last stream is still on its way.
    let (_, again) = add(&sessions);
    let next = sessions.listen(HASH).unwrap();
    drop(listener);
    assert!(!stop.is_cancelled() && !again.is_cancelled());
    assert!(next.news(Instant::now(), 0, None).is_some());
}

#[test]
fn among_others_an_end_waits_until_its_client_has_read_the_answer() {
    let sessions = Sessions::default();
    let begin = Instant::now();
    let ((first, _), (second, _)) = (add(&sessions), add(&sessions));
    let listener = sessions.listen(HASH).unwrap();
    sessions.show(HASH, &first, refused());
    let news = listener.news(begin, 0, None).unwrap();
    assert!(news.ended.is_empty() && !news.lines.is_empty());
    let due = news.due.expect("it ended");
    assert!(due >= begin + SETTLING);
    let news = listener.news(due, 0, None).unwrap();
    assert_eq!((news.ended[0].id.clone(), news.due), (first, None));
    // It is the only one left, and not the only one there was.
    sessions.show(HASH, &second, refused());
    let news = listener.news(begin, 0, None).unwrap();
    assert!(!news.last);
    assert!(listener.news(news.due.expect("it ended"), 0, None).unwrap().last);
}

#[tokio::test]
async fn who_waits_for_an_end_is_told() {
    let sessions = Sessions::default();
    let (id, _) = add(&sessions);
    sessions.told("unknown").await;
    let listener = sessions.listen(HASH).unwrap();
    sessions.show(HASH, &id, refused());
    let mut told = std::pin::pin!(sessions.told(id.as_str()));
    assert!(futures_util::poll!(told.as_mut()).is_pending());
    assert!(listener.news(Instant::now(), 0, None).unwrap().last);
    told.await;
    // The client goes away.
    let (id, _) = add(&sessions);
    let listener = sessions.listen(HASH).unwrap();
    let mut told = std::pin::pin!(sessions.told(id.as_str()));
    assert!(futures_util::poll!(told.as_mut()).is_pending());
    drop(listener);
    told.await;
}

#[test]
fn a_client_that_leaves_calls_its_events_off() {
    let sessions = Sessions::default();
    let ((_, first), (_, second)) = (add(&sessions), add(&sessions));
    drop(sessions.listen(HASH).unwrap());
    assert!(first.is_cancelled() && second.is_cancelled());
    assert!(sessions.listen(HASH).is_none());
}

#[test]
fn a_second_stream_takes_over() {
    let sessions = Sessions::default();
    let (id, stop) = add(&sessions);
    let before = sessions.listen(HASH).unwrap();
    let after = sessions.listen(HASH).unwrap();
    assert!(before.news(Instant::now(), 0, None).is_none());
    drop(before);
    assert!(!stop.is_cancelled());
    sessions.show(HASH, &id, refused());
    assert!(after.news(Instant::now(), 0, None).unwrap().last);
}

#[test]
fn an_event_is_cancelled_in_its_session_only() {
    let sessions = Sessions::default();
    let (id, stop) = add(&sessions);
    sessions.cancel(id.as_str(), Some("another"));
    sessions.cancel("unknown", None);
    assert!(!stop.is_cancelled());
    sessions.cancel(id.as_str(), Some(HASH));
    assert!(stop.is_cancelled());
}

#[test]
fn what_nobody_asked_for_makes_room() {
    let sessions = Sessions::default();
    let (old, _) = add(&sessions);
    sessions.show(HASH, &old, refused());
    add(&sessions);
    let all = &mut sessions.0.lock().sessions;
    remove_the_old(all, Instant::now());
    assert_eq!(count(all), 2);
    remove_the_old(all, Instant::now() + KEPT);
    assert_eq!(count(all), 1, "the one that has not ended");
}

#[test]
fn there_is_an_end_to_what_is_kept() {
    let sessions = Sessions::default();
    for _ in 0..MOST_EVENTS {
        add(&sessions);
    }
    let error = sessions
        .add("another", JobId::new(), 0, CancellationToken::new())
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy);
}

#[tokio::test]
async fn a_stream_learns_of_what_is_shown_before_it_waits() {
    let sessions = Sessions::default();
    let (id, _) = add(&sessions);
    let listener = sessions.listen(HASH).unwrap();
    listener.news(Instant::now(), 0, None).unwrap();
    sessions.show(HASH, &id, refused());
    listener.changed().await;
    assert!(listener.news(Instant::now(), 0, None).unwrap().last);
}
