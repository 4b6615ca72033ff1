use super::*;

#[test]
fn paths_are_quoted_for_python() {
    assert_eq!(quoted(Path::new("/a b/\"ü\\")), r#""/a b/\"\U000000fc\\""#);
}

#[test]
fn builds_get_no_key_of_the_workers() {
    let more = OF_UV.map(str::to_owned);
    let passes = |name: &str| crate::comfy::process::environment::passes(name.as_ref(), &more);
    assert!(
        [
            "UV_DEFAULT_INDEX",
            "PIP_INDEX_URL",
            "GIT_SSH_COMMAND",
            "SSL_CERT_FILE",
            "https_proxy"
        ]
        .map(passes)
            == [true; 5]
    );
    assert!(["RUNPOD_AI_API_KEY", "BUCKET_SECRET_ACCESS_KEY", "HF_TOKEN", "API_KEY"].map(passes) == [false; 4]);
}

#[test]
fn the_package_that_uv_gave_up_at_is_read_from_its_line() {
    for (line, name) in [
        ("error: Failed to build `Bad.One==1.0`", Some("bad-one")),
        ("  × Failed to download `torch==2.8.0`", Some("torch")),
        (
            "  × Failed to download and build `z @ git+https://e.example/z@40`",
            Some("z"),
        ),
        ("  ╰─▶ Hash mismatch for `torch==2.8.0`", Some("torch")),
        ("  ├─▶ Failed to fetch: `https://e.example/x.whl`", None),
        ("      building `x`", None),
    ] {
        assert_eq!(given_up(line).as_deref(), name, "{line}");
    }
}

#[test]
fn what_comfyui_has_is_left_out_of_a_lock() {
    let base = Base {
        folders: Vec::new(),
        packages: [("numpy".to_owned(), "2.4.6+comfyui".to_owned())].into(),
    };
    let text = "gguf==0.19.0 \\\n    --hash=sha256:70 \\\n    --hash=sha256:db\n    # via -r x\n\
                numpy==2.4.6+comfyui \\\n    --hash=sha256:9f\n\
                Some.Pack @ https://e.example/x.whl \\\n    --hash=sha256:91\n\
                gitted @ git+https://e.example/g@405a\n";
    let lock = Lock::read(text, &base);
    assert_eq!(lock.names, ["gguf", "some-pack", "gitted"]);
    assert_eq!(
        lock.hashed,
        "gguf==0.19.0 \\\n    --hash=sha256:70 \\\n    --hash=sha256:db\n\
         Some.Pack @ https://e.example/x.whl \\\n    --hash=sha256:91\n"
    );
    assert_eq!(lock.git, "gitted @ git+https://e.example/g@405a\n");
    assert_eq!(base.version("NumPy"), Some("2.4.6"));
}

#[test]
fn a_reason_is_one_line_without_our_marks() {
    let said = [
        "error: No solution found when resolving dependencies",
        "  cause: Because you require numpy<2 and numpy==2.4.6+comfyui, we can conclude that your requirements are unsatisfiable.",
        "",
        "hint: try something",
    ];
    let old = [
        "  × No solution found when resolving dependencies:",
        "  ╰─▶ Because you require numpy<2 and numpy==2.4.6+comfyui, we can conclude that your",
        "      requirements are unsatisfiable.",
    ];
    for said in [&said[..], &old] {
        let said: Vec<String> = said.iter().map(|line| (*line).to_owned()).collect();
        assert_eq!(reason(&said), "Because you require numpy<2 and numpy==2.4.6");
    }
    assert_eq!(
        reason(&["error: Failed to build `x`".to_owned()]),
        "Failed to build `x`"
    );
}
