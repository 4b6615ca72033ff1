use axum::http::HeaderValue;

use super::*;

fn admitted(keys: &[&str], value: Option<&str>) -> bool {
    let keys: Vec<Secret> = keys.iter().map(|key| Secret::new(*key)).collect();
    let mut headers = HeaderMap::new();
    if let Some(value) = value {
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }
    ApiKeys::new(&keys).admit(&headers, None).is_ok()
}

#[test]
fn no_key_set_lets_everybody_in() {
    assert!(admitted(&[], None));
    assert!(admitted(&[], Some("Bearer x")));
}

#[test]
fn each_key_is_taken_with_and_without_bearer() {
    for value in [
        "Bearer one",
        "bearer one",
        "BEARER  one ",
        "one",
        "Bearer two",
        "two",
        // `x:one`, `two:`, `one:two`.
        "Basic eDpvbmU=",
        "basic dHdvOg==",
        "BASIC  b25lOnR3bw== ",
    ] {
        assert!(admitted(&["one", "two"], Some(value)), "{value}");
    }
    // A key may begin with the word.
    assert!(admitted(&["Bearer"], Some("Bearer")));
}

#[test]
fn everything_else_is_refused() {
    for value in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer on",
        "Bearer one1",
        "Bearer ONE",
        "Bearer one,two",
        "Basic one",
        // What is written so, in base64: the key as a part of something, and nothing in between.
        "Basic b25l",
        "Basic eDpvbmUx",
        "Basic eDpvbmU6",
        "Bearerone",
    ] {
        assert!(!admitted(&["one", "two"], Some(value)), "{value}");
    }
    assert!(!admitted(&["one"], None));
}

#[test]
fn a_key_may_come_in_gradios_header_or_in_the_address_of_a_stream() {
    let keys = ApiKeys::new(&[Secret::new("one")]);
    let brings = |headers: &[(HeaderName, &str)], token| {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()));
        keys.admit(&headers.collect(), token).is_ok()
    };
    assert!(brings(&[(HF_AUTHORIZATION, "Bearer one")], None));
    assert!(brings(
        &[(header::AUTHORIZATION, "Bearer hf"), (HF_AUTHORIZATION, "Bearer one")],
        None
    ));
    assert!(brings(&[(header::AUTHORIZATION, "Basic x")], Some("one")));
    assert!(!brings(&[(HF_AUTHORIZATION, "Bearer two")], Some("")));
    assert!(!brings(&[], Some("two")));
    for (path, is_stream) in [
        ("/events/{id}", true),
        ("/gradio_api/queue/data", true),
        ("/gradio_api/heartbeat/{session_hash}", true),
        ("/gradio_api/call/infer/{event_id}", true),
        ("/status/{id}", false),
        ("/v1/images/generations", false),
        ("/view", false),
    ] {
        assert_eq!(is_event_stream(path), is_stream, "{path}");
    }
}

#[test]
fn the_key_that_lets_in_is_the_one_that_counts() {
    let keys = ApiKeys::new(&[Secret::new("one"), Secret::new("two")]);
    let admitted = |headers: &[(HeaderName, &str)], token| {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()));
        keys.admit(&headers.collect(), token).unwrap()
    };
    let plain = admitted(&[(header::AUTHORIZATION, "Bearer one")], None);
    assert!(plain.is_some());
    for junk in ["Bearer junk", "Bearer other", "Basic x"] {
        let beside = [(header::AUTHORIZATION, junk), (HF_AUTHORIZATION, "Bearer one")];
        assert_eq!(admitted(&beside, None), plain, "{junk}");
        assert_eq!(admitted(&[(header::AUTHORIZATION, junk)], Some("one")), plain, "{junk}");
    }
    assert_ne!(admitted(&[(header::AUTHORIZATION, "two")], None), plain);
    assert_eq!(ApiKeys::new(&[]).admit(&HeaderMap::new(), None), Ok(None));
}

#[test]
fn keys_are_not_shown() {
    assert_eq!(format!("{:?}", ApiKeys::new(&[Secret::new("4711")])), "1 keys");
}

#[test]
fn a_websocket_may_have_the_key_in_its_address() {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::any;
    use tower::ServiceExt as _;

    let seen = |path: &'static str, method: &'static str, upgrade: &'static str| async move {
        let tell = async |request: Request| token(&request).unwrap_or_default();
        let paths = ["/ws", "/api/ws", "/view", "/events/{id}"];
        let router = paths
            .iter()
            .fold(Router::<()>::new(), |router, path| router.route(path, any(tell)));
        let request = Request::builder().method(method).uri(path).header("upgrade", upgrade);
        let answer = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let told = axum::body::to_bytes(answer.into_body(), 100).await.unwrap();
        String::from_utf8(told.to_vec()).unwrap()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        assert_eq!(seen("/ws?clientId=a&token=o%6Ee", "GET", "websocket").await, "one");
        assert_eq!(seen("/api/ws?token=one", "GET", "WebSocket").await, "one");
        assert_eq!(seen("/events/1?token=one", "GET", "").await, "one");
        for (path, method, upgrade) in [
            ("/ws?token=one", "GET", ""),
            ("/ws?token=one", "POST", "websocket"),
            ("/view?token=one", "GET", "websocket"),
            ("/ws/x?token=one", "GET", "websocket"),
            ("/ws", "GET", "websocket"),
        ] {
            assert_eq!(seen(path, method, upgrade).await, "", "{path}");
        }
    });
}

#[test]
fn a_caller_has_a_key_and_a_mark() {
    let mut extensions = Extensions::new();
    assert_eq!(
        Caller::of(&extensions),
        Caller {
            key: None,
            name: String::new()
        }
    );
    extensions.insert(Admitted([7; 32]));
    extensions.insert(Visitor("a mark".to_owned()));
    let caller = Caller::of(&extensions);
    assert_eq!(
        (caller.key.as_deref(), &*caller.name),
        (Some("0707070707070707"), "a mark")
    );
}

#[test]
fn the_way_to_the_root_is_relative() {
    let way = |path: &str, slash: bool| {
        let mut request = Request::new(axum::body::Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        if slash {
            request.extensions_mut().insert(EndsWithSlash);
        }
        to_root(&request)
    };
    for (path, slash, leads) in [
        ("/", true, ""),
        ("/play?a=/b", false, ""),
        ("/play", true, "../"),
        ("/a/b", false, "../"),
        ("/a/b", true, "../../"),
    ] {
        assert_eq!(way(path, slash), leads, "{path} {slash}");
    }
}

#[test]
fn what_a_key_gets_is_kept_by_its_client_alone() {
    let kept = |said: &[&str]| {
        let said = said.iter().map(|said| (header::CACHE_CONTROL, said.parse().unwrap()));
        let mut headers: HeaderMap = said.collect();
        keep_private(&mut headers);
        assert_eq!(headers.len(), 1);
        headers[header::CACHE_CONTROL].to_str().unwrap().to_owned()
    };
    for (said, is) in [
        (&[][..], "private"),
        (&["public, max-age=86400"], "private, max-age=86400"),
        (&["Public", "S-MaxAge=9,no-cache"], "private, no-cache"),
        (&["private, no-store"], "private, no-store"),
        (&["no-store"], "private, no-store"),
    ] {
        assert_eq!(kept(said), is, "{said:?}");
    }
}
