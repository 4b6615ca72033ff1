//! Images made into the format that was asked for, or smaller: written beside the file as its graph wrote it, where that
//! is on this machine.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, stream};

use super::encode::{EncodeError, Picture};
use super::files::Files;
use super::inline;
use super::size_limit::Smaller;
use crate::config::ImageFormat;
use crate::disk::write_atomically;
use crate::echo;
use crate::error::JobError;
use crate::job::{FileKind, Outcome, OutputFile, OutputFolder, Recoded};

/// Images that are worked on at once: each is in memory, and a core is busy with it.
const AT_ONCE: usize = 4;

/// Told of each file that is written beside one of a job's, and of each that is gone again: its folder, the folder under
/// that, and its name. It may block.
pub type Wrote = Arc<dyn Fn(OutputFolder, &str, &str) + Send + Sync>;

/// Makes the images of an answer into `format`. Those that cannot be stay as they are, and a warning says why.
pub(super) async fn convert(files: &Files, outcome: &mut Outcome, (format, quality): (ImageFormat, u8), wrote: &Wrote) {
    let images: Vec<_> = outcome
        .wanted_mut()
        .filter(|file| file.kind == FileKind::Image && !has_format(&file.filename, format))
        .collect();
    let making = images.into_iter().map(|file| async move {
        let made = make(files, file, format, quality, wrote).await;
        made.map(|name| rename(file, name, format, quality)).map_err(|reason| {
            let name = echo::cut(&file.filename);
            format!("`{name}` stays as it is, not {}: {reason}", format.as_str())
        })
    });
    let making: Vec<_> = making.collect();
    let made: Vec<_> = stream::iter(making).buffered(AT_ONCE).collect().await;
    outcome.warnings.extend(made.into_iter().filter_map(Result::err));
}

/// Whether a file of this name has the format already.
fn has_format(filename: &str, format: ImageFormat) -> bool {
    let ending = filename.rsplit_once('.').map_or("", |(_, ending)| ending);
    ImageFormat::parse(ending) == Some(format)
}

/// Makes one image, and writes it beside the original where that is on this machine. Gives its name.
async fn make(
    files: &Files,
    file: &OutputFile,
    format: ImageFormat,
    quality: u8,
    wrote: &Wrote,
) -> Result<String, String> {
    let told = |error: JobError| error.full_text();
    let name = file.filename.clone();
    let beside = Beside::of(files, file, wrote).map_err(told)?;
    let content = files.original(file).await.map_err(told)?;
    let made = files.cores.run(move || {
        let image = Picture::decode(&content)
            .and_then(|picture| picture.encode(format, quality))
            .map_err(|error: EncodeError| error.to_string())?;
        match beside {
            Some(beside) => beside
                .write(format, &image)
                .map_err(|error| format!("it cannot be written: {error}")),
            // It is made once more as it is read.
            None => Ok(renamed(&name, format)),
        }
    });
    made.await.map_err(told)?
}

/// Gives the images that were made smaller to the outcome: written beside their originals where those are on this
/// machine. Without `wrote` nothing is written, and the outcome holds them itself.
pub(super) async fn keep(
    files: &Files,
    outcome: &mut Outcome,
    made: Vec<Smaller>,
    wrote: Option<&Wrote>,
) -> Result<(), JobError> {
    let mut made: HashMap<_, _> = made.into_iter().map(|image| (image.at, image)).collect();
    let images = outcome.wanted_mut().enumerate();
    let images = images.filter_map(|(at, file)| made.remove(&at).map(|image| (file, image)));
    try_join_all(images.map(|(file, image)| async move {
        let (format, quality) = (image.format, image.quality);
        let original = file.original().to_owned();
        let beside = match wrote {
            Some(wrote) => Beside::of(files, file, wrote)?,
            None => None,
        };
        let name = if let Some(beside) = beside {
            // One that was made before, and that nobody was told of.
            let superseded = file.recoded.is_some().then(|| file.filename.clone());
            let written = files.cores.run(move || {
                let name = beside.write(format, &image.content)?;
                if let Some(superseded) = superseded {
                    beside.remove(&superseded);
                }
                Ok::<_, io::Error>(name)
            });
            written.await?.map_err(|error| {
                let name = echo::cut(&original);
                JobError::internal(format!("`{name}` could not be written smaller: {error}"))
                    .hint("Look at the disk, and try again.")
            })?
        } else {
            if wrote.is_none() {
                file.base64 = Some(inline::encode(image.content.into()).await);
            }
            renamed(&original, format)
        };
        rename(file, name, format, quality);
        Ok::<_, JobError>(())
    }))
    .await?;
    Ok(())
}

fn rename(file: &mut OutputFile, name: String, format: ImageFormat, quality: u8) {
    let original = file.original().to_owned();
    file.filename = name;
    file.recoded = Some(Recoded {
        original,
        format,
        quality,
    });
}

/// The name of a file that is made into another format.
fn renamed(original: &str, format: ImageFormat) -> String {
    format!("{}.{}", stem(original), format.ending())
}

fn stem(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => name,
    }
}

/// The place beside a file as its graph wrote it, and who is told of what is written there.
struct Beside {
    path: PathBuf,
    folder: OutputFolder,
    subfolder: String,
    wrote: Wrote,
}

impl Beside {
    /// The place, if it is on this machine.
    fn of(files: &Files, file: &OutputFile, wrote: &Wrote) -> Result<Option<Self>, JobError> {
        let path = files.path(file, file.original())?;
        Ok(path.map(|path| Self {
            path,
            folder: file.folder,
            subfolder: file.subfolder.clone(),
            wrote: Arc::clone(wrote),
        }))
    }

    /// Writes what was made from the file; gives the name. Blocks.
    fn write(&self, format: ImageFormat, content: &[u8]) -> io::Result<String> {
        let name = write_beside(&self.path, format, content)?;
        (self.wrote)(self.folder, &self.subfolder, &name);
        Ok(name)
    }

    /// Removes a file that was written before. Blocks.
    fn remove(&self, name: &str) {
        // One that cannot be removed takes space and does no other harm.
        let _ = fs::remove_file(self.path.with_file_name(name));
        (self.wrote)(self.folder, &self.subfolder, name);
    }
}

/// Writes what was made from `original` beside it; gives the name, which nothing had before. The file appears complete
/// or empty. Blocks.
fn write_beside(original: &Path, format: ImageFormat, content: &[u8]) -> io::Result<String> {
    let name = original.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let (stem, ending) = (stem(name), format.ending());
    let mut number = 0_u32;
    let (name, path, claimed) = loop {
        let name = match number {
            0 => format!("{stem}.{ending}"),
            _ => format!("{stem}_{number}.{ending}"),
        };
        let path = original.with_file_name(&name);
        // An empty file keeps the name from others, and from two jobs that share an original.
        match File::create_new(&path) {
            Ok(claimed) => break (name, path, claimed),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    };
    let written = write_atomically(&path, |file| {
        // Whoever may read other new files here may read this one.
        file.set_permissions(claimed.metadata()?.permissions())?;
        file.write_all(content)
    });
    if let Err(error) = written {
        // What is left of it is of no use; the error tells enough.
        let _ = fs::remove_file(&path);
        return Err(error);
    }
    Ok(name)
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
