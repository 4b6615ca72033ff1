use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const JOB: &str = r#"{"id":"a","input":{}}"#;

async fn platform() -> (TcpListener, Url) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/job-take/pod?gpu=x", listener.local_addr().unwrap());
    (listener, url.parse().unwrap())
}

/// Reads a request's head.
async fn question(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn poll(leave: &CancellationToken) -> LongPoll {
    LongPoll::new(Some(Secret::new("key")), leave.clone())
}

#[tokio::test]
async fn one_connection_serves_many_questions() {
    let (listener, url) = platform().await;
    let mut poll = poll(&CancellationToken::new());
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..2 {
            let head = question(&mut stream).await;
            assert!(head.starts_with("GET /job-take/pod?gpu=x HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("authorization: key\r\n"), "{head}");
            stream.write_all(ok(JOB).as_bytes()).await.unwrap();
        }
        // Now it closes the connection, and takes the next question on another.
        drop(stream);
        let (mut stream, _) = listener.accept().await.unwrap();
        question(&mut stream).await;
        let answer = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    for _ in 0..2 {
        let answer = poll.ask(&url).await.unwrap().unwrap();
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, JOB.as_bytes()));
    }
    let answer = poll.ask(&url).await.unwrap().unwrap();
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.retry_after, Some(Duration::from_secs(7)));
    served.await.unwrap();
}

#[tokio::test]
async fn leaving_is_seen_by_the_platform_and_what_it_was_saying_is_heard() {
    let (listener, url) = platform().await;
    let leave = CancellationToken::new();
    let mut poll = poll(&leave);
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        question(&mut stream).await;
        // The beginning of an answer, so that the job counts as handed out.
        let answer = ok(JOB);
        stream.write_all(&answer.as_bytes()[..20]).await.unwrap();
        leave.cancel();
        // The worker will ask nothing more.
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        stream.write_all(&answer.as_bytes()[20..]).await.unwrap();
    });
    let answer = poll.ask(&url).await.unwrap().unwrap();
    assert_eq!(&answer.body[..], JOB.as_bytes());
    served.await.unwrap();
}

#[tokio::test]
async fn a_platform_that_has_nothing_to_say_is_left() {
    let (listener, url) = platform().await;
    let leave = CancellationToken::new();
    let mut poll = poll(&leave);
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        question(&mut stream).await;
        leave.cancel();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    });
    assert!(poll.ask(&url).await.unwrap().is_none());
    served.await.unwrap();
}

#[tokio::test]
async fn a_broken_answer_is_an_error_that_shows_no_key() {
    let (listener, url) = platform().await;
    let mut poll = poll(&CancellationToken::new());
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        question(&mut stream).await;
        stream.write_all(&ok(JOB).as_bytes()[..70]).await.unwrap();
    });
    let error = poll.ask(&url).await.unwrap_err().to_string();
    assert!(!error.contains("gpu=x"), "{error}");
    served.await.unwrap();
    let error = poll.ask(&url).await.unwrap_err().to_string();
    assert!(error.contains("no connection to 127.0.0.1"), "{error}");
}
