use super::*;
use crate::workflow::schema::custom_classes;

/// `/object_info` of ComfyUI 0.30.0 with the packs of the log, cut to some classes.
const OBJECT_INFO: &str = include_str!("../../process/tests/object_info.json");

fn import(folder: &str, outcome: Outcome) -> Import {
    Import {
        folder: folder.into(),
        seconds: 1.5,
        outcome,
        prestartup_error: None,
    }
}

fn remark(pack: &str, said: Said) -> Remark {
    Remark {
        pack: pack.into(),
        said,
    }
}

fn asked(name: &str, failure: Option<&str>) -> AskedPack {
    AskedPack {
        name: name.to_owned(),
        version: Some("1.0.0".to_owned()),
        folder: Path::new("/set/custom_nodes").join(name),
        failure: failure.map(str::to_owned),
    }
}

/// `name state error`, a line each.
fn told(packs: &[PackReport]) -> Vec<String> {
    packs
        .iter()
        .map(|pack| {
            let error = pack.error.as_deref().unwrap_or("-");
            format!("{} {}: {error}", pack.name, pack.state)
        })
        .collect()
}

#[test]
fn each_source_says_what_the_others_cannot_see() {
    let classes = custom_classes(OBJECT_INFO.as_bytes()).unwrap();
    let failed = |error: &str| Outcome::Failed(error.to_owned());
    let imports = [
        import("/n/good-pack", Outcome::Done),
        import("/n/v3_good", Outcome::Done),
        import("/n/web_only", Outcome::Done),
        import("/n/no_mappings", Outcome::Done),
        import("/n/bad_entrypoint", Outcome::Done),
        import("/n/missing.package", failed("ModuleNotFoundError: No module named 'x'")),
        import("/n/exits", failed("SystemExit: 3")),
        import("/n/single.py", failed("KeyError: 'a'\n  at b")),
        Import {
            prestartup_error: Some("OSError: no".to_owned()),
            ..import("/n/odd_start", Outcome::Done)
        },
    ];
    let remarks = [
        remark("/n/missing.package", Said::Raised("No module named 'x'".to_owned())),
        remark("/n/no_mappings", Said::NoMappings),
        remark(
            "/n/no_mappings",
            Said::Imported {
                seconds: 0.0,
                done: false,
            },
        ),
        remark("/n/bad_entrypoint", Said::Raised("entry failed".to_owned())),
    ];
    let sources = Sources {
        imports: &imports,
        remarks: &remarks,
        classes: Some(&classes),
        ended: None,
        ..Sources::of_nothing()
    };
    let packs = gather(&sources);
    assert_eq!(
        told(&packs),
        [
            "bad_entrypoint failed: entry failed",
            "exits failed: SystemExit: 3",
            "good-pack loaded: -",
            "missing.package failed: No module named 'x'",
            "no_mappings no nodes: it has neither NODE_CLASS_MAPPINGS nor comfy_entrypoint, by which ComfyUI finds nodes",
            "odd_start no nodes: its prestartup script failed: OSError: no",
            "single failed: KeyError: 'a' at b",
            "v3_good loaded: -",
            "web_only no nodes: -",
        ]
    );
    assert_eq!(packs[2].classes, ["GoodOne", "Good Two (x)"]);
    assert_eq!(packs[7].classes, ["V3Good"]);
    assert!(packs.iter().all(|pack| pack.seconds == Some(1.5) && !pack.asked));
    // Before anybody has asked for classes, a pack that was imported counts as loaded.
    let early = gather(&Sources {
        classes: None,
        ..sources
    });
    let loaded = early.iter().filter(|pack| pack.state == PackState::Loaded);
    assert_eq!(loaded.count(), 4);
}

#[test]
fn the_log_alone_is_enough() {
    let imported = |done| Said::Imported { seconds: 0.4, done };
    let remarks = [
        remark("/n/a", Said::Raised("No module named 'x'".to_owned())),
        remark("/n/a", imported(false)),
        remark("/n/b", imported(true)),
        remark("/n/c", imported(false)),
        remark("/n/d", Said::PrestartupRaised("OSError: no".to_owned())),
        remark("/n/d", imported(true)),
        remark("/comfyui/comfy_extras/nodes_x.py", Said::Raised("no".to_owned())),
    ];
    let packs = gather(&Sources {
        remarks: &remarks,
        ..Sources::of_nothing()
    });
    assert_eq!(
        told(&packs),
        [
            "a failed: No module named 'x'",
            "b loaded: -",
            "c failed: -",
            "d loaded: its prestartup script failed: OSError: no",
        ]
    );
    assert_eq!(packs[1].seconds, Some(0.4));
}

#[test]
fn what_was_asked_for_is_told_of_in_any_case() {
    let wanted = [
        asked("good", None),
        asked("absent", Some("there is no release 9.9.9")),
        asked("ignored", None),
    ];
    let imports = [import("/set/custom_nodes/good", Outcome::Done)];
    let packs = gather(&Sources {
        asked: &wanted,
        imports: &imports,
        ..Sources::of_nothing()
    });
    assert_eq!(
        told(&packs),
        [
            "absent not installed: there is no release 9.9.9",
            "good loaded: -",
            "ignored failed: ComfyUI did not import it",
        ]
    );
    assert!(packs.iter().all(|pack| pack.asked && pack.version.is_some()));
    // Where nothing was heard of any pack, nothing is said, until the classes are counted.
    let wanted = &wanted[..1];
    let unheard = Sources {
        asked: wanted,
        ..Sources::of_nothing()
    };
    assert_eq!(told(&gather(&unheard)), ["good loaded: -"]);
    let none = IndexMap::new();
    let counted = gather(&Sources {
        classes: Some(&none),
        ..unheard
    });
    assert_eq!(told(&counted), ["good failed: ComfyUI did not import it"]);
    let step = counted[0].next_step().unwrap();
    assert!(step.contains("--disable-all-custom-nodes"), "{step}");
}

#[test]
fn a_pack_under_which_comfyui_dies_is_named() {
    let imports = [import("/n/a", Outcome::Done), import("/n/b", Outcome::Running)];
    let wanted = [asked("later", None), asked("absent", Some("no such release"))];
    let packs = gather(&Sources {
        asked: &wanted,
        imports: &imports,
        ended: Some("was killed by SIGSEGV"),
        ..Sources::of_nothing()
    });
    assert_eq!(
        told(&packs),
        [
            "a loaded: -",
            "absent not installed: no such release",
            "b failed: ComfyUI was killed by SIGSEGV while it was imported"
        ]
    );
}

#[test]
fn what_is_ours_is_told_of_only_where_it_fails() {
    let ours = [PathBuf::from("/run/collector")];
    let packs = |outcome| {
        let imports = [
            import("/run/collector/custom_nodes/qwen_image_worker_collector.py", outcome),
            import("/n/a", Outcome::Done),
        ];
        told(&gather(&Sources {
            imports: &imports,
            ours: &ours,
            ..Sources::of_nothing()
        }))
    };
    assert_eq!(packs(Outcome::Done), ["a loaded: -"]);
    assert_eq!(packs(Outcome::Failed("no".to_owned())).len(), 2);
}

#[test]
fn folders_are_the_same_by_whatever_links_they_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = folder.path().join("run/custom_nodes");
    std::fs::create_dir_all(nodes.join("a")).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(folder.path().join("run"), &link).unwrap();
    let wanted = [AskedPack {
        folder: link.join("custom_nodes/a"),
        ..asked("a", None)
    }];
    let imports = [import(&nodes.join("a").to_string_lossy(), Outcome::Done)];
    let sources = Sources {
        asked: &wanted,
        imports: &imports,
        ..Sources::of_nothing()
    };
    assert_eq!(told(&gather(&sources)), ["a loaded: -"]);
    let ours = [link];
    assert!(gather(&Sources { ours: &ours, ..sources }).is_empty());
}

#[test]
fn of_two_packs_of_one_name_the_one_that_loaded_has_the_classes() {
    let classes: IndexMap<String, Vec<String>> = [("custom_nodes.a".to_owned(), vec!["A".to_owned()])].into();
    let imports = [
        import("/n/a", Outcome::Failed("no".to_owned())),
        import("/m/a", Outcome::Done),
    ];
    let packs = gather(&Sources {
        imports: &imports,
        classes: Some(&classes),
        ..Sources::of_nothing()
    });
    let of = |folder: &str| packs.iter().find(|pack| pack.folder == Path::new(folder)).unwrap();
    assert_eq!(of("/m/a").classes, ["A"]);
    assert_eq!((of("/n/a").state, of("/n/a").classes.len()), (PackState::Failed, 0));
}

impl Sources<'_> {
    fn of_nothing() -> Self {
        Self {
            asked: &[],
            imports: &[],
            remarks: &[],
            classes: None,
            ended: None,
            ours: &[],
            root: Path::new("/comfyui"),
        }
    }
}
