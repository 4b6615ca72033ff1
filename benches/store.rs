//! What durability costs: inserts by eight tasks at once, and single calls beside ten and beside ten thousand finished
//! jobs. The goals are 2,000 inserts a second, and the same time for a call in a large store as in a small one.

use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qwen_image_worker::job::{JobId, JobState, Policy};
use qwen_image_worker::queue::store::{Claims, Finished, NewJob, Store, StoreOptions};
use tokio::runtime::Runtime;

const TASKS: u64 = 8;

/// About what a small workflow takes.
const PAYLOAD_BYTES: usize = 4 * 1024;

fn new_job(payload: &Bytes) -> NewJob {
    NewJob {
        id: JobId::new(),
        created: SystemTime::now(),
        policy: Policy::default(),
        payload: payload.clone(),
        claims: Claims::default(),
    }
}

async fn open(folder: &tempfile::TempDir) -> Store {
    let opened = Store::open(folder.path(), StoreOptions::default()).await;
    opened.expect("a store").0
}

async fn finished_job(store: &Store, payload: &Bytes) -> JobId {
    let job = new_job(payload);
    let id = job.id.clone();
    store.insert(job).await.expect("inserted");
    store.started(&id, 1).await.expect("started");
    let end = Finished {
        state: JobState::Completed,
        at: SystemTime::now(),
        delay: Duration::from_millis(5),
        execution: Duration::from_secs(5),
        attempts: 1,
        keeps_payload: false,
        result: Bytes::from_static(b"{\"images\":[]}"),
        files: Vec::new(),
        outputs: Vec::new(),
        webhook: None,
        unreported: false,
    };
    assert!(store.finish(&id, end).await.expect("finished"));
    id
}

/// A store with this many finished jobs, and their ids.
fn filled(runtime: &Runtime, folder: &tempfile::TempDir, payload: &Bytes, jobs: u64) -> (Store, Vec<JobId>) {
    runtime.block_on(async {
        let store = open(folder).await;
        let tasks = (0..TASKS).map(|task| {
            let (store, payload) = (store.clone(), payload.clone());
            tokio::spawn(async move {
                let mut ids = Vec::new();
                for _ in (task..jobs).step_by(8) {
                    ids.push(finished_job(&store, &payload).await);
                }
                ids
            })
        });
        let mut ids = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            ids.extend(task.await.expect("no panic"));
        }
        (store, ids)
    })
}

fn store(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let payload = Bytes::from(vec![b'x'; PAYLOAD_BYTES]);
    for jobs in [10, 10_000] {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, ids) = filled(&runtime, &folder, &payload, jobs);
        let mut group = criterion.benchmark_group(format!("beside {jobs} finished jobs"));

        runtime.block_on(store.close());
        group.bench_function("open and close", |bencher| {
            bencher.iter(|| runtime.block_on(async { open(&folder).await.close().await }));
        });
        let store = runtime.block_on(open(&folder));

        let mut next = 0;
        group.bench_function("get", |bencher| {
            bencher.iter(|| {
                next = (next + 7919) % ids.len();
                let job = runtime.block_on(store.get(&ids[next])).expect("an answer");
                black_box(job.expect("a job"))
            });
        });
        group.bench_function("insert by one task", |bencher| {
            bencher.iter(|| runtime.block_on(store.insert(new_job(&payload))).expect("inserted"));
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function("insert by eight tasks", |bencher| {
            bencher.iter_custom(|inserts| {
                let begin = Instant::now();
                runtime.block_on(async {
                    let tasks = (0..TASKS).map(|task| {
                        let (store, payload) = (store.clone(), payload.clone());
                        tokio::spawn(async move {
                            for _ in (task..inserts).step_by(8) {
                                store.insert(new_job(&payload)).await.expect("inserted");
                            }
                        })
                    });
                    for task in tasks.collect::<Vec<_>>() {
                        task.await.expect("no panic");
                    }
                });
                begin.elapsed()
            });
        });
        group.finish();
        runtime.block_on(store.close());
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = store
}
criterion_main!(benches);
