//! What the history of ComfyUI's own API shows.

use super::*;
use crate::job::PromptOwner;

/// A prompt that ended at this time, after so many seconds of work.
async fn ended(store: &Store, owner: PromptOwner, state: JobState, seconds: u64) -> JobId {
    let mut job = new_job();
    job.created = at(100 - seconds);
    job.policy.dialect = Dialect::Comfyui;
    job.policy.prompt = Some(Box::new(owner));
    let id = job.id.clone();
    store.insert(job).await.unwrap();
    let end = Finished {
        at: at(200 + seconds),
        execution: Duration::from_secs(seconds),
        ..end(state, "over")
    };
    store.finish(&id, end).await.unwrap();
    id
}

fn owner(key: Option<&str>, caller: &str) -> PromptOwner {
    PromptOwner {
        key: key.map(str::to_owned),
        caller: caller.to_owned(),
        ..PromptOwner::default()
    }
}

async fn ids(store: &Store, which: Shown, part: ShownPart) -> Vec<JobId> {
    let shown = store.shown(which, part).await.unwrap();
    shown.into_iter().map(|job| job.id).collect()
}

#[tokio::test]
async fn the_prompts_of_a_key_are_found_whatever_there_is_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let own = ended(&store, owner(Some("a"), "me"), JobState::Completed, 1).await;
    for n in 2..20 {
        ended(&store, owner(Some("b"), "me"), JobState::Completed, n).await;
    }
    let open_to_all = ended(&store, owner(None, "me"), JobState::Completed, 20).await;
    // Of other APIs, not over, or never run.
    insert(&store).await;
    let other = insert(&store).await;
    store.finish(&other, end(JobState::Completed, "over")).await.unwrap();
    ended(&store, owner(Some("a"), "me"), JobState::Cancelled, 0).await;
    let ran = ended(&store, owner(Some("a"), "you"), JobState::Cancelled, 3).await;

    let of = |key: Option<&str>| Shown {
        key: key.map(str::to_owned),
        ..Shown::default()
    };
    assert_eq!(
        ids(&store, of(Some("a")), ShownPart::ALL).await,
        [own.clone(), ran.clone()]
    );
    assert_eq!(ids(&store, of(None), ShownPart::ALL).await, [open_to_all]);
    assert_eq!(store.count_shown(of(Some("b"))).await.unwrap(), 18);
    let newest = ShownPart {
        descending: true,
        limit: 1,
        ..ShownPart::ALL
    };
    assert_eq!(ids(&store, of(Some("a")), newest).await, std::slice::from_ref(&ran));
    let second = ShownPart {
        offset: 1,
        ..ShownPart::ALL
    };
    assert_eq!(ids(&store, of(Some("a")), second).await, std::slice::from_ref(&ran));
    let first = ShownPart {
        by: ShownBy::Created,
        ..ShownPart::ALL
    };
    assert_eq!(ids(&store, of(Some("a")), first).await, [ran.clone(), own.clone()]);
    let longest = ShownPart {
        by: ShownBy::Execution,
        ..newest
    };
    assert_eq!(ids(&store, of(Some("a")), longest).await, std::slice::from_ref(&ran));

    store.hide(vec![ran]).await.unwrap();
    assert_eq!(ids(&store, of(Some("a")), ShownPart::ALL).await, [own]);
}

#[tokio::test]
async fn a_part_of_them_is_chosen_by_what_is_known_of_their_owners() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let plain = ended(&store, owner(None, "me"), JobState::Failed, 1).await;
    let page = PromptOwner {
        client_id: Some("page".to_owned()),
        workflow_id: Some("w".to_owned()),
        ..owner(None, "you")
    };
    let paged = ended(&store, page, JobState::TimedOut, 2).await;
    let all = || Shown::default();
    let text = |text: &str| Some(text.to_owned());
    for (which, expected) in [
        (all(), vec![&plain, &paged]),
        (
            Shown {
                caller: text("me"),
                ..all()
            },
            vec![&plain],
        ),
        (
            Shown {
                client_id: text("page"),
                ..all()
            },
            vec![&paged],
        ),
        (
            Shown {
                client_id: text("pag"),
                ..all()
            },
            vec![],
        ),
        (
            Shown {
                workflow_id: text("w"),
                ..all()
            },
            vec![&paged],
        ),
        (
            Shown {
                states: Some(vec![JobState::Failed, JobState::Completed]),
                ..all()
            },
            vec![&plain],
        ),
        (
            Shown {
                states: Some(vec![]),
                ..all()
            },
            vec![],
        ),
        (
            Shown {
                ids: Some(vec![paged.clone(), JobId::new()]),
                ..all()
            },
            vec![&paged],
        ),
        (
            Shown {
                ids: Some(vec![plain.clone()]),
                caller: text("you"),
                ..all()
            },
            vec![],
        ),
        (
            Shown {
                without: vec![paged.clone()],
                ..all()
            },
            vec![&plain],
        ),
    ] {
        let expected: Vec<JobId> = expected.into_iter().cloned().collect();
        assert_eq!(
            store.count_shown(which.clone()).await.unwrap(),
            expected.len(),
            "{which:?}"
        );
        assert_eq!(ids(&store, which.clone(), ShownPart::ALL).await, expected, "{which:?}");
    }
}
