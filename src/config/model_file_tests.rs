use super::*;

fn source(text: &str) -> String {
    match text.parse::<Origin>() {
        Ok(origin) => origin.to_string(),
        Err(error) => error.to_string(),
    }
}

/// The target that a file gets, or why it gets none.
fn target(target: &str, source: &str) -> String {
    match ModelFile::new(source.parse().unwrap(), target) {
        Ok(file) => file.target(),
        Err(error) => error.to_string(),
    }
}

const X: &str = "hf://o/r/split_files/x.safetensors";

#[test]
fn sources_are_read_in_each_form() {
    for (text, expected) in [
        ("hf://o/r/a/x.safetensors", "hf://o/r@main/a/x.safetensors"),
        ("hf://o/r@v1.0/x.safetensors", "hf://o/r@v1.0/x.safetensors"),
        ("hf://o/r@refs/pr/3/a/x.pt", "hf://o/r@refs/pr/3/a/x.pt"),
        ("hf://o/r@refs%2Fpr%2F3/x.pt", "hf://o/r@refs/pr/3/x.pt"),
        (
            "https://huggingface.co/o/r/resolve/main/a/x%20y.pt?download=true",
            "hf://o/r@main/a/x y.pt",
        ),
        ("https://hf.co/o/r/blob/abc/x.pt", "hf://o/r@abc/x.pt"),
        (
            "https://huggingface.co/o/r/resolve/refs%2Fpr%2F1/x.pt",
            "hf://o/r@refs/pr/1/x.pt",
        ),
        (
            "https://civitai.com/api/download/models/7?type=Model&token=4711",
            "https://civitai.com/api/download/models/7",
        ),
        (
            "https://u:4711@storage.example.com:8443/x.pt?X-Amz-Signature=4711",
            "https://storage.example.com:8443/x.pt",
        ),
        (
            "https://huggingface.co/datasets/o/r/resolve/main/x.pt",
            "https://huggingface.co/datasets/o/r/resolve/main/x.pt",
        ),
    ] {
        assert_eq!(source(text), expected, "{text}");
    }
}

#[test]
fn a_source_that_is_none_is_refused() {
    for (text, words) in [
        ("o/r/x.pt", "no address"),
        ("4711", "no address"),
        ("ftp://storage.example.com/x.pt", "no http, https or hf address"),
        ("file:///x.pt", "no http, https or hf address"),
        ("hf://o/r", "not of the form"),
        ("hf://o/r/", "names no file"),
        ("hf://o/../x.pt", "owner/name"),
        ("hf://o/r/../x.pt", "names no file"),
        ("hf://o/r@/x.pt", "no branch"),
        ("hf://datasets/o/r/x.pt", "no repository of models"),
        ("https://huggingface.co/o/r", "page of the Hub"),
        ("https://huggingface.co/o/r/tree/main", "page of the Hub"),
        (
            "https://huggingface.co/o/r/resolve/main/..%2F..%2Fx.pt",
            "names no file",
        ),
    ] {
        let said = source(text);
        assert!(said.contains(words) && !said.contains("4711"), "{text}: {said}");
    }
}

#[test]
fn debug_output_has_no_query() {
    let origin: Origin = "https://u:4711@storage.example.com/x.pt?sig=4711".parse().unwrap();
    assert_eq!(format!("{origin:?}"), "https://storage.example.com/x.pt");
    assert_eq!(origin.url(), "https://storage.example.com/x.pt");
}

#[test]
fn a_target_is_a_folder_or_a_path_under_one() {
    for (given, expected) in [
        ("loras", "loras/x.safetensors"),
        ("loras/", "loras/x.safetensors"),
        ("loras/qwen", "loras/qwen/x.safetensors"),
        ("loras/v1.0/", "loras/v1.0/x.safetensors"),
        ("loras/qwen/y.safetensors", "loras/qwen/y.safetensors"),
        ("loras/Y.SAFETENSORS", "loras/Y.SAFETENSORS"),
        ("unet/x.gguf", "diffusion_models/x.gguf"),
        ("clip", "text_encoders/x.safetensors"),
        ("ipadapter/x.bin", "ipadapter/x.bin"),
    ] {
        assert_eq!(target(given, X), expected, "{given}");
    }
    let file = ModelFile::new(X.parse().unwrap(), "loras/qwen/y.pt").unwrap();
    assert_eq!((file.name.as_str(), file.file_name()), ("qwen/y.pt", "y.pt"));
    let url = "https://storage.example.com/m/a%20b.safetensors?x=1";
    assert_eq!(target("vae", url), "vae/a b.safetensors");
}

#[test]
fn a_target_cannot_leave_the_models_folder() {
    for (given, words) in [
        ("../x.pt", "may leave"),
        ("loras/../../x.pt", "may leave"),
        ("loras//x.pt", "may leave"),
        ("loras/./x.pt", "may leave"),
        ("loras/.x.pt", "may leave"),
        (".cache/x.pt", "may leave"),
        ("loras/ x.pt", "may leave"),
        ("", "may leave"),
        ("loras/x\n.pt", "may leave"),
        ("loras/\u{0}.pt", "may leave"),
        ("/loras/x.pt", "is no path under"),
        ("loras\\x.pt", "is no path under"),
        ("models/loras/x.pt", "begins with models"),
        ("x.pt", "has no folder"),
        ("loras/x.exe", "is no model file"),
        ("loras/x.safetensors.txt", "is no model file"),
    ] {
        let said = target(given, X);
        assert!(said.contains(words), "{given:?}: {said}");
        assert!(!said.contains(char::is_control), "{said:?}");
    }
    assert!(target(&format!("loras/{}.pt", "x".repeat(256)), X).contains("may leave"));
    let nameless = "https://civitai.com/api/download/models/7";
    assert!(target("loras", nameless).contains("does not tell a file's name"));
    assert_eq!(target("loras/x.safetensors", nameless), "loras/x.safetensors");
    let sly = "https://storage.example.com/..%2f..%2fx.pt";
    assert!(
        target("loras", sly).contains("may leave it"),
        "{}",
        target("loras", sly)
    );
}

#[test]
fn an_entry_is_a_target_and_a_source_or_a_telling_source() {
    let entry = |text: &str| text.parse::<ModelFile>().map(|file| file.target());
    assert_eq!(entry("loras/a.pt = hf://o/r/b.pt").unwrap(), "loras/a.pt");
    assert_eq!(
        entry("vae/a.pt=https://civitai.com/api/download/models/7?type=VAE").unwrap(),
        "vae/a.pt"
    );
    assert_eq!(entry("hf://o/r/split_files/vae/a.pt").unwrap(), "vae/a.pt");
    assert_eq!(
        entry("https://storage.example.com/unet/a.pt?x=y").unwrap(),
        "diffusion_models/a.pt"
    );
    let error = entry("hf://o/r/a.pt").unwrap_err().to_string();
    assert!(error.contains("which kind of model"), "{error}");
}

#[test]
fn checksums_are_64_hexadecimal_digits() {
    let digits = "0123456789ABCDEF".repeat(4);
    assert_eq!(parse_sha256(&digits).unwrap(), digits.to_lowercase());
    assert_eq!(
        parse_sha256(&format!("sha256:{digits}")).unwrap(),
        digits.to_lowercase()
    );
    for wrong in ["", "abc", &digits[1..], &"g".repeat(64), &format!("{digits}0")] {
        assert_eq!(parse_sha256(wrong), Err(ModelFileError::Sha256), "{wrong}");
    }
}
