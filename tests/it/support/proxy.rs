//! A network between the worker and ComfyUI that can be cut.

use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::until;

/// Forwards connections to an address, and breaks the websockets among them when told to.
pub(crate) struct Proxy {
    pub(crate) url: String,
    websockets: Arc<Mutex<Vec<AbortHandle>>>,
    others: Arc<Mutex<Vec<AbortHandle>>>,
    listening: AbortHandle,
}

impl Proxy {
    pub(crate) async fn to(address: &str) -> Self {
        Self::behind(TcpListener::bind("127.0.0.1:0").await.expect("a port"), address)
    }

    /// Forwards what comes to a listener, and what has come to it already.
    pub(crate) fn behind(listener: TcpListener, address: &str) -> Self {
        let target = address.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let websockets: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let others: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let lists = (Arc::clone(&websockets), Arc::clone(&others));
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, (websockets, others)) = (target.clone(), lists.clone());
                let waiting = Arc::clone(&others);
                let connection = tokio::spawn(async move {
                    let mut head = [0; 8];
                    while client
                        .peek(&mut head)
                        .await
                        .is_ok_and(|length| length > 0 && length < head.len())
                    {
                        tokio::task::yield_now().await;
                    }
                    let forwarding = tokio::spawn(forward(client, target));
                    let list = if head.starts_with(b"GET /ws") {
                        websockets
                    } else {
                        others
                    };
                    list.lock().expect("no panic").push(forwarding.abort_handle());
                });
                // Clients open some on which they say nothing yet.
                waiting.lock().expect("no panic").push(connection.abort_handle());
            }
        });
        Self {
            url,
            websockets,
            others,
            listening: listening.abort_handle(),
        }
    }

    /// Breaks every websocket there is, and says how many there were.
    pub(crate) fn cut(&self) -> usize {
        let mut list = self.websockets.lock().expect("no panic");
        let open: Vec<_> = list.drain(..).filter(|open| !open.is_finished()).collect();
        open.iter().for_each(AbortHandle::abort);
        open.len()
    }

    /// Ends: nothing listens at its address any more, and what was open is broken.
    pub(crate) async fn end(self) {
        let lists = [&self.websockets, &self.others].map(|list| std::mem::take(&mut *list.lock().expect("no panic")));
        let mut open = lists.concat();
        open.push(self.listening);
        open.iter().for_each(AbortHandle::abort);
        // A task ends when it is next looked at.
        until("the network is gone", async || {
            open.iter().all(AbortHandle::is_finished)
        })
        .await;
    }
}

async fn forward(mut client: TcpStream, target: String) {
    if let Ok(mut server) = TcpStream::connect(target).await {
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}
