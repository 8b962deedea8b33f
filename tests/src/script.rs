//! Runs `qemu-run.sh` as a user does.

use std::path::{Path, PathBuf};
use std::process::Command;

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    /// The exit status; `None` where a signal ended it.
    pub status: Option<i32>,
    /// Standard output and standard error, in the order in which they were written.
    pub output: String,
}

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the crate lies in the workspace").to_path_buf()
}

/// Runs `qemu-run.sh` with `arguments`.
///
/// # Panics
///
/// Where there is no bash to run it.
pub fn qemu_run(arguments: &[&str]) -> Run {
    // One stream, so that the last line is the last line of both.
    let done = Command::new("bash")
        .args(["-c", "exec \"$0\" \"$@\" 2>&1"])
        .arg(workspace().join("qemu-run.sh"))
        .args(arguments)
        .current_dir(workspace())
        .output()
        .expect("bash");
    Run { status: done.status.code(), output: String::from_utf8_lossy(&done.stdout).into_owned() }
}

impl Run {
    /// The very last line.
    pub fn last_line(&self) -> &str {
        self.output.strip_suffix('\n').unwrap_or(&self.output).rsplit('\n').next().unwrap_or_default()
    }

    /// N and M of the last line `N passed, M failed`; `None` where it is another.
    pub fn sum(&self) -> Option<(u32, u32)> {
        sum(self.last_line())
    }

    /// What the line `SCENARIO: n passed, m failed` says; `None` where there is not exactly one.
    pub fn scenario(&self, name: &str) -> Option<(u32, u32)> {
        let mut lines = self.output.lines().filter_map(|line| sum(line.strip_prefix(name)?.strip_prefix(": ")?));
        let only = lines.next();
        lines.next().is_none().then_some(only).flatten()
    }
}

fn sum(line: &str) -> Option<(u32, u32)> {
    let (passed, failed) = line.strip_suffix(" failed")?.split_once(" passed, ")?;
    Some((passed.parse().ok()?, failed.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_last_line_counts() {
        let run = |output: &str| Run { status: Some(0), output: output.into() };
        assert_eq!(run("a: 4 passed, 0 failed\n4 passed, 0 failed\n").sum(), Some((4, 0)));
        assert_eq!(run("4 passed, 0 failed\n\n").sum(), None);
        assert_eq!(run("4 passed, 0 failed\nwarning\n").sum(), None);
        assert_eq!(run("a: 4 passed, 1 failed\n").scenario("a"), Some((4, 1)));
        assert_eq!(run("a: 4 passed, 1 failed\na: 4 passed, 0 failed").scenario("a"), None);
        assert_eq!(run("").sum(), None);
    }
}
