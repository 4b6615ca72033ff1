//! Files that somebody is about to use.

use parking_lot::Mutex;

use super::Assets;
use crate::job::ContentHash;

/// Files that nothing removes as long as this is there: from the moment that a request's references are resolved until its job
/// is stored, which needs them from then on.
#[derive(Debug)]
pub struct Hold {
    assets: Assets,
    pinned: Mutex<Vec<ContentHash>>,
}

impl Hold {
    pub(super) fn new(assets: Assets) -> Self {
        Self {
            assets,
            pinned: Mutex::default(),
        }
    }

    /// Holds a file. Where it is being removed that is waited for: it is gone then. Whoever removes files waits for nobody
    /// who holds some, so several may be held one after another.
    pub(super) async fn pin(&self, hash: ContentHash) {
        while !self.try_pin(hash) {
            let _removed = self.assets.0.removing.lock().await;
        }
    }

    fn try_pin(&self, hash: ContentHash) -> bool {
        let pins = self.assets.0.ledger.lock().pin(hash);
        if pins {
            self.pinned.lock().push(hash);
        }
        pins
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut ledger = self.assets.0.ledger.lock();
        for hash in self.pinned.get_mut().drain(..) {
            ledger.unpin(hash);
        }
    }
}
