//! Delivery: images in the format that was asked for.

use futures_util::future::join_all;

use super::content::{Contents, renamed, write_beside};
use crate::config::ImageFormat;
use crate::delivery::encode::{EncodeError, Picture};
use crate::error::JobError;
use crate::job::{FileKind, Outcome, OutputFile, Recoded};

/// Makes the images of an answer into `format`. Those that cannot be stay as they are, and a warning says why.
pub(super) async fn convert(contents: Contents<'_>, outcome: &mut Outcome, format: ImageFormat, quality: u8) {
    let files: Vec<_> = outcome
        .wanted_mut()
        .filter(|file| file.kind == FileKind::Image && !has_format(&file.filename, format))
        .collect();
    let made = join_all(files.into_iter().map(|file| async move {
        let made = make(contents, file, format, quality).await;
        made.map(|name| {
            let original = std::mem::replace(&mut file.filename, name);
            file.recoded = Some(Recoded {
                original,
                format,
                quality,
            });
        })
        .map_err(|reason| format!("`{}` stays as it is, not {}: {reason}", file.filename, format.as_str()))
    }));
    let refused: Vec<_> = made.await.into_iter().filter_map(Result::err).collect();
    outcome.warnings.extend(refused);
}

/// Whether a file of this name has the format already.
fn has_format(filename: &str, format: ImageFormat) -> bool {
    let ending = filename.rsplit_once('.').map_or("", |(_, ending)| ending);
    ImageFormat::parse(ending) == Some(format)
}

/// Makes one image, and writes it beside the original where that is on this machine. Gives its name.
async fn make(contents: Contents<'_>, file: &OutputFile, format: ImageFormat, quality: u8) -> Result<String, String> {
    let told = |error: JobError| error.full_text();
    let name = file.filename.clone();
    let path = contents.path(file, &name).map_err(told)?;
    let content = contents.original(file).await.map_err(told)?;
    let made = contents.cores.run(move || {
        let image = Picture::decode(&content)
            .and_then(|picture| picture.encode(format, quality))
            .map_err(|error: EncodeError| error.to_string())?;
        match path {
            Some(path) => write_beside(&path, format, &image).map_err(|error| format!("it cannot be written: {error}")),
            // It is made once more as it is read.
            None => Ok(renamed(&name, format)),
        }
    });
    made.await.map_err(told)?
}
