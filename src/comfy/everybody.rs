//! What is asked of ComfyUI for all clients of its own API at once.

use serde_json::{Value, json};

use super::client::{ClientError, ComfyClient};

impl ComfyClient {
    /// `/features`: what ComfyUI can do, for its clients; older versions have no such route.
    pub async fn features(&self) -> Result<Value, ClientError> {
        self.json(self.http.get(self.url(&["features"])), "/features").await
    }

    /// `/internal/logs/subscribe`: whether the websocket of `client_id` gets what ComfyUI logs.
    pub async fn subscribe_to_logs(&self, client_id: &str, enabled: bool) -> Result<(), ClientError> {
        const PATH: &str = "/internal/logs/subscribe";
        let url = self.url(&["internal", "logs", "subscribe"]);
        let body = json!({"clientId": client_id, "enabled": enabled});
        let answer = self.http.patch(url).json(&body).send().await;
        let answer = answer.map_err(|error| ClientError::unreachable(PATH, error))?;
        let status = answer.status().as_u16();
        if status == 200 {
            return Ok(());
        }
        let body = String::new();
        Err(ClientError::Status {
            path: PATH,
            status,
            body,
        })
    }
}
