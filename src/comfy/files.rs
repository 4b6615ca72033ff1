//! Files that go to ComfyUI and come from it, where its folders are not on this machine.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use futures_util::stream::try_unfold;
use reqwest::header::CONTENT_LENGTH;
use reqwest::{Body, Method, multipart};
use serde::Deserialize;
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

use super::client::{ANSWER_TIMEOUT, ClientError, ComfyClient};

/// The longest that a file may be on its way here. A film may be large, and who asks for it slow; a ComfyUI that sends
/// nothing for as long as an answer may take is given up all the same.
const FILE_TIMEOUT: Duration = Duration::from_hours(6);
/// The slowest connection over which a file is uploaded, in bytes a second.
const SLOWEST_UPLOAD: u64 = 64 * 1024;
/// As much of a file as is read at once to be uploaded.
const PIECE: usize = 256 * 1024;
const VIEW: &str = "/view";
const UPLOAD: &str = "/upload/image";

/// Where an uploaded file lies.
#[derive(Deserialize)]
struct Stored {
    name: String,
    #[serde(default)]
    subfolder: String,
}

impl Stored {
    /// The name by which LoadImage finds it.
    fn path(self) -> String {
        if self.subfolder.is_empty() {
            return self.name;
        }
        format!("{}/{}", self.subfolder, self.name)
    }
}

/// A file as ComfyUI sends it.
#[derive(Debug)]
pub struct RemoteFile(reqwest::Response);

impl RemoteFile {
    /// Its length in bytes, where ComfyUI tells it.
    pub fn length(&self) -> Option<u64> {
        self.0.content_length()
    }

    /// The next piece; [`None`] at the end. The time in which nobody asks for one is not ComfyUI's.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, ClientError> {
        let piece = timeout(ANSWER_TIMEOUT, self.0.chunk()).await;
        let piece = piece.map_err(|_| ClientError::Silent(VIEW))?;
        piece.map_err(|error| ClientError::unreachable(VIEW, error))
    }

    /// All pieces, one after the other.
    pub fn pieces(self) -> impl Stream<Item = Result<Bytes, ClientError>> {
        try_unfold(self, async |mut file| {
            Ok(file.piece().await?.map(|piece| (piece, file)))
        })
    }

    /// All of it.
    pub async fn whole(mut self) -> Result<Bytes, ClientError> {
        let mut content = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            content.extend_from_slice(&piece);
        }
        Ok(content.freeze())
    }
}

impl ComfyClient {
    /// Stores an input file under `subfolder` and returns the name by which LoadImage finds it.
    pub async fn upload(
        &self,
        name: &str,
        subfolder: &str,
        media_type: &str,
        content: Bytes,
    ) -> Result<String, ClientError> {
        let stored = self.store(name, subfolder, media_type, content, "input").await?;
        Ok(stored.path())
    }

    /// The same with a file of so many bytes on this machine's disk, which is sent as it is read.
    pub async fn upload_file(
        &self,
        name: &str,
        subfolder: &str,
        file: std::fs::File,
        bytes: u64,
    ) -> Result<String, ClientError> {
        let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file), PIECE);
        let part = multipart::Part::stream_with_length(Body::wrap_stream(pieces), bytes);
        let stored = self.store_part(name, subfolder, part, bytes, ("input", true)).await?;
        Ok(stored.path())
    }

    /// Copies a file of another ComfyUI's input folder into this one's, as it is read. Says whether it has the same name here: without
    /// `overwrites` another file of that name keeps it.
    pub async fn copy_input(
        &self,
        from: &Self,
        (name, subfolder): (&str, &str),
        overwrites: bool,
    ) -> Result<bool, ClientError> {
        let file = from.view(name, subfolder, "input").await?;
        let length = file.length().unwrap_or_default();
        let body = Body::wrap_stream(file.pieces());
        let part = multipart::Part::stream(body);
        let stored = self
            .store_part(name, subfolder, part, length, ("input", overwrites))
            .await?;
        Ok(stored.name == name)
    }

    /// Stores a file in the output folder, as if a node had saved it; gives its name there.
    pub async fn keep_output(&self, name: &str, media_type: &str, content: Bytes) -> Result<String, ClientError> {
        let stored = self.store(name, "", media_type, content, "output").await?;
        Ok(stored.name)
    }

    async fn store(
        &self,
        name: &str,
        subfolder: &str,
        media_type: &str,
        content: Bytes,
        folder_type: &'static str,
    ) -> Result<Stored, ClientError> {
        let length = content.len() as u64;
        let part = multipart::Part::stream_with_length(content, length)
            .mime_str(media_type)
            .map_err(|error| ClientError::unreachable(UPLOAD, error))?;
        self.store_part(name, subfolder, part, length, (folder_type, true))
            .await
    }

    async fn store_part(
        &self,
        name: &str,
        subfolder: &str,
        part: multipart::Part,
        length: u64,
        (folder_type, overwrites): (&'static str, bool),
    ) -> Result<Stored, ClientError> {
        let form = multipart::Form::new()
            .part("image", part.file_name(name.to_owned()))
            .text("subfolder", subfolder.to_owned())
            .text("type", folder_type)
            .text("overwrite", if overwrites { "true" } else { "false" });
        let patience = ANSWER_TIMEOUT + Duration::from_secs(length / SLOWEST_UPLOAD);
        let request = self.post(&["upload", "image"]).timeout(patience);
        self.json(request.multipart(form), UPLOAD).await
    }

    /// The bytes of a file: `/view`. It is returned as it comes, so that it can be streamed on.
    pub async fn view(&self, filename: &str, subfolder: &str, folder_type: &str) -> Result<RemoteFile, ClientError> {
        let response = self.view_by(Method::GET, filename, subfolder, folder_type).await?;
        Ok(RemoteFile(response))
    }

    /// The length of a file in bytes, where the answer to a HEAD tells it.
    pub async fn view_length(
        &self,
        filename: &str,
        subfolder: &str,
        folder_type: &str,
    ) -> Result<Option<u64>, ClientError> {
        let response = self.view_by(Method::HEAD, filename, subfolder, folder_type).await?;
        let length = response.headers().get(CONTENT_LENGTH);
        Ok(length.and_then(|length| length.to_str().ok()?.parse().ok()))
    }

    async fn view_by(
        &self,
        method: Method,
        filename: &str,
        subfolder: &str,
        folder_type: &str,
    ) -> Result<reqwest::Response, ClientError> {
        let mut url = self.url(&["view"]);
        url.query_pairs_mut()
            .append_pair("filename", filename)
            .append_pair("subfolder", subfolder)
            .append_pair("type", folder_type);
        let request = self.http.request(method, url).timeout(FILE_TIMEOUT);
        let sent = timeout(ANSWER_TIMEOUT, request.send()).await;
        let sent = sent.map_err(|_| ClientError::Silent(VIEW))?;
        let response = sent.map_err(|error| ClientError::unreachable(VIEW, error))?;
        if response.status() != 200 {
            return Err(ClientError::Status {
                path: VIEW,
                status: response.status().as_u16(),
                body: String::new(),
            });
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A ComfyUI that sends a file of three bytes with pauses before them.
    async fn slow(pause: Duration) -> ComfyClient {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n";
            stream.write_all(head).await.unwrap();
            for byte in b"abc" {
                tokio::time::sleep(pause).await;
                stream.write_all(&[*byte]).await.unwrap();
            }
        });
        ComfyClient::new(url.parse().unwrap()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_may_take_longer_than_an_answer() {
        let client = slow(ANSWER_TIMEOUT / 2).await;
        let file = client.view("film.mp4", "", "output").await.unwrap();
        assert_eq!(file.length(), Some(3));
        assert_eq!(file.whole().await.unwrap(), "abc");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_a_file_may_be_slow_too() {
        let client = slow(Duration::ZERO).await;
        let mut file = client.view("film.mp4", "", "output").await.unwrap();
        let mut content = Vec::new();
        while let Some(piece) = file.piece().await.unwrap() {
            content.extend(piece);
            tokio::time::sleep(ANSWER_TIMEOUT * 2).await;
        }
        assert_eq!(content, b"abc");
    }

    #[tokio::test(start_paused = true)]
    async fn a_comfyui_that_falls_silent_is_given_up() {
        let client = slow(ANSWER_TIMEOUT * 2).await;
        let file = client.view("film.mp4", "", "output").await.unwrap();
        let silent = file.whole().await.unwrap_err();
        assert!(matches!(silent, ClientError::Silent(_)), "{silent:?}");
    }
}
