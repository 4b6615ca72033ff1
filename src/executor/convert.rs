//! Delivery: images in the format that was asked for.

use futures_util::{StreamExt as _, stream};

use super::content::{Contents, renamed};
use super::ledger::Ledger;
use crate::config::ImageFormat;
use crate::delivery::encode::{EncodeError, Picture};
use crate::echo;
use crate::error::JobError;
use crate::job::{FileKind, Outcome, OutputFile, Recoded};

/// Images that are in hand at once: each is in memory, and a core is busy with it.
const AT_ONCE: usize = 4;

/// Makes the images of an answer into `format`. Those that cannot be stay as they are, and a warning says why. What is
/// written is taken down in the ledger.
pub(super) async fn convert(
    contents: Contents<'_>,
    outcome: &mut Outcome,
    (format, quality): (ImageFormat, u8),
    ledger: Option<&Ledger>,
) {
    let files: Vec<_> = outcome
        .wanted_mut()
        .filter(|file| file.kind == FileKind::Image && !has_format(&file.filename, format))
        .collect();
    let making = files.into_iter().map(|file| async move {
        let made = make(contents, file, format, quality, ledger).await;
        made.map(|name| {
            let original = std::mem::replace(&mut file.filename, name);
            file.recoded = Some(Recoded {
                original,
                format,
                quality,
            });
        })
        .map_err(|reason| {
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
    contents: Contents<'_>,
    file: &OutputFile,
    format: ImageFormat,
    quality: u8,
    ledger: Option<&Ledger>,
) -> Result<String, String> {
    let told = |error: JobError| error.full_text();
    let name = file.filename.clone();
    let beside = contents.beside(file, ledger).map_err(told)?;
    let content = contents.original(file).await.map_err(told)?;
    let made = contents.cores.run(move || {
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
