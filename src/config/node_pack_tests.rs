use super::*;

const COMMIT: &str = "6ea2651e7df66d7585f6ffee804b20e92fb38b8a";

fn pack(text: &str) -> NodePack {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn wrong(text: &str) -> String {
    text.parse::<NodePack>().expect_err(text)
}

/// Folder name, repository and reference.
fn git(text: &str) -> (String, String, Option<String>) {
    match pack(text) {
        NodePack {
            name,
            origin: PackOrigin::Git { repository, reference },
        } => (name, repository, reference),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn packs_of_the_registry_have_an_id_and_a_version() {
    assert_eq!(
        pack("comfyui-kjnodes@1.1.7"),
        NodePack {
            name: "comfyui-kjnodes".to_owned(),
            origin: PackOrigin::Registry {
                id: "comfyui-kjnodes".to_owned(),
                version: Some("1.1.7".to_owned()),
            },
        }
    );
    for floating in ["comfyui_essentials", "ComfyUI-nunchaku@latest"] {
        assert!(pack(floating).is_floating(), "{floating}");
    }
    for pinned in ["rgthree-comfy@1.0.2608210019", "comfyui_controlnet_aux@1.0.4-alpha.7"] {
        assert!(!pack(pinned).is_floating(), "{pinned}");
        assert_eq!(pack(pinned).to_string(), pinned);
    }
}

#[test]
fn what_is_no_pack_of_the_registry_is_told_with_the_next_step() {
    for (text, part) in [
        ("comfyui-kjnodes==1.1.7", "is no id of the Comfy Registry"),
        ("-r@1.0.0", "is no id of the Comfy Registry"),
        ("a b", "is no id of the Comfy Registry"),
        ("comfyui-kjnodes@1.1", "three numbers with dots, such as 1.1.7"),
        ("comfyui-kjnodes@", "three numbers with dots"),
        ("comfyui-kjnodes@1.1.x", "three numbers with dots"),
        ("comfyui-kjnodes@1.1.7&x=y", "three numbers with dots"),
        ("comfyui-kjnodes@nightly", "name the repository and a commit"),
        ("pack.disabled@1.0.0", "which is one that ComfyUI passes over"),
        (
            "kijai/ComfyUI-KJNodes",
            "write https://github.com/kijai/ComfyUI-KJNodes, and @COMMIT",
        ),
    ] {
        let error = wrong(text);
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn a_commit_stands_after_the_address_of_a_repository() {
    let kj = "https://github.com/kijai/ComfyUI-KJNodes";
    for (text, name, repository, reference) in [
        (format!("{kj}@{COMMIT}"), "ComfyUI-KJNodes", kj, Some(COMMIT)),
        (
            format!("{kj}@{}", COMMIT.to_uppercase()),
            "ComfyUI-KJNodes",
            kj,
            Some(COMMIT),
        ),
        (format!("git+{kj}/"), "ComfyUI-KJNodes", kj, None),
        (format!("{kj}@main"), "ComfyUI-KJNodes", kj, Some("main")),
        (
            format!("{kj}.git@feature/x"),
            "ComfyUI-KJNodes",
            "https://github.com/kijai/ComfyUI-KJNodes.git",
            Some("feature/x"),
        ),
        (
            "https://me:pw@git.example.com:8443/@team/pack".to_owned(),
            "pack",
            "https://me:pw@git.example.com:8443/@team/pack",
            None,
        ),
        (
            "https://me:pw@git.example.com:8443/@team/pack@v1".to_owned(),
            "pack",
            "https://me:pw@git.example.com:8443/@team/pack",
            Some("v1"),
        ),
        (
            "ssh://git@git.example.com:2222/team/pack.git@v1".to_owned(),
            "pack",
            "ssh://git@git.example.com:2222/team/pack.git",
            Some("v1"),
        ),
        (
            "git@github.com:kijai/pack.git@v1".to_owned(),
            "pack",
            "ssh://git@github.com/kijai/pack.git",
            Some("v1"),
        ),
        (
            "file:///srv/me@work/a%20pack@v1".to_owned(),
            "a pack",
            "file:///srv/me@work/a%20pack",
            Some("v1"),
        ),
        (
            "file:///srv/me@work/pack".to_owned(),
            "pack",
            "file:///srv/me@work/pack",
            None,
        ),
    ] {
        let expected = (name.to_owned(), repository.to_owned(), reference.map(str::to_owned));
        assert_eq!(git(&text), expected, "{text}");
    }
}

#[test]
fn only_a_commit_in_full_does_not_move() {
    let at = |reference: &str| pack(&format!("https://example.com/pack@{reference}")).is_floating();
    assert!(!at(COMMIT));
    for moves in ["main", "v1.0.0", &COMMIT[..12]] {
        assert!(at(moves), "{moves}");
    }
    assert!(!pack("/packs/mine").is_floating());
}

#[test]
fn what_is_no_repository_is_told_and_shows_no_password() {
    for (text, part) in [
        ("https://me:pw@example.com/a@b?token=pw", "has a query"),
        ("https://me:pw@example.com/a#pw", "is written after an @"),
        ("https://me:pw@example.com", "no repository there"),
        ("https://me:pw@exam ple.com/a", "is no URL of a git repository"),
        ("s3://me:pw@bucket/a", "has the scheme s3"),
        ("file://pw/a", "begins with a third slash"),
        (
            "https://github.com/a/b/tree/main",
            "write https://github.com/a/b@COMMIT",
        ),
        ("https://example.com/a@-upload-pack=x", "is no commit, tag or branch"),
        ("https://example.com/a@", "is no commit, tag or branch"),
        ("https://example.com/a.git@x/../../y", "is no commit, tag or branch"),
        ("https://example.com/%2e%2e%2fetc", "has a slash"),
        ("https://example.com/a/.hidden", "begins with a dot"),
        ("https://example.com/.git", "no repository there"),
        ("https://example.com/a%00b", "control character"),
        ("https://example.com/%ff", "no UTF-8"),
    ] {
        let error = wrong(text);
        assert!(error.contains(part), "{text}: {error}");
        assert!(!error.contains("pw"), "{text}: {error}");
    }
}

#[test]
fn a_folder_is_taken_whole() {
    for (text, name) in [
        ("/packs/mine@2", "mine@2"),
        ("./mine/", "mine"),
        ("../mine.git", "mine.git"),
    ] {
        assert_eq!(pack(text).name, name);
        assert_eq!(pack(text).origin, PackOrigin::Folder(text.into()), "{text}");
    }
    for (text, part) in [
        ("~/mine", "write the folder's path in full"),
        ("/", "write its path in full"),
        ("../..", "write its path in full"),
        ("/packs/.git", "begins with a dot"),
        ("/packs/__pycache__", "ComfyUI passes over"),
    ] {
        let error = wrong(text);
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn passwords_are_not_printed() {
    let secret = pack("https://me:pw@example.com/pack@v1");
    assert_eq!(secret.to_string(), "https://example.com/pack@v1");
    assert!(!format!("{secret:?}").contains("pw"));
    let ssh = pack("ssh://git:pw@example.com/pack@v1");
    assert_eq!(ssh.to_string(), "ssh://git@example.com/pack@v1");
}

#[test]
fn another_folder_name_is_checked_as_well() {
    assert_eq!(pack("a@1.0.0").named("B").unwrap().name, "B");
    for name in ["", "..", "a/b", "a\\b", ".x", "a\nb", " a", &"a".repeat(256)] {
        assert!(pack("a@1.0.0").named(name).is_err(), "{name:?}");
    }
}
