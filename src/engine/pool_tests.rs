//! Which engine gets which job.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::*;
use crate::executor::JobControl;
use crate::executor::elsewhere::Failed;
use crate::job::{JobId, JobRequest, Outcome};

/// Stands where it is told, and runs nothing.
#[derive(Debug)]
struct Told {
    name: &'static str,
    standing: tokio::sync::watch::Sender<Standing>,
}

impl Engine for Told {
    fn name(&self) -> &str {
        self.name
    }

    fn places(&self) -> usize {
        2
    }

    fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    fn until_not(&self, standing: Standing) -> BoxFuture<'_, ()> {
        let mut told = self.standing.subscribe();
        async move { drop(told.wait_for(|now| *now != standing).await) }.boxed()
    }

    fn until_away(&self) -> BoxFuture<'_, JobError> {
        let mut told = self.standing.subscribe();
        async move {
            drop(told.wait_for(|now| *now == Standing::Away).await);
            JobError::internal(self.name)
        }
        .boxed()
    }

    fn called(&self) -> BoxFuture<'_, ()> {
        self.until_not(Standing::Away)
    }

    fn keeps_jobs(&self) -> bool {
        true
    }

    fn cancel_earlier<'a>(&'a self, _: &'a [String]) -> BoxFuture<'a, ()> {
        async {}.boxed()
    }

    fn run<'a>(&'a self, _: &'a JobId, _: JobRequest, _: &'a JobControl) -> BoxFuture<'a, Result<Outcome, Failed>> {
        async { Ok(Outcome::default()) }.boxed()
    }
}

struct Bench {
    pool: Pool,
    engines: Vec<Arc<Told>>,
    freed: Arc<Notify>,
}

impl Bench {
    fn of(names: &[&'static str]) -> Self {
        let told = |name: &&'static str| {
            let standing = tokio::sync::watch::Sender::new(Standing::Ready);
            Arc::new(Told { name, standing })
        };
        let engines: Vec<_> = names.iter().map(told).collect();
        Self {
            pool: Pool::new(engines.iter().map(|engine| Arc::clone(engine) as Arc<dyn Engine>)),
            engines,
            freed: Arc::default(),
        }
    }

    fn stands(&self, index: usize, standing: Standing) {
        self.engines[index].standing.send_replace(standing);
    }

    /// The engine and the place in the line of the job that is chosen.
    fn choice(&self, line: &[Waiting<'_>]) -> Option<(&str, usize)> {
        let (member, index) = self.pool.choose(line)?;
        let chosen = self.engines.iter().find(|engine| engine.name == member.engine.name())?;
        Some((chosen.name, index))
    }

    /// Gives the engine a job.
    fn seat(&self, index: usize, models: &str) -> Seat {
        let member = &self.pool.members()[index];
        let seat = Pool::take(member, Some(loads(models)), &self.freed).0;
        member.has_begun(Some(loads(models)));
        seat
    }
}

fn loads(models: &str) -> Signature {
    Signature::of(&JobRequest {
        work: crate::job::Work::Template(crate::job::TemplateRequest {
            template: Some(models.to_owned()),
            ..Default::default()
        }),
        images: Vec::new(),
        delivery: crate::job::Delivery::default(),
        org_api_key: None,
        extra_data: serde_json::Map::new(),
        warnings: Vec::new(),
    })
    .unwrap()
}

fn job(models: &str) -> Waiting<'static> {
    Waiting {
        signature: Some(loads(models)),
        ..Waiting::default()
    }
}

#[test]
fn an_idle_engine_takes_what_it_has_loaded_and_else_the_oldest() {
    let bench = Bench::of(&["a", "b"]);
    drop(bench.seat(0, "flux"));
    drop(bench.seat(1, "qwen"));
    assert_eq!(bench.choice(&[job("flux"), job("qwen")]), Some(("a", 0)));
    assert_eq!(bench.choice(&[job("qwen"), job("flux")]), Some(("b", 0)));
    assert_eq!(bench.choice(&[job("sd"), job("x"), job("qwen")]), Some(("b", 2)));
    // `a` was used before `b`.
    assert_eq!(bench.choice(&[job("sd"), job("x")]), Some(("a", 0)));
    assert_eq!(bench.choice(&[]), None);
    // One of a lower priority is not preferred.
    let low = Waiting {
        priority: -1,
        ..job("qwen")
    };
    assert_eq!(bench.choice(&[job("sd"), low]), Some(("a", 0)));
}

#[test]
fn nobody_is_passed_over_for_ever() {
    let bench = Bench::of(&["a", "b"]);
    let _busy = [bench.seat(0, "flux"), bench.seat(0, "flux")];
    drop(bench.seat(1, "qwen"));
    let mut old = job("sd");
    for _ in 0..MOST_PASSED {
        assert_eq!(bench.choice(&[old, job("qwen")]), Some(("b", 1)));
        old.passed.again();
    }
    assert_eq!(bench.choice(&[old, job("qwen")]), Some(("b", 0)));
    let long_ago = Passed {
        times: 1,
        since: Instant::now().checked_sub(LONGEST_PASSED),
    };
    let old = Waiting {
        passed: long_ago,
        ..job("sd")
    };
    assert_eq!(bench.choice(&[old, job("qwen")]), Some(("b", 0)));
}

#[test]
fn only_what_is_ready_gets_jobs_and_busy_ones_get_one_more_when_none_is_idle() {
    let bench = Bench::of(&["a", "b", "c"]);
    bench.stands(2, Standing::Starting);
    let first = bench.seat(0, "x");
    assert_eq!(bench.choice(&[job("x")]), Some(("b", 0)), "it is idle");
    let second = bench.seat(1, "y");
    assert_eq!(bench.choice(&[job("z"), job("y")]), Some(("b", 1)));
    let ahead = [bench.seat(0, "x"), bench.seat(1, "y")];
    assert_eq!(bench.choice(&[job("x")]), None, "c is not there yet");
    assert_eq!(bench.pool.idle(), 0);
    bench.stands(2, Standing::Ready);
    assert_eq!(bench.choice(&[job("x")]), Some(("c", 0)));
    let members = bench.pool.members();
    assert!(bench.pool.begins_sooner_elsewhere(&members[0]) && bench.pool.begins_sooner_elsewhere(&members[1]));
    drop((first, second));
    assert!(!bench.pool.begins_sooner_elsewhere(&members[0]), "it is next there");
    bench.stands(0, Standing::Starting);
    assert!(bench.pool.begins_sooner_elsewhere(&members[0]));
    drop(ahead);
    for index in 0..3 {
        bench.stands(index, Standing::Away);
    }
    assert!(bench.pool.is_away());
    // What is given then is to fail.
    assert_eq!(bench.choice(&[job("x")]), Some(("a", 0)));
}

#[test]
fn a_job_of_a_previous_run_goes_where_it_was_while_that_is_there() {
    let bench = Bench::of(&["a", "b"]);
    let had = |name| Waiting {
        had: Some(name),
        ..job("x")
    };
    assert_eq!(bench.choice(&[had("b"), job("x")]), Some(("b", 0)));
    let _busy = [bench.seat(1, "x"), bench.seat(1, "x")];
    assert_eq!(bench.choice(&[had("b")]), None);
    assert_eq!(bench.choice(&[had("b"), job("y")]), Some(("a", 1)));
    bench.stands(1, Standing::Away);
    assert_eq!(bench.choice(&[had("b")]), Some(("a", 0)));
    assert_eq!(bench.choice(&[had("gone")]), Some(("a", 0)));
}

#[test]
fn one_engine_takes_all_in_their_order() {
    let bench = Bench::of(&["only"]);
    drop(bench.seat(0, "x"));
    assert_eq!(bench.choice(&[job("y"), job("x")]), Some(("only", 0)));
    bench.stands(0, Standing::Starting);
    assert_eq!(bench.choice(&[job("y")]), Some(("only", 0)));
    let _busy = [bench.seat(0, "x"), bench.seat(0, "x")];
    assert_eq!(bench.choice(&[job("y")]), None);
}

#[tokio::test]
async fn all_are_away_together_and_one_is_enough_to_be_back() {
    let bench = Bench::of(&["a", "b"]);
    let seen = bench.pool.standings();
    bench.stands(0, Standing::Away);
    bench.pool.until_other(&seen).await;
    let mut away = std::pin::pin!(bench.pool.until_away());
    assert!(futures_util::poll!(&mut away).is_pending());
    bench.stands(1, Standing::Away);
    assert_eq!(away.await.message, "a");
    let mut back = std::pin::pin!(bench.pool.until_back());
    assert!(futures_util::poll!(&mut back).is_pending());
    bench.stands(1, Standing::Starting);
    back.await;
}

#[test]
fn what_is_loaded_is_what_has_begun_and_goes_with_the_process() {
    let bench = Bench::of(&["a", "b"]);
    drop(bench.seat(1, "qwen"));
    drop(bench.seat(0, "flux"));
    // It was taken back before it began.
    drop(Pool::take(&bench.pool.members()[0], Some(loads("sd")), &bench.freed));
    assert_eq!(bench.choice(&[job("sd"), job("flux")]), Some(("a", 1)));
    bench.stands(0, Standing::Starting);
    bench.pool.standings();
    bench.stands(0, Standing::Ready);
    assert_eq!(
        bench.choice(&[job("sd"), job("flux")]),
        Some(("a", 0)),
        "it has nothing"
    );
}

#[test]
fn a_prompt_of_a_previous_run_is_where_its_engine_was() {
    let bench = Bench::of(&["a", "b"]);
    let keeper = |name| bench.pool.keeper(name).map(|member| member.engine().name().to_owned());
    assert_eq!(keeper(Some("b")).as_deref(), Some("b"));
    // That run had one.
    assert_eq!(keeper(None).as_deref(), Some("a"));
    assert_eq!(keeper(Some(LOCAL)).as_deref(), Some("a"));
    assert_eq!(keeper(Some("gone")), None);
}
