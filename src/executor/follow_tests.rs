//! What is heard of a prompt, and when the websocket is lost.

use super::*;
use crate::comfy::Comfy;
use crate::comfy::message::ENDS;
use crate::executor::testing::{FakeComfy, owner, settings};

async fn attached() -> (Comfy, Connection) {
    let fake = FakeComfy::start(|_, _| (200, "{}".to_owned())).await;
    let comfy = Comfy::attached(&fake.url.parse().unwrap()).unwrap();
    let connection = comfy.connection().await.unwrap();
    (comfy, connection)
}

/// A message in a frame that nobody looks at.
fn framed(message: Message) -> (Message, Frame) {
    (message, Frame::Text("".into()))
}

/// Takes a message in as one of the first connection, and says whether the next look is later for it.
fn postpones(follow: &mut Follow<'_>, message: Message, sink: &mut ProgressSink<'_>) -> bool {
    follow.hears = true;
    follow.look_at = TokioInstant::now();
    let before = follow.look_at;
    follow.heard(Ok(framed(message)), sink);
    follow.look_at > before
}

#[tokio::test]
async fn only_words_of_the_prompt_postpone_the_next_look() {
    let (comfy, connection) = attached().await;
    let (settings, owner) = (settings(), owner());
    let mut sink = ProgressSink::new(&owner, &comfy);
    let mut follow = Follow::new(&settings, &connection, "p", None, Pictures::default());
    let mut heard = |text: &str| postpones(&mut follow, Message::from_text(text), &mut sink);
    assert!(!heard(
        r#"{"type": "crystools.monitor", "data": {"cpu_utilization": 5}}"#
    ));
    assert!(!heard(
        r#"{"type": "execution_start", "data": {"prompt_id": "another"}}"#
    ));
    assert!(heard(r#"{"type": "execution_start", "data": {"prompt_id": "p"}}"#));
    assert!(heard(r#"{"type": "something_new", "data": {"prompt_id": "p"}}"#));
    // The text of a node that runs is a sign of life.
    let text = Message::Text {
        node_id: "1".to_owned(),
        text: "polling".to_owned(),
    };
    follow.quiet = Some(Quiet::since_now(None));
    assert!(!postpones(&mut follow, Message::from_text("{}"), &mut sink) && follow.quiet.is_some());
    assert!(!postpones(&mut follow, text, &mut sink) && follow.quiet.is_none());
}

#[tokio::test]
async fn each_loss_of_the_websocket_has_its_own_attempts() {
    let (comfy, connection) = attached().await;
    let mut settings = settings();
    settings.comfy.reconnect_attempts = 3;
    let owner = owner();
    let mut sink = ProgressSink::new(&owner, &comfy);
    let mut follow = Follow::new(&settings, &connection, "p", None, Pictures::default());
    for _ in 0..2 {
        follow.reconnect().await;
        follow.reconnect().await;
        assert_eq!(follow.attempts, 1);
        assert!(follow.heard(Err(SocketError::Closed), &mut sink));
        assert_eq!(follow.attempts, 3);
    }
}

#[tokio::test]
async fn a_prompt_that_is_over_is_looked_for_soon_whatever_comes_last() {
    let (comfy, connection) = attached().await;
    let (settings, owner) = (settings(), owner());
    let mut sink = ProgressSink::new(&owner, &comfy);
    let mut follow = Follow::new(&settings, &connection, "p", None, Pictures::default());
    for kind in ENDS {
        follow.hears = true;
        follow.look_at = TokioInstant::now() + SILENCE;
        let message = format!(r#"{{"type": "{kind}", "data": {{"prompt_id": "p"}}}}"#);
        assert!(!follow.heard(Ok(framed(Message::from_text(&message))), &mut sink));
        assert!(follow.look_at < TokioInstant::now() + SILENCE / 2, "{kind}");
    }
}
