//! Pictures that a graph sends over the websocket as its results: `SaveImageWebsocket`, which comes with ComfyUI, and
//! nodes like it. They have the form of previews (binary frames) and no place in the history, so the class of the node that
//! runs tells one from the other. They are kept in ComfyUI's output folder, and are files of the job like others from then on.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::ledger::Ledger;
use crate::comfy::ComfyClient;
use crate::comfy::client::{ClientError, HistoryEntry};
use crate::comfy::message::Preview;
use crate::echo;
use crate::error::JobError;
use crate::net::retry::RetryPolicy;
use crate::workflow::Graph;

/// What the classes have in their names that send results: `SaveImageWebsocket`, `ETN_SendImageWebSocket`.
const WORD: &str = "websocket";
/// How often a picture is handed to ComfyUI before it is given up.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// The pictures of one prompt.
#[derive(Debug, Default)]
pub(super) struct Pictures {
    /// The nodes that send results, with their classes.
    nodes: BTreeMap<String, String>,
    /// The node that runs, for frames that do not name theirs.
    current: Option<String>,
    /// What came and is not yet kept.
    waiting: Vec<(String, Preview)>,
    /// The names under which pictures are kept, by node.
    kept: BTreeMap<String, Vec<String>>,
    warnings: Vec<String>,
    /// No more will come.
    complete: bool,
}

impl Pictures {
    pub(super) fn of(graph: &Graph) -> Self {
        let sends = |class: &str| class.to_ascii_lowercase().contains(WORD);
        let nodes = graph.nodes.iter().filter(|(_, node)| sends(&node.class_type));
        Self {
            nodes: nodes.map(|(id, node)| (id.clone(), node.class_type.clone())).collect(),
            ..Self::default()
        }
    }

    /// Whether the graph sends no results this way.
    pub(super) fn is_idle(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether the prompt's last message was heard.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn executing(&mut self, node: &str) {
        if !self.is_idle() {
            self.current = Some(node.to_owned());
        }
    }

    /// The prompt's last message was heard.
    pub(super) fn end(&mut self) {
        self.complete = true;
    }

    /// Takes a frame that is a result; gives back one that is a preview.
    pub(super) fn take(&mut self, frame: Preview) -> Option<Preview> {
        let node = frame.node_id.as_ref().or(self.current.as_ref());
        match node.filter(|node| self.nodes.contains_key(*node)) {
            Some(node) => {
                let node = node.clone();
                self.waiting.push((node, frame));
                None
            }
            None => Some(frame),
        }
    }

    /// Keeps what came, as files in ComfyUI's output folder, and has each taken down: the prompt may yet fail.
    pub(super) async fn keep(&mut self, client: &ComfyClient, prompt_id: &str, ledger: &Ledger) {
        // One after the other leaves the list only when it is kept, since this may be dropped in between.
        while let Some((node, picture)) = self.waiting.first() {
            let number = self.kept.values().map(Vec::len).sum::<usize>() + self.warnings.len() + 1;
            let ending = if picture.media_type == "image/png" {
                "png"
            } else {
                "jpg"
            };
            // No other prompt has this name: the end of its id is chance.
            let mark = prompt_id.rsplit('-').next().unwrap_or(prompt_id);
            let name = format!("websocket_{mark}_{number:05}_.{ending}");
            match hand_in(client, &name, picture).await {
                Ok(name) => {
                    let output = json!({"websocket": named([name.as_str()])});
                    ledger.outputs_in_background([(node, &output)]);
                    self.kept.entry(node.clone()).or_default().push(name);
                }
                Err(error) => {
                    let error = JobError::from(error);
                    tracing::warn!("a picture that came over the websocket is lost: {}", error.message);
                    self.warnings.push(format!(
                        "a picture of node {} is lost: it came over ComfyUI's websocket and could not be kept ({}); \
                         SaveImage saves without that way",
                        echo::cut(node),
                        error.message
                    ));
                }
            }
            self.waiting.remove(0);
        }
    }

    /// Puts the files into what the prompt left, and says which nodes have none.
    pub(super) fn hand_over(&mut self, entry: &mut HistoryEntry, warnings: &mut Vec<String>) {
        warnings.append(&mut self.warnings);
        for (node, class) in &self.nodes {
            let Some(names) = self.kept.remove(node) else {
                warnings.push(format!(
                    "node {} ({}) sends its pictures over ComfyUI's websocket, and none came: the connection broke, or the \
                     worker was restarted meanwhile. SaveImage saves without that way",
                    echo::cut(node),
                    echo::cut(class)
                ));
                continue;
            };
            let images = named(names.iter().map(String::as_str));
            match entry
                .outputs
                .entry(node.clone())
                .or_insert_with(|| Value::Object(Map::new()))
            {
                Value::Object(output) => drop(output.insert("websocket".to_owned(), images)),
                other => *other = json!({"websocket": images}),
            }
        }
    }
}

/// Files as nodes name them in their outputs.
fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Value {
    let images = names
        .into_iter()
        .map(|name| json!({"filename": name, "subfolder": "", "type": "output"}));
    Value::Array(images.collect())
}

async fn hand_in(client: &ComfyClient, name: &str, picture: &Preview) -> Result<String, ClientError> {
    let mut delays = RetryPolicy::fixed(PAUSE, ATTEMPTS - 1).delays();
    loop {
        let kept = client.keep_output(name, &picture.media_type, picture.image.clone());
        match kept.await {
            Err(_) if delays.wait().await => {}
            kept => return kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::comfy::Folders;
    use crate::comfy::client::PromptEnd;
    use crate::executor::Event;
    use crate::executor::testing::FakeComfy;

    fn pictures() -> Pictures {
        let graph = json!({
            "3": {"class_type": "KSampler", "inputs": {}},
            "9": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["3", 0]}},
            "10": {"class_type": "ETN_SendImageWebSocket", "inputs": {"images": ["3", 0]}},
        });
        Pictures::of(&Graph::parse(&graph).unwrap())
    }

    fn frame(node: Option<&str>) -> Preview {
        Preview {
            prompt_id: node.map(|_| "p".to_owned()),
            node_id: node.map(str::to_owned),
            media_type: "image/png".to_owned(),
            image: Bytes::from_static(b"PNG"),
        }
    }

    #[test]
    fn the_node_tells_a_result_from_a_preview() {
        let mut pictures = pictures();
        assert_eq!(pictures.take(frame(Some("3"))), Some(frame(Some("3"))));
        assert_eq!(pictures.take(frame(Some("9"))), None);
        // Frames of the old form do not name their node.
        pictures.executing("3");
        assert_eq!(pictures.take(frame(None)), Some(frame(None)));
        pictures.executing("10");
        assert_eq!(pictures.take(frame(None)), None);
        let nodes: Vec<_> = pictures.waiting.iter().map(|(node, _)| node.as_str()).collect();
        assert_eq!(nodes, ["9", "10"]);
        assert!(
            Pictures::of(&Graph::parse(&json!({"3": {"class_type": "KSampler", "inputs": {}}})).unwrap()).is_idle()
        );
    }

    #[tokio::test]
    async fn a_picture_is_taken_down_as_soon_as_it_is_kept() {
        let data = tempfile::tempdir().unwrap();
        let folders = Folders {
            output: data.path().to_owned(),
            input: data.path().join("input"),
            temp: data.path().join("temp"),
            are_ours: true,
            ..Folders::default()
        };
        // What ComfyUI would have written.
        std::fs::write(data.path().join("kept.png"), "PNG").unwrap();
        let fake = FakeComfy::start(|_, _| (200, r#"{"name": "kept.png"}"#.to_owned())).await;
        let client = ComfyClient::new(fake.url.parse().unwrap()).unwrap();
        let (events, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let ledger = Ledger::new(events, Some(&folders), None);
        let mut pictures = pictures();
        assert_eq!(pictures.take(frame(Some("9"))), None);
        pictures.keep(&client, "p", &ledger).await;
        let Some(Event::Left(files)) = heard.recv().await else {
            panic!("it is told")
        };
        assert_eq!((files.len(), files[0].filename.as_str()), (1, "kept.png"));
    }

    #[test]
    fn a_node_whose_pictures_did_not_come_is_named() {
        let mut pictures = pictures();
        pictures
            .kept
            .insert("9".to_owned(), vec!["websocket_1_00001_.png".to_owned()]);
        let mut entry = HistoryEntry {
            outputs: Map::new(),
            end: PromptEnd::Success,
            cached: Vec::new(),
            rest: Map::new(),
        };
        let mut warnings = Vec::new();
        pictures.hand_over(&mut entry, &mut warnings);
        assert_eq!(entry.outputs["9"]["websocket"][0]["filename"], "websocket_1_00001_.png");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("node 10 (ETN_SendImageWebSocket)"), "{warnings:?}");
    }
}
