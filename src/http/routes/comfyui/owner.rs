//! Whose prompt a job is: what a caller may see, and what is done for it without naming a prompt.

use crate::http::auth::Caller;
use crate::job::{Dialect, Policy, PromptOwner};

/// The owner of a prompt that this caller may see, and name: one that came by this API, under the caller's key.
pub(super) fn seen<'a>(policy: &'a Policy, caller: &Caller) -> Option<&'a PromptOwner> {
    let owner = policy.prompt.as_deref()?;
    (policy.dialect == Dialect::Comfyui && owner.key == caller.key).then_some(owner)
}

/// Whether a caller that names no prompt means this one: its own.
pub(super) fn is_own(policy: &Policy, caller: &Caller) -> bool {
    seen(policy, caller).is_some_and(|owner| owner.caller == caller.name)
}

/// Whether it is a prompt of this client, where one is named.
pub(super) fn is_of(policy: &Policy, client_id: Option<&str>) -> bool {
    let owner = policy.prompt.as_deref();
    client_id.is_none_or(|id| owner.is_some_and(|owner| owner.client_id.as_deref() == Some(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(dialect: Dialect, key: Option<&str>, caller: &str) -> Policy {
        Policy {
            dialect,
            prompt: Some(Box::new(PromptOwner {
                client_id: Some("page".to_owned()),
                key: key.map(str::to_owned),
                caller: caller.to_owned(),
                ..PromptOwner::default()
            })),
            ..Policy::default()
        }
    }

    #[test]
    fn nothing_of_another_api_or_key_is_seen_and_only_what_is_ones_own_is_meant() {
        let caller = |key: Option<&str>| Caller {
            key: key.map(str::to_owned),
            name: "127.0.0.1".to_owned(),
        };
        let own = policy(Dialect::Comfyui, Some("a"), "127.0.0.1");
        assert!(seen(&own, &caller(Some("a"))).is_some() && is_own(&own, &caller(Some("a"))));
        for other in [None, Some("b")] {
            assert!(seen(&own, &caller(other)).is_none() && !is_own(&own, &caller(other)));
        }
        let of_another = policy(Dialect::Comfyui, Some("a"), "10.0.0.1");
        assert!(seen(&of_another, &caller(Some("a"))).is_some());
        assert!(!is_own(&of_another, &caller(Some("a"))));
        let of_another_api = policy(Dialect::Runpod, Some("a"), "127.0.0.1");
        assert!(seen(&of_another_api, &caller(Some("a"))).is_none());
        assert!(seen(&Policy::default(), &caller(None)).is_none());
        assert!(is_of(&own, None) && is_of(&own, Some("page")) && !is_of(&own, Some("other")));
    }
}
