//! Other versions of ComfyUI, from a git server on loopback.

use crate::support::git_server::{FIRST, GitServer, SECOND};

#[tokio::test]
async fn the_git_server_is_one_for_git_itself() {
    let server = GitServer::start().await;
    let mut git = tokio::process::Command::new("git");
    let listed = git.args(["ls-remote", "--tags", &server.comfyui()]).output().await;
    let listed = String::from_utf8(listed.expect("git").stdout).expect("UTF-8");
    assert!(listed.contains(FIRST) && listed.contains(SECOND), "{listed}");
    let folder = tempfile::tempdir().expect("a folder");
    let script = format!(
        "git init -q . && git fetch -q --depth=1 {} {} && git checkout -q FETCH_HEAD && cat comfyui_version.py",
        server.comfyui(),
        server.commit("ComfyUI", SECOND),
    );
    let shell = tokio::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(&folder)
        .output()
        .await;
    let shell = shell.expect("sh");
    assert!(String::from_utf8_lossy(&shell.stdout).contains("0.30.1"), "{shell:?}");
    let archive = format!(
        "{}/archive/{}.tar.gz",
        server.comfyui(),
        server.commit("ComfyUI", FIRST)
    );
    let answer = crate::support::http().get(archive).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.expect("a file").starts_with(&[0x1f, 0x8b]));
    assert!(
        server.asked().iter().any(|path| path.contains("git-upload-pack")),
        "{:?}",
        server.asked()
    );
}
