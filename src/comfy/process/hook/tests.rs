//! The start hook in a Python of its own, with nothing of ComfyUI in it.

use std::process::Command;

use super::*;

/// Runs `main` as ComfyUI's process with the hook of `run_dir`; gives what it prints.
fn run(run_dir: &Path, hook: &Path, path: &Path, main: &str) -> String {
    fs::write(run_dir.join("main.py"), main).unwrap();
    let done = Command::new("sh")
        // The launcher gives the number of its own process, and becomes Python.
        .args(["-c", "QWEN_IMAGE_WORKER_COMFYUI=$$ exec python3 main.py"])
        .current_dir(run_dir)
        .env("PYTHONPATH", format!("{}:{}", hook.display(), path.display()))
        .output()
        .unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success() && said.is_empty(), "{said}");
    String::from_utf8(done.stdout).unwrap()
}

/// As psutil 7 has it on Linux.
const PSUTIL: &str = "
import collections
svmem = collections.namedtuple('svmem', 'total available percent used free active inactive buffers cached shared slab')
def virtual_memory():
    return svmem(64000, 60000, 6.2, 3000, 50000, 100, 200, 300, 9000, 10, 20)
";

#[test]
fn psutil_knows_the_limit_and_what_is_left_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (run_dir, packages) = (folder.path().join("run"), folder.path().join("packages"));
    fs::create_dir_all(&packages).unwrap();
    fs::write(packages.join("psutil.py"), PSUTIL).unwrap();
    let group = |name: &str, usage: &str| {
        let group = folder.path().join(name);
        fs::create_dir(&group).unwrap();
        fs::write(group.join("memory.current"), usage).unwrap();
        fs::write(
            group.join("memory.stat"),
            "anon 1\ninactive_file 1500\nactive_file 500\n",
        )
        .unwrap();
        group
    };
    let (own, above) = (group("own", "4000\n"), group("above", "20000\n"));
    let main = "import psutil\nprint(*psutil.virtual_memory())";
    let with = |groups| {
        let limit = MemoryLimit::of_groups(groups);
        let hook = write(&run_dir, Some(&limit), &BTreeMap::new(), true, None).unwrap();
        run(&run_dir, &hook, &packages, main)
    };
    // 2000 of the 4000 are the kernel's cache of files.
    assert_eq!(
        with(vec![(own.clone(), 10_000)]),
        "10000 8000 20.0 2000 8000 100 200 300 9000 10 20\n"
    );
    // The group above has less room left.
    assert_eq!(
        with(vec![(own.clone(), 10_000), (above, 19_000)]),
        "10000 1000 90.0 9000 1000 100 200 300 9000 10 20\n"
    );
    // What the machine has is no more for a group that allows more.
    assert_eq!(
        with(vec![(own, 10_000_000)]),
        "64000 60000 6.2 4000 50000 100 200 300 9000 10 20\n"
    );
    let hook = write(&run_dir, None, &BTreeMap::new(), true, None).unwrap();
    assert_eq!(
        run(&run_dir, &hook, &packages, main),
        "64000 60000 6.2 3000 50000 100 200 300 9000 10 20\n"
    );
}

#[test]
fn python_is_as_it_would_be_without_the_hook() {
    let folder = tempfile::tempdir().unwrap();
    let (run_dir, packages) = (folder.path().join("run"), folder.path().join("packages"));
    fs::create_dir_all(&packages).unwrap();
    // The one of the environment, which ours hides.
    fs::write(
        packages.join("sitecustomize.py"),
        "import builtins\nbuiltins.seen = __file__\n",
    )
    .unwrap();
    let hook = write(&run_dir, None, &BTreeMap::new(), true, None).unwrap();
    let main = r#"
import json, multiprocessing, subprocess, sys, traceback
def double(number):
    return 2 * number
def fail():
    raise ValueError("no")
if __name__ == "__main__":
    child = subprocess.run([sys.executable, "-c", "import sys; print(sys.path[1:], seen)"], capture_output=True, text=True)
    try:
        fail()
    except ValueError:
        frames = traceback.format_exc().count("File ")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        doubled = pool.map(double, [21])
    print(json.dumps({"argv": sys.argv, "path": sys.path, "seen": seen, "frames": frames, "doubled": doubled,
                      "child": child.stdout.strip(), "child_said": child.stderr, "modules": sorted(sys.modules)}))
"#;
    let told: serde_json::Value = serde_json::from_str(&run(&run_dir, &hook, &packages, main)).unwrap();
    assert_eq!(told["argv"], json!(["main.py"]));
    assert_eq!(told["seen"], json!(packages.join("sitecustomize.py")));
    let path = told["path"].as_array().unwrap();
    assert_eq!(path[..2], [json!(run_dir), json!(packages)], "{path:?}");
    assert!(!path.contains(&json!(hook)));
    assert_eq!(told["frames"], 2, "nothing stands before main.py in a traceback");
    assert_eq!(told["doubled"], json!([42]));
    let child = told["child"].as_str().unwrap();
    assert!(
        child.contains("packages/sitecustomize.py") && !child.contains("run/start"),
        "{child}"
    );
    assert_eq!(told["child_said"], "");
}

#[test]
fn comfyui_starts_with_a_hook_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let hook = write(folder.path(), None, &BTreeMap::new(), true, None).unwrap();
    for (settings, said) in [("{", "the start hook failed"), ("{}", "watch_imports failed: KeyError")] {
        fs::write(hook.join("settings.json"), settings).unwrap();
        let done = Command::new("sh")
            .args(["-c", "QWEN_IMAGE_WORKER_COMFYUI=$$ exec python3 -c 'print(1)'"])
            .env("PYTHONPATH", &hook)
            .output()
            .unwrap();
        assert_eq!(done.stdout, b"1\n");
        let error = String::from_utf8(done.stderr).unwrap();
        assert!(
            error.starts_with("[WARNING] qwen-image-worker: ") && error.contains(said),
            "{error}"
        );
    }
}

#[test]
fn the_record_of_the_start_before_is_gone_even_where_the_hook_cannot_be_written() {
    let run_dir = tempfile::tempdir().unwrap();
    let hook = write(run_dir.path(), None, &BTreeMap::new(), true, None).unwrap();
    fs::write(record(run_dir.path()), "{}\n").unwrap();
    fs::remove_file(hook.join("settings.json")).unwrap();
    fs::create_dir(hook.join("settings.json")).unwrap();
    write(run_dir.path(), None, &BTreeMap::new(), true, None).unwrap_err();
    assert!(!record(run_dir.path()).exists());
}

#[test]
fn a_module_that_is_loaded_before_folders_are_known_is_no_pack() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let hook = write(&run_dir, None, &BTreeMap::new(), true, None).unwrap();
    let main = "import importlib.util, sys, types\n\
                sys.modules['folder_paths'] = types.ModuleType('folder_paths')\n\
                print(importlib.util.spec_from_file_location('main2', 'main.py').name)";
    assert_eq!(run(&run_dir, &hook, folder.path(), main), "main2\n");
}

#[test]
fn a_folder_that_cannot_stand_in_the_path_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = write(&folder.path().join("a:b"), None, &BTreeMap::new(), true, None).unwrap_err();
    assert!(error.to_string().contains("PYTHONPATH"), "{error}");
}

/// ComfyUI's names, as far as the hook knows them. It prints whether pictures have metadata.
const EXECUTION: &str = r#"
from comfy.cli_args import args
class PromptExecutor:
    def execute(self, prompt, prompt_id, extra_data={}, execute_outputs=[]):
        print(prompt, args.disable_metadata)
        if prompt == "fails":
            raise ValueError(prompt)
"#;

#[test]
fn prompts_that_are_to_have_metadata_have_it_and_others_have_not() {
    let folder = tempfile::tempdir().unwrap();
    let (run_dir, packages) = (folder.path().join("run"), folder.path().join("packages"));
    fs::create_dir_all(packages.join("comfy")).unwrap();
    fs::write(packages.join("execution.py"), EXECUTION).unwrap();
    fs::write(
        packages.join("comfy/cli_args.py"),
        "import types\nargs = types.SimpleNamespace(disable_metadata=True)\n",
    )
    .unwrap();
    let main = r#"
import execution
from execution import PromptExecutor
marked = {"qwen_image_worker": {"metadata": True}}
executor = PromptExecutor()
executor.execute("a", "1", {}, [])
executor.execute("b", "2", dict(marked), [])
executor.execute("c", "3", extra_data=marked)
executor.execute("d", "4")
executor.execute("e", "5", {"qwen_image_worker": "yes"}, [])
executor.execute("f", "6", None, [])
try:
    executor.execute("fails", "7", marked, [])
except ValueError as error:
    print("raised", error)
executor.execute("g", "8", {}, [])
print(PromptExecutor.execute.__name__, execution.__spec__.name)
"#;
    let marked = |metadata| {
        let hook = write(&run_dir, None, &BTreeMap::new(), metadata, None).unwrap();
        run(&run_dir, &hook, &packages, main)
    };
    let end = "raised fails\ng True\nexecute execution\n";
    let with = "a True\nb False\nc False\nd True\ne True\nf True\nfails False\n";
    assert_eq!(marked(true), format!("{with}{end}"));
    // The user wants none.
    let without = "a True\nb True\nc True\nd True\ne True\nf True\nfails True\n";
    assert_eq!(marked(false), format!("{without}{end}"));
}

#[test]
fn an_executor_of_another_shape_runs_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (run_dir, packages) = (folder.path().join("run"), folder.path().join("packages"));
    fs::create_dir_all(&packages).unwrap();
    fs::write(packages.join("execution.py"), "number = 7\n").unwrap();
    let hook = write(&run_dir, None, &BTreeMap::new(), true, None).unwrap();
    let main =
        "import io, sys\nsys.stderr = said = io.StringIO()\nimport execution\nprint(execution.number, said.getvalue())";
    let told = run(&run_dir, &hook, &packages, main);
    assert!(
        told.starts_with("7 [WARNING] qwen-image-worker: pictures have no metadata: AttributeError"),
        "{told}"
    );
    // One that is not there is not found, as ever.
    fs::remove_file(packages.join("execution.py")).unwrap();
    let main = "try:\n    import execution\nexcept ModuleNotFoundError as error:\n    print(error)";
    assert_eq!(run(&run_dir, &hook, &packages, main), "No module named 'execution'\n");
}

/// As ComfyUI 0.30 has it, as far as it counts.
const FOLDER_PATHS: &str = "def get_save_image_path(filename_prefix, output_dir, image_width=0, image_height=0):\n    return output_dir, filename_prefix, image_width\n";

#[test]
fn output_files_have_the_mark_of_their_comfyui() {
    let folder = tempfile::tempdir().unwrap();
    let (run_dir, packages) = (folder.path().join("run"), folder.path().join("packages"));
    fs::create_dir_all(&packages).unwrap();
    fs::write(packages.join("folder_paths.py"), FOLDER_PATHS).unwrap();
    let main = "import folder_paths\nfrom folder_paths import get_save_image_path\nprint(*get_save_image_path('x/ComfyUI', '/out', 7))\nprint(*folder_paths.get_save_image_path(filename_prefix='y', output_dir='/out'))";
    let with = |mark| {
        let hook = write(&run_dir, None, &BTreeMap::new(), true, mark).unwrap();
        run(&run_dir, &hook, &packages, main)
    };
    assert_eq!(with(Some("gpu1")), "/out x/ComfyUI_gpu1 7\n/out y_gpu1 0\n");
    assert_eq!(with(None), "/out x/ComfyUI 7\n/out y 0\n");
}
