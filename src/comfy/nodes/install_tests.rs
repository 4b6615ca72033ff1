//! Sets of packs on a machine of `testing`, and with a real git.

use std::fs;
use std::process::Command;

use super::*;
use crate::comfy::nodes::testing::{Bench, config, failures, python, ran, registry, sdist, wheel, zip};
use crate::comfy::nodes::{freeze, remove as rm, status};
use crate::config::NodePack;
use crate::telemetry::report::SilentReporter;

#[tokio::test]
async fn a_set_is_made_once_and_found_without_running_anything() {
    let mut bench = Bench::new();
    bench.options.config.packs = vec![
        bench.folder("Good", "demo-gguf>=1\ndemo-torch\ndemo_numpy>=2\n", &[]),
        bench.folder("Plain", "", &[]),
    ];
    let set = bench.ensure().await;
    assert_eq!(failures(&set), []);
    assert_eq!(set.summary(), "2 packs of custom nodes");
    let code =
        "import demo_gguf, demo_torch, demo_numpy; print(demo_gguf.version, demo_torch.version, demo_numpy.version)";
    assert_eq!(python(&set.python, code), "1.0 2.8.0+cpu 2.1");
    // What ComfyUI has is neither replaced nor there twice, and its environment stays as it was.
    let place = "import importlib.util as u; print(u.find_spec('demo_numpy').origin, u.find_spec('demo_gguf'))";
    let base = python(&bench.base.python, place);
    assert!(base.contains("/base/") && base.ends_with("None"), "{base}");
    let lock = fs::read_to_string(set.folder.with_file_name("requirements.lock")).unwrap();
    assert!(
        lock.contains("demo-gguf==1.0") && lock.contains("--hash=sha256:"),
        "{lock}"
    );
    assert!(!lock.contains("torch") && !lock.contains("numpy"), "{lock}");
    // A developer's folder is used where it is.
    assert_eq!(fs::read_link(set.folder.join("Good")).unwrap(), bench.at("packs/Good"));

    let calls = bench.calls().len();
    let again = bench.ensure().await;
    assert_eq!((again.folder, again.packs), (set.folder.clone(), set.packs.clone()));
    assert_eq!(bench.calls().len(), calls, "nothing is run for a finished set");
    let status = status(&bench.options, Some(&bench.base)).await.unwrap();
    assert_eq!(status.packs, set.packs);
    assert_eq!(bench.in_force().unwrap().folder, set.folder);
    // Another ComfyUI has packages of its own.
    bench.base.version = "0.31.0".to_owned();
    assert_ne!(bench.ensure().await.folder, set.folder);
}

#[tokio::test]
async fn who_does_not_fit_is_named_with_what_it_meets_and_the_others_go_on() {
    let mut bench = Bench::new();
    bench.options.config.packs = vec![
        bench.folder("Newer", "demo-image>=2\n", &[]),
        bench.folder("Replaces", "demo-gguf\nDemo_Numpy<2\n", &[]),
        bench.folder("Older", "demo-image==1.0\n", &[]),
        bench.folder("Indirect", "demo-old\n", &[]),
        bench.folder("Missing", "no-such-package\n", &[]),
        bench.folder("Refused", "-e .\n", &[]),
        bench.folder("Good", "demo-gguf\n", &[]),
    ];
    let set = bench.ensure().await;
    let failures = failures(&set);
    let names: Vec<&str> = failures.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        ["Replaces", "Older", "Indirect", "Missing", "Refused"],
        "{failures:#?}"
    );
    for (at, words) in [
        (0, &["`Demo_Numpy<2`", "Demo_Numpy 2.1", "no pack may replace"][..]),
        (1, &["`demo-image==1.0`", "Newer needs `demo-image>=2`"]),
        (2, &["`demo-old`", "ComfyUI's own packages", "demo-numpy==2.1"]),
        (3, &["`no-such-package`", "cannot be had"]),
        (4, &["`-e .` in requirements.txt"]),
    ] {
        let reason = failures[at].1;
        assert!(words.iter().all(|word| reason.contains(word)), "{reason}");
        assert!(!reason.contains("+comfyui"), "{reason}");
    }
    assert!(set.folder.join("Good/__init__.py").is_file() && !set.folder.join("Missing").exists());
    assert_eq!(
        python(&set.python, "import demo_image; print(demo_image.version)"),
        "2.0"
    );
    // That stays so until somebody changes something, or asks for it.
    let calls = bench.calls().len();
    bench.ensure().await;
    assert_eq!(bench.calls().len(), calls);
    wheel(&bench.at("wheels"), "no_such_package", "1.0", &[]);
    assert_eq!(bench.install(Effort::Failed).await.failures().count(), 4);
    let checked = check(&bench.options, &bench.base, &SilentReporter).await.unwrap();
    assert_eq!(checked.packs.iter().filter(|pack| pack.failure.is_some()).count(), 4);
    assert_eq!(
        checked.packages,
        ["demo-gguf==1.0", "demo-image==2.0", "no-such-package==1.0"]
    );
}

/// A backend that prints more than an error keeps, and gives up.
const BREAKS: &str = "import sys\ndef build_wheel(*a, **k):\n    for n in range(40): print('line', n, file=sys.stderr)\n    sys.exit(1)\n";

/// One whose package holds the names of the variables that it had.
const TELLS: &str = "import os, zipfile\ndef build_wheel(folder, *a, **k):\n    name = 'demo_tells-1.0-py3-none-any.whl'\n    \
    with zipfile.ZipFile(os.path.join(folder, name), 'w') as z:\n        \
    z.writestr('demo_tells.py', 'names = ' + repr(sorted(os.environ)))\n        \
    z.writestr('demo_tells-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: demo_tells\\nVersion: 1.0\\n')\n        \
    z.writestr('demo_tells-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n        \
    z.writestr('demo_tells-1.0.dist-info/RECORD', '')\n    return name\n";

#[tokio::test]
async fn who_needs_what_cannot_be_built_is_left_out_and_builds_know_no_secrets() {
    let mut bench = Bench::new();
    sdist(&bench.at("wheels"), "demo_bad", BREAKS);
    sdist(&bench.at("wheels"), "demo_tells", TELLS);
    bench.options.config.packs = vec![
        bench.folder("Bad", "demo-bad\n", &[]),
        bench.folder("Good", "demo-gguf\ndemo-tells\n", &[]),
    ];
    let set = bench.ensure().await;
    let failed = failures(&set);
    assert!(
        failed.len() == 1 && failed[0].0 == "Bad" && failed[0].1.contains("demo-bad"),
        "{failed:?}"
    );
    // Only a build of this program has it, as only a worker has its keys.
    let names = python(&set.python, "import demo_gguf, demo_tells; print(demo_tells.names)");
    assert!(
        names.contains("'PATH'") && !names.contains("CARGO_MANIFEST_DIR"),
        "{names}"
    );
}

#[tokio::test]
async fn packages_of_the_manifest_that_cannot_be_had_keep_no_pack_away() {
    let mut bench = Bench::new();
    sdist(&bench.at("wheels"), "demo_bad", BREAKS);
    let good = bench.folder("Good", "demo-gguf\n", &[]);
    let manifest = bench.at("nodes.toml");
    fs::write(&manifest, "packages = [\"demo-bad\"]\n").unwrap();
    bench.options.config = config(&[("CUSTOM_NODES_MANIFEST", &manifest.display().to_string())]).nodes;
    bench.options.config.packs = vec![good];
    let set = bench.ensure().await;
    let trouble = set.trouble.clone().unwrap();
    assert!(
        trouble.contains("demo-bad") && trouble.contains("CUSTOM_NODES_MANIFEST"),
        "{trouble}"
    );
    assert_eq!((set.installed(), set.notes.len()), (1, 0), "{:?}", set.notes);
    // It stands until somebody asks for another try.
    let calls = bench.calls().len();
    assert_eq!(bench.ensure().await.trouble.as_ref(), Some(&trouble));
    assert_eq!(bench.calls().len(), calls);
    wheel(&bench.at("wheels"), "demo_bad", "1.0", &[]);
    assert_eq!(bench.install(Effort::Failed).await.trouble, None);

    // With a mistake in it there are the packs of CUSTOM_NODES.
    fs::write(&manifest, "packs = 1\n").unwrap();
    let set = bench.ensure().await;
    let trouble = set.trouble.clone().unwrap();
    assert!(
        trouble.contains("nodes.toml") && trouble.contains("CUSTOM_NODES"),
        "{trouble}"
    );
    assert_eq!(set.installed(), 1);
    let checked = check(&bench.options, &bench.base, &SilentReporter).await.unwrap();
    assert!(checked.trouble.is_some());
}

#[tokio::test]
async fn a_start_takes_the_last_set_where_an_installation_tells_the_error() {
    let mut bench = Bench::new();
    let manifest = bench.at("nodes.toml");
    fs::write(&manifest, "packages = [\"demo-gguf\"]\n").unwrap();
    bench.options.config = config(&[("CUSTOM_NODES_MANIFEST", &manifest.display().to_string())]).nodes;
    let set = bench.ensure().await;
    assert_eq!(set.trouble, None);
    fs::remove_file(&manifest).unwrap();
    let last = bench.ensure().await;
    assert_eq!(last.folder, set.folder);
    let trouble = last.trouble.unwrap();
    assert!(
        trouble.contains("the last start") && trouble.contains("nodes.toml"),
        "{trouble}"
    );
    let error = install(&bench.options, &bench.base, Effort::Failed, &SilentReporter).await;
    assert!(matches!(error, Err(NodesError::Manifest(_))), "{error:?}");
    // A set for another ComfyUI is none for this one.
    bench.base.root = bench.at("other");
    assert!(ensure(&bench.options, &bench.base, &SilentReporter).await.is_err());
}

#[tokio::test]
async fn a_killed_installation_is_finished_by_the_next() {
    let mut bench = Bench::new();
    bench.options.config.packs = vec![bench.folder("Good", "demo-gguf\n", &[])];
    bench.say("hang");
    let (options, base) = (bench.options.clone(), bench.base.clone());
    let task = tokio::spawn(async move { ensure(&options, &base, &SilentReporter).await });
    while !bench.at("hanging").exists() {
        assert!(!task.is_finished());
        tokio::task::yield_now().await;
    }
    task.abort();
    assert!(task.await.is_err());
    bench.unsay("hang");
    // What kill -9 leaves of a later step.
    let half = bench.at("data/nodes/sets/0123456789abcdef.1");
    fs::create_dir_all(half.join("custom_nodes/Good")).unwrap();
    let set = bench.ensure().await;
    assert_eq!(failures(&set), []);
    assert!(!half.exists() && !bench.at("data/nodes/work").exists());
    assert_eq!(bench.sets(), 1);
}

#[tokio::test]
async fn without_a_network_there_is_what_the_cache_has_and_the_rest_comes_later() {
    let mut bench = Bench::new();
    let (good, image) = (
        bench.folder("Good", "demo-gguf\n", &[]),
        bench.folder("Image", "demo-image\n", &[]),
    );
    bench.options.config.packs = vec![good.clone()];
    bench.ensure().await;
    bench.options.config.packs = vec![good, image];
    bench.say("no-network");
    fs::rename(bench.at("wheels/demo_image-2.0-py3-none-any.whl"), bench.at("two")).unwrap();
    fs::rename(bench.at("wheels/demo_image-1.0-py3-none-any.whl"), bench.at("one")).unwrap();
    let set = bench.ensure().await;
    let (name, reason) = failures(&set)[0];
    assert_eq!((name, set.installed()), ("Image", 1));
    assert!(reason.contains("not reached"), "{reason}");
    // Tried again at each start; without success the set stays the same.
    assert_eq!(bench.ensure().await.folder, set.folder);
    fs::rename(bench.at("two"), bench.at("wheels/demo_image-2.0-py3-none-any.whl")).unwrap();
    bench.unsay("no-network");
    let set = bench.ensure().await;
    assert_eq!(failures(&set), []);
}

#[tokio::test]
async fn a_set_in_use_stays_and_others_go() {
    let mut bench = Bench::new();
    let packs: Vec<NodePack> = ["A", "B", "C", "D"].map(|name| bench.folder(name, "", &[])).to_vec();
    let mut made = Vec::new();
    for pack in &packs[..3] {
        bench.options.config.packs = vec![pack.clone()];
        made.push(bench.ensure().await);
    }
    assert_eq!(bench.sets(), 3, "all are in use");
    let first = made.remove(0);
    drop(made);
    bench.options.config.packs = vec![packs[3].clone()];
    drop(bench.ensure().await);
    assert_eq!(bench.sets(), 3, "the one in use, the last one, and the new one");
    let removed = rm(&bench.options, false, &SilentReporter).await.unwrap();
    assert_eq!((removed.sets, removed.in_use, bench.sets()), (1, 1, 2));
    assert!(removed.freed > 0 && first.folder.is_dir());
    drop(first);
    let removed = rm(&bench.options, true, &SilentReporter).await.unwrap();
    assert_eq!((removed.sets, removed.in_use, bench.sets()), (2, 0, 0));
    assert!(bench.in_force().is_none());
    assert_eq!(failures(&bench.ensure().await), []);
}

#[tokio::test]
async fn a_script_runs_only_where_that_is_allowed_and_its_failure_is_told() {
    let mut bench = Bench::new();
    let script = "import os, sys, demo_torch\nopen('ran', 'w').write(sys.prefix + ' ' + str('CARGO_MANIFEST_DIR' in os.environ))\n";
    bench.options.config.packs = vec![
        bench.folder("Runs", "", &[("install.py", script)]),
        bench.folder("Fails", "", &[("install.py", "raise SystemExit('no compiler')")]),
    ];
    let set = bench.ensure().await;
    assert!(!bench.at("packs/Runs/ran").exists());
    assert!(
        set.packs[0].notes[0].contains("CUSTOM_NODES_RUN_INSTALL=true"),
        "{:?}",
        set.packs[0].notes
    );
    bench.options.config.run_install = true;
    let set = bench.ensure().await;
    let ran = fs::read_to_string(bench.at("packs/Runs/ran")).unwrap();
    // With the overlay's interpreter, and without what only the worker is to know.
    assert_eq!(ran, format!("{} False", set.folder.with_file_name("venv").display()));
    assert!(
        set.packs[1].script_failed && set.packs[1].notes[0].contains("no compiler"),
        "{:?}",
        set.packs[1]
    );
    assert_eq!(failures(&set), []);
}

#[tokio::test]
async fn a_branch_is_looked_up_once_and_frozen_to_its_commit() {
    let mut bench = Bench::new();
    let repository = bench.at("repository/Pack");
    fs::create_dir_all(&repository).unwrap();
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=T", "-c", "user.email=t@example.com"];
        ran(Command::new("git")
            .current_dir(&repository)
            .args(identity)
            .args(arguments))
    };
    let commit = |content: &str| {
        fs::write(repository.join("__init__.py"), content).unwrap();
        git(&["add", "."]);
        git(&["commit", "--quiet", "--message", "x"]);
        git(&["rev-parse", "HEAD"])
    };
    git(&["init", "--quiet", "--initial-branch", "main"]);
    let first = commit("one");
    let branch = format!("file://{}@main", repository.display());
    bench.options.config = config(&[("CUSTOM_NODES", &branch)]).nodes;
    let set = bench.ensure().await;
    assert!(
        failures(&set)[0].1.contains("CUSTOM_NODES_ALLOW_FLOATING=true"),
        "{:?}",
        failures(&set)
    );
    bench.options.config.allow_floating = true;
    let set = bench.ensure().await;
    let second = commit("two");
    let at = |set: &NodeSet| fs::read_to_string(set.folder.join("Pack/__init__.py")).unwrap();
    assert_eq!(at(&bench.ensure().await), "one");
    // A pack may write into its folder, and what was fetched stays as it was.
    fs::write(set.folder.join("Pack/settings.json"), "{}").unwrap();
    let frozen = freeze(&bench.options, Some(&bench.base), false, &SilentReporter)
        .await
        .unwrap();
    assert!(
        frozen.manifest.contains(&first) && frozen.failures.is_empty(),
        "{frozen:?}"
    );
    let frozen = freeze(&bench.options, Some(&bench.base), true, &SilentReporter)
        .await
        .unwrap();
    assert!(frozen.manifest.contains(&second), "{frozen:?}");
    let set = bench.install(Effort::Anew).await;
    assert_eq!(
        (at(&set).as_str(), set.folder.join("Pack/settings.json").exists()),
        ("two", false)
    );
}

#[tokio::test]
async fn packs_of_the_registry_are_fetched_once_and_what_it_lacks_is_told() {
    let mut bench = Bench::new();
    let archive = zip(&[("__init__.py", "x = 1"), ("requirements.txt", "demo-gguf\n")]);
    let here = registry(archive).await;
    let with = |packs: &str, registry: &str| config(&[("CUSTOM_NODES", packs), ("COMFY_REGISTRY_URL", registry)]).nodes;
    bench.options.config = with("good@1.0.0,unknown@1.0.0", &here);
    let set = bench.ensure().await;
    assert_eq!(
        fs::read_to_string(set.folder.join("good/__init__.py")).unwrap(),
        "x = 1"
    );
    assert_eq!(python(&set.python, "import demo_gguf; print(demo_gguf.version)"), "1.0");
    let failed = failures(&set);
    assert!(
        failed[0].0 == "unknown" && failed[0].1.contains("unknown"),
        "{failed:?}"
    );
    assert!(!set.packs[1].may_pass, "who asks again hears the same");
    // The archive is kept: what is there needs no registry.
    bench.options.config = with("good@1.0.0", "http://127.0.0.1:1");
    assert_eq!(failures(&bench.ensure().await), []);
}

#[tokio::test]
async fn an_archive_that_leads_out_of_its_folder_is_refused() {
    let mut bench = Bench::new();
    let here = registry(zip(&[("../../evil.py", "x"), ("__init__.py", "")])).await;
    bench.options.config = config(&[("CUSTOM_NODES", "good@1.0.0"), ("COMFY_REGISTRY_URL", &here)]).nodes;
    let set = bench.ensure().await;
    let failed = failures(&set);
    assert!(failed[0].1.contains("evil.py"), "{failed:?}");
    assert!(!set.packs[0].may_pass);
    assert_eq!(fs::read_dir(bench.at("data/nodes/cache/packs")).unwrap().count(), 0);
    // In the one folder of an archive, which becomes the pack's, a link may lead out of that.
    for (to, is_good) in [("..", false), ("__init__.py", true)] {
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let plain = zip::write::SimpleFileOptions::default();
        archive.start_file("pack/__init__.py", plain).unwrap();
        archive.add_symlink("pack/x", to, plain).unwrap();
        let here = registry(archive.finish().unwrap().into_inner()).await;
        bench.options.config = config(&[("CUSTOM_NODES", "good@1.0.0"), ("COMFY_REGISTRY_URL", &here)]).nodes;
        let set = bench.install(Effort::Failed).await;
        assert_eq!(failures(&set).is_empty(), is_good, "{:?}", failures(&set));
    }
}
