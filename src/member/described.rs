//! Tells the fronts of a fleet which node classes the ComfyUIs of its workers have.

use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::disk::blocking;
use crate::fleet::{Bound, DESCRIBED, Trouble};

/// How often it is looked whether the broker still has what was told.
const LOOK: Duration = Duration::from_hours(1);

/// What was told last: of which start of ComfyUI, and when it was there.
#[derive(Debug, Default)]
pub(super) struct Told(tokio::sync::Mutex<Option<(u64, Instant)>>);

/// Tells it where ComfyUI was started since it was told, or where the broker has forgotten it. Which files ComfyUI has is no part
/// of it, so that nothing is told as they come and go.
pub(super) async fn tell(shared: &Shared, bound: &Bound) {
    // One that is at it is enough.
    let Ok(mut told) = shared.told.0.try_lock() else { return };
    let Some(connection) = shared.parts.comfy.connection_now() else {
        return;
    };
    let generation = connection.generation();
    if let Some((of, at)) = *told
        && of == generation
    {
        if at.elapsed() < LOOK {
            return;
        }
        match bound.get(DESCRIBED).await {
            Ok(Some(_)) => {
                *told = Some((generation, Instant::now()));
                return;
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
    let classes = match connection.client.classes().await {
        Ok(classes) => classes,
        Err(error) => {
            tracing::debug!(%error, "the node classes are not told to the fleet now");
            return;
        }
    };
    let packed = blocking(move || classes.packed()).await;
    match bound.put(DESCRIBED, &packed).await {
        Ok(()) => *told = Some((generation, Instant::now())),
        Err(Trouble(why)) => tracing::warn!("the node classes are not told to the fleet: {why}"),
    }
}
