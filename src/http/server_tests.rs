use axum::middleware::from_fn;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::http::body::drain_body;

/// A connection to a server with a quick answer, one that is always at work, and one that is large.
fn connect(crowded: &watch::Sender<bool>) -> DuplexStream {
    let router = Router::new()
        .route("/quick", get(async || "done"))
        .route("/work", get(async || std::future::pending::<()>().await))
        .route("/large", get(async || vec![b'x'; 1_000_000]))
        .route("/refused", post(async || StatusCode::PAYLOAD_TOO_LARGE))
        .layer(from_fn(drain_body));
    let (ours, theirs) = duplex(1024);
    let peer = ([127, 0, 0, 1], 4711).into();
    let crowded = crowded.subscribe();
    tokio::spawn(converse(theirs, peer, router, crowded, upgrades(), place()));
    ours
}

fn upgrades() -> Upgrades {
    Upgrades {
        places: Arc::new(Semaphore::new(1)),
        closing: CancellationToken::new(),
    }
}

fn place() -> Place {
    Place {
        _permit: None,
        _token: TaskTracker::new().token(),
    }
}

async fn ask(connection: &mut DuplexStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
}

/// When the connection ends, in seconds from now; [`None`]: not in an hour.
async fn end(connection: &mut DuplexStream) -> Option<u64> {
    let begun = Instant::now();
    let mut rest = Vec::new();
    let read = connection.read_to_end(&mut rest);
    let ended = tokio::time::timeout(Duration::from_hours(1), read).await;
    ended.ok().map(|_| begun.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_asks_for_nothing_is_ended() {
    let port = watch::Sender::new(false);
    // Nothing, half a head, and the beginning of another protocol.
    for said in ["", "GET /quick HTTP/1.1\r\nhost: a\r\nx-", "PRI * HT"] {
        let mut connection = connect(&port);
        connection.write_all(said.as_bytes()).await.unwrap();
        assert_eq!(end(&mut connection).await, Some(FIRST.as_secs()), "{said:?}");
    }
    // After an answer it may wait longer, half a request or none.
    for said in ["", "GET /quick"] {
        let mut connection = connect(&port);
        ask(&mut connection, "/quick").await;
        let mut answer = [0; 15];
        connection.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        connection.write_all(said.as_bytes()).await.unwrap();
        let ended = end(&mut connection).await.unwrap();
        assert!((IDLE.as_secs()..=(IDLE + LOOK).as_secs()).contains(&ended), "{ended}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_while_we_are_at_work() {
    let port = watch::Sender::new(false);
    let mut connection = connect(&port);
    ask(&mut connection, "/work").await;
    port.send_replace(true);
    assert_eq!(end(&mut connection).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_its_answer_is_given_up() {
    let port = watch::Sender::new(false);
    let mut connection = connect(&port);
    ask(&mut connection, "/large").await;
    sleep((UNREAD + LOOK) * 2).await;
    let mut rest = Vec::new();
    connection.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() < 1_000_000, "{}", rest.len());
    // Sooner where others wait for its place.
    let mut connection = connect(&port);
    ask(&mut connection, "/large").await;
    port.send_replace(true);
    sleep(UNREAD_CROWDED + LOOK).await;
    let mut rest = Vec::new();
    connection.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() < 1_000_000, "{}", rest.len());
    port.send_replace(false);
    // One that is slow is not.
    let mut connection = connect(&port);
    ask(&mut connection, "/large").await;
    for _ in 0..4 {
        sleep(UNREAD * 3 / 4).await;
        connection.read_exact(&mut vec![0; 250_000]).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_port_is_full_who_asks_for_nothing_goes_first() {
    let port = watch::Sender::new(false);
    let (mut silent, mut working) = (connect(&port), connect(&port));
    ask(&mut working, "/work").await;
    sleep(Duration::from_secs(5)).await;
    port.send_replace(true);
    assert_eq!(end(&mut silent).await, Some(0));
    let mut late = connect(&port);
    assert_eq!(end(&mut late).await, Some(CROWDED.as_secs()));
    assert_eq!(end(&mut working).await, None);
}

/// A socket as real clients have it: unlike a pipe in memory it forgets the answer when it is reset.
#[tokio::test]
async fn a_client_that_sends_all_before_it_reads_sees_why_it_was_refused() {
    let router = Router::new()
        .route("/", post(async || StatusCode::PAYLOAD_TOO_LARGE))
        .layer(from_fn(drain_body));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let close = CancellationToken::new();
    let server = tokio::spawn(serve(listener, router, Port::Main, close.clone()));
    let size = 200 * 1024 * 1024;
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'x'; 1024 * 1024];
    for _ in 0..200 {
        client.write_all(&piece).await.unwrap();
    }
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    drop(client);
    close.cancel();
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_on_and_on_is_not_listened_to_for_ever() {
    let port = watch::Sender::new(false);
    let mut connection = connect(&port);
    let head = "POST /refused HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n";
    connection.write_all(head.as_bytes()).await.unwrap();
    let begun = Instant::now();
    while connection.write_all(&[b'x'; 100]).await.is_ok() {
        sleep(Duration::from_secs(1)).await;
    }
    let most = LINGER + LOOK + Duration::from_secs(5);
    assert!((LINGER..=most).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[test]
fn connections_leave_descriptors_for_everything_else() {
    for descriptors in [64, 256, 1024, 20_000, 1_048_576, u64::MAX] {
        let all = [Port::Main, Port::Edit, Port::Health, Port::Metrics].map(|port| port.connections(descriptors));
        assert!(all.iter().all(|most| *most >= 1), "{descriptors}: {all:?}");
        assert!(
            all.iter().sum::<usize>() as u64 <= descriptors / 16 * 13,
            "{descriptors}: {all:?}"
        );
    }
    assert_eq!(Port::Main.connections(1024), 640);
}

#[test]
fn the_limit_of_descriptors_is_raised_and_never_lowered() {
    assert_eq!(raised_limit(1024, 4096), Some(4096));
    assert_eq!(raised_limit(1024, 1 << 30), Some(MOST_DESCRIPTORS));
    assert_eq!(raised_limit(4096, 4096), None);
    assert_eq!(raised_limit(1 << 20, 1 << 30), None);
}

#[tokio::test]
async fn a_client_whose_machine_is_gone_is_seen() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, (stream, _)) = tokio::join!(TcpStream::connect(address), accept(&listener));
    assert!(client.is_ok() && SockRef::from(&stream).keepalive().unwrap());
}
