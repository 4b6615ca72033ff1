//! What is run, word by word.

use super::*;

fn launch(extra: &[&str]) -> Launch {
    Launch {
        extra_args: extra.iter().map(|word| (*word).to_owned()).collect(),
        ..Launch::new("/opt/python", "/opt/comfyui", "/run/one")
    }
}

fn line(launch: &Launch) -> String {
    let words = launch.arguments(4711, &Flags::of(&launch.root));
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

#[test]
fn the_plain_command_line() {
    assert_eq!(
        line(&launch(&[])),
        "--listen 127.0.0.1 --port 4711 --temp-directory /run/one --database-url sqlite:///:memory: --verbose DEBUG \
         --preview-method latent2rgb --disable-auto-launch --disable-metadata"
    );
}

#[test]
fn every_folder_and_switch_has_its_flag() {
    let launch = Launch {
        base_dir: Some("/data".into()),
        extra_model_paths: vec!["/data/paths.yaml".into(), "/data/volumes.yaml".into()],
        log_level: "info".into(),
        cpu: true,
        ..launch(&[])
    };
    assert_eq!(
        line(&launch),
        "--listen 127.0.0.1 --port 4711 --base-directory /data --temp-directory /run/one \
         --extra-model-paths-config /data/paths.yaml --extra-model-paths-config /data/volumes.yaml \
         --database-url sqlite:///:memory: --verbose INFO --preview-method latent2rgb --cpu --disable-auto-launch \
         --disable-metadata"
    );
}

#[test]
fn what_a_version_does_not_know_is_left_out() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("comfy")).unwrap();
    std::fs::write(root.path().join("main.py"), "").unwrap();
    let declare = |flags: &[&str]| {
        let lines = flags.iter().map(|flag| format!("parser.add_argument(\"{flag}\")\n"));
        std::fs::write(root.path().join("comfy/cli_args.py"), lines.collect::<String>()).unwrap();
    };
    let mut launch = Launch::new("/opt/python", root.path(), "/run/one");
    declare(&["--listen", "--port", "--temp-directory", "--verbose"]);
    assert_eq!(
        line(&launch),
        "--listen 127.0.0.1 --port 4711 --temp-directory /run/one --verbose DEBUG"
    );
    launch.check().unwrap();
    // Where its files go is never left to chance.
    launch.base_dir = Some("/data".into());
    let error = launch.check().unwrap_err();
    assert!(matches!(error, ProcessError::TooOld("--base-directory")), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("COMFYUI_VERSION")));
    declare(&["--listen", "--base-directory"]);
    assert!(matches!(launch.check(), Err(ProcessError::TooOld("--temp-directory"))));
}

#[test]
fn a_flag_of_the_user_takes_the_place_of_ours() {
    let mut launch = launch(&[
        "--verbose",
        "ERROR",
        "--preview-method=none",
        "--temp-dir",
        "/x",
        "--database-url=a",
        "--lowvram",
        "--auto-launch",
        "--disable-metadata",
    ]);
    launch.cpu = true;
    assert_eq!(
        line(&launch),
        "--listen 127.0.0.1 --port 4711 --verbose ERROR --preview-method=none --temp-dir /x --database-url=a --lowvram \
         --auto-launch --disable-metadata"
    );
}

#[test]
fn knows_the_folders_that_the_user_gives() {
    let mut launch = launch(&["--output-directory", "/o", "--base-directory=b"]);
    assert_eq!(launch.output_directory(), Path::new("/o"));
    assert_eq!(launch.input_directory(), Path::new("/opt/comfyui/b/input"));
    launch.extra_args.clear();
    assert_eq!(launch.output_directory(), Path::new("/opt/comfyui/output"));
    launch.base_dir = Some("/data".into());
    assert_eq!(launch.input_directory(), Path::new("/data/input"));
}

#[test]
fn the_users_folder_for_temporary_files_is_the_one_that_is_used() {
    assert_eq!(launch(&[]).temp_directory(), Path::new("/run/one/temp"));
    for arguments in [
        &["--temp-directory", "/x"][..],
        &["--temp-directory=/x"],
        &["--temp-dir=/x"],
    ] {
        assert_eq!(
            launch(arguments).temp_directory(),
            Path::new("/x/temp"),
            "{arguments:?}"
        );
    }
    assert_eq!(
        launch(&["--temp-directory=y"]).temp_directory(),
        Path::new("/opt/comfyui/y/temp")
    );
}

#[test]
fn refuses_what_would_move_comfyui() {
    for argument in [
        "--port",
        "--port=1",
        "--por",
        "--listen",
        "--liste=0.0.0.0",
        "--tls-keyfile=k",
    ] {
        let error = launch(&[argument]).check().unwrap_err();
        assert!(matches!(error, ProcessError::ReservedArgument(_)), "{argument}");
        assert!(error.to_string().contains(argument));
        assert!(error.hint().is_some());
    }
    for argument in ["--preview-method", "--list-feature-flags", "--lowvram", "-p", "port"] {
        assert!(!is_reserved(argument), "{argument}");
    }
}

#[test]
fn an_allocator_that_is_preloaded_already_stays() {
    let library = Path::new("/lib/libtcmalloc.so.4");
    assert_eq!(preload(library, None), "/lib/libtcmalloc.so.4");
    assert_eq!(preload(library, Some("/x.so".into())), "/lib/libtcmalloc.so.4:/x.so");
    assert_eq!(preload(library, Some("/jemalloc.so".into())), "/jemalloc.so");
}

#[test]
fn the_start_hook_stands_before_what_python_looks_through_anyway() {
    let hook = Path::new("/run/one/start");
    assert_eq!(python_path(hook, None), "/run/one/start");
    assert_eq!(python_path(hook, Some("".into())), "/run/one/start");
    assert_eq!(python_path(hook, Some("/a:/b".into())), "/run/one/start:/a:/b");
    let mut launch = launch(&[]);
    launch.env.push(("PYTHONPATH".into(), "/packs".into()));
    assert_eq!(launch.python_path(), Some("/packs".into()));
}

#[test]
fn finds_a_library_by_the_order_of_its_names() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["liba.so", "libb.so"];
    assert_eq!(find_library(&[folder.path()], &names), None);
    std::fs::write(folder.path().join("libb.so"), "").unwrap();
    std::fs::write(folder.path().join("liba.so"), "").unwrap();
    assert_eq!(
        find_library(&[folder.path()], &names),
        Some(folder.path().join("liba.so"))
    );
}
