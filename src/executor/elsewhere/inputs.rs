//! The files that go to an engine with a job: those of its request, and those of our own folders that its graph names.

use std::collections::HashSet;
use std::io::Read as _;

use bytes::Bytes;
use serde_json::Value;

use super::AskedFile;
use crate::blobs::Blobs;
use crate::comfy::Folders;
use crate::disk::blocking;
use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use crate::executor::assets;
use crate::executor::inputs::name_in_request;
use crate::job::{ImageContent, InputImage, OutputFolder};
use crate::workflow::{Graph, is_loader, replace_texts};

/// The most bytes of one file that is sent elsewhere: it goes through memory.
const LARGEST: u64 = 200 * 1024 * 1024;
/// How ComfyUI marks a name as one of a folder.
const MARKS: [(&str, OutputFolder); 3] = [
    (" [input]", OutputFolder::Input),
    (" [output]", OutputFolder::Output),
    (" [temp]", OutputFolder::Temp),
];

/// Where files of jobs lie on this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) blobs: &'a Blobs,
    pub(super) folders: Option<&'a Folders>,
}

/// Has a graph of a template name the files as its request does.
pub(super) fn use_plain_names(graph: &mut Graph) {
    replace_texts(graph, |text| name_in_request(text).map(str::to_owned));
}

/// A name without folders, since not every worker makes them for what comes with a job, and that none of these has.
fn flat(name: &str, taken: &[AskedFile]) -> String {
    let flat = name.replace('/', "_");
    let is_free = |name: &String| !taken.iter().any(|file| file.name == *name);
    let numbered = (1..).map(|number| format!("{number}_{flat}"));
    std::iter::once(flat.clone())
        .chain(numbered)
        .find(is_free)
        .unwrap_or_default()
}

impl Inputs<'_> {
    /// Those of a request, in memory.
    pub(super) async fn of_request(&self, images: Vec<InputImage>) -> Result<Vec<AskedFile>, JobError> {
        let mut files = Vec::with_capacity(images.len());
        for image in images {
            let name = image.name.as_str().to_owned();
            let content = self.content(image).await?;
            files.push(AskedFile { name, content });
        }
        Ok(files)
    }

    /// The same, and what the graph's loaders name in our own folders. The graph names them as they go with it.
    pub(super) async fn of_graph(
        &self,
        images: Vec<InputImage>,
        graph: &mut Graph,
    ) -> Result<Vec<AskedFile>, JobError> {
        let (with_folder, mut files): (Vec<_>, Vec<_>) = self
            .of_request(images)
            .await?
            .into_iter()
            .partition(|file| file.name.contains('/'));
        for mut file in with_folder {
            let plain = flat(&file.name, &files);
            replace_texts(graph, |text| (text == file.name).then(|| plain.clone()));
            file.name = plain;
            files.push(file);
        }
        self.add_of_folders(graph, &mut files).await?;
        Ok(files)
    }

    /// What was uploaded into our folders, or made there, and is loaded by the graph.
    async fn add_of_folders(&self, graph: &mut Graph, files: &mut Vec<AskedFile>) -> Result<(), JobError> {
        let Some(folders) = self.folders else { return Ok(()) };
        let loaders = graph.nodes.values().filter(|node| is_loader(&node.class_type));
        let named: HashSet<&str> = loaders
            .flat_map(|node| node.inputs.values().filter_map(Value::as_str))
            .filter(|text| !files.iter().any(|file| file.name == **text))
            .collect();
        let named: Vec<String> = named.into_iter().map(str::to_owned).collect();
        for text in named {
            let marked = MARKS
                .iter()
                .find_map(|(mark, folder)| Some((text.strip_suffix(mark)?, *folder)));
            let (name, folder) = marked.unwrap_or((&text, OutputFolder::Input));
            let (subfolder, filename) = name.rsplit_once('/').unwrap_or(("", name));
            let (folders, subfolder, filename) = (folders.clone(), subfolder.to_owned(), filename.to_owned());
            let Some(path) = blocking(move || folders.existing(folder, &subfolder, &filename)).await else {
                // A model, or nothing of ours.
                continue;
            };
            let content = blocking(move || read(&path)).await.map_err(|why| unread(name, &why))?;
            let sent_as = flat(name, files);
            replace_texts(graph, |other| (other == text).then(|| sent_as.clone()));
            files.push(AskedFile { name: sent_as, content });
        }
        Ok(())
    }

    async fn content(&self, image: InputImage) -> Result<Bytes, JobError> {
        let name = image.name;
        let asset = match image.content {
            ImageContent::Here(content) => return Ok(content),
            ImageContent::At(_) => {
                let name = cut(name.as_str());
                return Err(JobError::internal(format!("the image `{name}` was not fetched")));
            }
            ImageContent::Asset(asset) => asset,
        };
        if asset.model.is_some() {
            let message = format!(
                "the model `{}` cannot be sent to an engine elsewhere",
                cut(name.as_str())
            );
            return Err(JobError::invalid(message).hint("Have it installed there, and name it in the graph."));
        }
        let blobs = self.blobs.clone();
        let read = move || -> Result<Bytes, JobError> {
            let (file, _) = assets::open(&blobs, &asset, &name)?;
            whole(file, asset.bytes).map_err(|why| unread(name.as_str(), &why))
        };
        blocking(read).await
    }
}

/// The file at a path. Blocks.
fn read(path: &std::path::Path) -> Result<Bytes, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    whole(file, length)
}

fn whole(file: std::fs::File, length: u64) -> Result<Bytes, String> {
    if length > LARGEST {
        return Err(format!(
            "it has {length} bytes, and at most {LARGEST} are sent elsewhere"
        ));
    }
    let mut content = Vec::new();
    let read = file.take(LARGEST).read_to_end(&mut content);
    read.map(|_| content.into()).map_err(|error| error.to_string())
}

fn unread(name: &str, why: &str) -> JobError {
    let message = format!("the file `{}` cannot be sent to an engine: {why}", cut(name));
    JobError::new(ErrorKind::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::ImageName;

    #[tokio::test]
    async fn a_graph_brings_what_it_loads_from_our_folders() {
        let root = tempfile::tempdir().unwrap();
        let folders = Folders {
            output: root.path().join("output"),
            input: root.path().join("input"),
            temp: root.path().join("temp"),
            are_ours: true,
            ..Folders::default()
        };
        std::fs::create_dir_all(folders.input.join("a")).unwrap();
        std::fs::create_dir_all(&folders.output).unwrap();
        std::fs::write(folders.input.join("a/in.png"), "one").unwrap();
        std::fs::write(folders.output.join("made.png"), "two").unwrap();
        std::fs::write(root.path().join("secret.png"), "three").unwrap();
        let graph = json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "a/in.png"}},
            "2": {"class_type": "LoadImageOutput", "inputs": {"image": "made.png [output]"}},
            "3": {"class_type": "LoadImage", "inputs": {"image": "../secret.png"}},
            "4": {"class_type": "LoadImage", "inputs": {"image": "b/sent.png"}},
            "5": {"class_type": "UNETLoader", "inputs": {"unet_name": "model.safetensors"}},
            "6": {"class_type": "Text", "inputs": {"text": "a/in.png is a name"}},
        });
        let mut graph = Graph::parse(&graph).unwrap();
        let blobs = Blobs::new(root.path());
        let inputs = Inputs {
            blobs: &blobs,
            folders: Some(&folders),
        };
        let sent = InputImage {
            name: ImageName::parse("b/sent.png").unwrap(),
            content: ImageContent::Here("four".into()),
            origin: crate::job::Origin::Images,
        };
        let mut files = inputs.of_graph(vec![sent], &mut graph).await.unwrap();
        files.sort_by(|one, other| one.name.cmp(&other.name));
        let files: Vec<_> = files
            .iter()
            .map(|file| (file.name.as_str(), &file.content[..]))
            .collect();
        assert_eq!(
            files,
            [("a_in.png", &b"one"[..]), ("b_sent.png", b"four"), ("made.png", b"two")]
        );
        let text = |node: &str, input: &str| graph.get(node).unwrap().inputs[input].as_str().unwrap().to_owned();
        assert_eq!(text("1", "image"), "a_in.png");
        assert_eq!(text("2", "image"), "made.png");
        assert_eq!(text("3", "image"), "../secret.png");
        assert_eq!(text("4", "image"), "b_sent.png");
        assert_eq!(text("6", "text"), "a/in.png is a name");
    }
}
