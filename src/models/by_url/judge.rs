//! Whether a file is good for the request that names it: by the headers of both, each read once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use indexmap::IndexMap;
use parking_lot::Mutex;

use super::fit::{self, Fit};
use super::header::{self, Header};
use super::told_to_user;
use crate::disk::blocking;
use crate::error::JobError;
use crate::models::download::FetchError;

/// How many headers are kept.
const KEPT: usize = 8;
/// The most tensors of one that is kept: more than any model of today has.
const MOST_TENSORS: usize = 20_000;

/// Judges files for one request.
#[derive(Debug)]
pub(super) struct Judge {
    /// The model that a LoRA is to change, where it is known.
    pub(super) base: Option<Arc<Header>>,
    /// The kind of model that the file is made for, in the words of its page.
    pub(super) said: Option<String>,
    /// How the request calls the file.
    pub(super) label: String,
}

impl Judge {
    /// What the request's owner should know of a file, or why it is refused.
    pub(super) async fn judge(&self, header: &Arc<Header>) -> Result<Option<String>, JobError> {
        let Some(base) = self.base.clone() else {
            return Ok(None);
        };
        let lora = Arc::clone(header);
        let fit = blocking(move || fit::judge(&lora, &base)).await;
        let (label, said) = (&self.label, self.said.as_ref());
        let said = said.map_or(String::new(), |said| format!(" (its page says: {said})"));
        match fit {
            Fit::Fits => Ok(None),
            Fit::Unknown(why) => Ok(Some(format!("the LoRA {label}{said}: {why}"))),
            Fit::Wrong(why) => {
                let hint = "Name a LoRA that is made for the model, or choose the model that it is made for.";
                let error = FetchError::told(format!("the LoRA {why}{said}"), Some(hint));
                Err(told_to_user(&error, label))
            }
        }
    }
}

/// Headers of files on this machine that were read lately. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Headers(Arc<Mutex<IndexMap<PathBuf, Kept>>>);

#[derive(Debug, Clone)]
struct Kept {
    /// What tells whether the file is another one now.
    stamp: (SystemTime, u64),
    header: Arc<Header>,
}

impl Headers {
    /// The header of a file, or why it is none. Blocking.
    pub(super) fn of(&self, path: &Path) -> Result<Arc<Header>, String> {
        let stamp = path.metadata().and_then(|facts| Ok((facts.modified()?, facts.len())));
        let stamp = stamp.map_err(|error| format!("cannot be read: {error}"))?;
        let known = self.0.lock().get(path).cloned();
        if let Some(known) = known.filter(|known| known.stamp == stamp) {
            return Ok(known.header);
        }
        let header = Arc::new(header::of_file(path)?);
        if header.tensors.len() <= MOST_TENSORS {
            let mut kept = self.0.lock();
            kept.shift_remove(path);
            if kept.len() >= KEPT {
                kept.shift_remove_index(0);
            }
            let header = Arc::clone(&header);
            kept.insert(path.to_owned(), Kept { stamp, header });
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::testing;
    use super::*;

    #[test]
    fn a_header_is_read_again_when_its_file_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let headers = Headers::default();
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, testing::file(&[("a", "F32", &[2])])).unwrap();
        let first = headers.of(&path).unwrap();
        assert!(Arc::ptr_eq(&first, &headers.of(&path).unwrap()));
        std::fs::write(&path, testing::file(&[("b", "F32", &[20])])).unwrap();
        assert!(headers.of(&path).unwrap().tensors.contains_key("b"));
        std::fs::remove_file(&path).unwrap();
        assert!(headers.of(&path).unwrap_err().contains("cannot be read"));
        for number in 0..20 {
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, testing::file(&[("a", "F32", &[2])])).unwrap();
            headers.of(&path).unwrap();
        }
        assert_eq!(headers.0.lock().len(), KEPT);
    }

    #[tokio::test]
    async fn a_lora_for_another_model_is_refused_in_the_words_of_its_page() {
        let header = |tensors: &[(&str, &str, &[u64])]| Arc::new(header::parse(&testing::file(tensors), None).unwrap());
        let flux = header(&[(
            "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
            "F16",
            &[4, 64],
        )]);
        let qwen = header(&[("transformer_blocks.0.img_mlp.net.0.proj.weight", "BF16", &[64, 32])]);
        let judge = |base| Judge {
            base,
            said: Some("Flux.1 D".to_owned()),
            label: "civitai:7".to_owned(),
        };
        let refused = judge(Some(qwen)).judge(&flux).await.unwrap_err().full_text();
        for words in [
            "civitai:7",
            "Qwen-Image",
            "its page says: Flux.1 D",
            "made for the model",
        ] {
            assert!(refused.contains(words), "{refused}");
        }
        assert_eq!(judge(None).judge(&flux).await, Ok(None));
    }
}
