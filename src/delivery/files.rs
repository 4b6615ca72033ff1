//! The content of output files: on this machine's disk, or in an attached ComfyUI.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::encode::Picture;
use super::inline::{self, Texts};
use crate::comfy::client::ClientError;
use crate::comfy::{ComfyClient, Comfys, RemoteFile};
use crate::echo;
use crate::error::JobError;
use crate::job::{OutputFile, Recoded};

/// Runs work that needs a core for a while on blocking threads, no more at once than there are cores. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Cores(Arc<Semaphore>);

impl Default for Cores {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(available_parallelism().map_or(1, usize::from))))
    }
}

impl Cores {
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JobError> {
        // Nobody closes it.
        let core = Arc::clone(&self.0).acquire_owned().await.ok();
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            // Held to the end, also when nobody waits for it any more.
            drop(core);
            done
        });
        done.await
            .map_err(|error| JobError::internal(format!("an image broke off: {error}")))
    }
}

/// Reads output files.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) comfy: Comfys,
    pub(super) cores: Cores,
    texts: Texts,
}

impl Files {
    pub(super) fn new(comfy: Comfys) -> Self {
        Self {
            comfy,
            cores: Cores::default(),
            texts: Texts::default(),
        }
    }

    /// Where the file lies under the given name, if ComfyUI's folders are on this machine.
    pub(super) fn path(&self, file: &OutputFile, name: &str) -> Result<Option<PathBuf>, JobError> {
        let Some(folders) = self.comfy.named(file.engine.as_deref())?.folders() else {
            return Ok(None);
        };
        let path = folders.path(file.folder, &file.subfolder, name);
        let outside = || {
            let name = echo::cut(name);
            JobError::internal(format!("the file `{name}` lies outside ComfyUI's folders"))
        };
        path.map(Some).ok_or_else(outside)
    }

    /// The base64 of a file that was written just now is at hand.
    pub(super) async fn is_at_hand(&self, file: &OutputFile, base64: Bytes) {
        if let Ok(Some(path)) = self.path(file, &file.filename) {
            self.texts.is_at_hand(path, base64).await;
        }
    }

    /// The file as its graph wrote it.
    pub(super) async fn original(&self, file: &OutputFile) -> Result<Bytes, JobError> {
        let name = file.original();
        match self.path(file, name)? {
            Some(path) => read(path, name).await,
            None => self.fetch(file, name).await,
        }
    }

    /// The file as it is to be returned.
    pub(super) async fn content(&self, file: &OutputFile) -> Result<Bytes, JobError> {
        match self.path(file, &file.filename)? {
            Some(path) => read(path, &file.filename).await,
            None => self.remote(file).await,
        }
    }

    /// The length of the file as it is to be returned, in bytes. It is read only where it must be made for that.
    pub(super) async fn length(&self, file: &OutputFile) -> Result<u64, JobError> {
        let name = &file.filename;
        if let Some(path) = self.path(file, name)? {
            let facts = tokio::fs::metadata(path).await;
            return Ok(facts.map_err(|error| unreadable(name, &error))?.len());
        }
        if file.recoded.is_none() {
            let client = self.client(file).await?;
            let told = client.view_length(name, &file.subfolder, file.folder.as_str());
            // One that does not answer that question is asked for the file itself.
            if let Ok(Some(length)) = told.await {
                return Ok(length);
            }
        }
        Ok(self.remote(file).await?.len() as u64)
    }

    /// The file as it is to be returned, from an attached ComfyUI: made again where it is not as its graph wrote it,
    /// since it can be written nowhere.
    pub(super) async fn remote(&self, file: &OutputFile) -> Result<Bytes, JobError> {
        let content = self.original(file).await?;
        let Some(Recoded { format, quality, .. }) = file.recoded else {
            return Ok(content);
        };
        let made = self
            .cores
            .run(move || Picture::decode(&content)?.encode(format, quality));
        made.await?.map(Bytes::from).map_err(|error| {
            JobError::internal(format!(
                "`{}` could not be made again: {error}",
                echo::cut(file.original())
            ))
        })
    }

    /// The file as it is to be returned, in base64: read once and encoded once.
    pub(super) async fn base64(&self, file: &OutputFile) -> Result<Bytes, JobError> {
        let encoded = match self.path(file, &file.filename)? {
            Some(path) => self.texts.of_file(path).await,
            None if file.recoded.is_some() => {
                let content = self.remote(file).await?;
                let _turn = self.texts.turn(content.len() as u64).await;
                Ok(inline::encode(content).await)
            }
            None => return self.fetch_base64(file).await,
        };
        encoded.map_err(|error| unreadable(&file.filename, &error))
    }

    /// Fetches the file and encodes it as it comes: only the text is in memory as a whole.
    async fn fetch_base64(&self, file: &OutputFile) -> Result<Bytes, JobError> {
        let name = &file.filename;
        let mut sent = self.view(file, name).await?;
        let _turn = self.texts.turn(sent.length().unwrap_or(0)).await;
        let mut text = inline::Text::with_room_for(sent.length().unwrap_or(0));
        while let Some(piece) = sent.piece().await.map_err(|error| broken_off(name, error))? {
            text.push(&piece);
        }
        Ok(text.end())
    }

    /// The one that has the file.
    async fn client(&self, file: &OutputFile) -> Result<ComfyClient, JobError> {
        let comfy = self.comfy.named(file.engine.as_deref())?;
        Ok(comfy.connection().await?.client)
    }

    async fn view(&self, file: &OutputFile, name: &str) -> Result<RemoteFile, JobError> {
        let client = self.client(file).await?;
        Ok(client.view(name, &file.subfolder, file.folder.as_str()).await?)
    }

    async fn fetch(&self, file: &OutputFile, name: &str) -> Result<Bytes, JobError> {
        let content = self.view(file, name).await?.whole().await;
        content.map_err(|error| broken_off(name, error))
    }
}

fn broken_off(name: &str, error: ClientError) -> JobError {
    let mut error = JobError::from(error);
    error.message = format!("the file `{}` could not be fetched: {}", echo::cut(name), error.message);
    error
}

async fn read(path: PathBuf, name: &str) -> Result<Bytes, JobError> {
    let content = tokio::fs::read(path).await;
    content.map(Bytes::from).map_err(|error| unreadable(name, &error))
}

fn unreadable(name: &str, error: &io::Error) -> JobError {
    JobError::internal(format!(
        "the output file `{}` could not be read: {error}",
        echo::cut(name)
    ))
    .hint("Look at the disk, and try again.")
}
