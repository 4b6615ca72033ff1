//! The platform's addresses, made from the templates in the environment as Python's `runpod` 1.12.0 makes them
//! (`serverless/modules/rp_job.py`, `rp_http.py`, `rp_ping.py`).

use url::Url;

use crate::config::RunpodConfig;
use crate::net::segment;

/// The version of Python's `runpod` whose protocol this is; told with each ping.
const PROTOCOL: &str = "1.12.0";
/// The part of a job-take address that other routes replace.
const TAKE: &str = "/job-take/";

/// The platform's addresses, with the worker's id filled in.
#[derive(Clone)]
pub(super) struct Addresses {
    take: String,
    output: String,
    stream: Option<String>,
    ping: Option<String>,
}

impl std::fmt::Debug for Addresses {
    /// They hold keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Addresses").finish_non_exhaustive()
    }
}

impl Addresses {
    /// The addresses, unless there is none for results.
    pub(super) fn new(config: &RunpodConfig) -> Option<Self> {
        let worker = segment(&config.worker_id);
        let pod = |template: &str| template.replace("$RUNPOD_POD_ID", &worker);
        Some(Self {
            take: config.take_url.reveal().replace("$ID", &worker),
            output: pod(config.output_url.as_ref()?.reveal()),
            stream: config.stream_url.as_ref().map(|url| pod(url.reveal())),
            ping: config.ping_url.as_ref().map(|url| pod(url.reveal())),
        })
    }

    /// Where up to `count` jobs are taken.
    pub(super) fn take(&self, count: usize, in_progress: bool) -> Result<Url, url::ParseError> {
        let mut address = self.take.clone();
        let size = count.to_string();
        let mut query = vec![("job_in_progress", if in_progress { "1" } else { "0" })];
        if count > 1 {
            address = address.replacen(TAKE, "/job-take-batch/", 1);
            query.insert(0, ("batch_size", size.as_str()));
        }
        with_query(&address, &query)
    }

    /// Where the jobs to stop are told; [`None`] when the address of job-take does not show it.
    pub(super) fn stop(&self) -> Option<Url> {
        let address = self
            .take
            .contains(TAKE)
            .then(|| self.take.replacen(TAKE, "/job-stop/", 1))?;
        Url::parse(&address).ok()
    }

    /// Where a job's progress and result go.
    pub(super) fn output(&self, job: &str, stream: bool) -> Result<Url, url::ParseError> {
        of_job(&self.output, job, stream)
    }

    /// Where a job's streamed progress goes.
    pub(super) fn stream(&self, job: &str) -> Option<Url> {
        of_job(self.stream.as_deref()?, job, false).ok()
    }

    /// Where the worker says that it lives, with the jobs it has.
    pub(super) fn ping(&self, jobs: &[String]) -> Option<Url> {
        let jobs = jobs.join(",");
        let mut query = vec![("runpod_version", PROTOCOL)];
        if !jobs.is_empty() {
            query.insert(0, ("job_id", &jobs));
        }
        with_query(self.ping.as_deref()?, &query).ok()
    }

    /// Where the worker says that it cannot work, and why.
    pub(super) fn unhealthy(&self, check: &str, reason: &str) -> Option<Url> {
        let query = [
            ("status", "unhealthy"),
            ("check", check),
            ("reason", reason),
            ("runpod_version", PROTOCOL),
        ];
        with_query(self.ping.as_deref()?, &query).ok()
    }
}

fn of_job(template: &str, job: &str, stream: bool) -> Result<Url, url::ParseError> {
    let address = template.replace("$ID", &segment(job));
    with_query(&address, &[("isStream", if stream { "true" } else { "false" })])
}

/// What is there in the query stays as it is.
fn with_query(address: &str, pairs: &[(&str, &str)]) -> Result<Url, url::ParseError> {
    let mut url = Url::parse(address)?;
    url.query_pairs_mut().extend_pairs(pairs);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Secret;

    fn config() -> RunpodConfig {
        let base = "https://api.runpod.ai/v2/ep";
        RunpodConfig {
            take_url: Secret::new(format!("{base}/job-take/$ID?gpu=a+b")),
            output_url: Some(Secret::new(format!("{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=a+b"))),
            stream_url: Some(Secret::new(format!("{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=a+b"))),
            ping_url: Some(Secret::new(format!("{base}/ping/$RUNPOD_POD_ID"))),
            ping_interval: Duration::from_secs(10),
            api_key: None,
            worker_id: "pod1".into(),
            init_timeout: Duration::from_mins(7),
            concurrency: 1,
            refresh_worker: false,
            warmup_workflow: None,
            required_models: Vec::new(),
            progress_interval: None,
        }
    }

    fn addresses() -> Addresses {
        Addresses::new(&config()).unwrap()
    }

    #[test]
    fn without_one_for_results_there_are_none() {
        let config = RunpodConfig {
            output_url: None,
            ..config()
        };
        assert!(Addresses::new(&config).is_none());
    }

    #[test]
    fn they_are_those_of_the_python_sdk() {
        let addresses = addresses();
        let base = "https://api.runpod.ai/v2/ep";
        let text = |url: Option<Url>| url.map(String::from).unwrap();
        assert_eq!(
            text(addresses.take(1, false).ok()),
            format!("{base}/job-take/pod1?gpu=a+b&job_in_progress=0")
        );
        assert_eq!(
            text(addresses.take(3, true).ok()),
            format!("{base}/job-take-batch/pod1?gpu=a+b&batch_size=3&job_in_progress=1")
        );
        assert_eq!(text(addresses.stop()), format!("{base}/job-stop/pod1?gpu=a+b"));
        assert_eq!(
            text(addresses.output("sync-1/..", true).ok()),
            format!("{base}/job-done/pod1/sync-1%2F..?gpu=a+b&isStream=true")
        );
        assert_eq!(
            text(addresses.stream("j")),
            format!("{base}/job-stream/pod1/j?gpu=a+b&isStream=false")
        );
        assert_eq!(
            text(addresses.ping(&["a".into(), "b".into()])),
            format!("{base}/ping/pod1?job_id=a%2Cb&runpod_version=1.12.0")
        );
        assert_eq!(
            text(addresses.ping(&[])),
            format!("{base}/ping/pod1?runpod_version=1.12.0")
        );
        assert_eq!(
            text(addresses.unhealthy("gpu", "no GPU")),
            format!("{base}/ping/pod1?status=unhealthy&check=gpu&reason=no+GPU&runpod_version=1.12.0")
        );
    }

    #[test]
    fn they_do_not_show_themselves() {
        assert!(!format!("{:?}", addresses()).contains("runpod.ai"));
    }
}
