use super::*;
use crate::comfy::process::output::{Output, Ring};

/// The log of a start of ComfyUI 0.30.0 with packs that fail in all the ways it knows.
const LOG: &str = include_str!("tests/custom_nodes.log");

/// What is kept of a log.
async fn noted(log: &str) -> Vec<Remark> {
    let notes = NodeLog::default();
    let (output, end) = Output::start(Ring::default(), notes.clone());
    output.read(log.as_bytes(), 3).await;
    end.flushed().await;
    assert_eq!(notes.of(2), []);
    notes.of(3)
}

#[tokio::test]
async fn what_went_wrong_with_each_pack_is_read_from_the_log() {
    let remarks = noted(LOG).await;
    let said = |name: &str| -> Vec<Said> {
        let pack = Path::new("/base/custom_nodes").join(name);
        let of_pack = remarks.iter().filter(|remark| remark.pack == pack);
        of_pack.map(|remark| remark.said.clone()).collect()
    };
    let done = |done| Said::Imported { seconds: 0.0, done };
    let raised = |text: &str| vec![Said::Raised(text.to_owned()), done(false)];
    assert_eq!(said("good-pack"), [done(true)]);
    assert_eq!(said("v3_good"), [done(true)]);
    assert_eq!(said("web_only"), [done(true)]);
    assert_eq!(
        said("missing.package"),
        raised("No module named 'surely_not_installed_anywhere'")
    );
    assert_eq!(said("import_error"), raised("no licence for this"));
    assert_eq!(said("bad_entrypoint"), raised("entry failed"));
    assert_eq!(said("empty_message"), raised("AssertionError"));
    assert_eq!(said("multi_line"), raised("first line"));
    assert_eq!(said("syntax_error"), raised("invalid syntax (__init__.py, line 1)"));
    assert_eq!(said("no_mappings"), [Said::NoMappings, done(false)]);
    let script = "libGL.so.1: cannot open shared object file: No such file or directory";
    assert_eq!(
        said("bad_prestartup"),
        [Said::PrestartupRaised(script.to_owned()), done(true)]
    );
    let packs: std::collections::BTreeSet<_> = remarks.iter().map(|remark| &remark.pack).collect();
    assert_eq!(packs.len(), 13, "{packs:#?}");
}

#[test]
fn other_lines_say_nothing_of_packs() {
    for line in [
        "",
        "Import times for custom nodes:",
        "Prompt executed in 1.2 seconds",
        "0.2 seconds",
        "   1.0 seconds (PRESTARTUP FAILED): /base/custom_nodes/a",
        "Skip this",
        "Cannot import name",
        "comfy_entrypoint in the mood",
        "Failed to execute startup-script: /a.py",
    ] {
        assert_eq!(read(line), None, "{line}");
    }
    let entry = read("comfy_entrypoint in /n/a b is not callable, skipping.");
    let said = Said::Raised("its comfy_entrypoint is not callable".to_owned());
    assert_eq!(
        entry,
        Some(Remark {
            pack: "/n/a b".into(),
            said
        })
    );
}

#[test]
fn the_next_start_has_notes_of_its_own() {
    let notes = NodeLog::default();
    notes.line(1, "0.1 seconds: /n/a", || None);
    notes.line(2, "0.1 seconds: /n/b", || None);
    assert_eq!(notes.of(1), []);
    assert_eq!(notes.of(2).len(), 1);
}
