//! Requests of others that ComfyUI answers itself.

use reqwest::Method;
use reqwest::header::HeaderMap;

use super::client::{ClientError, ComfyClient};

/// What errors call such a route: its path is the client's business.
const PATH: &str = "a request that was passed on";

impl ComfyClient {
    /// Sends a request on, and gives the answer as soon as its head is there. Nothing of either body is held; no redirect is
    /// followed and nothing unpacked. Dropped, the connection to ComfyUI ends with it.
    ///
    /// `path` is sent as it is written, with what it has percent-encoded.
    pub async fn pass(
        &self,
        method: Method,
        path: &str,
        query: Option<&str>,
        headers: HeaderMap,
        body: Option<reqwest::Body>,
    ) -> Result<reqwest::Response, ClientError> {
        let mut url = self.base().clone();
        let whole = format!("{}{path}", url.path().trim_end_matches('/'));
        url.set_path(&whole);
        url.set_query(query);
        let mut request = self.passing.request(method, url).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        request
            .send()
            .await
            .map_err(|error| ClientError::unreachable(PATH, error))
    }
}
