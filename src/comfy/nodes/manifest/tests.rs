//! The examples are what the tools wrote (cm-cli of comfyui-manager 4.3, `scan_custom_nodes` and `write_build_spec` of
//! comfy-cli 1.23) over one folder with packs of every kind, with fewer Python packages.

use std::path::PathBuf;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use url::Url;

use super::*;
use crate::net::manifest::LARGEST;
use crate::net::testing::serve;

const SNAPSHOT: &str = include_str!("tests/snapshot.json");
const SNAPSHOT_YAML: &str = include_str!("tests/snapshot.yaml");
const BUILD: &str = include_str!("tests/comfy-build.yaml");
const COMMIT: &str = "6ea2651e7df66d7585f6ffee804b20e92fb38b8a";

fn read_text(text: &str) -> Document {
    format::read(text, Some(Path::new("/here")))
}

/// The packs as folder name and entry.
fn packs(document: &Document) -> Vec<String> {
    assert_eq!(document.mistakes, [""; 0]);
    shown(&document.packs)
}

/// The packs that are named and taken.
fn taken(manifest: &Manifest) -> Vec<String> {
    let packs = united(manifest.named.clone(), false).into_iter();
    let packs = packs.filter(|(_, refusal)| refusal.is_none()).map(|(pack, _)| pack);
    shown(&packs.collect::<Vec<_>>())
}

fn shown(packs: &[NodePack]) -> Vec<String> {
    packs.iter().map(|pack| format!("{}: {pack}", pack.name)).collect()
}

fn mistakes(text: &str) -> String {
    let document = read_text(text);
    assert!(!document.mistakes.is_empty(), "{text}");
    document.mistakes.join("\n")
}

fn config(packs: &str, manifest: Option<ManifestSource>) -> NodesConfig {
    NodesConfig {
        packs: packs
            .split(',')
            .filter(|entry| !entry.is_empty())
            .map(|entry| entry.parse().unwrap())
            .collect(),
        manifest,
        run_install: false,
        allow_floating: false,
        on_volumes: false,
        registry: "https://comfy.example.com".parse().unwrap(),
    }
}

fn file(folder: &tempfile::TempDir, text: &str) -> (PathBuf, ManifestSource) {
    let path = folder.path().join("nodes.toml");
    std::fs::write(&path, text).unwrap();
    (path.clone(), ManifestSource::File(path))
}

#[test]
fn our_own_form_has_packs_of_every_kind() {
    let document = read_text(&format!(
        r#"
            # Ours.
            packages = ["opencv-python-headless>=4.10", "pack[extra] @ https://x.example/pack.whl"]
            [[pack]]
            id = "comfyui-kjnodes"
            version = "1.1.7"
            [[pack]]
            repository = "https://github.com/city96/ComfyUI-GGUF"
            commit = "{COMMIT}"
            name = "gguf"
            [[pack]]
            repository = "https://github.com/rgthree/rgthree-comfy"
            reference = "feature/x"
            [[pack]]
            folder = "packs/mine"
            [[pack]]
            folder = "/elsewhere/other"
        "#
    ));
    assert_eq!(
        packs(&document),
        [
            "comfyui-kjnodes: comfyui-kjnodes@1.1.7".to_owned(),
            format!("gguf: https://github.com/city96/ComfyUI-GGUF@{COMMIT}"),
            "rgthree-comfy: https://github.com/rgthree/rgthree-comfy@feature/x".to_owned(),
            "mine: /here/packs/mine".to_owned(),
            "other: /elsewhere/other".to_owned(),
        ]
    );
    assert_eq!(
        document.packages,
        [
            "opencv-python-headless>=4.10",
            "pack[extra] @ https://x.example/pack.whl"
        ]
    );
    assert_eq!(document.warnings, [""; 0]);
}

#[test]
fn all_mistakes_of_our_own_form_are_told_with_their_lines() {
    let text = r#"nodes = 1
packages = ["-r x.txt", 3, "../x", "ok"]

[[pack]]
id = "a"
version = "one"

[[pack]]
repo = "https://x.example/a"
packages = ["x"]
version = 1

[[pack]]
repository = "https://me:hunter2@x.example/a@main"

[[pack]]
repository = "https://x.example/a"
commit = "main"

[[pack]]
id = "a"
repository = "https://x.example/a"

[[pack]]
id = "a"
commit = "main"

[[pack]]
folder = "../.."

[[pack]]
id = "a"
version = "1.0.0"
name = "../a"
"#;
    let told = mistakes(text);
    insta::assert_snapshot!(told);
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn what_is_no_toml_is_told_with_its_line_and_without_its_text() {
    let told = mistakes("[[pack]]\nid = \"a\"\n\n[[pack]]\nrepository = \"https://me:hunter2@x.example\n");
    insta::assert_snapshot!(told);
    assert!(mistakes("pack = 1").contains("line 1: packs are written as [[pack]]"));
}

#[test]
fn a_frozen_list_reads_back_to_the_same() {
    let entries = [
        "comfyui-kjnodes@1.1.7".to_owned(),
        format!("https://github.com/city96/ComfyUI-GGUF@{COMMIT}"),
        format!("ssh://git@x.example:2222/team/pack.git@{COMMIT}"),
        "file:///srv/packs/one@v1".to_owned(),
        "/packs/mine".to_owned(),
        "comfyui_essentials".to_owned(),
    ];
    let mut packs: Vec<NodePack> = entries.iter().map(|entry| entry.parse().unwrap()).collect();
    packs.push("/packs/b".parse::<NodePack>().unwrap().named("it's \"b\"").unwrap());
    let packages = vec!["x; python_version < \"3.14\"".to_owned()];
    let text = freeze(&packs, &packages);
    let document = read_text(&text);
    assert_eq!(document.mistakes, [""; 0], "{text}");
    assert_eq!(document.packs, packs, "{text}");
    assert_eq!(document.packages, packages);
    insta::assert_snapshot!(text);
}

#[test]
fn a_frozen_list_has_no_password() {
    let secret: NodePack = format!("https://me:hunter2@x.example/pack@{COMMIT}").parse().unwrap();
    let text = freeze(&[secret], &[]);
    assert!(!text.contains("hunter2") && !text.contains("me:"), "{text}");
    assert!(text.contains("# The address has a user name or password"), "{text}");
    assert_eq!(read_text(&freeze(&[], &[])).warnings, ["it names no pack"]);
}

#[test]
fn a_snapshot_of_the_manager_gives_its_packs_and_tells_the_rest() {
    let document = read_text(SNAPSHOT);
    insta::assert_snapshot!(packs(&document).join("\n"));
    insta::assert_snapshot!(document.warnings.join("\n"));
    assert_eq!(
        document.packages, [""; 0],
        "the packages of another machine are not installed"
    );
    let yaml = read_text(SNAPSHOT_YAML);
    let sorted = |document: &Document| {
        let mut packs = packs(document);
        packs.sort();
        packs
    };
    assert_eq!(sorted(&yaml), sorted(&document));
}

#[test]
fn addresses_and_commits_of_a_snapshot_are_taken_as_the_manager_takes_them() {
    let document = read_text(&format!(
        r#"{{"git_custom_nodes": {{
            "git@github.com:a/One.git": {{"hash": "{COMMIT}\n", "disabled": false}},
            "https://x.example/two": {{"hash": "unknown", "disabled": false}},
            "null": {{"hash": "unknown", "disabled": false}}
        }}, "file_custom_nodes": [{{"filename": "mine.py", "disabled": false}}], "nodes": 1}}"#
    ));
    let one = format!("One: https://github.com/a/One@{COMMIT}");
    assert_eq!(packs(&document), [one.as_str(), "two: https://x.example/two"]);
    insta::assert_snapshot!(document.warnings.join("\n"));
}

#[test]
fn all_mistakes_of_a_snapshot_are_told() {
    insta::assert_snapshot!(mistakes(
        r#"{"git_custom_nodes": {"/srv/pack": {"hash": "main"}, "https://me:hunter2@x.example/..": {}},
            "cnr_custom_nodes": {"../x": "1.0.0", "a": 1, "b": "nightly"}, "pips": []}"#
    ));
    let broken = mistakes("{\n\"git_custom_nodes\": {\n");
    assert!(broken.starts_with("line 3: "), "{broken}");
}

#[test]
fn a_build_of_comfy_cli_gives_its_packs_and_tells_the_rest() {
    let document = read_text(BUILD);
    insta::assert_snapshot!(packs(&document).join("\n"));
    insta::assert_snapshot!(document.warnings.join("\n"));
    assert_eq!(
        document.packages, [""; 0],
        "the packages of another machine are not installed"
    );
}

#[test]
fn a_build_written_by_hand_has_packages_and_folders_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("custom_nodes/mine")).unwrap();
    let text = format!(
        "schema: comfy-build/1\nname: x\ndescription: ''\ndefinition:\n  customNodes:\n    - {{name: mine, source: local, localPath: mine}}\n    - {{name: up, source: local, localPath: ../mine}}\n    - name: gguf\n      repository: https://github.com/city96/ComfyUI-GGUF\n      commit: {COMMIT}\n      gitRef: main\n  pipDependencies: |\n    # By hand.\n    a>=1 # why\n    b==2\n"
    );
    let document = format::read(&text, Some(folder.path()));
    let mine = format!("mine: {}", folder.path().join("custom_nodes/mine").display());
    let gguf = format!("gguf: https://github.com/city96/ComfyUI-GGUF@{COMMIT}");
    assert_eq!(packs(&document), [mine, gguf]);
    assert_eq!(document.packages, ["a>=1", "b==2"]);
    assert_eq!(document.warnings.len(), 1);
    assert!(document.warnings[0].starts_with("entry 2 of `customNodes`, `up`, is not taken"));
}

#[test]
fn unknown_keys_of_an_entry_are_told_with_their_place() {
    let build = read_text(
        "schema: comfy-build/1\ndefinition:\n  customNodes:\n    - {name: a, id: a, registryVersion: 1.0.0, comit: x, localDigest: 5d}\n    - {name: b, repository: 'https://x.example/b', branch: main, other: null}\n",
    );
    assert_eq!(packs(&build), ["a: a@1.0.0", "b: https://x.example/b"]);
    assert_eq!(
        build.warnings,
        [
            "entry 1 of `customNodes`, `a`, has `comit`, which is not known, and not taken",
            "entry 2 of `customNodes`, `b`, has `branch`, which is not known, and not taken",
        ]
    );
    let snapshot = read_text(
        r#"{"git_custom_nodes": {"https://me:hunter2@x.example/two": {"commit": "x", "disabled": false}},
            "file_custom_nodes": [{"filename": "websocket_image_save.py", "disabled": false, "size": 1}, "x.py"]}"#,
    );
    assert_eq!(
        snapshot.warnings,
        [
            "https://x.example/two in `git_custom_nodes` has `commit`, which is not known, and not taken",
            "entry 1 of `file_custom_nodes` has `size`, which is not known, and not taken",
        ]
    );
}

#[test]
fn all_mistakes_of_a_build_are_told() {
    insta::assert_snapshot!(mistakes(
        "schema: comfy-build/1\ndefinition:\n  customNodes:\n    - {name: a, id: a, registryVersion: 1.0}\n    - {name: ../b, repository: 'https://x.example/b', gitRef: main}\n    - {name: c, repository: 's3://me:hunter2@x/c'}\n    - d\n  pipDependencies: \"-e .\"\n"
    ));
    assert!(mistakes("schema: comfy-build/2\ndefinition: {}\n").contains("its `schema` is comfy-build/2"));
    assert!(mistakes("schema: comfy-build/1\n").contains("`definition` is no table"));
}

#[test]
fn what_is_no_manifest_is_told_with_what_is_known() {
    for text in [
        "{\"nodes\": [], \"links\": []}",
        "[[pack]",
        "a:\n  b: 1\n",
        "--- 1",
        "a: [\n",
    ] {
        let told = mistakes(text);
        assert!(
            told.contains("a manifest is a TOML file") || told.contains("line"),
            "{text}: {told}"
        );
    }
}

#[test]
fn a_nest_of_anchors_does_not_grow_without_end() {
    let mut lines = vec!["a0: &a0 [x, x, x, x, x, x, x, x, x, x]".to_owned()];
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        lines.push(format!("a{level}: &a{level} [{}]", vec![before; 10].join(", ")));
    }
    let text = lines.join("\n");
    assert!(!mistakes(&text).is_empty());
}

#[tokio::test]
async fn the_list_and_the_manifest_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let (path, source) = file(
        &folder,
        &format!(
            "packages = [\"x\"]\n[[pack]]\nid = \"A\"\nversion = \"1.0.0\"\n[[pack]]\nrepository = \"https://github.com/O/B.git\"\ncommit = \"{COMMIT}\"\n[[pack]]\nfolder = \"mine\"\n"
        ),
    );
    let entries = format!("a@1.0.0,https://github.com/o/b@{COMMIT}");
    let manifest = read(&config(&entries, Some(source))).await.unwrap();
    let mine = format!("mine: {}", path.parent().unwrap().join("mine").display());
    let b = format!("b: https://github.com/o/b@{COMMIT}");
    assert_eq!(taken(&manifest), ["a: a@1.0.0".to_owned(), b, mine]);
    assert_eq!(manifest.packages, ["x"]);
}

#[tokio::test]
async fn a_folder_of_the_list_does_not_move_with_the_working_directory() {
    let manifest = read(&config("./mine", None)).await.unwrap();
    let expected = std::env::current_dir().unwrap().join("mine");
    assert_eq!(manifest.named[0].pack.origin, PackOrigin::Folder(expected));
}

/// The packs, each with why it is refused, if it is.
fn with_refusals(manifest: Manifest, allow_floating: bool) -> String {
    let lines = united(manifest.named, allow_floating)
        .into_iter()
        .map(|(pack, refusal)| {
            let refusal = refusal.as_deref().unwrap_or("taken");
            format!("{pack}: {refusal}")
        });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn of_packs_that_do_not_go_together_the_first_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (path, source) = file(
        &folder,
        &format!(
            "[[pack]]\nid = \"a\"\nversion = \"2.0.0\"\n[[pack]]\nrepository = \"https://x.example/B\"\ncommit = \"{COMMIT}\"\n[[pack]]\nid = \"c\"\nversion = \"1.0.0\"\nname = \"d\"\n[[pack]]\nid = \"e\"\nversion = \"1.0.0\"\n"
        ),
    );
    let manifest = read(&config("a@1.0.0,b@1.0.0,c@1.0.0", Some(source))).await.unwrap();
    let told = with_refusals(manifest, false).replace(&path.display().to_string(), "nodes.toml");
    insta::assert_snapshot!(told);
}

#[tokio::test]
async fn what_moves_is_refused_with_the_way_to_pin_it() {
    let moving = "a,a@1.0.0,https://x.example/b,https://x.example/c@main,https://x.example/d@6ea2651e";
    let manifest = read(&config(moving, None)).await.unwrap();
    insta::assert_snapshot!(with_refusals(manifest.clone(), false));
    let allowed = with_refusals(manifest, true);
    let refused: Vec<_> = allowed.lines().filter(|line| !line.ends_with(": taken")).collect();
    // There it is two versions of one pack.
    assert!(refused.len() == 1 && refused[0].starts_with("a@1.0.0: "), "{allowed}");
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_is_told_with_the_variable() {
    let folder = tempfile::tempdir().unwrap();
    let missing = ManifestSource::File(folder.path().join("none.toml"));
    let error = read(&config("", Some(missing))).await.unwrap_err().to_string();
    assert!(error.contains("none.toml cannot be read: No such file"), "{error}");
    assert!(error.ends_with("CUSTOM_NODES_MANIFEST names it"), "{error}");
    let (path, source) = file(&folder, "");
    std::fs::write(&path, vec![b'#'; LARGEST + 1]).unwrap();
    let error = read(&config("", Some(source.clone()))).await.unwrap_err().to_string();
    assert!(error.contains("more than 1000000 bytes"), "{error}");
    std::fs::write(&path, [0xff]).unwrap();
    let error = read(&config("", Some(source))).await.unwrap_err().to_string();
    assert!(error.contains("no text in UTF-8"), "{error}");
}

/// A server on 127.0.0.1 with manifests.
async fn server() -> Url {
    let router = Router::new()
        .route("/good", get(|| async { "[[pack]]\nid = \"a\"\nversion = \"1.0.0\"\n" }))
        .route("/relative", get(|| async { "[[pack]]\nfolder = \"mine\"\n" }))
        .route("/big", get(|| async { "#".repeat(LARGEST + 1) }))
        .route("/gone", get(|| async { StatusCode::NOT_FOUND }));
    let url = serve(router).await.replace("://", "://me:hunter2@");
    url.parse().unwrap()
}

#[tokio::test]
async fn a_manifest_may_be_on_the_web() {
    let server = server().await;
    let at = |path: &str| config("", Some(ManifestSource::Url(server.join(path).unwrap())));
    assert_eq!(taken(&read(&at("good?key=hunter2")).await.unwrap()), ["a: a@1.0.0"]);
    for (path, part) in [
        ("gone?key=hunter2", "the server answers 404 Not Found"),
        ("big?key=hunter2", "more than 1000000 bytes"),
        (
            "relative?key=hunter2",
            "has a relative `folder`, but the manifest lies in none",
        ),
    ] {
        let error = read(&at(path)).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
