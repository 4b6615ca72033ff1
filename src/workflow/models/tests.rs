use super::*;

const SHA: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn names<'a>(files: impl IntoIterator<Item = &'a ModelFile>) -> Vec<String> {
    files.into_iter().map(ModelFile::target).collect()
}

/// Why a catalogue is refused.
fn refused(text: &str) -> String {
    let read = ModelCatalog::parse(text).and_then(|catalog| ModelCatalog::default().with(catalog));
    read.expect_err(text).to_string()
}

/// Why a set with these files is refused.
fn refused_files(files: &str) -> String {
    refused(&format!("[sets.a]\nfiles = [{files}]"))
}

#[test]
fn a_set_has_the_files_of_the_sets_it_includes() {
    let catalog = ModelCatalog::builtin().expect("the catalogue");
    assert_eq!(
        names(catalog.files("qwen-image-lightning").expect("the set")),
        [
            "text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors",
            "vae/qwen_image_vae.safetensors",
            "diffusion_models/qwen_image_fp8_e4m3fn.safetensors",
            "loras/Qwen-Image-Lightning-8steps-V1.0.safetensors",
        ]
    );
    assert!(catalog.files("nope").is_none());
}

#[test]
fn no_two_sets_of_ours_have_different_files_for_one_target() {
    let catalog = ModelCatalog::builtin().expect("the catalogue");
    unite(catalog.all()).expect("one source for each");
}

#[test]
fn a_file_is_found_by_its_name() {
    let catalog = ModelCatalog::builtin().expect("the catalogue");
    let name = "qwen/Qwen-Image-Edit-2509-Lightning-4steps-V1.0-bf16.safetensors";
    let file = catalog.lookup(name).expect("the file");
    assert_eq!(
        file.url(),
        "https://huggingface.co/lightx2v/Qwen-Image-Lightning/resolve/main/Qwen-Image-Edit-2509/Qwen-Image-Edit-2509-Lightning-4steps-V1.0-bf16.safetensors"
    );
    assert_eq!(file.folder, "loras");
    assert!(catalog.lookup("flux1-dev.safetensors").is_none());
}

#[test]
fn a_file_is_found_by_its_folder_and_its_whole_name() {
    let catalog = ModelCatalog::builtin().expect("the catalogue");
    let name = "qwen_2.5_vl_7b_fp8_scaled.safetensors";
    assert!(catalog.lookup_in("text_encoders", name).is_some());
    assert!(catalog.lookup_in("clip", name).is_some());
    assert!(catalog.lookup_in("vae", name).is_none());
    assert!(catalog.lookup_in("clip", &format!("qwen/{name}")).is_none());
}

#[test]
fn circles_end_and_unknown_sets_are_named() {
    let circle = "[sets.a]\nincludes=['b']\nfiles=[]\n[sets.b]\ntitle='b'\nincludes=['a']";
    let catalog = ModelCatalog::parse(circle).expect("a catalogue");
    assert_eq!(catalog.files("a").map(|files| files.len()), Some(0));
    assert_eq!(
        refused("[sets.a]\ntitle='a'\nincludes=['c']\nfiles=[]"),
        "set `a` of the model catalogue includes `c`, which is not there"
    );
}

#[test]
fn toml_and_json_say_the_same() {
    let toml = format!(
        r#"
        [sets.mine]
        title = "Mine"
        includes = ["qwen-base"]
        files = [
          {{ repo = "o/r", revision = "abc", path = "a/x.safetensors", target = "loras", size = 7, sha256 = "{SHA}" }},
          {{ url = "https://storage.example.com/get?id=1", target = "unet/sub/y.gguf" }},
          {{ url = "https://huggingface.co/o/r/blob/main/z.pt", target = "vae" }},
        ]"#
    );
    let json = format!(
        r#"{{"sets": {{"mine": {{"title": "Mine", "includes": ["qwen-base"], "files": [
          {{"repo": "o/r", "revision": "abc", "path": "a/x.safetensors", "target": "loras/x.safetensors", "size": 7,
            "sha256": "{}"}},
          {{"url": "https://storage.example.com/get?id=1", "target": "diffusion_models/sub/y.gguf"}},
          {{"repo": "o/r", "path": "z.pt", "target": "vae/"}}]}}}}}}"#,
        SHA.to_uppercase()
    );
    let read = ModelCatalog::parse(&toml).expect("TOML");
    assert_eq!(ModelCatalog::parse(&format!("\u{feff}\n{json}")).expect("JSON"), read);
    let all = ModelCatalog::builtin().unwrap().with(read).expect("ours has qwen-base");
    let files = all.files("mine").unwrap();
    assert_eq!(
        names(files[2..].iter().copied()),
        ["loras/x.safetensors", "diffusion_models/sub/y.gguf", "vae/z.pt"]
    );
    assert_eq!((files[2].size, files[2].sha256.as_deref()), (Some(7), Some(SHA)));
}

#[test]
fn files_without_sets_are_a_set() {
    let catalog = ModelCatalog::parse("files = [{ url = 'hf://o/r/x.pt', target = 'vae' }]").expect("a catalogue");
    assert_eq!(names(catalog.files("files").expect("the set")), ["vae/x.pt"]);
    let both = "files = []\n[sets.files]\nfiles = []";
    assert!(refused(both).contains("a set `files`"));
}

#[test]
fn a_users_set_stands_for_ours_of_the_same_name() {
    let theirs = "[sets.qwen-base]\nfiles = [{ url = 'hf://o/r/mine.pt', target = 'vae' }]";
    let theirs = ModelCatalog::parse(theirs).expect("a catalogue");
    let all = ModelCatalog::builtin().unwrap().with(theirs).expect("both");
    assert_eq!(
        names(all.files("qwen-image").expect("ours")),
        ["vae/mine.pt", "diffusion_models/qwen_image_fp8_e4m3fn.safetensors"]
    );
}

#[test]
fn files_of_no_set_are_looked_up_first() {
    let file: ModelFile = "vae/qwen_image_vae.safetensors=hf://o/r/x.safetensors".parse().unwrap();
    let catalog = ModelCatalog::builtin().unwrap().with_files(std::slice::from_ref(&file));
    assert_eq!(catalog.lookup("qwen_image_vae.safetensors"), Some(&file));
}

#[test]
fn one_file_described_twice_is_one() {
    let a: ModelFile = "vae/x.pt=hf://o/r/x.pt".parse().unwrap();
    let mut b = a.clone();
    b.size = Some(7);
    let mut c = a.clone();
    c.sha256 = Some(SHA.to_owned());
    let united = unite([&a, &b, &c]).expect("one file");
    assert_eq!(
        (united.len(), united[0].size, united[0].sha256.as_deref()),
        (1, Some(7), Some(SHA))
    );
    let mut d = b.clone();
    d.size = Some(8);
    insta::assert_snapshot!(
        unite([&a, &b, &d]).expect_err("two sizes"),
        @"`vae/x.pt` is described twice, as hf://o/r@main/x.pt (7 bytes) and as hf://o/r@main/x.pt (8 bytes): leave one of them out, or give it another name"
    );
}

#[test]
fn each_mistake_names_its_place() {
    insta::assert_snapshot!(
        refused("# a comment\n[sets.a]\ntitel = 'x'\n"),
        @"line 3: unknown field `titel`, expected one of `title`, `licence`, `includes`, `files`"
    );
    insta::assert_snapshot!(
        refused("[sets.a]\nfiles = [\n  { url = 'https://storage.example.com/x?sig=4711', folder = 'vae' },\n]"),
        @"line 3: unknown field `folder`, expected one of `repo`, `revision`, `path`, `url`, `target`, `size`, `sha256`"
    );
    insta::assert_snapshot!(
        refused("{\n\"sets\": {\"a\": {\n\"files\": [{}]}}}"),
        @"line 3: missing field `target`"
    );
    insta::assert_snapshot!(
        refused_files("{ url = 'hf://o/r/x.pt', target = 'vae' }, { url = 'hf://o/r/x.pt', target = '../vae/x.pt' }"),
        @"set `a`, file 2: the target `../vae/x.pt` may leave ComfyUI's models folder; it takes plain names parted by /, none of them hidden, such as loras/x.safetensors"
    );
    insta::assert_snapshot!(
        refused_files("{ url = 'hf://o/r/x.pt', target = 'clip' }, { url = 'hf://o/s/x.pt', target = 'text_encoders/x.pt' }"),
        @"set `a`: `text_encoders/x.pt` is described twice, as hf://o/r@main/x.pt and as hf://o/s@main/x.pt: leave one of them out, or give it another name"
    );
    for (file, words) in [
        (
            "{ url = 'storage.example.com/x?4711', target = 'vae' }",
            "file 1: the source given is no address",
        ),
        (
            "{ url = 'hf://o/r/x.pt', target = 'vae', sha256 = '47' }",
            "`vae`: the checksum is no SHA-256",
        ),
        ("{ repo = 'o/r', target = 'vae' }", "either `repo` and `path`, or `url`"),
        (
            "{ repo = 'o/r', path = 'x.pt', url = 'hf://o/r/x.pt', target = 'vae' }",
            "either",
        ),
        (
            "{ url = 'hf://o/r/x.pt', revision = 'b', target = 'vae' }",
            "after an @",
        ),
        ("{ repo = 'o', path = 'x.pt', target = 'vae' }", "owner/name"),
        ("{ url = 'hf://o/r/x.pt', target = 'vae', size = -1 }", "line 2"),
        ("{ url = 'hf://o/r/x.pt', target = 7 }", "line 2"),
    ] {
        let said = refused_files(file);
        assert!(said.contains(words) && !said.contains("4711"), "{file}: {said}");
    }
    for (text, words) in [
        ("no manifest", "line 1"),
        ("<html>", "line 1"),
        ("{\n", "line 2"),
        ("[]", ""),
    ] {
        let said = refused(text);
        assert!(said.contains(words), "{text}: {said}");
    }
}

#[test]
fn what_is_under_a_licence_that_restricts_is_withheld_until_it_is_accepted() {
    let text = "[licences.mine]\ntitle = 'My License'\nurl = 'https://example.com/license'\n\
        [sets.a]\nlicence = 'mine'\nfiles = [{ url = 'hf://o/r/x.safetensors', target = 'vae' }]\n\
        [sets.b]\nlicence = 'apache-2.0'\nfiles = [{ url = 'hf://o/r/y.safetensors', target = 'vae' }]";
    let catalog = ModelCatalog::default()
        .with(ModelCatalog::parse(text).expect("a catalogue"))
        .expect("whole sets");
    let file = |name| catalog.lookup(name).expect("a file");
    assert_eq!(catalog.licence(file("y.safetensors")), Some("apache-2.0"));
    assert_eq!(catalog.unaccepted(file("y.safetensors")), None);
    let told = catalog
        .unaccepted(file("x.safetensors"))
        .expect("a licence")
        .to_string();
    for part in ["My License", "https://example.com/license", "ACCEPT_LICENSES=mine"] {
        assert!(told.contains(part), "{told}");
    }
    let unknown = catalog.clone().accepting(&["other".to_owned()]);
    assert_eq!(unknown, Err("other".to_owned()));
    let accepting = catalog.clone().accepting(&["mine".to_owned()]).expect("it is known");
    assert_eq!(accepting.unaccepted(file("x.safetensors")), None);
}
