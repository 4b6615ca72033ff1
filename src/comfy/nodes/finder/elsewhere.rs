//! The packs that are not here: those of the small table, and those of the Comfy Registry.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::comfy::nodes::known;
use crate::comfy::nodes::registry::{ClassPack, Registry};

/// How long an error waits for the registry.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many classes are asked for at once; the others of a graph are likely of the same packs.
const MOST_QUESTIONS: usize = 8;

/// Who knows packs that are not here. The registry remembers what it was asked, and that it could not be asked.
#[derive(Debug)]
pub struct Elsewhere {
    url: Url,
    /// Made when it is first asked: most workers never do.
    registry: OnceLock<Arc<Registry>>,
}

impl Elsewhere {
    /// The registry at this address; nothing is sent to it before a class is looked for.
    pub fn new(registry: &Url) -> Self {
        Self {
            url: registry.clone(),
            registry: OnceLock::new(),
        }
    }

    /// The packs that bring these classes, as far as somebody knows them.
    pub(super) async fn packs_of(&self, classes: &[&str]) -> HashMap<String, ClassPack> {
        let mut packs: HashMap<String, ClassPack> = HashMap::new();
        for class in classes {
            if let Some(id) = known::pack_with_class(class) {
                let pack = ClassPack {
                    id: id.to_owned(),
                    version: None,
                };
                packs.insert((*class).to_owned(), pack);
            }
        }
        for (class, pack) in self.answers(classes).await {
            let pack = pack.filter(|pack| {
                packs
                    .get(&class)
                    .is_none_or(|known| known.id.eq_ignore_ascii_case(&pack.id))
            });
            packs.extend(pack.map(|pack| (class, pack)));
        }
        packs
    }

    /// What the registry says in time. Who comes too late is heard by the next error.
    async fn answers(&self, classes: &[&str]) -> Vec<(String, Option<ClassPack>)> {
        let mut asked = JoinSet::new();
        for class in classes.iter().take(MOST_QUESTIONS) {
            let registry = self.registry.get_or_init(|| Arc::new(Registry::new(&self.url)));
            let (registry, class) = (Arc::clone(registry), (*class).to_owned());
            asked.spawn(async move {
                let pack = registry.entry_with_class(&class).await;
                (class, pack)
            });
        }
        let deadline = Instant::now() + PATIENCE;
        let mut answers = Vec::new();
        while let Ok(Some(answer)) = timeout_at(deadline, asked.join_next()).await {
            answers.extend(answer.ok());
        }
        asked.detach_all();
        answers
    }
}
