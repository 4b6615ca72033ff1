//! The whole supervisor, with real processes and a stand-in for ComfyUI's `main.py`.

use std::path::Path;
use std::time::Duration;

mod jobs;
mod packs;
mod support;

use self::support::{DEADLINE, Fake, Log, SERVE, get, gone, group_lives, options, soon, until};
use super::*;
use crate::error::{ErrorKind, JobError};

#[tokio::test]
async fn ready_and_stop() {
    let fake = Fake::new(SERVE);
    let process = fake.start();
    let endpoint = soon(process.ready()).await.unwrap();
    assert_eq!(endpoint.generation, 1);
    let pid = endpoint.pid.unwrap();
    assert!(group_lives(pid));
    assert!(endpoint.exit().is_none());

    soon(process.stop()).await;
    gone(pid).await;
    assert!(matches!(*process.state().borrow(), State::Stopped));
    assert!(matches!(process.ready().await, Err(ProcessError::Stopped)));
    let exit = soon(endpoint.exited()).await;
    assert_eq!(
        (&exit.ending, &exit.lines[..]),
        (&Ending::Stopped, &["Stopped server".to_owned()][..])
    );
    // What comes later does nothing, and does not hang.
    soon(process.stop()).await;
    soon(process.restart("too late")).await;
    assert_eq!(fake.starts(), 1);
}

#[tokio::test]
async fn main_py_finds_everything_as_if_started_by_hand() {
    let fake = Fake::new(SERVE);
    let mut launch = fake.launch();
    launch.env.push(("FROM_US".to_owned(), "yes".to_owned()));
    launch.env_names.push("CARGO_PKG_*".to_owned());
    let process = ComfyProcess::start(launch, options());
    let endpoint = soon(process.ready()).await.unwrap();
    let stats: serde_json::Value = serde_json::from_str(&get(&endpoint, "/system_stats").await).unwrap();
    let root = std::fs::canonicalize(fake.path()).unwrap();
    assert_eq!(stats["system"]["argv"][0], "main.py");
    assert_eq!(stats["system"]["argv"][1], "--listen");
    assert_eq!(Path::new(stats["path0"].as_str().unwrap()), root);
    assert_eq!(Path::new(stats["cwd"].as_str().unwrap()), root);
    assert_eq!(stats["name"], "__main__");
    assert_eq!(stats["stdin"], "");
    assert_eq!(stats["environment"]["PYTHONUNBUFFERED"], "1");
    assert_eq!(stats["environment"]["FROM_US"], "yes");
    // This test's own environment has more than a ComfyUI needs.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert_eq!(stats["environment"]["CARGO_MANIFEST_DIR"], serde_json::Value::Null);
    assert_eq!(stats["environment"]["CARGO_PKG_NAME"], "qwen-image-worker");
    soon(process.stop()).await;
}

#[tokio::test]
async fn an_end_during_start_is_noticed_at_once() {
    let fake = Fake::new("print('[ERROR] no good', file=sys.stderr); sys.exit(3)");
    let options = ProcessOptions {
        backoff: RetryPolicy::fixed(DEADLINE * 100, 9),
        ..options()
    };
    let process = ComfyProcess::start(fake.launch(), options);
    let mut state = process.state();
    let state = soon(state.wait_for(|state| matches!(state, State::BackingOff(_))))
        .await
        .unwrap()
        .clone();
    let State::BackingOff(exit) = state else { unreachable!() };
    assert_eq!(exit.ending, Ending::Code(3));
    assert_eq!(exit.lines, ["no good"]);
    // A control cuts the wait short.
    soon(process.restart("at once")).await;
    until("the second start", || fake.starts() == 2).await;
    soon(process.stop()).await;
}

#[tokio::test]
async fn what_no_further_try_mends_fails_at_once() {
    let fake = Fake::new("import a_package_that_nobody_has");
    let process = fake.start();
    let error = soon(process.ready()).await.unwrap_err();
    assert!(matches!(error, ProcessError::StartFailed(_)), "{error}");
    assert_eq!(fake.starts(), 1);
    let error = JobError::from(error);
    assert_eq!(error.kind, ErrorKind::ComfyUnavailable);
    assert!(error.message.contains("exit status 1"), "{}", error.message);
    assert!(error.message.contains("Traceback"), "{}", error.message);
    assert!(error.hint.unwrap().contains("`a_package_that_nobody_has`"));
}

#[tokio::test]
async fn restarts_after_a_crash_with_the_next_generation() {
    let fake = Fake::new("print('hello', flush=True); serve()");
    let process = fake.start();
    let first = soon(process.ready()).await.unwrap();
    get(&first, "/exit/7").await;
    let exit = soon(first.exited()).await;
    assert_eq!(exit.ending, Ending::Code(7));
    assert!(exit.ready_for.is_some());
    assert_eq!(exit.lines, ["hello"]);

    let second = soon(process.ready()).await.unwrap();
    assert_eq!(second.generation, 2);
    assert_ne!(second.pid, first.pid);
    // The first endpoint still tells of its own process.
    assert!(first.exit().is_some());
    assert!(second.exit().is_none());
    soon(process.stop()).await;
}

#[tokio::test]
async fn a_crash_loop_fails_and_restart_tries_again() {
    let fake = Fake::new("print('again and again'); serve() if start > 3 else sys.exit(9)");
    let process = fake.start();
    let error = soon(process.ready()).await.unwrap_err();
    assert!(matches!(error, ProcessError::CrashLoop { exits: 3, .. }), "{error}");
    assert_eq!(fake.starts(), 3);
    let text = error.to_string();
    assert!(
        text.contains("exit status 9") && text.contains("again and again"),
        "{text}"
    );
    assert!(error.hint().is_some());

    soon(process.restart("mended")).await;
    assert_eq!(soon(process.ready()).await.unwrap().generation, 4);
    soon(process.stop()).await;
}

#[tokio::test]
async fn a_process_that_was_ready_long_enough_ends_the_row() {
    let fake = Fake::new(SERVE);
    let options = ProcessOptions {
        stable_after: Duration::ZERO,
        crash_limit: 2,
        ..options()
    };
    let process = ComfyProcess::start(fake.launch(), options);
    for generation in 1..=4 {
        let endpoint = soon(process.ready()).await.unwrap();
        assert_eq!(endpoint.generation, generation);
        get(&endpoint, "/exit/1").await;
        soon(endpoint.exited()).await;
    }
    soon(process.stop()).await;
}

#[tokio::test]
async fn tells_the_signal_that_killed_it() {
    let fake = Fake::new("os.kill(os.getpid(), signal.SIGKILL)");
    let error = soon(fake.start().ready()).await.unwrap_err();
    assert!(error.to_string().contains("was killed by SIGKILL"), "{error}");
    assert!(error.hint().unwrap().contains("out of memory"));
}

#[tokio::test]
async fn stop_takes_the_whole_group() {
    let fake = Fake::new("spawn_grandchild(); serve()");
    let process = fake.start();
    let pid = soon(process.ready()).await.unwrap().pid.unwrap();
    assert!(fake.number("grandchild").is_some());
    soon(process.stop()).await;
    gone(pid).await;
}

#[tokio::test]
async fn a_crash_takes_the_whole_group() {
    let fake = Fake::new("spawn_grandchild(); serve() if start == 1 else time.sleep(600)");
    // The second start may be so young that Python loses the SIGINT.
    let options = ProcessOptions {
        stop_grace: Duration::from_millis(50),
        ..options()
    };
    let process = ComfyProcess::start(fake.launch(), options);
    let first = soon(process.ready()).await.unwrap();
    get(&first, "/exit/1").await;
    soon(first.exited()).await;
    gone(first.pid.unwrap()).await;
    soon(process.stop()).await;
}

#[tokio::test]
async fn who_ignores_sigint_is_killed_after_the_grace() {
    let fake = Fake::new("signal.signal(signal.SIGINT, signal.SIG_IGN); serve()");
    let options = ProcessOptions {
        stop_grace: Duration::from_millis(50),
        ..options()
    };
    let process = ComfyProcess::start(fake.launch(), options);
    let pid = soon(process.ready()).await.unwrap().pid.unwrap();
    soon(process.stop()).await;
    gone(pid).await;
}

#[tokio::test]
async fn who_has_said_that_it_stopped_is_not_waited_for() {
    let fake = Fake::new(
        "signal.signal(signal.SIGINT, lambda *_: (print('Stopped server', flush=True), time.sleep(3600))); serve()",
    );
    let options = ProcessOptions {
        stop_grace: Duration::from_hours(1),
        ..options()
    };
    let process = ComfyProcess::start(fake.launch(), options);
    let pid = soon(process.ready()).await.unwrap().pid.unwrap();
    soon(process.stop()).await;
    gone(pid).await;
}

#[tokio::test]
async fn dropping_the_last_handle_stops_it() {
    let fake = Fake::new(SERVE);
    let process = fake.start();
    let endpoint = soon(process.ready()).await.unwrap();
    drop(process);
    assert_eq!(soon(endpoint.exited()).await.ending, Ending::Stopped);
    gone(endpoint.pid.unwrap()).await;
}

#[tokio::test]
async fn of_two_who_replace_the_same_process_one_does() {
    let fake = Fake::new(SERVE);
    let process = fake.start();
    let first = soon(process.ready()).await.unwrap();
    soon(async { tokio::join!(process.replace(&first, "stuck"), process.replace(&first, "stuck")) }).await;
    let second = soon(process.ready()).await.unwrap();
    assert_eq!(second.generation, 2);
    let reason = "stuck".to_owned();
    assert_eq!(first.exit().unwrap().ending, Ending::Restarted(reason));
    soon(process.stop()).await;
    assert_eq!(fake.starts(), 2);
}

#[tokio::test]
async fn another_port_when_ours_was_taken() {
    let fake =
        Fake::new("serve() if start > 1 else sys.exit('[ERROR] Port 1 is already in use on address 127.0.0.1.')");
    let options = ProcessOptions {
        backoff: RetryPolicy::fixed(DEADLINE * 100, 9),
        ..options()
    };
    let process = ComfyProcess::start(fake.launch(), options);
    assert_eq!(soon(process.ready()).await.unwrap().generation, 2);
    soon(process.stop()).await;
}

#[tokio::test]
async fn who_does_not_answer_in_time_is_killed() {
    let fake = Fake::new("time.sleep(600)");
    let options = ProcessOptions {
        max_retries: 3,
        crash_limit: 1,
        poll_interval: Duration::from_millis(1),
        // Where the tests run with SIGINT ignored, as in a shell's background, ours comes before the launcher resets
        // that, and is lost.
        stop_grace: Duration::from_millis(10),
        ..options()
    };
    let error = soon(ComfyProcess::start(fake.launch(), options).ready())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("did not answer after 3 polls"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_run_fails_with_the_next_step() {
    let fake = Fake::new(SERVE);
    let mut reserved = fake.launch();
    reserved.extra_args = vec!["--port".to_owned(), "1".to_owned()];
    let mut no_python = fake.launch();
    no_python.python = fake.path().join("no/python");
    let mut no_folder = fake.launch();
    no_folder.run_dir = fake.path().join("main.py/below");
    let mut no_main = fake.launch();
    no_main.root = fake.path().join("run");
    for (launch, expected) in [
        (reserved, "COMFYUI_ARGS must not hold --port"),
        (no_python, "cannot start"),
        (no_folder, "cannot make the folder"),
        (no_main, "no main.py"),
    ] {
        let error = soon(ComfyProcess::start(launch, options()).ready()).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.hint().is_some());
    }
    assert_eq!(fake.starts(), 0);
}

#[tokio::test]
async fn its_output_becomes_events() {
    let fake = Fake::new(
        r#"
out, err = sys.stdout.buffer, sys.stderr.buffer
err.write(b"\x1b[32m[INFO]\x1b[0m started\n\x1b[1m\x1b[33m[WARNING]\x1b[0m odd\n")
err.write(b"\r 10%|#   | 1/10\r100%|####| 10/10\n")
err.write(b"bad \xff utf-8\n" + b"x" * 1000000 + b"\n[ERROR] Traceback (most recent call last):\n  File\nKeyError: 1\n")
err.flush()
out.write(b"from stdout\n")
out.flush()
serve()
"#,
    );
    let (log, _guard) = Log::listen();
    let process = fake.start();
    let endpoint = soon(process.ready()).await.unwrap();
    soon(process.stop()).await;
    for (level, text) in [
        (tracing::Level::INFO, "started"),
        (tracing::Level::WARN, "odd"),
        (tracing::Level::INFO, "100%|####| 10/10"),
        (tracing::Level::WARN, "bad \u{fffd} utf-8"),
        (tracing::Level::ERROR, "Traceback (most recent call last):"),
        (tracing::Level::ERROR, "  File"),
        (tracing::Level::ERROR, "KeyError: 1"),
        (tracing::Level::INFO, "from stdout"),
    ] {
        assert!(log.has(level, text), "{level} {text}");
    }
    assert!(!log.contains(" 10%|"));
    assert!(log.contains("more bytes)"));
    assert!(endpoint.exit().unwrap().lines.iter().all(|line| line.len() < 5000));
}

#[tokio::test]
#[expect(clippy::await_holding_lock, reason = "the log thread is to hang on it for so long")]
async fn a_log_that_hangs_does_not_hold_the_process_up() {
    let fake = Fake::new("for n in range(20000): print('line', n)\nserve()");
    let (log, _guard) = Log::listen();
    let gate = log.gate.lock().unwrap();
    let process = fake.start();
    let endpoint = soon(process.ready()).await.unwrap();
    drop(gate);
    soon(process.stop()).await;
    until("the lines left out are counted", || log.contains("lines left out")).await;
    assert_eq!(endpoint.exit().unwrap().lines.last().unwrap(), "Stopped server");
}

#[tokio::test]
async fn says_that_it_is_still_starting() {
    let fake = Fake::new("print('[INFO] loading', flush=True); time.sleep(600)");
    let (log, _guard) = Log::listen();
    let options = ProcessOptions {
        progress_interval: Duration::from_millis(1),
        ..options()
    };
    let process = ComfyProcess::start(fake.launch(), options);
    until("a line in the log", || {
        log.contains("ComfyUI is starting, 0 s so far: loading")
    })
    .await;
    soon(process.stop()).await;
}

#[tokio::test]
async fn when_its_standard_input_closes_the_whole_group_goes() {
    // Deaf to every polite signal, and with a child of its own.
    let fake = Fake::new(
        "for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)\n\
         spawn_grandchild(); serve()",
    );
    let port = command::free_port().unwrap();
    let launch = fake.launch();
    let flags = launch.check().unwrap();
    let mut comfyui = launch.command(port, &flags, None).spawn().unwrap();
    let group = comfyui.id().unwrap();
    until("the grandchild", || fake.number("grandchild").is_some()).await;
    assert!(group_lives(group));
    // The kernel does so when the worker is gone, however it went.
    drop(comfyui.stdin().take());
    gone(group).await;
}
