//! Files that go to ComfyUI and come from it, where its folders are not on this machine.

use std::time::Duration;

use reqwest::header::CONTENT_LENGTH;
use reqwest::{Method, multipart};
use serde::Deserialize;

use super::client::{ClientError, ComfyClient};

/// The longest that a file may be on its way. A film may be large, and who asks for it slow; a ComfyUI that sends nothing for as
/// long as an answer may take is given up all the same.
const FILE_TIMEOUT: Duration = Duration::from_hours(6);

impl ComfyClient {
    /// Stores an input file under `subfolder` and returns the name by which LoadImage finds it.
    pub async fn upload(
        &self,
        name: &str,
        subfolder: &str,
        media_type: &str,
        content: bytes::Bytes,
    ) -> Result<String, ClientError> {
        #[derive(Deserialize)]
        struct Stored {
            name: String,
            #[serde(default)]
            subfolder: String,
        }
        const PATH: &str = "/upload/image";
        let length = content.len() as u64;
        let part = multipart::Part::stream_with_length(content, length)
            .file_name(name.to_owned())
            .mime_str(media_type)
            .map_err(|source| ClientError::Unreachable {
                path: PATH.into(),
                source,
            })?;
        let form = multipart::Form::new()
            .part("image", part)
            .text("subfolder", subfolder.to_owned())
            .text("type", "input")
            .text("overwrite", "true");
        let stored: Stored = self
            .json(
                self.http
                    .post(self.url(&["upload", "image"]))
                    .timeout(FILE_TIMEOUT)
                    .multipart(form),
                PATH,
            )
            .await?;
        Ok(if stored.subfolder.is_empty() {
            stored.name
        } else {
            format!("{}/{}", stored.subfolder, stored.name)
        })
    }

    /// The bytes of a file: `/view`. The answer is returned as it comes, so that it can be streamed on.
    pub async fn view(
        &self,
        filename: &str,
        subfolder: &str,
        folder_type: &str,
    ) -> Result<reqwest::Response, ClientError> {
        self.view_by(Method::GET, filename, subfolder, folder_type).await
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
        let sent = self.http.request(method, url).timeout(FILE_TIMEOUT).send().await;
        let response = sent.map_err(|source| ClientError::Unreachable {
            path: "/view".into(),
            source: source.without_url(),
        })?;
        if response.status() != 200 {
            return Err(ClientError::Status {
                path: "/view".into(),
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

    use super::super::client::ANSWER_TIMEOUT;
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
        assert_eq!(file.bytes().await.unwrap(), "abc");
    }

    #[tokio::test(start_paused = true)]
    async fn a_comfyui_that_falls_silent_is_given_up() {
        let client = slow(ANSWER_TIMEOUT * 2).await;
        let file = client.view("film.mp4", "", "output").await.unwrap();
        assert!(file.bytes().await.unwrap_err().is_timeout());
    }
}
