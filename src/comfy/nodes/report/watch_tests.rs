use super::*;
use crate::comfy::process::Ending;

#[test]
fn the_version_stands_in_the_project_file() {
    let pack = tempfile::tempdir().unwrap();
    assert_eq!(version(pack.path()), None);
    let file = pack.path().join("pyproject.toml");
    for (text, expected) in [
        ("[project]\nname = \"x\"\nversion = \"1.2.3\"\n", Some("1.2.3")),
        ("[project]\nname = \"x\"\ndynamic = [\"version\"]\n", None),
        ("[tool.black]\n", None),
        ("no toml", None),
    ] {
        fs::write(&file, text).unwrap();
        assert_eq!(version(pack.path()).as_deref(), expected, "{text}");
    }
}

#[test]
fn a_folder_with_nothing_of_the_users_is_not_asked_about() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let watched = Watched {
        ours: vec![path("websocket_image_save.py")],
        ..Watched::default()
    };
    assert!(!watched.holds_packs(&path("nowhere")));
    fs::create_dir(path("__pycache__")).unwrap();
    fs::create_dir(path("off.disabled")).unwrap();
    fs::write(path("websocket_image_save.py"), "").unwrap();
    fs::write(path("example_node.py.example"), "").unwrap();
    assert!(!watched.holds_packs(folder.path()));
    fs::write(path("mine.py"), "").unwrap();
    assert!(watched.holds_packs(folder.path()));
}

fn reporter(data: &Path) -> Reporter {
    Reporter {
        watched: Watched {
            data_dir: data.to_owned(),
            ..Watched::default()
        },
        board: NodesBoard::default(),
        log: NodeLog::default(),
        summed_up: Mutex::default(),
    }
}

fn start(reporter: &Reporter, generation: u64, ended: Option<&str>, outcome: Outcome) -> Start {
    let import = Import {
        folder: "/n/a".into(),
        seconds: 0.1,
        outcome,
        prestartup_error: None,
    };
    Start {
        generation,
        imports: vec![import],
        remarks: reporter.log.of(generation),
        ended: ended.map(str::to_owned),
    }
}

#[tokio::test]
async fn the_last_report_is_on_the_board_and_on_the_disk() {
    let data = tempfile::tempdir().unwrap();
    let reporter = reporter(data.path());
    for (generation, ended, outcome) in [
        (1, Some("was killed by SIGSEGV"), Outcome::Running),
        (2, None, Outcome::Done),
    ] {
        let start = start(&reporter, generation, ended, outcome);
        let (report, _) = reporter.report(start, None).await;
        reporter.publish(report, true).await;
        let told = reporter.board.report().unwrap();
        assert_eq!(told.generation, generation);
        assert_eq!(told.packs[0].error.is_some(), ended.is_some());
        assert_eq!(NodesReport::read(data.path()).as_ref(), Some(&*told));
    }
}

#[tokio::test]
async fn what_was_told_of_a_pack_is_not_told_again_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let reporter = reporter(data.path());
    let failed = |text: &str| Outcome::Failed(text.to_owned());
    let report = async |generation, outcome| {
        let start = start(&reporter, generation, None, outcome);
        reporter.report(start, None).await.0
    };
    let first = report(1, failed("KeyError: 'a'")).await;
    let again = report(2, failed("KeyError: 'a'")).await;
    let other = report(3, failed("KeyError: 'b'")).await;
    assert!(first.says_the_same(&again) && first.has_told(&again.packs[0]));
    assert!(!first.says_the_same(&other) && !first.has_told(&other.packs[0]));
    assert!(!reporter.is_news(&NodesReport::default()), "nobody has packs");
    assert!(reporter.is_news(&first) && !reporter.is_news(&again) && reporter.is_news(&other));
    assert!(reporter.is_news(&NodesReport::default()), "they are gone");
}

#[tokio::test]
async fn a_start_that_was_never_ready_is_told_by_what_its_exit_says() {
    let data = tempfile::tempdir().unwrap();
    let reporter = reporter(data.path());
    let Start { imports, .. } = start(&reporter, 4, None, Outcome::Running);
    let exit = Exit {
        generation: 4,
        ending: Ending::Code(7),
        ready_for: None,
        lines: Vec::new(),
        imports,
        out_of_memory: None,
    };
    // Whatever stands in its folder, such as what the next start has imported by now.
    reporter.never_ready(&exit).await;
    let told = reporter.board.report().unwrap();
    assert_eq!(told.generation, 4);
    assert_eq!(
        told.packs[0].error.as_deref(),
        Some("ComfyUI ended with exit status 7 while it was imported")
    );
}
