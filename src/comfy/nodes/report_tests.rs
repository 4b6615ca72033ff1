use super::*;

fn pack(name: &str, state: PackState, error: Option<&str>) -> PackReport {
    PackReport {
        name: name.to_owned(),
        version: Some("1.2.3".to_owned()),
        folder: Path::new("/base/custom_nodes").join(name),
        state,
        seconds: Some(0.75),
        classes: Vec::new(),
        error: error.map(str::to_owned),
        asked: true,
    }
}

#[test]
fn a_report_is_kept_and_read_back() {
    let data = tempfile::tempdir().unwrap();
    assert_eq!(NodesReport::read(data.path()), None);
    let report = NodesReport {
        generation: 2,
        at: 1_767_225_600,
        counted: true,
        packs: vec![
            PackReport {
                classes: vec!["A".to_owned(), "B".to_owned()],
                ..pack("good", PackState::Loaded, None)
            },
            pack("bad", PackState::Failed, Some("No module named 'x'")),
        ],
    };
    report.write(data.path()).unwrap();
    assert_eq!(NodesReport::read(data.path()), Some(report.clone()));
    assert_eq!(
        report.summary(),
        "2 packs, 1 of them failed; 2 classes; imported in 1.5 s"
    );
    assert_eq!(report.time(), "2026-01-01T00:00:00Z");
    fs::write(data.path().join("nodes/report.json"), "{").unwrap();
    assert_eq!(NodesReport::read(data.path()), None);
}

#[test]
fn trouble_names_the_pack_the_reason_and_the_next_step() {
    let text = pack("KJNodes", PackState::Failed, Some("No module named 'x'"))
        .trouble()
        .unwrap();
    assert!(
        text.starts_with("KJNodes 1.2.3 failed to load: No module named 'x'. The pack's requirements do not name `x`"),
        "{text}"
    );
    let text = pack("far", PackState::NotInstalled, Some("no release 9.9.9. Take 1.0.0."))
        .trouble()
        .unwrap();
    assert_eq!(text, "far 1.2.3 is not installed: no release 9.9.9. Take 1.0.0");
    assert_eq!(pack("page", PackState::NoNodes, None).trouble(), None);
    assert_eq!(pack("good", PackState::Loaded, None).trouble(), None);
}

#[test]
fn what_loaded_is_told_with_its_time_and_its_classes() {
    let good = PackReport {
        classes: vec!["A".to_owned()],
        ..pack("good", PackState::Loaded, None)
    };
    let report = NodesReport {
        counted: true,
        packs: vec![
            good.clone(),
            pack("page", PackState::NoNodes, None),
            pack("none", PackState::NoNodes, Some("it has no mappings")),
            pack("bad", PackState::Failed, Some("no")),
        ],
        ..NodesReport::default()
    };
    let told: Vec<String> = report.successes().collect();
    assert_eq!(
        told,
        [
            "good 1.2.3 loaded in 0.8 s with 1 class",
            "page 1.2.3 loaded in 0.8 s, without classes"
        ]
    );
    assert_eq!(good.success(false).as_deref(), Some("good 1.2.3 loaded in 0.8 s"));
}

#[test]
fn errors_are_one_line() {
    assert_eq!(one_line("first\n  second\u{1b}[2J\n\n"), "first second[2J");
    assert!(one_line(&"x".repeat(100_000)).len() < 700);
}
