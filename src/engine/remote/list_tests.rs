//! What a list of engines may say.

use super::*;
use crate::config::Config;

fn config() -> EnginesConfig {
    let vars = [("ENGINES", "[[engine]]"), ("RUNPOD_KEY", "4711")];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::from_vars(vars).unwrap().engines
}

fn mistakes(text: &str) -> String {
    parse(text, &config(), None).unwrap_err().join("\n")
}

#[test]
fn a_list_is_read() {
    let text = r#"
        [[engine]]
        name = "runpod-a"
        kind = "runpod"
        endpoint = "abc123"
        key = "env:RUNPOD_KEY"
        worker = "qwen-image-worker"
        queue_timeout_s = 60

        [[engine]]
        name = "modelverse"
        kind = "openai"
        url = "https://api.example.com/v1/"
        model = "Qwen/Qwen-Image"
        sends = ["seed", "negative_prompt"]
        group = 2
        capacity = 9
        unknown = "retry"
    "#;
    let list = parse(text, &config(), None).unwrap();
    assert_eq!(list[0].url.as_str(), "https://api.runpod.ai/v2/abc123");
    assert_eq!(list[0].key.as_ref().unwrap().reveal(), "4711");
    assert_eq!(list[0].kind, EngineKind::Runpod { is_ours: true });
    assert_eq!((list[0].group, list[0].capacity), (1, CAPACITY));
    assert_eq!(list[0].queue_timeout, Some(Duration::from_mins(1)));
    assert_eq!(list[1].url.as_str(), "https://api.example.com/v1");
    assert!(list[1].sends_unknown_again && !list[0].sends_unknown_again);
    let EngineKind::Images(api) = &list[1].kind else {
        panic!()
    };
    assert_eq!(api.sends, [Extra::Seed, Extra::NegativePrompt]);
}

#[test]
fn a_space_and_kie_are_read() {
    let text = r#"
        [[engine]]
        name = "space"
        kind = "gradio"
        space = "Qwen/Qwen_Image.2"
        approximates = ["size", "negative_prompt"]

        [[engine]]
        name = "kie"
        kind = "kie"
        key = "env:RUNPOD_KEY"

        [[engine]]
        name = "other"
        kind = "kie"
        url = "http://127.0.0.1:8188"
    "#;
    let list = parse(text, &config(), None).unwrap();
    assert_eq!(list[0].url.as_str(), "https://qwen-qwen-image-2.hf.space/");
    assert_eq!(list[0].kind, EngineKind::Gradio);
    assert_eq!(list[0].approximates, [Approximate::Size, Approximate::NegativePrompt]);
    assert_eq!(list[1].url.as_str(), "https://api.kie.ai/");
    let EngineKind::Kie { uploads: Some(uploads) } = &list[1].kind else {
        panic!()
    };
    assert_eq!(uploads.host_str(), Some("kieai.redpandaai.co"));
    assert_eq!(list[2].kind, EngineKind::Kie { uploads: None });
}

#[test]
fn a_fleet_is_read() {
    let fleet = |more: &str| format!("[[engine]]\nname = \"a\"\nkind = \"fleet\"\n{more}");
    let list = fleet("url = \"nats://10.0.0.7:4222\"\nkey = \"env:RUNPOD_KEY\"\nack_wait_s = 4\nqueue_timeout_s = 9");
    let list = parse(&list, &config(), None).unwrap();
    let EngineKind::Fleet(spec) = &list[0].kind else {
        panic!()
    };
    assert_eq!(spec.address.servers(), ["nats://10.0.0.7:4222"]);
    assert!(spec.address.login().is_some());
    assert_eq!((spec.ack_wait, spec.replicas), (Duration::from_secs(4), 1));
    assert_eq!(
        (list[0].capacity, list[0].queue_timeout),
        (FLEET_CAPACITY, Some(Duration::from_secs(9)))
    );
    assert_eq!(list[0].url.as_str(), "nats://10.0.0.7:4222");
    for (more, expected) in [
        ("", "url: is missing"),
        ("url = \"http://nats\"", "url: is no URL such as nats://host:4222"),
        ("url = \"nats://user:4711@nats\"", "url: has a name or a password"),
        (
            "url = \"nats://example.com\"\nkey = \"env:RUNPOD_KEY\"",
            "in the open; use tls://",
        ),
        (
            "url = \"nats://10.0.0.7:4222,nats://example.com\"\nkey = \"env:RUNPOD_KEY\"",
            "in the open; use tls://",
        ),
        (
            "url = \"nats://nats\"\nmodel = \"m\"",
            "model: an engine of the kind fleet has none",
        ),
        (
            "url = \"nats://nats\"\nunknown = \"retry\"",
            "unknown: an engine of the kind fleet has none",
        ),
        (
            "url = \"nats://nats\"\nack_wait_s = 1",
            "ack_wait_s: must be 2 to 3600 seconds",
        ),
    ] {
        let told = mistakes(&fleet(more));
        assert!(
            told.contains(expected) && !told.contains("4711"),
            "{told}\nis not\n{expected}"
        );
    }
}

#[test]
fn each_mistake_names_engine_and_field() {
    let engine = |rest: &str| format!("[[engine]]\nname = \"a\"\n{rest}");
    for (text, expected) in [
        (
            engine("kind = \"kobold\""),
            "engine `a`: kind: `kobold` is none of runpod, openai, gradio, kie, fleet",
        ),
        (engine("kind = \"runpod\""), "engine `a`: url: is missing"),
        (
            engine("kind = \"openai\"\nmodel = \"m\""),
            "engine `a`: url: is missing",
        ),
        (
            engine("kind = \"gradio\""),
            "engine `a`: url: is missing; give it, or the name of the Space as space",
        ),
        (
            engine("kind = \"gradio\"\nspace = \"fox\""),
            "engine `a`: space: is no name",
        ),
        (
            engine("kind = \"gradio\"\nspace = \"a/b\"\nurl = \"https://example.com\""),
            "engine `a`: url: stands beside space",
        ),
        (
            engine("kind = \"gradio\"\nspace = \"a/b\"\nedit_model = \"m\""),
            "engine `a`: edit_model: an engine of the kind gradio has none",
        ),
        (
            engine("kind = \"gradio\"\nspace = \"a/b\"\napproximates = [\"lora\"]"),
            "engine `a`: approximates: unknown variant `lora`",
        ),
        (
            engine("kind = \"kie\"\nqueue_timeout_s = 5"),
            "engine `a`: queue_timeout_s: an engine of the kind kie has none",
        ),
        (
            engine("kind = \"kie\"\nupload_url = \"ftp://example.com\""),
            "engine `a`: upload_url: is no http or https URL",
        ),
        (
            engine("kind = \"kie\"\nkey = \"env:RUNPOD_KEY\"\nupload_url = \"http://example.com\""),
            "its key would travel in the open",
        ),
        (
            engine("kind = \"runpod\"\nendpoint = \"x\"\nkey = \"env:NO_SUCH\""),
            "engine `a`: key: the variable NO_SUCH is not set",
        ),
        (
            engine("kind = \"runpod\"\nendpoint = \"x\"\nkey = \"rpa_secret\""),
            "engine `a`: key: write env:NAME",
        ),
        (
            engine("kind = \"runpod\"\nurl = \"http://example.com/v2/x\"\nkey = \"env:RUNPOD_KEY\""),
            "engine `a`: url: its key would travel in the open; use https",
        ),
        (
            engine("kind = \"runpod\"\nendpoint = \"../x\""),
            "engine `a`: endpoint: is no id",
        ),
        (
            engine("kind = \"runpod\"\nendpoint = \"x\"\nmodel = \"m\""),
            "engine `a`: model: an engine of the kind runpod has none",
        ),
        (
            engine("kind = \"runpod\"\nendpoint = \"x\"\ncapacity = 0"),
            "engine `a`: capacity: must be 1 to 1000 jobs",
        ),
        (
            engine("kind = \"runpod\"\ncapacity = \"many\""),
            "engine `a`: capacity: invalid type",
        ),
        (
            engine("kind = \"runpod\"\nspeed = 1"),
            "engine `a`: speed: unknown field `speed`",
        ),
        (
            "[[engine]]\nkind = \"runpod\"".to_owned(),
            "engine 1: missing field `name`",
        ),
        ("[[engines]]\nname = \"a\"".to_owned(), "`engines` is unknown"),
        (String::new(), "it names no engine"),
    ] {
        let told = mistakes(&text);
        assert!(told.contains(expected), "{told}\nis not\n{expected}");
        assert!(!told.contains("rpa_secret"), "{told}");
    }
    let twice = engine("kind = \"runpod\"\nendpoint = \"x\"");
    assert!(mistakes(&format!("{twice}\n{twice}")).contains("engine `a` is there twice"));
}

#[test]
fn a_key_goes_in_the_open_only_where_it_is_near() {
    for (url, near) in [
        ("http://127.0.0.1:8188/v2/x", true),
        ("http://10.0.0.7/v2/x", true),
        ("http://gpu-box/v2/x", true),
        ("http://worker.gpu.svc/v2/x", true),
        ("http://192.0.2.1.example.com/v2/x", false),
        ("http://8.8.8.8/v2/x", false),
    ] {
        assert_eq!(is_near(&url.parse().unwrap()), near, "{url}");
    }
}

#[test]
fn an_address_from_afar_does_not_lead_into_this_network() {
    let text = "[[engine]]\nname = \"a\"\nkind = \"runpod\"\nurl = \"http://169.254.169.254/v2/x\"";
    let guard = AddressGuard::new(crate::config::PrivateUrls::default());
    let told = parse(text, &config(), Some(&guard)).unwrap_err().join("\n");
    let own = "[[engine]]\nname = \"a\"\nkind = \"runpod\"\nurl = \"https://example.com/v2/x\"\nkey = \"env:HF_TOKEN\"";
    let own = parse(own, &config(), Some(&guard)).unwrap_err().join("\n");
    let fleet = "[[engine]]\nname = \"a\"\nkind = \"fleet\"\nurl = \"nats://example.com\"";
    let fleet = parse(fleet, &config(), Some(&guard)).unwrap_err().join("\n");
    assert!(fleet.contains("names a broker by its IP address"), "{fleet}");
    assert!(own.contains("HF_TOKEN is the worker's own"), "{own}");
    assert!(
        told.contains("engine `a`: url: the address 169.254.169.254 is refused"),
        "{told}"
    );
}
