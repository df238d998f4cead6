//! Runs the programs that build images. Their output goes line by line to the reporter; an error quotes their last lines.
//!
//! Each runs in mount and process namespaces of its own that die with this process: a builder that is killed leaves
//! neither a mount nor a process behind. Needs root.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::ImageError;
use crate::reporter::Reporter;

/// How many lines an error keeps.
const TAIL: usize = 40;

/// Programs the builder starts, with the Debian package of each.
const PACKAGES: &[(&str, &str)] = &[
    ("mmdebstrap", "mmdebstrap"),
    ("mkfs.erofs", "erofs-utils"),
    ("mkfs.ext4", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("npm", "npm"),
    ("node", "nodejs"),
    ("depmod", "kmod"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("sh", "dash"),
    ("mount", "mount"),
    ("chroot", "coreutils"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("gzip", "gzip"),
];

/// One run of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ToolRun {
    /// Name, looked up in `PATH` and the sbin directories.
    pub(crate) tool: String,
    /// Arguments.
    pub(crate) args: Vec<String>,
    /// Environment besides `PATH`, `HOME` and `LC_ALL`.
    pub(crate) env: Vec<(String, String)>,
    /// Whether the program gets a network.
    pub(crate) network: bool,
    /// Its output is no news: kept for an error, told to nobody.
    pub(crate) quiet: bool,
    /// Where it writes: the file system to name when that is full.
    pub(crate) writes: PathBuf,
}

impl ToolRun {
    /// A run of `tool` without a network.
    pub(crate) fn new(tool: &str, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { tool: tool.to_owned(), args, env: Vec::new(), network: false, quiet: false, writes: PathBuf::from("/") }
    }

    /// Runs it to its end; the output is all lines of stdout and stderr in order.
    pub(crate) fn run(&self, reporter: &mut Reporter<'_>) -> Result<(), ImageError> {
        let program = find(&self.tool)?;
        let (reader, writer) = std::io::pipe().map_err(ImageError::io("open a pipe to", &program))?;
        let stderr = writer.try_clone().map_err(ImageError::io("open a pipe to", &program))?;
        let mut command = self.contained(&program)?;
        command.stdin(Stdio::null()).stdout(writer).stderr(stderr);
        let mut child = command.spawn().map_err(ImageError::io("start", &program))?;
        // The command holds our copies of the pipe's writing end.
        drop(command);
        let cancel = reporter.cancel().clone();
        let running = cancel.running_as(child.id());
        let mut tail = VecDeque::new();
        for line in BufReader::new(reader).split(b'\n') {
            let line = line.map_err(ImageError::io("read the output of", &program))?;
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if line.is_empty() {
                continue;
            }
            if !self.quiet {
                reporter.line(&line);
            }
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(line);
        }
        drop(running);
        let status = child.wait().map_err(ImageError::io("wait for", &program))?;
        if status.success() {
            return Ok(());
        }
        if tail.iter().any(|line: &String| line.contains("No space left on device")) {
            let source = std::io::Error::from_raw_os_error(nix::errno::Errno::ENOSPC as i32);
            return Err(ImageError::DiskFull { action: "write", path: self.writes.clone(), source });
        }
        Err(ImageError::ToolFailed { tool: self.tool.clone(), status, tail: tail.into() })
    }

    fn contained(&self, program: &Path) -> Result<Command, ImageError> {
        let mut command = Command::new(find("setpriv")?);
        command.args(["--pdeathsig", "KILL"]).arg(find("unshare")?);
        command.args(["--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]);
        if !self.network {
            command.arg("--net");
        }
        command.arg(program).args(&self.args);
        let proxies = std::env::vars_os().filter(|(name, _)| {
            self.network && name.to_str().is_some_and(|name| name.to_ascii_lowercase().ends_with("_proxy"))
        });
        command.env_clear().envs(proxies);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root").env("LC_ALL", "C.UTF-8");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }
}

/// The file of a program, or an error that names its package.
pub(crate) fn find(tool: &str) -> Result<PathBuf, ImageError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let fixed = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(fixed).map(|dir| dir.join(tool)).find(|file| file.is_file());
    found.ok_or_else(|| ImageError::ToolMissing {
        tool: tool.to_owned(),
        package: PACKAGES.iter().find(|(name, _)| *name == tool).map_or("", |(_, package)| package),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        assert!(find("sh").is_ok());
        let err = ImageError::ToolMissing { tool: "mkfs.erofs".into(), package: "erofs-utils" };
        assert_eq!(err.remedy(), "apt-get install erofs-utils");
        assert!(matches!(find("no-such-tool-here"), Err(ImageError::ToolMissing { .. })));
    }
}
