//! The task that owns the process.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::child::{Child, Question, Told};
use super::command::{self, Launch};
use super::error::{Ending, Exit, OutOfMemory, ProcessError};
use super::imports::{Import, Outcome, imports, pack_name};
use super::node_log::NodeLog;
use super::output::{LogEnd, Output, Ring};
use super::state::{Connection, State};
use super::{ProcessOptions, diagnose};
use crate::comfy::memory::{Kills, MemoryLimit};
use crate::disk::blocking;
use crate::error::JobError;
use crate::net::retry::Delays;
use crate::telemetry::metrics::metrics;

/// What a handle asks for. Dropping the receiver of `done` cancels nothing.
#[derive(Debug)]
pub(super) enum Control {
    /// End the process and start the next one.
    Restart {
        /// Only if this generation is the one that runs.
        only: Option<u64>,
        reason: String,
        /// Answered when the next one was spawned.
        done: oneshot::Sender<()>,
    },
    /// End the process and the task.
    Stop {
        /// Answered when nothing is left.
        done: Option<oneshot::Sender<()>>,
    },
}

/// How the life of one process ended, seen from the loop.
enum Life {
    /// By itself, or since it did not answer.
    Ended(Arc<Exit>),
    /// We ended it, as somebody asked.
    Asked(Control),
    /// It did not even begin.
    Impossible(ProcessError),
}

pub(super) struct Supervisor {
    launch: Launch,
    options: ProcessOptions,
    controls: mpsc::UnboundedReceiver<Control>,
    state: watch::Sender<State>,
    ring: Ring,
    nodes: NodeLog,
    /// The process that was started last.
    pid: Arc<AtomicU32>,
    told: Told,
    generation: u64,
    /// Ends in a row.
    crashes: u32,
    delays: Delays,
    /// The waits after giving up.
    revivals: Delays,
    /// Who waits for the next start.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Supervisor {
    pub(super) fn new(
        launch: Launch,
        options: ProcessOptions,
        controls: mpsc::UnboundedReceiver<Control>,
        nodes: NodeLog,
        pid: Arc<AtomicU32>,
    ) -> (Self, watch::Receiver<State>) {
        let (state, watched) = watch::channel(State::Starting);
        let supervisor = Self {
            delays: options.backoff.delays(),
            revivals: options.revival.delays(),
            launch,
            options,
            controls,
            state,
            ring: Ring::default(),
            nodes,
            pid,
            told: Told::default(),
            generation: 0,
            crashes: 0,
            waiting: Vec::new(),
        };
        (supervisor, watched)
    }

    /// The loop that the module page describes.
    pub(super) async fn run(mut self) {
        let (output, log_end) = Output::start(self.ring.clone(), self.nodes.clone());
        loop {
            let control = match self.live(&output).await {
                Life::Asked(control) => Some(control),
                Life::Impossible(error) => self.fail(error).await,
                Life::Ended(exit) => match self.judge(&exit) {
                    Ok(delay) => self.back_off(exit, delay).await,
                    Err(error) => self.fail(error).await,
                },
            };
            match control {
                None => {}
                Some(Control::Restart { reason, done, .. }) => {
                    tracing::info!(reason, "Restarting ComfyUI: {reason}");
                    self.waiting.push(done);
                }
                Some(Control::Stop { done }) => return self.finish(done, output, log_end).await,
            }
        }
    }

    /// One process, from spawn to end.
    async fn live(&mut self, output: &Output) -> Life {
        self.generation += 1;
        self.ring.clear();
        let since = Instant::now();
        self.state.send_replace(State::Starting);
        let (memory, kills) = blocking(|| (MemoryLimit::of_this_process(), Kills::now())).await;
        if let Some(limit) = memory.as_ref().filter(|_| memory != self.told.memory) {
            tracing::info!(memory.limit = limit.bytes, "memory limit {limit}; ComfyUI is told so");
        }
        self.told.memory = memory;
        let launch = self.launch.clone();
        let flags = blocking(move || launch.check()).await;
        let spawned = flags.and_then(|flags| {
            let port = command::free_port()?;
            let child = Child::spawn((&self.launch, &flags), port, output, self.generation, &self.told)?;
            Ok((child, Question::new(port, &self.launch)?))
        });
        for done in self.waiting.drain(..) {
            let _ = done.send(());
        }
        let (mut child, question) = match spawned {
            Ok(spawned) => spawned,
            Err(error) => return Life::Impossible(error),
        };
        self.pid.store(child.pid(), Ordering::Relaxed);
        tracing::info!(
            comfyui.pid = child.pid(),
            comfyui.port = question.port,
            comfyui.generation = self.generation,
            "ComfyUI is starting"
        );
        let (exit, watched) = watch::channel(None);

        let mut next = tokio::select! {
            status = child.ended() => Next::Ended(Ending::of(status)),
            control = relevant(&mut self.controls, self.generation) => Next::Asked(control),
            outcome = poll(&question, &self.options, &self.launch, &self.ring, since) => outcome,
        };
        let mut ready_since = None;
        if let Next::Ready = next {
            let now = Instant::now();
            ready_since = Some(now);
            let base_url = format!("http://127.0.0.1:{}", question.port);
            tracing::info!(
                comfyui.url = base_url,
                comfyui.start_ms = (now - since).as_millis(),
                "ComfyUI is ready after {:.1} s",
                (now - since).as_secs_f64()
            );
            let connection = Connection {
                generation: self.generation,
                pid: Some(child.pid()),
                ending: Some(watched),
                ..Connection::attached(question.client.clone())
            };
            self.state.send_replace(State::Ready(connection));
            next = tokio::select! {
                status = child.ended() => Next::Ended(Ending::of(status)),
                control = relevant(&mut self.controls, self.generation) => Next::Asked(control),
            };
        }

        let (ending, control) = match next {
            Next::Ended(ending) => (ending, None),
            Next::Asked(control) => {
                let ending = match &control {
                    Control::Restart { reason, .. } => Ending::Restarted(reason.clone()),
                    Control::Stop { .. } => Ending::Stopped,
                };
                (ending, Some(control))
            }
            Next::Ready | Next::NoAnswer => (Ending::NoAnswer(self.options.max_retries), None),
        };
        let ready_for = ready_since.map(|since| since.elapsed());
        if !matches!(ending, Ending::Code(_) | Ending::Signal(_) | Ending::Unknown) {
            self.state.send_replace(State::Stopping);
            child.stop(self.options.stop_grace, &self.ring).await;
        }
        child.clear_away().await;
        let out_of_memory = match &self.told.memory {
            _ if !Exit::was_killed(&ending) || !blocking(move || kills.have_risen()).await => None,
            Some(limit) => Some(OutOfMemory::Container(limit.bytes)),
            None => Some(OutOfMemory::Machine),
        };
        // The next start forgets them.
        let imports = match ready_for {
            None => recorded(&self.launch).await,
            Some(_) => Vec::new(),
        };
        if let Some(reason) = ending.restart(out_of_memory.is_some()) {
            metrics().restarted(reason);
        }
        let ended = Arc::new(Exit {
            generation: self.generation,
            ending,
            ready_for,
            lines: self.ring.lines(),
            imports,
            out_of_memory,
        });
        exit.send_replace(Some(Arc::clone(&ended)));
        control.map_or(Life::Ended(ended), Life::Asked)
    }

    /// After which time the next one is started, when one has ended that nobody asked to; or why none is.
    fn judge(&mut self, exit: &Arc<Exit>) -> Result<Duration, ProcessError> {
        if exit.ready_for.is_some_and(|time| time >= self.options.stable_after) {
            self.forget_crashes();
            self.revivals.reset();
        }
        self.crashes += 1;
        let exit = Arc::clone(exit);
        if exit.ready_for.is_none() && diagnose::diagnose(&exit).is_some_and(|diagnosis| diagnosis.permanent) {
            return Err(ProcessError::StartFailed(exit));
        }
        if let Some(folder) = exit.ended_by()
            && !self.told.left_out.contains_key(folder)
        {
            // The next start is another one, without it. There are no more of these than packs.
            self.crashes -= 1;
            let reason = format!(
                "when it was last imported, ComfyUI {}; it is left out until the worker is started again",
                exit.how()
            );
            tracing::warn!("the custom node {} is left out: {reason}", pack_name(folder));
            self.told.left_out.insert(folder.to_owned(), reason);
            return Ok(Duration::ZERO);
        }
        let exits = self.crashes;
        if exits >= self.options.crash_limit {
            return Err(ProcessError::CrashLoop { exits, exit });
        }
        if diagnose::port_taken(&exit) {
            return Ok(Duration::ZERO);
        }
        self.delays.next().ok_or(ProcessError::CrashLoop { exits, exit })
    }

    fn forget_crashes(&mut self) {
        self.crashes = 0;
        self.delays.reset();
    }

    /// Waits before the next start; a control cuts the wait short.
    async fn back_off(&mut self, exit: Arc<Exit>, delay: Duration) -> Option<Control> {
        let error = ProcessError::Exited(Arc::clone(&exit));
        let text = JobError::from(error).full_text();
        let delay_ms = delay.as_millis();
        tracing::error!(delay_ms, "{text}\nComfyUI is started again in {delay_ms} ms");
        self.state.send_replace(State::BackingOff(exit));
        tokio::select! {
            control = relevant(&mut self.controls, NONE_RUNS) => Some(control),
            () = tokio::time::sleep(delay) => None,
        }
    }

    /// Gives up, and waits for somebody who knows better; not for ever where the cause may pass.
    async fn fail(&mut self, error: ProcessError) -> Option<Control> {
        let delay = error.may_pass().then(|| self.revivals.next()).flatten();
        let text = JobError::from(error.clone()).full_text();
        if let Some(delay) = delay {
            tracing::error!("{text}\nComfyUI is tried again in {} s", delay.as_secs());
        } else {
            tracing::error!("{text}");
        }
        self.state.send_replace(State::Failed(error));
        self.forget_crashes();
        tokio::select! {
            control = relevant(&mut self.controls, NONE_RUNS) => Some(control),
            () = tokio::time::sleep(delay.unwrap_or_default()), if delay.is_some() => None,
        }
    }

    async fn finish(self, done: Option<oneshot::Sender<()>>, output: Output, log_end: LogEnd) {
        drop(output);
        log_end.flushed().await;
        self.state.send_replace(State::Stopped);
        if let Some(done) = done {
            let _ = done.send(());
        }
    }
}

/// What ends one step of a life.
enum Next {
    Ready,
    NoAnswer,
    Ended(Ending),
    Asked(Control),
}

/// In the place of a generation: between two processes there is none that could be replaced.
const NONE_RUNS: u64 = 0;

/// The next control that concerns `generation`. When all handles are gone, it is a stop.
async fn relevant(controls: &mut mpsc::UnboundedReceiver<Control>, generation: u64) -> Control {
    loop {
        match controls.recv().await {
            None => return Control::Stop { done: None },
            // It was replaced already. `done` is dropped, which answers.
            Some(Control::Restart { only: Some(only), .. }) if only != generation => {}
            Some(control) => return control,
        }
    }
}

/// Polls until ComfyUI answers, or has been asked too often. Says in the log, now and then, that it is still starting.
async fn poll(question: &Question, options: &ProcessOptions, launch: &Launch, ring: &Ring, since: Instant) -> Next {
    let asked = until_answer(options, || question.is_answered());
    tokio::pin!(asked);
    loop {
        tokio::select! {
            next = &mut asked => return next,
            () = tokio::time::sleep(options.progress_interval) => {
                let last = ring.last().unwrap_or_default();
                let imports = recorded(launch).await;
                let import = imports.into_iter().rfind(|import| import.outcome == Outcome::Running);
                let seconds = since.elapsed().as_secs();
                let imports = import.map(|import| format!(", and imports the custom node {}", import.name()));
                let imports = imports.unwrap_or_default();
                tracing::info!(comfyui.start_s = seconds, "ComfyUI is starting, {seconds} s so far{imports}: {last}");
            }
        }
    }
}

/// The packs of custom nodes that were imported in this start so far.
async fn recorded(launch: &Launch) -> Vec<Import> {
    let run_dir = launch.run_dir.clone();
    blocking(move || imports(&run_dir)).await
}

async fn until_answer<F: Future<Output = bool>>(options: &ProcessOptions, mut ask: impl FnMut() -> F) -> Next {
    let mut polls = 0;
    while !ask().await {
        polls += 1;
        if polls == options.max_retries {
            return Next::NoAnswer;
        }
        tokio::time::sleep(options.poll_interval).await;
    }
    Next::Ready
}
