//! Known causes in ComfyUI's last lines, each with the next step for the user.

use super::error::{Ending, Exit, OutOfMemory};
use super::imports::pack_name;

/// What the last lines tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Diagnosis {
    /// The next step for the user.
    pub(super) hint: String,
    /// Another try ends the same way, if this one ended before it was ready.
    pub(super) permanent: bool,
}

/// An uncaught exception is the last thing that Python writes. What stands further up, such as a custom node that
/// could not be imported, did not end the process.
const FINAL_LINES: usize = 12;

/// One known cause.
struct Cause {
    /// What the lines hold, in lower case.
    needle: &'static str,
    hint: &'static str,
    permanent: bool,
}

const fn cause(permanent: bool, needle: &'static str, hint: &'static str) -> Cause {
    Cause {
        needle,
        hint,
        permanent,
    }
}

/// Mended by nobody but a person.
const PERMANENT: bool = true;
/// Another try may go well.
const PASSING: bool = false;

const CAUSES: &[Cause] = &[
    cause(PERMANENT, "found no nvidia driver", NO_GPU),
    cause(PERMANENT, "no cuda gpus are available", NO_GPU),
    cause(
        PERMANENT,
        "torch not compiled with cuda enabled",
        "This PyTorch knows no GPU: install one built for CUDA, or run on the CPU with COMFYUI_ARGS=--cpu.",
    ),
    cause(
        PERMANENT,
        "main.py: error:",
        "ComfyUI refuses its arguments: correct COMFYUI_ARGS.",
    ),
    cause(
        PERMANENT,
        "comfyui-frontend-package is not installed",
        "Install ComfyUI's requirements.txt into the Python that runs it, or name a folder with --front-end-root.",
    ),
    cause(PASSING, PORT_TAKEN[0], OTHER_PORT),
    cause(PASSING, PORT_TAKEN[1], OTHER_PORT),
    cause(
        PASSING,
        "no space left on device",
        "The disk is full: free some space, or set DATA_DIR to a folder on a larger disk.",
    ),
    cause(PASSING, "cannot allocate memory", OUT_OF_MEMORY),
];

/// ComfyUI's own words, and those of the operating system in older versions.
const PORT_TAKEN: [&str; 2] = ["is already in use on address", "address already in use"];

const OTHER_PORT: &str = "Another program took the port first; the worker tries another one.";

const NO_GPU: &str = "Install the NVIDIA driver (with Docker: pass `--gpus all`), or run on the CPU with \
                      COMFYUI_ARGS=--cpu.";

const OUT_OF_MEMORY: &str = "Most likely the host ran out of memory: give the machine or container more, or lower what \
                             ComfyUI keeps with COMFYUI_ARGS=--cache-none.";

/// What helps where the kernel says that memory was the cause.
const LIMIT_REACHED: &str = "Give the container more memory, take a smaller or quantised model or a smaller picture, or have \
                             ComfyUI keep less between jobs with COMFYUI_ARGS=--cache-none.";

const MACHINE_FULL: &str = "Give the machine more memory, end what else uses it, take a smaller or quantised model, or have \
                            ComfyUI keep less between jobs with COMFYUI_ARGS=--cache-none.";

impl Exit {
    /// The next step for the user, where the cause is a known one.
    pub fn hint(&self) -> Option<String> {
        diagnose(self).map(|diagnosis| diagnosis.hint)
    }
}

/// The cause of `exit`, if it is a known one.
pub(super) fn diagnose(exit: &Exit) -> Option<Diagnosis> {
    if !exit.is_crash() {
        return None;
    }
    let ending = exit.ending.clone();
    let memory = exit.out_of_memory.map(|memory| match memory {
        OutOfMemory::Container(_) => LIMIT_REACHED,
        OutOfMemory::Machine => MACHINE_FULL,
    });
    if let Some(folder) = exit.ended_by() {
        let name = pack_name(folder);
        let hint = format!(
            "ComfyUI is started without {name} until the worker itself is started again. Update {name}, or take it out."
        );
        let hints: Vec<&str> = memory.into_iter().chain([hint.as_str()]).collect();
        return Some(Diagnosis {
            hint: hints.join(" "),
            permanent: false,
        });
    }
    if let Some(hint) = memory {
        return Some(Diagnosis {
            hint: hint.to_owned(),
            permanent: false,
        });
    }
    if Exit::was_killed(&ending) {
        return Some(Diagnosis {
            hint: OUT_OF_MEMORY.to_owned(),
            permanent: false,
        });
    }
    let last = final_lines(exit);
    if let Some(module) = missing_module(&last) {
        return Some(Diagnosis {
            hint: format!(
                "The Python package `{module}` is missing: install ComfyUI's requirements.txt into the Python that runs it."
            ),
            permanent: true,
        });
    }
    if let Some(cause) = CAUSES.iter().find(|cause| last.contains(cause.needle)) {
        return Some(Diagnosis {
            hint: cause.hint.to_owned(),
            permanent: cause.permanent,
        });
    }
    matches!(ending, Ending::Signal(4 | 7 | 11) | Ending::Code(132 | 135 | 139)).then(|| Diagnosis {
        hint: "A native library crashed: check that PyTorch, driver and custom nodes fit this machine; \
               COMFYUI_ARGS=--disable-all-custom-nodes tells whether a custom node is at fault."
            .to_owned(),
        permanent: false,
    })
}

/// Whether another program had taken the port.
pub(super) fn port_taken(exit: &Exit) -> bool {
    let last = final_lines(exit);
    exit.ready_for.is_none() && PORT_TAKEN.iter().any(|needle| last.contains(needle))
}

fn final_lines(exit: &Exit) -> String {
    let start = exit.lines.len().saturating_sub(FINAL_LINES);
    exit.lines[start..].join("\n").to_lowercase()
}

/// `torch.nn` of `modulenotfounderror: no module named 'torch.nn'`.
fn missing_module(last: &str) -> Option<&str> {
    let (_, rest) = last.rsplit_once("modulenotfounderror: no module named '")?;
    rest.split_once('\'').map(|(module, _)| module)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comfy::process::{Import, Outcome};

    fn exit(ending: Ending, lines: &[&str]) -> Exit {
        Exit {
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            ..Exit::of(ending)
        }
    }

    fn hint(ending: Ending, lines: &[&str]) -> String {
        exit(ending, lines).hint().unwrap_or_default()
    }

    #[test]
    fn names_the_missing_package() {
        let lines = [
            "Traceback (most recent call last):",
            "ModuleNotFoundError: No module named 'torchsde'",
        ];
        assert!(hint(Ending::Code(1), &lines).contains("`torchsde`"));
        assert!(diagnose(&exit(Ending::Code(1), &lines)).is_some_and(|diagnosis| diagnosis.permanent));
    }

    #[test]
    fn a_custom_node_that_lacks_a_package_is_not_the_cause() {
        let mut lines = vec!["ModuleNotFoundError: No module named 'insightface'"];
        lines.extend(["goes on"; 12]);
        assert_eq!(hint(Ending::Code(3), &lines), "");
    }

    #[test]
    fn knows_the_usual_causes() {
        for (line, expected) in [
            ("RuntimeError: Found no NVIDIA driver on your system.", "NVIDIA driver"),
            ("AssertionError: Torch not compiled with CUDA enabled", "built for CUDA"),
            ("main.py: error: unrecognized arguments: --fats", "COMFYUI_ARGS"),
            ("OSError: [Errno 28] No space left on device: '/x'", "disk is full"),
            ("Port 8188 is already in use on address 127.0.0.1.", "port"),
            (
                "[Errno 98] bind on address ('127.0.0.1', 8188): address already in use",
                "port",
            ),
        ] {
            assert!(hint(Ending::Code(1), &[line]).contains(expected), "{line}");
        }
    }

    #[test]
    fn sigkill_is_most_likely_the_hosts_memory() {
        assert!(hint(Ending::Signal(9), &[]).contains("out of memory"));
        assert!(hint(Ending::Code(137), &[]).contains("out of memory"));
        assert_eq!(
            exit(Ending::Code(137), &[]).to_string(),
            "ended with exit status 137, as after SIGKILL before it was ready; it wrote nothing"
        );
    }

    #[test]
    fn what_the_kernel_counted_is_no_guess() {
        let mut exit = exit(Ending::Signal(9), &[]);
        exit.ready_for = Some(std::time::Duration::from_secs(8));
        exit.out_of_memory = Some(OutOfMemory::Container(6 << 30));
        assert_eq!(
            exit.to_string(),
            "was killed by the kernel, since the container's memory limit of 6.0 GiB was reached"
        );
        let hint = exit.hint().unwrap();
        assert!(hint.contains("more memory") && hint.contains("--cache-none"), "{hint}");
        assert!(!hint.contains("Most likely"), "{hint}");
        exit.out_of_memory = Some(OutOfMemory::Machine);
        assert!(exit.to_string().contains("the machine's memory was used up"), "{exit}");
    }

    #[test]
    fn the_pack_whose_import_ended_it_is_named_and_no_other_cause_is_looked_for() {
        let lines = ["ModuleNotFoundError: No module named 'insightface'"];
        let mut exit = exit(Ending::Code(3), &lines);
        exit.imports = vec![Import {
            folder: "/nodes/some-pack".into(),
            seconds: 0.0,
            outcome: Outcome::Running,
            prestartup_error: None,
        }];
        let said = exit.to_string();
        assert!(
            said.starts_with("ended with exit status 3 while it loaded the custom node some-pack; its last lines:"),
            "{said}"
        );
        let diagnosis = diagnose(&exit).unwrap();
        assert!(diagnosis.hint.contains("without some-pack") && !diagnosis.permanent);
        // Somebody asked it to end, or it took too long for us: the pack has done nothing.
        for ending in [
            Ending::Signal(15),
            Ending::Signal(2),
            Ending::Signal(9),
            Ending::Code(137),
            Ending::NoAnswer(3),
        ] {
            exit.ending = ending;
            assert_eq!(exit.ended_by(), None, "{exit}");
            assert!(exit.to_string().contains("while it loaded"), "{exit}");
        }
        // But not where the kernel says that memory was the cause.
        exit.ending = Ending::Signal(9);
        exit.out_of_memory = Some(OutOfMemory::Machine);
        assert!(exit.ended_by().is_some());
        let hint = exit.hint().unwrap();
        assert!(
            hint.contains("more memory") && hint.contains("without some-pack"),
            "{hint}"
        );
        assert_eq!(
            exit.how(),
            "was killed by the kernel, since the machine's memory was used up"
        );
    }

    #[test]
    fn our_own_stop_needs_no_hint() {
        assert_eq!(hint(Ending::Stopped, &["No space left on device"]), "");
    }
}
