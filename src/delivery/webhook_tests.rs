//! One attempt at a time, against a receiver on a real socket.

use super::super::testing::{Receiver, Reply};
use super::*;
use crate::config::PrivateUrls;

fn sender(allowed: &str, secrets: &[&str]) -> WebhookSender {
    let config = WebhookConfig {
        keys: secrets
            .iter()
            .map(|secret| SigningKey::parse(secret).unwrap())
            .collect(),
        attempts: 12,
        first_delay: Duration::from_secs(15),
        timeout: Duration::from_secs(20),
    };
    let guard = AddressGuard::new(PrivateUrls::parse(allowed).unwrap());
    WebhookSender::new(&guard, &config).unwrap()
}

fn message(url: Url) -> Message {
    Message {
        id: "msg_0198".to_owned(),
        url,
        body: Bytes::from_static(br#"{"status":"COMPLETED","output":"\u00e9 \"quoted\""}"#),
        traceparent: None,
    }
}

async fn attempt(replies: impl IntoIterator<Item = Reply>) -> Delivery {
    let receiver = Receiver::start(replies).await;
    sender("127.0.0.1", &[])
        .deliver(&message(receiver.url("/hook?token=4711")))
        .await
}

fn reason(delivery: &Delivery) -> &str {
    match delivery {
        Delivery::Retry { reason, .. } | Delivery::GiveUp(reason) => reason,
        Delivery::Delivered => "delivered",
    }
}

#[tokio::test]
async fn the_reference_library_verifies_what_is_sent() {
    let secrets = [
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_aGVsbG8gaGVsbG8gaGVsbG8=",
    ];
    let receiver = Receiver::start([]).await;
    let message = message(receiver.url("/hook?token=4711"));
    assert_eq!(
        sender("127.0.0.1", &secrets).deliver(&message).await,
        Delivery::Delivered
    );
    let request = &receiver.requests()[0];
    assert_eq!(request.path, "/hook?token=4711");
    assert_eq!(request.body, message.body);
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("webhook-id"), Some("msg_0198"));
    assert!(request.header("user-agent").unwrap().starts_with("qwen-image-worker/"));
    for secret in secrets {
        let webhook = standardwebhooks::Webhook::new(secret).unwrap();
        webhook.verify(&request.body, &request.headers).unwrap();
    }
    let stranger = standardwebhooks::Webhook::new("whsec_c3RyYW5nZXI=").unwrap();
    stranger.verify(&request.body, &request.headers).unwrap_err();
}

#[tokio::test]
async fn without_a_secret_there_is_an_id_and_no_signature() {
    let receiver = Receiver::start([]).await;
    sender("127.0.0.1", &[]).deliver(&message(receiver.url("/"))).await;
    let request = &receiver.requests()[0];
    assert_eq!(request.header("webhook-id"), Some("msg_0198"));
    assert!(request.header("webhook-timestamp").unwrap().parse::<u64>().unwrap() > 1_700_000_000);
    assert_eq!(request.header("webhook-signature"), None);
}

#[test]
fn every_status_is_worth_something() {
    for status in 200..600 {
        let delivery = classify(StatusCode::from_u16(status).unwrap(), None, "");
        let worth = match delivery {
            Delivery::Delivered => "delivered",
            Delivery::Retry {
                attempts: Attempts::All,
                ..
            } => "all",
            Delivery::Retry {
                attempts: Attempts::Few,
                ..
            } => "few",
            Delivery::GiveUp(_) => "none",
        };
        let expected = match status {
            ..300 => "delivered",
            408 | 425 | 429 | 500.. => "all",
            300..=399 | 401 | 403 | 404 | 409 | 421 | 423 | 424 => "few",
            _ => "none",
        };
        assert_eq!(worth, expected, "{status}");
    }
}

#[tokio::test]
async fn retry_after_is_read_in_both_forms() {
    let after = async |value: String| match attempt([Reply::Header(429, "retry-after", value)]).await {
        Delivery::Retry { after, .. } => after,
        other => panic!("{other:?}"),
    };
    assert_eq!(after("120".to_owned()).await, Some(Duration::from_mins(2)));
    assert_eq!(after("soon".to_owned()).await, None);
    assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT".to_owned()).await, None);
    let later = SystemTime::now() + Duration::from_hours(10);
    let read = after(httpdate::fmt_http_date(later)).await.unwrap();
    assert!(read > Duration::from_hours(9), "{read:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_says_so() {
    let receiver = Receiver::start([Reply::Header(301, "location", "/elsewhere?token=4712".to_owned())]).await;
    let delivery = sender("127.0.0.1", &[]).deliver(&message(receiver.url("/hook"))).await;
    assert_eq!(receiver.requests().len(), 1);
    let reason = reason(&delivery);
    assert!(
        reason.contains("301 Moved Permanently (a redirect to http://127.0.0.1:"),
        "{reason}"
    );
    assert!(reason.contains("not followed") && !reason.contains("4712"), "{reason}");
}

#[tokio::test]
async fn an_answer_is_quoted_in_short() {
    let delivery = attempt([Reply::Body(500, format!("one\ntwo{}", "x".repeat(1_000_000)))]).await;
    let reason = reason(&delivery);
    assert!(
        reason.starts_with("the receiver answered 500 Internal Server Error: one\\ntwoxxx"),
        "{reason}"
    );
    assert!(reason.len() < 300, "{} bytes", reason.len());
}

#[tokio::test]
async fn what_does_not_answer_is_tried_again_and_its_secrets_are_not_told() {
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let receiver = Receiver::start([Reply::Reset]).await;
    for (port, words) in [(closed, "connect"), (receiver.port, "connection")] {
        let url = format!("http://user:pass@127.0.0.1:{port}/hook?token=4711")
            .parse()
            .unwrap();
        let delivery = sender("127.0.0.1", &[]).deliver(&message(url)).await;
        let reason = reason(&delivery);
        assert!(
            matches!(
                delivery,
                Delivery::Retry {
                    attempts: Attempts::All,
                    ..
                }
            ),
            "{delivery:?}"
        );
        assert!(reason.contains(&format!("http://127.0.0.1:{port}/hook")), "{reason}");
        assert!(reason.contains(words), "{reason}");
        assert!(!reason.contains("4711") && !reason.contains("pass"), "{reason}");
    }
}

#[tokio::test]
async fn a_receiver_that_hangs_is_left() {
    let receiver = Receiver::start([Reply::Hang]).await;
    let mut sender = sender("127.0.0.1", &[]);
    sender.timeout = Duration::from_millis(100);
    let delivery = sender.deliver(&message(receiver.url("/"))).await;
    assert!(
        matches!(
            delivery,
            Delivery::Retry {
                attempts: Attempts::All,
                ..
            }
        ),
        "{delivery:?}"
    );
    assert!(reason(&delivery).contains("timed out"), "{delivery:?}");
}

#[tokio::test]
async fn what_the_guard_refuses_is_given_up() {
    let receiver = Receiver::start([]).await;
    for url in [
        receiver.url("/"),
        format!("http://localhost:{}/", receiver.port).parse().unwrap(),
    ] {
        let delivery = sender("false", &[]).deliver(&message(url)).await;
        let Delivery::GiveUp(reason) = delivery else {
            panic!("{delivery:?}")
        };
        assert!(
            reason.contains("is refused") && reason.contains("ALLOW_PRIVATE_URLS"),
            "{reason}"
        );
    }
    assert!(receiver.requests().is_empty());
}

#[tokio::test]
async fn an_id_that_no_header_holds_is_given_up() {
    let receiver = Receiver::start([]).await;
    let mut message = message(receiver.url("/"));
    message.id = "two\nlines".to_owned();
    let delivery = sender("127.0.0.1", &[]).deliver(&message).await;
    assert!(matches!(delivery, Delivery::GiveUp(_)), "{delivery:?}");
}

#[test]
fn the_example_of_the_reference_library() {
    // From the tests of the reference libraries of standardwebhooks.com.
    let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let body = br#"{"test": 2432232314}"#;
    assert_eq!(
        signatures(&[key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body).unwrap(),
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    );
}

#[test]
fn each_key_signs() {
    let keys: Vec<_> = ["whsec_aGVsbG8=", "plain text"]
        .map(|key| SigningKey::parse(key).unwrap())
        .into();
    let both = signatures(&keys, "id", 1, b"{}").unwrap();
    let oracle = |key: &[u8]| {
        let webhook = standardwebhooks::Webhook::from_bytes(key.to_vec()).unwrap();
        webhook.sign("id", 1, b"{}").unwrap()
    };
    assert_eq!(both, format!("{} {}", oracle(b"hello"), oracle(b"plain text")));
    assert_eq!(signatures(&[], "id", 1, b"{}"), None);
}
