//! A write trace: which files a run and everything it started opened for writing, as `strace` saw it.
//!
//! What it can't show: writes through a memory map, and files that were removed before anyone could look; for those
//! the trace holds the written bytes themselves, so it is searched too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The system calls that make or change files.
const CALLS: &str = "trace=open,openat,openat2,creat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,memfd_create";

/// Longest string that is kept of one call.
const STRING: &str = "70000";

/// A trace that is being written to a directory.
pub struct Trace {
    prefix: PathBuf,
}

impl Trace {
    /// Writes to files in `directory`, one per process.
    #[must_use]
    pub fn into(directory: &Path) -> Self {
        Self { prefix: directory.join("trace") }
    }

    /// Returns the words to start a traced program through. The tracer follows every child, the daemon too.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let prefix = self.prefix.display().to_string();
        ["strace", "-ff", "-qq", "-y", "-s", STRING, "-e", CALLS, "-e", "signal=none", "-o", &prefix]
            .map(str::to_owned)
            .into()
    }

    /// Returns the text of the trace, by file.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, String)> {
        let directory = self.prefix.parent().unwrap_or(Path::new("/"));
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let traces = entries.filter(|e| e.file_name().to_string_lossy().starts_with("trace."));
        traces
            .map(|e| (e.path(), String::from_utf8_lossy(&fs::read(e.path()).unwrap_or_default()).into_owned()))
            .collect()
    }

    /// Returns every path that was opened for writing, made or renamed to.
    #[must_use]
    pub fn written(&self) -> BTreeSet<PathBuf> {
        let mut all = BTreeSet::new();
        for (_, text) in self.files() {
            all.extend(text.lines().filter_map(written).map(PathBuf::from));
        }
        all
    }

    /// Returns the lines of the trace that write to a file of the disk: no socket, pipe, terminal or `/dev/null`.
    #[must_use]
    pub fn writes_to_files(&self) -> Vec<String> {
        let to_file = |line: &&str| {
            let Some((call, rest)) = line.split_once('(') else { return false };
            let target = rest.split_once('<').and_then(|(fd, t)| fd.parse::<u32>().ok().and(t.split_once('>')));
            call.contains("write") && target.is_some_and(|(t, _)| t.starts_with('/') && !t.starts_with("/dev/"))
        };
        self.files()
            .iter()
            .flat_map(|(_, text)| text.lines().filter(to_file).map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }
}

/// Returns the path that a line of the trace opens for writing, makes or renames to.
fn written(line: &str) -> Option<&str> {
    if line.contains(" = -1 ") {
        return None;
    }
    let (call, rest) = line.split_once('(')?;
    if call.starts_with("rename") || call.starts_with("link") || call.starts_with("symlink") {
        return rest.rsplit('"').nth(1);
    }
    let opens = call.starts_with("open") && (rest.contains("O_WRONLY") || rest.contains("O_RDWR"));
    // With -y the result names the whole path, whatever directory it was relative to.
    let result = line.rsplit_once(" = ")?.1;
    let path = result.split_once('<')?.1.trim_end_matches('>');
    (opens || call == "creat").then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_writes_names_its_file() {
        let open = r#"openat(AT_FDCWD</x>, "a", O_WRONLY|O_CREAT|O_CLOEXEC, 0666) = 3</x/a>"#;
        assert_eq!(written(open), Some("/x/a"));
        assert_eq!(written(r#"openat(AT_FDCWD</x>, "a", O_RDONLY) = 3</x/a>"#), None);
        assert_eq!(written(r#"openat(AT_FDCWD</x>, "a", O_WRONLY) = -1 ENOENT (No such file)"#), None);
        assert_eq!(written(r#"rename("/x/a.tmp", "/x/a") = 0"#), Some("/x/a"));
    }
}
