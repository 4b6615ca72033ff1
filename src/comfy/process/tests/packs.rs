//! Custom nodes that fail, or take the process with them.

use std::fs;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::support::{Fake, Log, SERVE, options, soon, until};
use crate::comfy::process::{ComfyProcess, Ending, Import, Outcome, ProcessOptions, imports};
use crate::error::JobError;

/// Imports custom nodes as ComfyUI does (`nodes.py`, `load_custom_node`; `main.py`, `execute_prestartup_script`).
const IMPORT: &str = r#"
import importlib.util
import folder_paths

def load(path):
    try:
        name = path.replace(".", "_x_")
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:
        print("IMPORT FAILED", path, error, flush=True)

root, = folder_paths.get_folder_paths("custom_nodes")
packs = [os.path.join(root, name) for name in sorted(os.listdir(root)) if name != "__pycache__"]
for pack in packs:
    if os.path.exists(pack + "/prestartup_script.py"):
        load(pack + "/prestartup_script.py")
for pack in packs:
    load(pack if os.path.isfile(pack) else pack + "/__init__.py")
"#;

/// A ComfyUI with these files in its folder of custom nodes.
fn with_packs(plan: &str, files: &[(&str, &str)]) -> Fake {
    let fake = Fake::new(&format!("{IMPORT}\n{plan}"));
    let nodes = fake.path().join("custom_nodes");
    let paths = format!("def get_folder_paths(name): return [{:?}]", nodes.display().to_string());
    fs::write(fake.path().join("folder_paths.py"), paths).unwrap();
    for (name, text) in files {
        let path = nodes.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fake
}

fn recorded(fake: &Fake) -> Vec<Import> {
    imports(&fake.launch().run_dir)
}

fn outcomes(fake: &Fake) -> Vec<(String, Outcome)> {
    let imports = recorded(fake).into_iter();
    imports.map(|import| (import.name(), import.outcome)).collect()
}

fn failed(error: &str) -> Outcome {
    Outcome::Failed(error.to_owned())
}

#[tokio::test]
async fn what_becomes_of_each_pack_is_recorded_and_none_ends_the_others() {
    let fake = with_packs(
        SERVE,
        &[
            ("a_good/__init__.py", "from . import part\nNODE_CLASS_MAPPINGS = {}"),
            ("a_good/part.py", ""),
            ("b_missing/__init__.py", "import a_package_that_nobody_has"),
            ("c_exit/__init__.py", "import sys\nsys.exit(1)"),
            (
                "d_panic.py",
                "class Panic(BaseException): pass\nraise Panic('at the disco')",
            ),
            ("e_early/prestartup_script.py", "raise OSError('too early')"),
            ("e_early/__init__.py", ""),
        ],
    );
    let process = fake.start();
    soon(process.ready()).await.unwrap();
    soon(process.stop()).await;
    assert_eq!(
        outcomes(&fake),
        [
            // Its script ran before the imports.
            ("e_early".to_owned(), Outcome::Done),
            ("a_good".to_owned(), Outcome::Done),
            (
                "b_missing".to_owned(),
                failed("ModuleNotFoundError: No module named 'a_package_that_nobody_has'")
            ),
            (
                "c_exit".to_owned(),
                failed("ImportError: it called sys.exit(1), which would have ended ComfyUI")
            ),
            (
                "d_panic".to_owned(),
                failed("ImportError: it raised Panic: at the disco")
            ),
        ]
    );
    let early = &recorded(&fake)[0];
    assert_eq!(early.prestartup_error.as_deref(), Some("OSError: too early"));
    assert_eq!(early.folder, fake.path().join("custom_nodes/e_early"));
    assert_eq!(fake.starts(), 1);
}

#[tokio::test]
async fn packs_that_kill_the_process_are_named_and_left_out() {
    let fake = with_packs(
        SERVE,
        &[
            ("a_exit/__init__.py", "import os\nos._exit(7)"),
            (
                "b_crash/__init__.py",
                "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
            ),
            ("c_early/prestartup_script.py", "import os\nos._exit(8)"),
            ("c_early/__init__.py", "import os\nos._exit(9)"),
            ("d_abort/__init__.py", "import os\nos.abort()"),
            ("e_good/__init__.py", ""),
        ],
    );
    let (log, _guard) = Log::listen();
    // More of them than ends in a row that are borne otherwise.
    assert!(options().crash_limit < 4);
    let process = fake.start();
    let connection = soon(process.ready()).await.unwrap();
    assert_eq!((connection.generation, fake.starts()), (5, 5));
    let outcomes = outcomes(&fake);
    assert_eq!(
        outcomes[1],
        (
            "a_exit".to_owned(),
            failed(
                "ImportError: when it was last imported, ComfyUI ended with exit status 7; it is left out until the \
                 worker is started again"
            )
        )
    );
    let left_out = outcomes
        .iter()
        .filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
    assert_eq!(left_out.count(), 4);
    assert_eq!(outcomes.last().unwrap(), &("e_good".to_owned(), Outcome::Done));
    for said in [
        "ComfyUI ended with exit status 7 while it loaded the custom node a_exit",
        "ComfyUI was killed by SIGSEGV while it loaded the custom node b_crash",
        "ComfyUI ended with exit status 8 while it loaded the custom node c_early",
        "the custom node d_abort is left out: when it was last imported, ComfyUI was killed by SIGABRT",
        "ComfyUI is started without d_abort until the worker itself is started again",
    ] {
        assert!(log.contains(said), "{said}");
    }
    soon(process.stop()).await;
}

#[tokio::test]
async fn a_pack_that_somebody_stops_is_tried_again() {
    let fake = with_packs(
        SERVE,
        &[(
            "slow/__init__.py",
            "import os, time\nopen('slow', 'w').close()\nif os.path.getsize('starts') < 4: time.sleep(600)",
        )],
    );
    let (log, _guard) = Log::listen();
    let options = ProcessOptions {
        crash_limit: 9,
        progress_interval: std::time::Duration::from_millis(1),
        ..options()
    };
    let process = ComfyProcess::start(fake.launch(), options);
    let at_work = || fake.path().join("slow").exists();
    until("the first import", at_work).await;
    until("a line in the log", || log.contains("and imports the custom node slow")).await;
    fs::remove_file(fake.path().join("slow")).unwrap();
    // By us.
    soon(process.restart("for the test")).await;
    // By somebody else, who may insist.
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        until("an import", at_work).await;
        fs::remove_file(fake.path().join("slow")).unwrap();
        let pid = fs::read_to_string(fake.path().join("pid")).unwrap();
        nix::sys::signal::kill(Pid::from_raw(pid.parse().unwrap()), signal).unwrap();
    }
    soon(process.ready()).await.unwrap();
    assert_eq!(outcomes(&fake), [("slow".to_owned(), Outcome::Done)]);
    assert_eq!(fake.starts(), 4);
    soon(process.stop()).await;
}

#[tokio::test]
async fn what_ends_comfyui_after_the_imports_is_no_packs_fault() {
    let fake = with_packs("sys.exit(9)", &[("a/__init__.py", "")]);
    let error = JobError::from(soon(fake.start().ready()).await.unwrap_err());
    assert!(
        error.message.contains("exit status 9 before it was ready"),
        "{}",
        error.message
    );
    assert_eq!(fake.starts(), 3);
}

#[tokio::test]
async fn the_hook_is_there_again_when_comfyui_is_started_by_exec() {
    // As ComfyUI-Manager does.
    let again = "if start == 1: os.execv(sys.executable, [sys.executable] + sys.argv)\nserve()";
    let fake = with_packs(again, &[("a/__init__.py", "import sys\nsys.exit()")]);
    let process = fake.start();
    let connection = soon(process.ready()).await.unwrap();
    assert_eq!((connection.generation, fake.starts()), (1, 2));
    assert!(connection.exit().is_none_or(|exit| exit.ending == Ending::Stopped));
    let expected = failed("ImportError: it called sys.exit(), which would have ended ComfyUI");
    assert_eq!(outcomes(&fake), [("a".to_owned(), expected)]);
    soon(process.stop()).await;
}
