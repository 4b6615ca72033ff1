//! Custom nodes: packs of a registry and of git repositories on loopback, installed with real packages and loaded by the
//! real ComfyUI. One worker with packs that work and packs that fail is shared by the tests that only ask it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::support::binary::binary;
use crate::support::clients::{path_with_uv, python};
use crate::support::git_server::{BRANCH, GitServer};
use crate::support::node_registry::{ESCAPES, LINKS, NodeRegistry, TORN};
use crate::support::{PATIENCE, Worker, fresh_data, graph, text, until};

/// The packs of the shared worker that do not load, each with a class of its and why.
const BROKEN: [(&str, &str, &str); 3] = [
    (
        "qiw-missing-package",
        "QiwNeedsMore",
        "No module named 'qiw_nobody_has_this'",
    ),
    ("qiw-import-error", "QiwOutdated", "a_function_of_another_version"),
    ("qiw-exits", "QiwExits", "sys.exit"),
];

/// A worker that has packs, and where they come from.
struct WithPacks {
    worker: Worker,
    vars: BTreeMap<String, String>,
    _registry: NodeRegistry,
    git: GitServer,
}

static WITH_PACKS: OnceCell<WithPacks> = OnceCell::const_new();

/// A worker with a pack that works, those that do not, and one of a git repository that has an `install.py`.
async fn with_packs() -> &'static WithPacks {
    WITH_PACKS
        .get_or_init(|| async {
            let (registry, git) = (NodeRegistry::start().await, GitServer::start().await);
            let (data, mut vars) = fresh_data();
            let script = git.commit("qiw-install-script", BRANCH);
            let packs = [
                "qiw-greeting@1.0.0".to_owned(),
                "qiw-missing-package@0.3.0".to_owned(),
                "qiw-import-error@2.1.0".to_owned(),
                "qiw-exits@1.0.0".to_owned(),
                format!("{}@{script}", git.pack("qiw-install-script")),
            ];
            vars.insert("CUSTOM_NODES".into(), packs.join(",\n"));
            vars.insert("CUSTOM_NODES_RUN_INSTALL".into(), "true".into());
            vars.insert("COMFY_REGISTRY_URL".into(), registry.url.clone());
            let mut worker = Worker::start(vars.clone()).await;
            worker.data = Some(data);
            worker.ready().await;
            // What became of the packs is told when ComfyUI has answered which classes it has: soon after it is ready.
            until("the classes of the packs are counted", async || {
                let health = worker.ask("/health").await.body;
                let told = health["custom_nodes"].as_array();
                told.is_some_and(|told| !told.is_empty() && told.iter().all(|pack| pack["classes"].is_u64()))
            })
            .await;
            WithPacks {
                worker,
                vars,
                _registry: registry,
                git,
            }
        })
        .await
}

/// A command of the binary: its exit code, and all that it said.
async fn said(vars: &BTreeMap<String, String>, arguments: &[&str]) -> (Option<i32>, String) {
    let done = tokio::time::timeout(PATIENCE, binary(vars).args(arguments).output()).await;
    let done = done.expect("in time").expect("the binary runs");
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (done.status.code(), said.concat())
}

/// What a command prints as its result; it succeeds.
async fn printed(vars: &BTreeMap<String, String>, arguments: &[&str]) -> String {
    let done = tokio::time::timeout(PATIENCE, binary(vars).args(arguments).output()).await;
    let done = done.expect("in time").expect("the binary runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("UTF-8")
}

#[tokio::test]
async fn the_class_of_a_pack_runs_in_a_graph() {
    let packs = with_packs().await;
    let workflow = graph("QiwGreeting", json!({"text": "hello from a pack"}));
    let answer = packs.worker.run(json!({ "workflow": workflow })).await.completed();
    assert_eq!(answer.images().len(), 1, "{:#}", answer.body);
    // Its package drew that.
    let texts = answer.body["output"]["texts"].to_string();
    assert!(texts.contains("hello from a pack") && texts.contains("(oo)"), "{texts}");
}

#[tokio::test]
async fn the_health_tells_which_packs_loaded_and_why_the_others_did_not() {
    let packs = with_packs().await;
    let health = packs.worker.ask("/health").await.body;
    let told = pack_reports(&health);
    assert_eq!(told["qiw-greeting"]["state"], "loaded", "{health:#}");
    assert_eq!(told["qiw-install-script"]["state"], "loaded", "{health:#}");
    for (name, _, reason) in BROKEN {
        assert_eq!(told[name]["state"], "failed", "{health:#}");
        assert!(text(&told[name], "error").contains(reason), "{name}: {health:#}");
    }
}

/// The reports of packs, by name.
fn pack_reports(health: &Value) -> BTreeMap<String, Value> {
    let list = health["custom_nodes"].as_array().expect("packs");
    list.iter()
        .map(|report| (text(report, "name").to_owned(), report.clone()))
        .collect()
}

#[tokio::test]
async fn the_list_tells_the_same() {
    let packs = with_packs().await;
    let (_, list) = said(&packs.vars, &["nodes", "list"]).await;
    assert!(list.contains("qiw-greeting") && list.contains("1.0.0"), "{list}");
    for (name, _, reason) in BROKEN {
        assert!(list.contains(name) && list.contains(reason), "{name}: {list}");
    }
    let (_, check) = said(&packs.vars, &["check"]).await;
    for (name, _, reason) in BROKEN {
        assert!(check.contains(name) && check.contains(reason), "{name}: {check}");
    }
}

#[tokio::test]
async fn a_graph_that_needs_a_pack_which_failed_says_so() {
    let packs = with_packs().await;
    for (name, class, reason) in BROKEN {
        let answer = packs.worker.run(json!({"workflow": graph(class, json!({}))})).await;
        assert_eq!(answer.status, 400, "{:#}", answer.body);
        let error = answer.error();
        assert!(
            error.contains(class) && error.contains(name) && error.contains(reason),
            "{error}"
        );
    }
    // One that nobody knows is as it was.
    let answer = packs
        .worker
        .run(json!({"workflow": graph("QiwNobody", json!({}))}))
        .await;
    assert!(answer.error().contains("QiwNobody"), "{}", answer.error());
}

#[tokio::test]
async fn a_graph_without_its_pack_says_which_one_to_add() {
    let packs = with_packs().await;
    let said = async |worker: &Worker, class: &str| {
        let answer = worker.run(json!({"workflow": graph(class, json!({}))})).await;
        answer.error().to_lowercase()
    };
    // A table of the worker's own knows this one.
    let error = said(&packs.worker, "UnetLoaderGGUF").await;
    assert!(error.contains("gguf") && error.contains("custom_nodes"), "{error}");
    // The registry knows the other. An error waits for its answer for two seconds, the next one has it; after three the
    // registry is not asked for minutes, and only another worker asks it again.
    until("the registry's answer is told", async || {
        let error = said(&packs.worker, "QiwElsewhere").await;
        if error.contains("qiw-torn@1.0.0") && error.contains("custom_nodes") {
            return true;
        }
        let registry = packs.vars["COMFY_REGISTRY_URL"].as_str();
        let comfyui = packs.worker.comfy_url().await;
        let another = Worker::attached(&comfyui, &[("COMFY_REGISTRY_URL", registry)]).await;
        said(&another, "QiwElsewhere").await.contains("qiw-torn")
    })
    .await;
}

#[tokio::test]
async fn what_was_frozen_reads_back_as_the_same_set() {
    let packs = with_packs().await;
    let frozen = printed(&packs.vars, &["nodes", "freeze"]).await;
    let commit = packs.git.commit("qiw-install-script", BRANCH);
    assert!(frozen.contains("qiw-greeting") && frozen.contains(commit), "{frozen}");
    let place = Empty::new(packs).await;
    let file = place.write("custom-nodes.toml", &frozen);
    let again = place.with(&[("CUSTOM_NODES_MANIFEST", &file)]);
    said(&again, &["nodes", "install"]).await;
    assert_eq!(printed(&again, &["nodes", "freeze"]).await, frozen);
    let cows = find(place.data.path(), "cowsay");
    assert!(
        cows && !find(place.data.path(), "made_by_install.txt"),
        "install.py did not run"
    );
}

/// A data folder for installations alone.
struct Empty {
    data: TempDir,
    vars: BTreeMap<String, String>,
}

impl Empty {
    async fn new(packs: &WithPacks) -> Self {
        let (data, mut vars) = fresh_data();
        vars.insert("PATH".into(), path_with_uv().await);
        let registry = packs.vars["COMFY_REGISTRY_URL"].clone();
        vars.insert("COMFY_REGISTRY_URL".into(), registry);
        Self { data, vars }
    }

    /// Writes a file; gives its path.
    fn write(&self, name: &str, content: &str) -> String {
        let file = self.data.path().join(name);
        std::fs::write(&file, content).expect("a file");
        file.display().to_string()
    }

    fn with(&self, more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let more = more
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.vars.clone().into_iter().chain(more).collect()
    }
}

/// Whether a file or folder of that name is below.
fn find(folder: &Path, name: &str) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut entries = entries.map(|entry| (entry.file_name(), entry.path()));
    entries.any(|(found, path)| found == name || (path.is_dir() && !path.is_symlink() && find(&path, name)))
}

/// Has comfy-cli ask the registry, and write the file of a build.
const COMFY_CLI: &str = r#"
import json, sys
from comfy_cli.command.build import build_definition
from comfy_cli.command.build_spec import serialize_build_spec
from comfy_cli.registry.api import RegistryAPI
plan = json.load(sys.stdin)
registry = RegistryAPI()
registry.base_url = plan["registry"]
release = registry.install_node("qiw-greeting", "1.0.0")
definition = build_definition([], plan["nodes"], "v0.30.0", "cowsay==6.1\n")
spec = {"schema": "comfy-build/1", "name": "mine", "description": "", "definition": definition}
print(json.dumps({
    "release": {"version": release.version, "url": release.download_url},
    "newest": registry.get_node("qiw-greeting").latest_version.version,
    "build": serialize_build_spec(spec, format="yaml"),
}))
"#;

#[tokio::test]
async fn manifests_of_other_tools_are_read() {
    let packs = with_packs().await;
    let place = Empty::new(packs).await;
    let script = packs.git.pack("qiw-install-script");
    let commit = packs.git.commit("qiw-install-script", BRANCH);
    // As comfyui-manager 4.3 writes it (`get_current_snapshot` in glob/manager_core.py).
    let snapshot = json!({
        "comfyui": "0123456789012345678901234567890123456789",
        "git_custom_nodes": {
            script.clone(): {"hash": commit, "disabled": false},
            "https://git.example.com/off.git": {"hash": "0123456789012345678901234567890123456789", "disabled": true},
        },
        "cnr_custom_nodes": {"qiw-greeting": "1.0.0"},
        "file_custom_nodes": [{"filename": "websocket_image_save.py", "disabled": false}],
        "pips": {"cowsay==6.1": ""},
    });
    let plan = json!({"registry": packs.vars["COMFY_REGISTRY_URL"], "nodes": [
        {"id": "qiw-greeting", "name": "qiw-greeting", "registryVersion": "1.0.0", "source": "registry"},
        {"name": "qiw-install-script", "repository": script, "gitRef": commit, "source": "git"},
    ]});
    let written = python("comfy-cli==1.23.0", COMFY_CLI, &plan).await;
    // It finds in the registry of the tests what it finds in the real one.
    assert_eq!(written["release"]["version"], "1.0.0", "{written:#}");
    let url = text(&written["release"], "url");
    assert!(url.contains("/files/qiw-greeting/1.0.0.zip"), "{written:#}");
    assert_eq!(written["newest"], "1.0.0", "{written:#}");
    let build = text(&written, "build").to_owned();
    let mut frozen = Vec::new();
    for (name, content) in [("snapshot.json", snapshot.to_string()), ("comfy-build.yaml", build)] {
        let file = place.write(name, &content);
        let vars = place.with(&[("CUSTOM_NODES_MANIFEST", &file)]);
        let (code, log) = said(&vars, &["nodes", "install"]).await;
        assert_eq!(code, Some(0), "{name}: {log}");
        if name == "snapshot.json" {
            assert!(log.contains("off.git is disabled"), "{log}");
        }
        frozen.push(printed(&vars, &["nodes", "freeze"]).await);
    }
    for frozen in frozen {
        let (version, commit) = (frozen.contains("1.0.0"), frozen.contains(commit));
        assert!(version && commit && !frozen.contains("off.git"), "{frozen}");
    }
}

#[tokio::test]
async fn packs_that_cannot_be_installed_are_named_and_the_others_go_on() {
    let packs = with_packs().await;
    let place = Empty::new(packs).await;
    let wanted = format!(
        "qiw-greeting@1.0.0,qiw-old-numpy@1.0.0,{ESCAPES}@1.0.0,{LINKS}@1.0.0,{TORN}@1.0.0,qiw-nobody@1.0.0,qiw-exits@9.9.9",
    );
    let vars = place.with(&[("CUSTOM_NODES", &wanted)]);
    let (code, log) = said(&vars, &["nodes", "install"]).await;
    assert_eq!(code, Some(1), "{log}");
    let (_, list) = said(&vars, &["nodes", "list"]).await;
    for (name, words) in [
        ("qiw-old-numpy", &["numpy<1.20", "numpy"][..]),
        (ESCAPES, &["../../escaped.py"]),
        (LINKS, &["models"]),
        (TORN, &["archive"]),
        ("qiw-nobody", &["qiw-nobody"]),
        ("qiw-exits", &["9.9.9"]),
    ] {
        for told in [&log, &list] {
            // Its line in the table, and what stands below it.
            let mut lines = told
                .lines()
                .skip_while(|line| !line.starts_with("failed ") || !line.contains(name));
            let said = lines.by_ref().take(3).collect::<Vec<_>>().join("\n");
            for word in words {
                assert!(said.contains(word), "{name}, {word}: {said}\n\n{told}");
            }
        }
    }
    assert!(find(place.data.path(), "cowsay"), "the good one is there: {log}");
    assert!(!find(place.data.path(), "escaped.py"), "{log}");
    assert!(!place.data.path().join("../escaped.py").exists());
}

#[tokio::test]
async fn two_packs_of_one_folder_name_are_both_named() {
    let packs = with_packs().await;
    let place = Empty::new(packs).await;
    let git = packs.git.pack("qiw-greeting");
    let wanted = format!("qiw-greeting@1.0.0,{git}@{}", packs.git.commit("qiw-greeting", BRANCH));
    let (code, log) = said(&place.with(&[("CUSTOM_NODES", &wanted)]), &["nodes", "install"]).await;
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains("qiw-greeting@1.0.0") && log.contains(&git) && log.contains("folder"),
        "{log}"
    );
}

#[tokio::test]
async fn what_moves_is_refused_unless_it_is_allowed_and_then_frozen() {
    let packs = with_packs().await;
    let place = Empty::new(packs).await;
    let branch = format!("{}@{BRANCH}", packs.git.pack("qiw-install-script"));
    for wanted in [branch.as_str(), "qiw-greeting"] {
        let vars = place.with(&[("CUSTOM_NODES", wanted)]);
        let (code, log) = said(&vars, &["nodes", "install"]).await;
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("CUSTOM_NODES_ALLOW_FLOATING"), "{log}");
    }
    let wanted = format!("{branch},qiw-greeting");
    let vars = place.with(&[("CUSTOM_NODES", &wanted), ("CUSTOM_NODES_ALLOW_FLOATING", "true")]);
    let (code, log) = said(&vars, &["nodes", "install"]).await;
    assert_eq!(code, Some(0), "{log}");
    let frozen = printed(&vars, &["nodes", "freeze"]).await;
    let commit = packs.git.commit("qiw-install-script", BRANCH);
    assert!(frozen.contains(commit) && frozen.contains("1.0.0"), "{frozen}");
}

#[tokio::test]
async fn a_manifest_that_is_wrong_is_refused_with_the_place() {
    let packs = with_packs().await;
    let place = Empty::new(packs).await;
    let gone = place.data.path().join("gone.toml").display().to_string();
    for (file, word) in [
        (
            place.write("a.toml", "[[pack]]\nid = \"qiw-greeting\"\nversoin = \"1.0.0\"\n"),
            "versoin",
        ),
        (
            place.write(
                "b.json",
                "{\"cnr_custom_nodes\": {\"qiw-greeting\": \"1.0.0\"}, \"nodes\": 1",
            ),
            "b.json",
        ),
        (gone, "gone.toml"),
    ] {
        let (code, log) = said(&place.with(&[("CUSTOM_NODES_MANIFEST", &file)]), &["nodes", "install"]).await;
        assert_ne!(code, Some(0), "{log}");
        assert!(log.contains(word), "{log}");
    }
}

#[tokio::test]
async fn a_set_that_is_there_needs_no_network() {
    let packs = with_packs().await;
    let mut vars = packs.vars.clone();
    // Nobody is there: neither a registry, nor a repository, nor an index of packages.
    let nobody = "http://127.0.0.1:9";
    for name in [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "COMFY_REGISTRY_URL",
    ] {
        vars.insert(name.into(), nobody.into());
    }
    for name in ["NO_PROXY", "no_proxy"] {
        vars.insert(name.into(), String::new());
    }
    let list = printed(&vars, &["nodes", "list", "--json"]).await;
    assert!(list.contains("qiw-greeting"), "{list}");
    // As the next start of the same worker does it.
    let (code, log) = said(&vars, &["nodes", "install"]).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("these are the packs of the last start"), "{log}");
    assert_eq!(printed(&vars, &["nodes", "list", "--json"]).await, list);
}
