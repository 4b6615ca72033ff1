//! The content of output files: on this machine's disk, or in a ComfyUI that somebody else runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::ledger::Ledger;
use super::texts::Texts;
use crate::comfy::client::ClientError;
use crate::comfy::{Comfy, RemoteFile};
use crate::config::ImageFormat;
use crate::delivery::encode::Picture;
use crate::delivery::inline;
use crate::echo;
use crate::error::JobError;
use crate::job::{OutputFile, OutputFolder, Recoded};

/// Runs work that needs a core for a while on blocking threads, no more at once than there are cores. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Cores(Arc<Semaphore>);

impl Default for Cores {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(available_parallelism().map_or(1, usize::from))))
    }
}

impl Cores {
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JobError> {
        let broken = |error: &dyn std::error::Error| JobError::internal(format!("an image broke off: {error}"));
        let core = Arc::clone(&self.0)
            .acquire_owned()
            .await
            .map_err(|error| broken(&error))?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            // Held to the end, also when nobody waits for it any more.
            drop(core);
            done
        });
        done.await.map_err(|error| broken(&error))
    }
}

/// Where output files are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contents<'a> {
    pub(super) comfy: &'a Comfy,
    pub(super) cores: &'a Cores,
    /// Those whose text is in memory now.
    pub(super) texts: &'a Texts,
}

impl Contents<'_> {
    /// Where the file lies under the given name, if ComfyUI's folders are on this machine.
    pub(super) fn path(&self, file: &OutputFile, name: &str) -> Result<Option<PathBuf>, JobError> {
        let Some(folders) = self.comfy.folders() else {
            return Ok(None);
        };
        let path = folders.path(file.folder, &file.subfolder, name);
        let outside = || {
            let name = echo::cut(name);
            JobError::internal(format!("the file `{name}` lies outside ComfyUI's folders"))
        };
        path.map(Some).ok_or_else(outside)
    }

    /// The place beside the file as its graph wrote it, if that is on this machine.
    pub(super) fn beside(&self, file: &OutputFile, ledger: Option<&Ledger>) -> Result<Option<Beside>, JobError> {
        let path = self.path(file, file.original())?;
        Ok(path.map(|path| Beside {
            path,
            folder: file.folder,
            subfolder: file.subfolder.clone(),
            ledger: ledger.cloned(),
        }))
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
            let client = self.comfy.connection().await?.client;
            let told = client.view_length(name, &file.subfolder, file.folder.as_str());
            // One that does not answer that question is asked for the file itself.
            if let Ok(Some(length)) = told.await {
                return Ok(length);
            }
        }
        Ok(self.remote(file).await?.len() as u64)
    }

    /// The file as it is to be returned, from a ComfyUI that somebody else runs: made anew where it is not as its
    /// graph wrote it, since it can be written nowhere.
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
                inline::encode(content).await
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

    async fn view(&self, file: &OutputFile, name: &str) -> Result<RemoteFile, JobError> {
        let client = self.comfy.connection().await?.client;
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

/// The name of a file that is made into another format.
pub(super) fn renamed(original: &str, format: ImageFormat) -> String {
    format!("{}.{}", stem(original), format.ending())
}

fn stem(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => name,
    }
}

/// Where a file lies, and who is told of what is written beside it.
#[derive(Debug, Clone)]
pub(super) struct Beside {
    pub(super) path: PathBuf,
    pub(super) folder: OutputFolder,
    pub(super) subfolder: String,
    pub(super) ledger: Option<Ledger>,
}

impl Beside {
    /// Writes what was made from the file beside it, and takes that down; gives the name. Blocks.
    pub(super) fn write(&self, format: ImageFormat, content: &[u8]) -> io::Result<String> {
        let name = write_beside(&self.path, format, content)?;
        self.took_down(&name);
        Ok(name)
    }

    /// Removes a file beside it that nobody was told of. Blocks.
    pub(super) fn remove(&self, name: &str) {
        // One that cannot be removed takes space and does no other harm.
        let _ = fs::remove_file(self.path.with_file_name(name));
        self.took_down(name);
    }

    fn took_down(&self, name: &str) {
        if let Some(ledger) = &self.ledger {
            ledger.wrote(self.folder, &self.subfolder, name);
        }
    }
}

/// Writes what was made from `original` beside it; gives the name, which nothing had before. The file appears complete
/// or empty. Blocks.
fn write_beside(original: &Path, format: ImageFormat, content: &[u8]) -> io::Result<String> {
    let folder = original.parent().unwrap_or(Path::new(""));
    let name = original.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let (stem, ending) = (stem(name), format.ending());
    let mut number = 0_u32;
    let (claimed, path) = loop {
        let name = match number {
            0 => format!("{stem}.{ending}"),
            _ => format!("{stem}_{number}.{ending}"),
        };
        let path = folder.join(&name);
        // An empty file keeps the name from others, and from two jobs that share an original.
        match fs::File::create_new(&path) {
            Ok(_) => break (name, path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    };
    let part = folder.join(format!(".{}.part", uuid::Uuid::new_v4().simple()));
    let written = fs::write(&part, content).and_then(|()| fs::rename(&part, &path));
    if let Err(error) = written {
        // What is left of it is of no use; the error tells enough.
        let _ = fs::remove_file(&part);
        let _ = fs::remove_file(&path);
        return Err(error);
    }
    Ok(claimed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_takes_a_name_that_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let original = folder.path().join("a_00001_.png");
        fs::write(&original, "png").unwrap();
        let write = |content: &str| write_beside(&original, ImageFormat::Webp, content.as_bytes()).unwrap();
        assert_eq!(write("one"), "a_00001_.webp");
        assert_eq!(write("two"), "a_00001__1.webp");
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!([read("a_00001_.webp"), read("a_00001__1.webp")], ["one", "two"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing else is left");
    }

    #[test]
    fn an_ending_is_replaced_and_a_name_without_one_gets_it() {
        let names = ["a.b.png", "a", ".hidden"].map(|name| renamed(name, ImageFormat::Jpeg));
        assert_eq!(names, ["a.b.jpg", "a.jpg", ".hidden.jpg"]);
    }
}
