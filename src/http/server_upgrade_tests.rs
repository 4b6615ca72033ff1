use axum::extract::FromRequestParts as _;
use axum::response::Response;
use axum::routing::get;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::*;
use crate::comfy::Frame;
use crate::http::websocket::Upgrade;

/// The largest message, in bytes.
const LARGEST: usize = 1024 * 1024;

/// Says everything back; `/loud` talks on and on.
fn router() -> Router {
    let echo = async |request: Request| -> Result<Response, Response> {
        let (mut parts, _) = request.into_parts();
        let upgrade = Upgrade::from_request_parts(&mut parts, &()).await?;
        Ok(upgrade.accept(LARGEST, |mut socket| async move {
            while let Some(frame) = socket.next().await {
                if socket.send(frame).await.is_err() {
                    break;
                }
            }
            socket.end().await;
        }))
    };
    let loud = async |request: Request| -> Result<Response, Response> {
        let (mut parts, _) = request.into_parts();
        let upgrade = Upgrade::from_request_parts(&mut parts, &()).await?;
        Ok(upgrade.accept(LARGEST, |mut socket| async move {
            let frame = Frame::Binary(vec![0; 100_000].into());
            while socket.send(frame.clone()).await.is_ok() {}
            socket.end().await;
        }))
    };
    Router::new()
        .route("/ws", get(echo))
        .route("/loud", get(loud))
        .route("/quick", get(async || "done"))
}

/// A port of its own.
struct Served {
    address: SocketAddr,
    close: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let close = CancellationToken::new();
        let server = tokio::spawn(serve(listener, router(), Port::Main, close.clone()));
        Self { address, close, server }
    }

    async fn open(&self) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
        connect_async(format!("ws://{}/ws", self.address)).await.unwrap().0
    }

    async fn ask(&self, headers: &str) -> String {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET /ws HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        connection.read_exact(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// The code with which the other side ended it.
async fn close_code(socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>) -> Option<u16> {
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Close(frame) = message {
            return frame.map(|frame| frame.code.into());
        }
    }
    None
}

#[tokio::test]
async fn a_websocket_is_opened_used_and_closed_and_the_port_stops_with_a_word() {
    let served = Served::start().await;
    let (mut one, mut other) = (served.open().await, served.open().await);
    for message in [Message::text("hello"), Message::binary(vec![7; 100_000])] {
        one.send(message.clone()).await.unwrap();
        assert_eq!(one.next().await.unwrap().unwrap(), message);
    }
    // Its ping is answered.
    one.send(Message::Ping("x".into())).await.unwrap();
    assert_eq!(one.next().await.unwrap().unwrap(), Message::Pong("x".into()));
    one.close(None).await.unwrap();
    assert!(matches!(one.next().await, Some(Ok(Message::Close(_))) | None));
    assert!(!served.server.is_finished());
    served.close.cancel();
    assert_eq!(close_code(&mut other).await, Some(1001));
    tokio::time::timeout(Duration::from_secs(5), served.server)
        .await
        .expect("it ends with its websockets")
        .unwrap();
}

#[tokio::test]
async fn what_is_no_websocket_is_told_so() {
    const ASKS: &str = "connection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n";
    const VERSION: &str = "sec-websocket-version: 13\r\n";
    const KEY: &str = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let served = Served::start().await;
    for (headers, status) in [
        (String::new(), "426"),
        (format!("{VERSION}{KEY}"), "426"),
        (format!("{ASKS}{KEY}"), "426"),
        (format!("{ASKS}{VERSION}"), "426"),
        (format!("{ASKS}sec-websocket-version: 12\r\n{KEY}"), "426"),
        (format!("{ASKS}{VERSION}{KEY}"), "101"),
    ] {
        assert_eq!(served.ask(&headers).await, format!("HTTP/1.1 {status}"), "{headers}");
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_its_websocket_and_no_other() {
    let served = Served::start().await;
    let mut other = served.open().await;
    for size in [LARGEST + 1, 100 * 1024 * 1024] {
        let mut socket = served.open().await;
        // All of it is sent before the answer is read, as simple clients do.
        socket.send(Message::binary(vec![0; size])).await.unwrap();
        assert_eq!(close_code(&mut socket).await, Some(1009), "{size}");
    }
    other.send(Message::text("hello")).await.unwrap();
    assert_eq!(other.next().await.unwrap().unwrap(), Message::text("hello"));
}

#[tokio::test]
async fn a_thousand_websockets_at_once_are_opened_or_refused() {
    let served = Served::start().await;
    let most = usize::try_from(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0 / 4)
        .unwrap()
        .min(1_000);
    let opening = (0..most).map(|_| connect_async(format!("ws://{}/ws", served.address)));
    let opened = futures_util::future::join_all(opening).await;
    let mut open = 0;
    for opened in &opened {
        match opened {
            Ok(_) => open += 1,
            Err(Error::Http(answer)) => assert_eq!(answer.status(), 503),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(open >= Port::Main.connections(1024) / 2 || open == most, "{open}");
    assert!(served.ask("").await.ends_with("426"));
}

/// A connection by a pipe, with the places of a port that has one, of which one may become a websocket.
struct Piped {
    places: Arc<Semaphore>,
    upgrades: Upgrades,
    crowded: watch::Sender<bool>,
}

impl Piped {
    fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(10)),
            upgrades: Upgrades {
                places: Arc::new(Semaphore::new(1)),
                closing: CancellationToken::new(),
            },
            crowded: watch::Sender::new(false),
        }
    }

    fn connect(&self) -> DuplexStream {
        let (ours, theirs) = duplex(1024);
        let peer = ([127, 0, 0, 1], 4711).into();
        let place = Place {
            _permit: Some(Arc::clone(&self.places).try_acquire_owned().unwrap()),
            _token: TaskTracker::new().token(),
        };
        let crowded = self.crowded.subscribe();
        tokio::spawn(converse(theirs, peer, router(), crowded, self.upgrades.clone(), place));
        ours
    }

    /// Asks for a websocket, and reads the head of the answer.
    async fn open(&self, path: &str) -> (DuplexStream, String) {
        let mut connection = self.connect();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await.unwrap());
        }
        (connection, String::from_utf8(head).unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn a_websocket_keeps_its_place_and_one_that_answers_nothing_is_ended() {
    let port = Piped::new();
    let (mut connection, head) = port.open("/ws").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(
        head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        "{head}"
    );
    // Full or not, it asks for nothing and stays.
    port.crowded.send_replace(true);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(port.places.available_permits(), 9);
    let (_refused, head) = port.open("/ws").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    // It is asked whether it is there, and has until the next time.
    let begun = Instant::now();
    let mut rest = Vec::new();
    connection.read_to_end(&mut rest).await.unwrap();
    assert_eq!((rest.as_slice(), begun.elapsed().as_secs()), (&[0x89, 0][..], 40));
    drop(_refused);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(
        (
            port.places.available_permits(),
            port.upgrades.places.available_permits()
        ),
        (10, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_is_kept_for_as_long_as_it_likes() {
    let port = Piped::new();
    let (mut connection, _) = port.open("/ws").await;
    for _ in 0..100 {
        let mut ping = [0; 2];
        connection.read_exact(&mut ping).await.unwrap();
        assert_eq!(ping, [0x89, 0]);
        // Masked, with a mask of zeroes.
        connection.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_takes_nothing_is_given_up() {
    let port = Piped::new();
    let (mut connection, _) = port.open("/loud").await;
    let begun = Instant::now();
    while port.upgrades.places.available_permits() == 0 {
        sleep(Duration::from_secs(1)).await;
        assert!(begun.elapsed() < Duration::from_mins(1));
    }
    let mut rest = Vec::new();
    connection.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() <= 1024, "{}", rest.len());
}
