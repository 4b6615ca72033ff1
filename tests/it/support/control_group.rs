//! A control group with a memory limit of its own, as a container has one. The kernel lets root make one, where the groups
//! are mounted so that they can be written to.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Makes the group `$1` with a limit of `$2` bytes, swap included, below our own group (version 1) or at the top (version 2,
/// where a group with processes can have none below it). Prints its folder.
const MAKE: &str = r#"
set -e
top=/sys/fs/cgroup/memory
if [ -e $top/memory.limit_in_bytes ]; then
    own=$top$(sed -n 's/^[0-9]*:[a-z,]*memory[a-z,]*://p' /proc/self/cgroup)
    [ -d "$own" ] || own=$top
    mkdir "$own/$1"
    echo $2 > "$own/$1/memory.limit_in_bytes"
    [ ! -e "$own/$1/memory.memsw.limit_in_bytes" ] || echo $2 > "$own/$1/memory.memsw.limit_in_bytes"
    echo "$own/$1"
else
    top=/sys/fs/cgroup
    echo +memory > $top/cgroup.subtree_control
    mkdir "$top/$1"
    echo $2 > "$top/$1/memory.max"
    [ ! -e "$top/$1/memory.swap.max" ] || echo 0 > "$top/$1/memory.swap.max"
    echo "$top/$1"
fi
"#;

/// Removed when this is dropped, once nothing runs in it any more; left if that takes more than ten seconds.
pub(crate) struct Group {
    folder: PathBuf,
    /// What makes a shell's command one of root's.
    as_root: &'static str,
}

impl Group {
    /// A group that may use so many bytes.
    pub(crate) fn with_limit(bytes: u64) -> Self {
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        // The machines of CI let their user become root without a password.
        let as_root = if is_root { "" } else { "sudo -n " };
        let name = format!("worker-test-{}", uuid::Uuid::new_v4().simple());
        let script = format!("exec {as_root}sh -c '{}' sh \"$@\"", MAKE.replace('\'', "'\\''"));
        let done = Command::new("sh")
            .args(["-c", &script, "sh", &name, &bytes.to_string()])
            .output()
            .expect("sh");
        assert!(
            done.status.success(),
            "a control group with a memory limit cannot be made ({}); run the tests as root, or as one who may become it by \
             `sudo -n`, where /sys/fs/cgroup can be written to (in Docker: --privileged)",
            String::from_utf8_lossy(&done.stderr).trim()
        );
        let folder = String::from_utf8(done.stdout).expect("a path").trim_end().into();
        Self { folder, as_root }
    }

    /// A shell's command that puts the shell into the group.
    pub(crate) fn enter(&self) -> String {
        // The number of the outer shell.
        format!(
            "{}sh -c \"echo $$ > {}/cgroup.procs\"",
            self.as_root,
            self.folder.display()
        )
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let script = format!("{}rmdir {}", self.as_root, self.folder.display());
        // What ran in it is being killed.
        for _ in 0..100 {
            let removed = Command::new("sh").args(["-c", &script]).output();
            if removed.is_ok_and(|done| done.status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
