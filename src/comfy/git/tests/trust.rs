//! What a repository, its host or the user's settings must not bring about, and who is given a password.

use super::*;

#[tokio::test]
async fn an_archive_with_another_content_is_refused() {
    let repository = filled();
    let commit = repository.commit("first");
    repository.write("main.py", "import evil\n");
    let other = repository.commit("second");
    let manners = Manners {
        archived: Some(other),
        ..Manners::default()
    };
    let server = Server::start(&repository, manners, &[]).await;
    let bench = Bench::new(false);
    let error = bench.checkout(&server.url, &commit).await.unwrap_err();
    assert!(
        matches!(error, GitError::HashMismatch { submodules: false, .. }),
        "{error}"
    );
    assert!(error.hint().contains("export-subst"));
    assert_eq!(bench.left(), [""; 0]);
}

#[tokio::test]
async fn a_password_opens_and_is_never_shown() {
    let repository = filled();
    let commit = repository.commit("first");
    let manners = Manners {
        password: Some("s3cret"),
        ..Manners::default()
    };
    let server = Server::start(&repository, manners, &[]).await;
    let with = |word: &str| server.url.replace("://", &format!("://me:{word}@"));
    for with_git in [true, false] {
        let bench = Bench::new(with_git);
        assert!(bench.resolve(&with("s3cret"), Some("main")).await.is_ok());
        is_whole(&bench.checkout(&with("s3cret"), &commit).await.unwrap());

        for url in [server.url.clone(), with("wr0ng")] {
            let error = bench.resolve(&url, None).await.unwrap_err();
            assert!(
                matches!(error, GitError::NeedsCredentials { .. }),
                "git: {with_git}: {error}"
            );
            assert!(!format!("{error:?}").contains("wr0ng"), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_link_out_of_the_tree_is_refused_both_ways() {
    let repository = filled();
    symlink("../../../etc", repository.path().join("a/etc")).unwrap();
    let commit = repository.commit("first");
    let server = Server::start(&repository, Manners::default(), &[]).await;
    for with_git in [true, false] {
        let bench = Bench::new(with_git);
        let error = bench.checkout(&server.url, &commit).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("a/etc") && text.contains("leads out of it"),
            "git: {with_git}: {text}"
        );
        assert_eq!(bench.left(), [""; 0]);
    }
}

#[tokio::test]
async fn nothing_of_the_user_or_the_repository_runs_or_changes_files() {
    let repository = filled();
    repository.write(
        ".gitattributes",
        "*.py text eol=crlf ident filter=evil\n*.bin filter=lfs\n",
    );
    repository.write("large.bin", "version https://git-lfs.github.com/spec/v1\n");
    repository.write(
        ".gitmodules",
        "[submodule \"x\"]\n\tpath = libs/x\n\turl = https://example.com/x\n",
    );
    let commit = repository.commit("first");
    // As its user could have set it for all repositories.
    let evidence = repository.path().join("../ran");
    let touch = format!("touch {}; cat", evidence.display());
    let home = tempfile::tempdir().unwrap();
    let hooks = home.path().join("hooks");
    fs::create_dir(&hooks).unwrap();
    for hook in ["post-checkout", "reference-transaction", "post-index-change"] {
        fs::write(hooks.join(hook), format!("#!/bin/sh\ntouch {}\n", evidence.display())).unwrap();
        fs::set_permissions(hooks.join(hook), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let bench = Bench::new(true).with_settings(
        &repository,
        &[
            ("filter.evil.smudge", touch.as_str()),
            ("filter.evil.required", "true"),
            ("filter.lfs.smudge", touch.as_str()),
            ("filter.lfs.required", "true"),
            ("core.fsmonitor", touch.as_str()),
            ("core.hooksPath", hooks.to_str().unwrap()),
            ("core.autocrlf", "true"),
            ("init.templateDir", hooks.to_str().unwrap()),
            ("init.defaultObjectFormat", "sha256"),
        ],
    );

    let tree = bench.checkout(&repository.file_url(), &commit).await.unwrap();
    is_whole(&tree);
    assert!(!evidence.exists(), "something ran");
    assert!(
        fs::read_to_string(tree.join("large.bin"))
            .unwrap()
            .starts_with("version")
    );
    let notes = bench.notes.0.lock().unwrap().join("\n");
    assert!(notes.contains("its submodules are left out: libs/x"), "{notes}");
    assert!(notes.contains("git LFS"), "{notes}");
}

#[tokio::test]
async fn a_users_settings_for_passwords_hold() {
    let repository = filled();
    let commit = repository.commit("first");
    let manners = Manners {
        password: Some("s3cret"),
        ..Manners::default()
    };
    let server = Server::start(&repository, manners, &[]).await;
    let helper = "!printf 'username=me\\npassword=s3cret\\n'; :";
    let bench = Bench::new(true).with_settings(
        &repository,
        &[
            ("credential.helper", helper),
            // Many have such a thing, and it must not be asked.
            ("remote.origin.url", "https://example.invalid/another"),
        ],
    );
    assert_eq!(bench.resolve(&server.url, None).await.unwrap().as_str(), commit);
    is_whole(&bench.checkout(&server.url, &commit).await.unwrap());
}

#[tokio::test]
async fn a_commit_with_gits_own_folder_in_it_is_refused() {
    let repository = filled();
    repository.commit("first");
    let file = repository.git(&["rev-parse", "HEAD:main.py"]);
    repository.write("list", &format!("100644 blob {file}\t.git\n"));
    let tree = repository.git_reading("list", &["mktree"]);
    let commit = repository.git(&["commit-tree", "-m", "evil", &tree]);
    repository.git(&["branch", "evil", &commit]);
    let server = Server::start(&repository, Manners::default(), &[]).await;
    let bench = Bench::new(true);
    let error = bench.checkout(&server.url, &commit).await.unwrap_err();
    assert!(matches!(error, GitError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("hasDotgit"), "{error}");
    assert_eq!(bench.left(), [""; 0]);
}
