//! What is counted, as Prometheus reads it.

use super::*;

fn now() -> Now {
    Now {
        waiting: 3,
        running: 1,
        limit: 100,
        ready: true,
        uptime: Duration::from_millis(1500),
    }
}

fn lines(metrics: &Metrics) -> Vec<String> {
    metrics.text(now()).lines().map(str::to_owned).collect()
}

#[test]
fn what_happens_is_counted_under_its_labels() {
    let metrics = Metrics::new();
    metrics.know_templates(["z".to_owned(), "qwen-image".to_owned()]);
    let engine = metrics.engine(LOCAL);
    for (template, outcome, error) in [
        (Some("qwen-image"), "completed", ""),
        (Some("qwen-image"), "completed", ""),
        (Some("a fox \" in the snow"), "failed", "invalid_request"),
        (Some(WORKFLOW), "cancelled", ""),
        (None, "timed_out", ""),
    ] {
        let dialect = "runpod";
        metrics.ended(
            &engine,
            Ended {
                dialect,
                template,
                outcome,
                error,
            },
        );
    }
    metrics.engine("gpu-1").phase(Phase::Run, Duration::from_secs(7));
    metrics.restarted(Restart::Revived);
    metrics.model_came(ModelSource::Url, 12);
    metrics.image_came(ImageSource::Bucket, 13);
    metrics.webhook_tried(WebhookResult::GivenUp);
    metrics.requested("kie", 2_000);
    metrics.made("kie", 3_000_000);
    let lines = lines(&metrics);
    let ended = |template: &str, outcome: &str, error: &str, jobs: u32| {
        format!(
            "qwen_image_worker_jobs_ended_total{{dialect=\"runpod\",template=\"{template}\",engine=\"local\",outcome=\"{outcome}\",error=\"{error}\"}} {jobs}"
        )
    };
    for line in [
        &*ended("qwen-image", "completed", "", 2),
        &ended("unknown", "failed", "invalid_request", 1),
        &ended("workflow", "cancelled", "", 1),
        &ended("unknown", "timed_out", "", 1),
        "qwen_image_worker_jobs{state=\"waiting\"} 3",
        "qwen_image_worker_jobs{state=\"running\"} 1",
        "qwen_image_worker_queue_limit 100",
        "qwen_image_worker_ready 1",
        "qwen_image_worker_uptime_seconds 1.5",
        "qwen_image_worker_job_phase_seconds_bucket{engine=\"gpu-1\",phase=\"run\",le=\"5\"} 0",
        "qwen_image_worker_job_phase_seconds_bucket{engine=\"gpu-1\",phase=\"run\",le=\"10\"} 1",
        "qwen_image_worker_job_phase_seconds_sum{engine=\"gpu-1\",phase=\"run\"} 7",
        "qwen_image_worker_comfyui_restarts_total{reason=\"revived\"} 1",
        "qwen_image_worker_comfyui_restarts_total{reason=\"crashed\"} 0",
        "qwen_image_worker_model_download_bytes_total{source=\"url\"} 12",
        "qwen_image_worker_image_download_bytes_total{source=\"bucket\"} 13",
        "qwen_image_worker_webhook_attempts_total{result=\"given_up\"} 1",
        "qwen_image_worker_request_bytes_count{dialect=\"kie\"} 1",
        "qwen_image_worker_result_bytes_sum{dialect=\"kie\"} 3000000",
    ] {
        assert!(lines.iter().any(|found| found == line), "{line} is not in {lines:#?}");
    }
}

#[test]
fn each_metric_is_of_its_type_and_has_the_labels_that_it_should() {
    let metrics = Metrics::new();
    let engine = metrics.engine(LOCAL);
    let ended = Ended {
        dialect: "kie",
        template: None,
        outcome: "completed",
        error: "",
    };
    metrics.ended(&engine, ended);
    engine.phase(Phase::Queue, Duration::ZERO);
    metrics.requested("kie", 1);
    metrics.made("kie", 1);
    let lines = lines(&metrics);
    for metric in METRICS {
        let kind = format!("# TYPE {} {}", metric.name, metric.kind.as_str());
        assert!(lines.contains(&kind), "{kind} is not in {lines:#?}");
        let help = format!("# HELP {} ", metric.name);
        assert!(lines.iter().any(|line| line.starts_with(&help)), "{help}");
    }
    for line in lines.iter().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, labels) = line.split_once(['{', ' ']).unwrap();
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|part| name.strip_suffix(part))
            .unwrap_or(name);
        let metric = METRICS.iter().find(|metric| [name, base].contains(&metric.name));
        let metric = metric.unwrap_or_else(|| panic!("{name} is not declared"));
        let all = metric
            .labels
            .iter()
            .all(|label| labels.contains(&format!("{label}=\"")));
        assert!(all, "{line}");
    }
}

#[test]
fn the_time_of_work_rises_while_it_lasts() {
    let metrics = Metrics::new();
    let guard = metrics.engine(LOCAL).busy();
    std::thread::sleep(Duration::from_millis(20));
    let busy = |metrics: &Metrics| -> f64 {
        let lines = lines(metrics);
        let name = "qwen_image_worker_engine_busy_seconds_total{engine=\"local\"} ";
        let line = lines.iter().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{lines:#?}")).parse().unwrap()
    };
    let first = busy(&metrics);
    assert!(first >= 0.02, "{first}");
    drop(guard);
    let second = busy(&metrics);
    assert!(second >= first);
    assert!((busy(&metrics) - second).abs() < 1e-9);
}
