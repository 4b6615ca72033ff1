//! Keeps the broker of a fleet set up, and the engine at rest while it cannot be reached.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::super::Common;
use super::super::list::FleetSpec;
use super::super::rest::Cause;
use crate::error::{ErrorKind, JobError};
use crate::fleet::{Bound, Broker, Numbers, Trouble, Wanted};

/// How long an engine rests whose broker cannot be reached: until it is looked at again.
pub(super) const REST: Duration = Duration::from_secs(5);
/// How often a broker that cannot be reached is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is seen to that everything is still there.
const SET_UP_AGAIN: Duration = Duration::from_secs(15);

/// Until the broker is bound nothing can be asked of it, so the engine does not count as ready before.
pub(super) fn begin(common: &Common) {
    let message = format!("engine `{}`: its broker is being connected to", common.spec.name);
    let error = JobError::new(ErrorKind::ComfyUnavailable, message);
    common.rest.begins(Cause::Limited(Some(REST)), &error);
}

/// Connects, sets up, and does so again whenever the connection was lost: a broker may come back empty.
///
/// Of fronts that want it otherwise, the one that was started last is followed by all.
pub(super) async fn keep(common: Arc<Common>, spec: FleetSpec, numbers: Numbers, bound: watch::Sender<Option<Bound>>) {
    let name = format!("qwen-image-worker front, engine {}", common.spec.name);
    let broker = loop {
        match Broker::connect(&spec.address, &name).await {
            Ok(broker) => break broker,
            Err(Trouble(why)) => rest(&common, &why),
        }
        tokio::time::sleep(REST / 2).await;
    };
    let mut connection = broker.connection();
    let replicas = spec.replicas;
    let wanted = Wanted { numbers, replicas };
    let (mut is_up, mut is_first, mut followed) = (false, true, wanted);
    loop {
        connection.borrow_and_update();
        if broker.is_connected() {
            match broker.set_up(wanted, is_first).await {
                Ok((now, before)) => {
                    let name = &common.spec.name;
                    if std::mem::take(&mut is_first) {
                        if let Some(before) = before.filter(|before| *before != wanted) {
                            tracing::warn!(
                                "engine `{name}`: its fleet was set up with {before}; now with {wanted}, for all of its fronts"
                            );
                        }
                    } else if let Some(theirs) = before.filter(|before| *before != followed) {
                        followed = theirs;
                        if theirs != wanted {
                            tracing::warn!(
                                "engine `{name}`: a front that was started later has set the fleet up with {theirs}; that counts, and not {wanted} as here"
                            );
                        }
                    }
                    // First, for whoever sees the engine ready asks.
                    bound.send_replace(Some(now));
                    if !std::mem::replace(&mut is_up, true) {
                        tracing::info!("engine `{}` is connected to {}", common.spec.name, spec.address);
                        common.rest.succeeded();
                    }
                    // After a rest one job is tried, and those that wait there may be long in ending.
                    if common.rest.left().is_none() {
                        common.rest.took(Instant::now());
                    }
                    tokio::select! {
                        _ = connection.changed() => {}
                        () = tokio::time::sleep(SET_UP_AGAIN) => {}
                    }
                    continue;
                }
                // What is bound stays so: jobs that are there are asked for on.
                Err(Trouble(why)) => rest(&common, &why),
            }
        } else {
            rest(
                &common,
                &format!("{} cannot be reached: {}", spec.address, broker.why_not()),
            );
        }
        is_up = false;
        tokio::select! {
            _ = connection.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn rest(common: &Common, why: &str) {
    let message = format!("engine `{}`: {why}", common.spec.name);
    let error = JobError::new(ErrorKind::ComfyUnavailable, message);
    if common
        .rest
        .left()
        .is_none_or(|(_, before)| before.message != error.message)
    {
        tracing::warn!("{}", error.message);
    }
    common.rest.begins(Cause::Limited(Some(REST)), &error);
}
