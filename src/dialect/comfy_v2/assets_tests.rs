use super::*;

fn code(refused: Result<impl std::fmt::Debug, Refusal>) -> Code {
    refused.unwrap_err().code()
}

#[test]
fn a_path_leads_to_the_inputs_or_to_the_models() {
    for (path, place) in [
        ("photo.png", Placement::Input("photo.png")),
        ("Bär 1.png", Placement::Input("Bär 1.png")),
        ("input/photo.png", Placement::Input("photo.png")),
        ("input/a/b.png", Placement::Input("a/b.png")),
        (
            "models/loras/mine.safetensors",
            Placement::Model("loras", "mine.safetensors"),
        ),
        ("models/unet/a.GGUF", Placement::Model("unet", "a.GGUF")),
    ] {
        assert_eq!(Placement::parse(path).unwrap(), place);
    }
    let long = "x".repeat(2000);
    for wrong in [
        "",
        " ",
        "..",
        "../a",
        "input/../a",
        "input/",
        "input//a",
        "/etc/passwd",
        "\\a",
        "~/a",
        "C:\\a.png",
        "a\\..\\b",
        "output/a.png",
        "temp/a.png",
        "sub/a.png",
        "Input/a.png",
        "a\nb.png",
        "a\0.png",
        "models/a.safetensors",
        "models/loras/a.ckpt",
        "models/loras/a/b.safetensors",
        "models/lo ras/a.safetensors",
        &long,
    ] {
        assert_eq!(code(Placement::parse(wrong)), Code::InvalidRequest, "{wrong}");
    }
}

#[test]
fn a_graph_gets_a_plain_name() {
    let name = |path: &str| Placement::parse(path).unwrap().file_name();
    assert_eq!(name("input/a/photo.png"), "photo.png");
    assert_eq!(name("a:b [input]"), "a_b _input_");
    assert_eq!(name("models/loras/x.safetensors"), "x.safetensors");
    let long = name(&format!("{}.png", "ä".repeat(300)));
    assert!(long.len() <= LONGEST_NAME && long.ends_with("ä.png"), "{long}");
    for path in ["a\\b.png", "photo.png", "a:b [input]"] {
        crate::job::ImageName::parse(&format!("{}/{}", uuid::Uuid::nil(), name(path))).unwrap();
    }
}

#[test]
fn the_texts_of_a_form_are_judged() {
    let mut said = Said::default();
    for (name, text) in [
        ("content_type", "image/png"),
        ("file_path", "a.png"),
        ("expected_hash", HASH),
        ("tags", "input"),
        ("tags", "mine"),
        ("expires_in", "60"),
        ("unknown", "\0"),
    ] {
        said.take(name, text).unwrap();
    }
    said.or_file_name("other.png").unwrap();
    assert_eq!(said.file_path.as_deref(), Some("a.png"));
    assert_eq!(said.tags, ["input", "mine"]);
    assert_eq!(said.lifetime, Some(Duration::from_mins(1)));
    assert_eq!(said.expected_hash, Some(ContentHash::of(b"")));
    let mut plain = Said::default();
    plain.or_file_name("C:\\Users\\me\\a.png").unwrap();
    assert_eq!(plain.file_path.as_deref(), Some("a.png"));
    let many = "x".repeat(300);
    for (name, text) in [
        ("content_type", "png"),
        ("content_type", "image/png\r\nX: y"),
        ("content_type", "ä/b"),
        ("file_path", "../a"),
        ("expected_hash", "blake3:00"),
        ("tags", many.as_str()),
        ("tags", "a\nb"),
        ("expires_in", "59"),
        ("expires_in", "604801"),
        ("expires_in", "1.5"),
        ("expires_in", "-60"),
    ] {
        assert_eq!(
            code(Said::default().take(name, text)),
            Code::InvalidRequest,
            "{name} {text}"
        );
    }
    let mut many = Said::default();
    for _ in 0..MOST_TAGS {
        many.take("tags", "x").unwrap();
    }
    assert_eq!(code(many.take("tags", "x")), Code::InvalidRequest);
}

#[test]
fn a_request_over_known_bytes_is_read() {
    let body = json!({"hash": HASH, "file_path": "a.png", "tags": ["x"], "expires_in": 90, "other": 1});
    let (hash, said) = parse_from_hash(body.to_string().as_bytes()).unwrap();
    assert_eq!(hash, ContentHash::of(b""));
    assert_eq!(
        (said.file_path.as_deref(), said.lifetime),
        (Some("a.png"), Some(Duration::from_secs(90)))
    );
    let nothing = json!({"hash": HASH, "file_path": null, "tags": null, "expires_in": null});
    parse_from_hash(nothing.to_string().as_bytes()).unwrap();
    for wrong in [
        json!({}),
        json!([]),
        json!(null),
        json!({"hash": 7}),
        json!({"hash": "blake3:xyz"}),
        json!({"hash": HASH, "file_path": "/a"}),
        json!({"hash": HASH, "file_path": 7}),
        json!({"hash": HASH, "tags": "x"}),
        json!({"hash": HASH, "expires_in": 59}),
        json!({"hash": HASH, "expires_in": "60"}),
    ] {
        assert_eq!(
            code(parse_from_hash(wrong.to_string().as_bytes())),
            Code::InvalidRequest,
            "{wrong}"
        );
    }
    assert_eq!(code(parse_from_hash(b"{")), Code::InvalidRequest);
}

#[test]
fn nothing_is_sent_that_a_browser_could_run() {
    for own in [
        "image/png",
        "IMAGE/PNG",
        "video/mp4",
        "audio/flac",
        "text/plain; charset=utf-8",
        "application/json",
        "model/gltf-binary",
        BYTES,
    ] {
        assert_eq!(sent_as(own), own);
    }
    for run in [
        "text/html",
        "image/svg+xml",
        "IMAGE/SVG+XML",
        "application/xhtml+xml",
        "text/xml",
        "model/vnd.collada+xml",
        "application/javascript",
        "text/html;a=image/png",
    ] {
        assert_eq!(sent_as(run), BYTES);
    }
}

#[test]
fn a_key_has_some_characters() {
    assert!(idempotency_key("x").is_ok() && idempotency_key(&"ä".repeat(255)).is_ok());
    assert_eq!(code(idempotency_key("")), Code::InvalidRequest);
    assert_eq!(code(idempotency_key(&"x".repeat(10_000))), Code::InvalidRequest);
}

#[test]
fn an_asset_is_told_with_all_that_clients_need() {
    let told = Told {
        id: "id",
        hash: None,
        bytes: 5,
        content_type: "image/png",
        file_path: None,
        tags: &[],
        created: SystemTime::UNIX_EPOCH,
        expires: None,
        link: ("https://example.com/x".parse().unwrap(), SystemTime::UNIX_EPOCH),
        job: None,
    };
    let body = AssetBody::from(told);
    let value = serde_json::to_value(&body).unwrap();
    // Python's SDK refuses an answer without these keys, even where they may be null.
    for key in [
        "id",
        "hash",
        "size_bytes",
        "content_type",
        "created_at",
        "url",
        "url_expires_at",
        "expires_at",
        "file_path",
    ] {
        assert!(value.get(key).is_some(), "{key}");
    }
    assert!(value.get("created_new").is_none() && value.get("job_id").is_none());
    assert_eq!(body.clone().made(true).status, 201);
    assert_eq!(body.clone().made(false).status, 200);
    assert_eq!(body.made_of_known().status, 201);
}
