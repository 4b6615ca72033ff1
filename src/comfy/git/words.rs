//! What git means by its words: it ends with the same code whatever went wrong.

use super::address::Address;
use super::{Commit, GitError};

/// git's lines without those that tell how far it is: `remote: Counting objects: 100% (3/3), done.`
fn without_progress(output: &str) -> String {
    let is_progress = |line: &str| line.contains("% (") || line.ends_with(", done.");
    let lines = output.lines().filter(|line| !is_progress(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// What a failure means, by git's words.
pub(super) fn meaning(step: &'static str, address: &Address, commit: Option<&Commit>, output: &str) -> GitError {
    let repository = address.to_string();
    let output = without_progress(output);
    let all = output.to_lowercase();
    let any = |phrases: &[&str]| phrases.iter().any(|phrase| all.contains(phrase));
    if any(&[
        "could not read username",
        "could not read password",
        "terminal prompts disabled",
        "authentication failed",
        "permission denied (",
        "host key verification failed",
        "returned error: 401",
        "returned error: 403",
    ]) {
        return GitError::NeedsCredentials { repository };
    }
    if let Some(commit) = commit
        && any(&["not our ref", "couldn't find remote ref"])
    {
        let commit = commit.clone();
        return GitError::CommitNotThere { repository, commit };
    }
    if any(&[
        "corruption on the remote side",
        "fsck error",
        "invalid index-pack output",
    ]) {
        return GitError::Damaged { repository, output };
    }
    if any(&[
        "repository not found",
        "does not appear to be a git repository",
        "repository not exported",
        "returned error: 404",
        "returned error: 410",
    ]) || (all.contains("repository '") && all.contains("' not found"))
        || (all.contains("' does not exist"))
    {
        return GitError::NotFound { repository };
    }
    if any(&[
        "could not resolve host",
        "name or service not known",
        "name resolution",
        "couldn't connect",
        "failed to connect",
        "unable to connect",
        "connection refused",
        "connection reset",
        "connection timed out",
        "timed out",
        "network is unreachable",
        "operation too slow",
        "transfer closed",
        "the remote end hung up",
        "early eof",
        "unable to access",
        "rpc failed",
        "not valid: is this a git repository",
    ]) {
        let reason = output;
        return GitError::Unreachable { repository, reason };
    }
    GitError::Failed { step, output }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outputs of git 2.47 and OpenSSH 10.
    #[test]
    fn failures_are_told_apart_by_their_words() {
        let address = Address::parse("https://host/a").unwrap();
        let commit: Commit = "1".repeat(40).parse().unwrap();
        let of = |output: &str| meaning("fetch the commit", &address, Some(&commit), output);
        for output in [
            "fatal: could not read Username for 'https://github.com': terminal prompts disabled",
            "git@github.com: Permission denied (publickey).\nfatal: Could not read from remote repository.",
            "Host key verification failed.",
        ] {
            assert!(matches!(of(output), GitError::NeedsCredentials { .. }), "{output}");
        }
        for output in [
            "fatal: repository 'https://host/a/' not found",
            "fatal: '/not/there' does not appear to be a git repository",
            "fatal: remote error: access denied or repository not exported: /a",
        ] {
            assert!(matches!(of(output), GitError::NotFound { .. }), "{output}");
        }
        for output in [
            "fatal: unable to access 'https://host/a/': Could not resolve host: host",
            "ssh: connect to host 127.0.0.1 port 9: Connection refused",
            "error: RPC failed; curl 28 Operation too slow. Less than 1 bytes/sec transferred the last 60 seconds",
        ] {
            assert!(matches!(of(output), GitError::Unreachable { .. }), "{output}");
        }
        let damaged = of(
            "remote: Enumerating objects: 3, done.\nremote: Counting objects: 100% (3/3), done.\nerror: object 11: fullPathname: contains full \
                          pathnames\nfatal: fsck error in packed object\nfatal: fetch-pack: invalid index-pack output",
        );
        assert!(matches!(damaged, GitError::Damaged { .. }), "{damaged}");
        assert!(!damaged.to_string().contains("Counting"), "{damaged}");
        let absent = of("fatal: remote error: upload-pack: not our ref 1111");
        assert!(matches!(absent, GitError::CommitNotThere { .. }), "{absent}");
        let unknown = of("Segmentation fault");
        assert_eq!(
            unknown.to_string(),
            "cannot fetch the commit: git failed\nSegmentation fault"
        );
    }
}
