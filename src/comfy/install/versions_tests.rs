//! Versions other than the pinned one, over fake programs (see `fakes/program`) and a real git repository.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::tests::{Bench, Notes};
use super::*;
use crate::telemetry::report::SilentReporter;

/// A bench with git, uv and a repository of two releases, of which the second has a main.py of its own.
struct Releases {
    bench: Bench,
    repository: PathBuf,
}

impl Releases {
    fn new(version: &str) -> anyhow::Result<Self> {
        let mut bench = Bench::new(&["python3.12", "uv"])?;
        bench.link_git()?;
        let repository = bench.temp.path().join("repository");
        fs::create_dir_all(repository.join("custom_nodes"))?;
        fs::write(repository.join("custom_nodes/websocket_image_save.py"), "")?;
        git(&repository, &["init", "--quiet", "--initial-branch", "main"])?;
        bench.options.version = VersionChoice::Reference(version.to_owned());
        bench.options.repository = format!("file://{}", repository.display());
        let releases = Self { bench, repository };
        releases.release("0.30.0", "v0.30.0")?;
        releases.release("0.30.1", "v0.30.1")?;
        Ok(releases)
    }

    /// Commits a ComfyUI of that version, and tags it.
    fn release(&self, version: &str, tag: &str) -> anyhow::Result<String> {
        let at = |name: &str| self.repository.join(name);
        fs::write(at("main.py"), "# starts\n")?;
        fs::write(at("requirements.txt"), "torch\n")?;
        fs::write(at("comfyui_version.py"), format!("__version__ = \"{version}\"\n"))?;
        git(&self.repository, &["add", "--all"])?;
        git(
            &self.repository,
            &["commit", "--quiet", "--allow-empty", "--message", version],
        )?;
        git(&self.repository, &["tag", "--force", tag])?;
        git(&self.repository, &["rev-parse", "HEAD"])
    }

    fn choose(&mut self, version: &str) {
        self.bench.options.version = VersionChoice::Reference(version.to_owned());
    }

    /// Makes the repository one that cannot be reached.
    fn hide(&self) -> std::io::Result<()> {
        fs::rename(&self.repository, self.repository.with_extension("hidden"))
    }
}

/// Runs git, and gives what it printed.
fn git(folder: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git")
        .current_dir(folder)
        .args([
            "-c",
            "user.name=T",
            "-c",
            "user.email=t@example.com",
            "-c",
            "commit.gpgsign=false",
        ])
        .args(arguments)
        .output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[tokio::test]
async fn a_release_is_installed_from_git_and_found_again_without_a_network() -> anyhow::Result<()> {
    let releases = Releases::new("0.30.1")?;
    let bench = &releases.bench;
    assert_eq!(find(&bench.options), None);
    let installed = bench.ensure().await?;
    let commit = git(&releases.repository, &["rev-parse", "v0.30.1"])?;
    assert_eq!(installed.version, "0.30.1");
    assert_eq!(installed.reference.as_deref(), Some("0.30.1"));
    assert_eq!(installed.named(), format!("0.30.1 (commit {commit})"));
    assert_eq!(installed.commit.as_deref(), Some(commit.as_str()));
    assert!(installed.root.join("custom_nodes/websocket_image_save.py").is_file());
    assert!(!installed.root.join(".git").exists());
    let lock = installed.lock.clone().unwrap_or_default();
    assert!(
        fs::read_to_string(&lock)?.contains("torch==2.8.0"),
        "{}",
        lock.display()
    );
    let stamp = fs::read_to_string(installed.root.with_file_name("installed.json"))?;
    assert!(stamp.contains(&commit) && stamp.contains("\"repository\""), "{stamp}");

    releases.hide()?;
    let calls = bench.calls("")?;
    assert_eq!(find(&bench.options), Some(installed.clone()));
    assert_eq!(bench.ensure().await?, installed);
    assert_eq!(bench.calls("")?, calls, "nothing is run for a finished installation");
    Ok(())
}

#[tokio::test]
async fn each_commit_has_its_folder_and_going_back_runs_nothing() -> anyhow::Result<()> {
    let mut releases = Releases::new("v0.30.0")?;
    let first = releases.bench.ensure().await?;
    releases.choose("v0.30.1");
    let second = releases.bench.ensure().await?;
    assert_ne!(first.root, second.root);
    let calls = releases.bench.calls("")?;
    releases.choose("v0.30.0");
    assert_eq!(releases.bench.ensure().await?, first);
    assert_eq!(releases.bench.calls("")?, calls);
    // The commit itself is a name too, for the same folder, and needs no question.
    releases.hide()?;
    releases.choose(&second.commit.clone().unwrap_or_default());
    let by_commit = releases.bench.ensure().await?;
    assert_eq!(by_commit.root, second.root);
    assert_eq!(by_commit.reference, second.commit, "what is asked for now is told");
    Ok(())
}

#[tokio::test]
async fn a_killed_one_is_finished_without_asking_the_repository_again() -> anyhow::Result<()> {
    let releases = Releases::new("v0.30.1")?;
    releases.bench.tell("fail", "killed\n")?;
    releases.bench.error().await?;
    assert_eq!(find(&releases.bench.options), None);
    releases.hide()?;
    fs::remove_file(releases.bench.fake("fail"))?;
    assert_eq!(releases.bench.ensure().await?.version, "0.30.1");
    assert_eq!(releases.bench.calls("uv pip compile")?, 1, "what was resolved is kept");
    Ok(())
}

#[tokio::test]
async fn a_branch_moves_only_when_it_is_updated_and_when_the_new_commit_works() -> anyhow::Result<()> {
    let releases = Releases::new("main")?;
    let bench = &releases.bench;
    let installed = bench.ensure().await?;
    assert!(
        installed.named().starts_with("0.30.1 (main, commit "),
        "{}",
        installed.named()
    );
    releases.release("0.31.0", "v0.31.0")?;
    assert_eq!(bench.ensure().await?.version, "0.30.1");

    bench.tell("fail", "broken\n")?;
    let error = update(&bench.options, &SilentReporter).await.err();
    assert!(matches!(&error, Some(InstallError::NotReplaced { .. })), "{error:?}");
    assert_eq!(bench.ensure().await?.version, "0.30.1", "what works stays");
    fs::remove_file(bench.fake("fail"))?;
    assert_eq!(update(&bench.options, &SilentReporter).await?.version, "0.31.0");
    assert_eq!(bench.ensure().await?.version, "0.31.0");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_had_names_the_cause_and_the_way_back() -> anyhow::Result<()> {
    let mut releases = Releases::new("v0.30.0")?;
    releases.bench.ensure().await?;
    releases.choose("v0.30.2");
    let error = releases.bench.error().await?;
    let text = error.to_string();
    assert!(text.contains("v0.30.2") && text.contains("v0.30.1"), "{text}");
    assert!(!error.may_pass(), "{error}");
    let hint = error.hint();
    assert!(hint.contains("COMFYUI_VERSION=v0.30.0 (0.30.0)"), "{hint}");
    let job_error = crate::error::JobError::from(error);
    assert_eq!(job_error.message.matches("v0.30.2").count(), 1, "{}", job_error.message);

    // A commit of something else.
    fs::remove_file(releases.repository.join("requirements.txt"))?;
    git(&releases.repository, &["add", "--all"])?;
    git(&releases.repository, &["commit", "--quiet", "--message", "bare"])?;
    releases.choose("main");
    let text = releases.bench.error().await?.to_string();
    assert!(text.contains("is no ComfyUI: there is no requirements.txt"), "{text}");

    releases.hide()?;
    releases.choose("v0.30.1");
    let error = releases.bench.error().await?;
    assert!(error.to_string().contains("repository"), "{error}");
    Ok(())
}

#[tokio::test]
async fn what_the_tree_needs_in_another_version_is_let_go_and_said() -> anyhow::Result<()> {
    let releases = Releases::new("v0.30.1")?;
    // The tree wants another torch: as long as ours is held there is no solution.
    releases.bench.tell("conflict", "torch")?;
    releases.bench.tell(
        "resolved",
        "torch==2.9.1 \\\n    --hash=sha256:00\nnumpy==2.5.5 \\\n    --hash=sha256:00\n",
    )?;
    let notes = Notes::default();
    ensure(&releases.bench.options, &notes).await?;
    assert_eq!(
        releases.bench.calls("uv pip compile")?,
        3,
        "all, torch alone, numpy alone"
    );
    let notes = notes.0.into_inner()?;
    let told = "ComfyUI v0.30.1 gets torch 2.9.1; this worker was tested with 2.8.0";
    assert!(notes.iter().any(|note| note == told), "{notes:?}");
    Ok(())
}

#[tokio::test]
async fn packages_that_do_not_fit_are_an_error_with_uvs_explanation() -> anyhow::Result<()> {
    let releases = Releases::new("v0.30.1")?;
    releases.bench.tell(
        "unresolvable",
        "error: No solution found when resolving dependencies\n  cause: Because a==1 depends on b>2 and you require b==1, your requirements are unsatisfiable.\n",
    )?;
    let error = releases.bench.error().await?;
    assert!(matches!(&error, InstallError::Unresolvable { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("ComfyUI v0.30.1") && text.contains("b>2") && text.contains("b==1"),
        "{text}"
    );
    assert!(!error.may_pass());
    Ok(())
}

#[tokio::test]
async fn torch_comes_from_its_index_alone_and_nothing_else_does() -> anyhow::Result<()> {
    let mut releases = Releases::new("v0.30.1")?;
    let options = &mut releases.bench.options;
    options.torch_index = Some("https://me:secret@torch.example/whl/cpu".parse()?);
    releases.bench.tell(
        "resolved",
        "torch==2.8.0+cpu \\\n    --hash=sha256:00\ntqdm==4 \\\n    --hash=sha256:01\n",
    )?;
    let installed = releases.bench.ensure().await?;
    let bench = &releases.bench;
    assert_eq!(
        bench.calls("torch.lock [torch==2.8.0+cpu] from https://me:secret@torch.example/whl/cpu")?,
        1
    );
    assert_eq!(bench.calls("comfyui.lock [tqdm==4] from ")?, 1);
    assert_eq!(bench.calls("--no-deps --require-hashes")?, 2);
    let stamp = fs::read_to_string(installed.root.with_file_name("installed.json"))?;
    assert!(
        stamp.contains("https://torch.example/whl/cpu") && !stamp.contains("secret"),
        "{stamp}"
    );

    // Another password is no other index; no index is.
    let mut other = bench.options.clone();
    other.torch_index = Some("https://torch.example/whl/cpu".parse()?);
    assert_eq!(find(&other), Some(installed));
    other.torch_index = None;
    assert_eq!(find(&other), None);
    Ok(())
}

#[tokio::test]
async fn the_pinned_tree_with_another_torch_is_resolved_and_lies_beside() -> anyhow::Result<()> {
    let mut bench = Bench::new(&["python3.12", "uv"])?;
    let pinned = bench.ensure().await?;
    assert_eq!(bench.calls("uv pip compile")?, 0);
    bench.options.torch_index = Some("https://torch.example/whl/cpu".parse()?);
    let other = bench.ensure().await?;
    assert_eq!(bench.calls("uv pip compile")?, 1);
    assert_ne!(pinned.root, other.root);
    assert_eq!((other.version.as_str(), &other.commit), ("0.30.0", &None));
    Ok(())
}

#[tokio::test]
async fn without_uv_only_the_pinned_version_can_be_had() -> anyhow::Result<()> {
    let mut bench = Bench::new(&["python3.12"])?;
    bench.tell("no-uv", "")?;
    bench.options.torch_index = Some("https://torch.example/whl/cpu".parse()?);
    let error = bench.error().await?;
    assert!(matches!(error, InstallError::NoUv), "{error}");
    assert!(error.hint().contains("pip install uv"));
    Ok(())
}

#[tokio::test]
async fn pruning_leaves_what_is_in_force_or_used() -> anyhow::Result<()> {
    let mut releases = Releases::new("v0.30.0")?;
    let first = releases.bench.ensure().await?;
    releases.choose("v0.30.1");
    let second = releases.bench.ensure().await?;
    let list = first.lock.clone().unwrap_or_default();

    let in_use = InUse::claim(&first.root);
    assert!(in_use.is_some());
    let pruned = prune(&releases.bench.options)?;
    assert_eq!(pruned.len(), 1, "{pruned:?}");
    assert_eq!((pruned[0].version.as_deref(), pruned[0].freed), (Some("0.30.0"), None));
    assert!(first.root.is_dir());

    drop(in_use);
    let pruned = prune(&releases.bench.options)?;
    assert!(pruned[0].freed.is_some_and(|freed| freed > 0), "{pruned:?}");
    assert!(!first.root.exists() && second.root.is_dir() && list.is_file());
    assert_eq!(prune(&releases.bench.options)?, []);

    // It comes back as it was: nothing is resolved again.
    releases.choose("v0.30.0");
    let resolved = releases.bench.calls("uv pip compile")?;
    assert_eq!(releases.bench.ensure().await?, first);
    assert_eq!(releases.bench.calls("uv pip compile")?, resolved);
    Ok(())
}

#[tokio::test]
async fn a_newer_release_than_the_pinned_one_is_seen() -> anyhow::Result<()> {
    let mut releases = Releases::new("v0.30.1")?;
    assert_eq!(
        newer_release(&releases.bench.options).await,
        None,
        "the version was chosen"
    );
    releases.bench.options.version = VersionChoice::Pinned;
    assert_eq!(newer_release(&releases.bench.options).await.as_deref(), Some("v0.30.1"));
    releases.hide()?;
    assert_eq!(newer_release(&releases.bench.options).await, None);
    Ok(())
}
