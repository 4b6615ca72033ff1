//! Asks a ComfyUI that is starting whether it answers yet.
//!
//! The question is asked many times a second for many seconds, of 127.0.0.1 alone, so it is one `GET` by hand: no
//! proxy from the environment can come between, and no TLS roots are loaded before the first process is up.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long one answer may take. On a busy machine the first one takes a second.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// An answer is a few kilobytes; whoever sends more is not ComfyUI.
const LONGEST_ANSWER: u64 = 1024 * 1024;

/// Whether the ComfyUI that uses `temp_dir` answers at `port`. Everything else, such as a refused connection, is no.
pub(super) async fn answers(port: u16, temp_dir: &Path) -> bool {
    matches!(tokio::time::timeout(ANSWER_TIME, ask(port)).await, Ok(Ok(answer)) if accept(&answer, temp_dir))
}

async fn ask(port: u16) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    // Version 1.0: the answer comes in one piece and ends with the connection.
    let request = format!("GET /system_stats HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn accept(answer: &[u8], temp_dir: &Path) -> bool {
    let answer = String::from_utf8_lossy(answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return false;
    };
    let status = head.split_whitespace().nth(1);
    status == Some("200") && !belongs_to_another(body, temp_dir)
}

/// Whether this is the ComfyUI of another worker, which took the port between our choosing it and our ComfyUI's
/// listening on it. `/system_stats` tells its arguments, and the folder for temporary files is each one's own.
/// Older versions, and custom nodes that empty `sys.argv`, tell nothing: that is ours then.
fn belongs_to_another(body: &str, temp_dir: &Path) -> bool {
    let Ok(stats) = serde_json::from_str::<serde_json::Value>(body) else {
        return false;
    };
    let Some(arguments) = stats.pointer("/system/argv").and_then(|argv| argv.as_array()) else {
        return false;
    };
    let arguments: Vec<&str> = arguments.iter().filter_map(|argument| argument.as_str()).collect();
    let theirs = super::flag::value(&arguments, "--temp-directory");
    // One that a user gives may be relative; it is then below the folder where both run.
    theirs.is_some_and(|theirs| Path::new(theirs) != temp_dir && !is_end_of(theirs, temp_dir))
}

fn is_end_of(theirs: &str, temp_dir: &Path) -> bool {
    let theirs = Path::new(theirs);
    theirs.is_relative() && temp_dir.ends_with(theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(status: &str, body: &str) -> bool {
        accept(
            format!("HTTP/1.0 {status}\r\nContent-Type: application/json\r\n\r\n{body}").as_bytes(),
            Path::new("/run/ours"),
        )
    }

    #[test]
    fn takes_only_a_200() {
        assert!(accepted("200 OK", "{}"));
        assert!(!accepted("500 Internal Server Error", "{}"));
        assert!(!accept(b"", Path::new("/run/ours")));
    }

    #[test]
    fn tells_our_own_process_from_another_workers() {
        assert!(accepted("200 OK", r#"{"system":{"argv":["main.py"]}}"#));
        assert!(accepted(
            "200 OK",
            r#"{"system":{"argv":["main.py","--temp-directory","/run/ours"]}}"#
        ));
        for ours in [
            "--temp-directory=/run/ours",
            "--temp-dir=/run/ours",
            "--temp-directory=ours",
        ] {
            let body = serde_json::json!({"system": {"argv": ["main.py", ours]}});
            assert!(accepted("200 OK", &body.to_string()), "{ours}");
        }
        assert!(!accepted(
            "200 OK",
            r#"{"system":{"argv":["main.py","--temp-directory","/run/theirs"]}}"#
        ));
        assert!(!accepted(
            "200 OK",
            r#"{"system":{"argv":["main.py","--temp-directory=/run/theirs"]}}"#
        ));
    }
}
