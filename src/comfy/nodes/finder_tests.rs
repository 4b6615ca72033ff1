use std::fs;

use super::*;

/// A report of packs with these sources.
struct Packs {
    folder: tempfile::TempDir,
    report: NodesReport,
}

impl Packs {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            report: NodesReport::default(),
        }
    }

    fn with(mut self, name: &str, state: PackState, error: Option<&str>, source: &str) -> Self {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("__init__.py"), source).unwrap();
        self.report.packs.push(PackReport {
            name: name.to_owned(),
            version: Some("2.0.0".to_owned()),
            folder,
            state,
            seconds: None,
            classes: Vec::new(),
            error: error.map(str::to_owned),
            asked: true,
        });
        self
    }

    fn finder(&self, registry: &str) -> ClassFinder {
        let board = NodesBoard::default();
        board.hang_up(self.report.clone());
        ClassFinder::new(board, Elsewhere::new(&registry.parse().unwrap()), false)
    }
}

/// An address where nobody is.
const NOBODY: &str = "http://127.0.0.1:1";

fn packs() -> Packs {
    let missing = Some("No module named 'x'");
    Packs::new()
        .with("speaks-of-it", PackState::Failed, missing, "log('Foo')\n")
        .with("ComfyUI-Brings", PackState::Failed, missing, "M = {\"Foo\": Foo}\n")
        .with(
            "loaded",
            PackState::Loaded,
            None,
            "M['Bar'] = 1\nlog('Baz')\nM['Foo'] = 1\n",
        )
        .with("ComfyUI-KJNodes", PackState::Failed, Some("no GPU"), "")
}

#[tokio::test]
async fn a_pack_that_failed_is_known_by_its_sources() {
    let packs = packs();
    let finder = packs.finder(NOBODY);
    let found = finder.look_up(&["Foo", "Bar", "Baz", "Nope"], 0).await;
    let Absence::Broken {
        pack,
        sure: true,
        failure,
        step,
    } = &found["Foo"]
    else {
        panic!("{found:?}")
    };
    assert_eq!(
        (pack.as_str(), failure.as_str()),
        ("ComfyUI-Brings", "failed to load: No module named 'x'")
    );
    assert!(step.as_deref().unwrap().contains("add the package"), "{step:?}");
    assert_eq!(
        found["Bar"],
        Absence::LeftOut {
            pack: "loaded".to_owned(),
            version: Some("2.0.0".to_owned()),
            sure: false,
        }
    );
    assert_eq!(found.len(), 2, "{found:?}");
}

#[tokio::test]
async fn a_known_class_leads_to_its_pack_whether_that_is_here_or_not() {
    const CLASS: &str = "ImageResizeKJv2";
    let packs = packs();
    let found = packs.finder(NOBODY).look_up(&[CLASS], 0).await;
    assert!(
        matches!(&found[CLASS], Absence::Broken { pack, .. } if pack == "ComfyUI-KJNodes"),
        "{found:?}"
    );
    // What somebody else's sources say of it counts less.
    let missing = Some("No module named 'x'");
    let others = Packs::new()
        .with("mentions", PackState::Failed, missing, &format!("log('{CLASS}')"))
        .with("has", PackState::Loaded, None, &format!("M = {{'{CLASS}': 1}}"));
    let found = others.finder(NOBODY).look_up(&[CLASS, "Nope"], 0).await;
    assert!(matches!(&found[CLASS], Absence::NotAsked { .. }), "{found:?}");
    assert_eq!(found.len(), 1);
    // Of two signs that are weak, the pack that failed is the likelier one.
    let others = Packs::new()
        .with("has", PackState::Loaded, None, "M = {'Foo': 1}")
        .with("mentions", PackState::Failed, missing, "log('Foo')");
    let found = others.finder(NOBODY).look_up(&["Foo"], 0).await;
    assert!(
        matches!(&found["Foo"], Absence::Broken { pack, sure: false, .. } if pack == "mentions"),
        "{found:?}"
    );
    let found = Packs::new().finder(NOBODY).look_up(&[CLASS], 0).await;
    let Absence::NotAsked {
        pack,
        version,
        attached,
    } = &found[CLASS]
    else {
        panic!("{found:?}")
    };
    assert_eq!((pack.as_str(), version, *attached), ("comfyui-kjnodes", &None, false));
}

#[tokio::test(start_paused = true)]
async fn the_first_job_of_a_start_is_told_of_a_pack_that_failed_in_it() {
    let mut packs = packs();
    packs.report.generation = 2;
    let finder = packs.finder(NOBODY);
    let mut report = packs.report.clone();
    report.generation = 3;
    report.packs[1].error = Some("No module named 'y'".to_owned());
    let ready = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        finder.board.hang_up(report);
    };
    let (found, ()) = tokio::join!(finder.look_up(&["Foo"], 3), ready);
    assert!(
        matches!(&found["Foo"], Absence::Broken { failure, .. } if failure.contains("'y'")),
        "{found:?}"
    );
}

#[tokio::test]
async fn sources_are_read_again_when_other_packs_are_there() {
    let packs = packs();
    let finder = packs.finder(NOBODY);
    assert!(finder.look_up(&["Late"], 0).await.is_empty());
    let init = |name: &str| packs.folder.path().join(name).join("__init__.py");
    fs::write(init("loaded"), "M = {'Late': 1}").unwrap();
    assert!(
        finder.look_up(&["Late"], 0).await.is_empty(),
        "nothing has changed in the report"
    );
    let mut report = packs.report.clone();
    report.packs[2].state = PackState::Failed;
    finder.board.hang_up(report);
    assert!(matches!(
        finder.look_up(&["Late"], 0).await["Late"],
        Absence::Broken { .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_silent_holds_an_error_up_for_two_seconds() {
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let finder = Packs::new().finder(&url);
    let since = tokio::time::Instant::now();
    assert!(finder.look_up(&["Nope", "Nope2"], 0).await.is_empty());
    assert_eq!(since.elapsed().as_secs(), 2);
    // Once it is known to be silent, it is left alone.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let since = tokio::time::Instant::now();
    assert!(finder.look_up(&["Nope", "Nope3"], 0).await.is_empty());
    assert_eq!(since.elapsed().as_secs(), 0);
}
