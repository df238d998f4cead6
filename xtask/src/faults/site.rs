//! A daemon on which faults happen: its images are chosen per start, and something stands in for the VMM's program that can do what
//! a fault asks of the host in the moment before the VMM starts.
//!
//! Whoever drops it ends the daemon with all its machines; namespace and state directory go with it.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::image::{Image, SHELL_PORT};
use super::leftovers::{self, Leftovers};
use crate::daemon::{Daemon, Installation, Wanted};
use crate::run;

/// The image that every machine here is started from; what it is, each start says anew.
const OFFERED: &str = "faulty";
const VMM: &str = "qemu-system-x86_64";

/// What is different about a daemon.
#[derive(Debug, Clone, Default)]
pub struct Special {
    /// Lines of its configuration before the tables.
    pub config: &'static str,
    /// Lines of `[network]`, then more tables.
    pub network: Cow<'static, str>,
    /// Shell commands that make a mount namespace of its own another one before it starts; empty: it has none.
    pub mounts: &'static str,
    /// Its `PATH`, in which nothing stands in for the VMM then.
    pub path: Option<&'static str>,
}

/// Where things are.
#[derive(Debug, Clone)]
pub struct Places {
    /// The program `airlock`.
    pub program: PathBuf,
    /// State directory with the golden images.
    pub golden: PathBuf,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Site {
    /// The daemon.
    pub daemon: Daemon,
    golden: PathBuf,
    special: Special,
}

impl Site {
    /// Starts a daemon.
    pub fn open(places: &Places, special: &Special) -> Result<Self> {
        let state = tempfile::Builder::new().prefix("airlock-faults-").tempdir().context("make a state directory")?;
        Self::within(state, places, special)
    }

    /// Starts a daemon on that state directory.
    pub fn within(state: tempfile::TempDir, places: &Places, special: &Special) -> Result<Self> {
        let (bin, images) = (state.path().join("bin"), state.path().join("images"));
        for dir in [&bin, &images] {
            fs::create_dir(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        write_stand_in(&bin, state.path())?;
        let (config, wrapper, path) = wanted(state.path(), special);
        let wanted = Wanted { name: "faults", config: &config, network: &special.network, wrapper, path };
        let at = Installation::within(state, &wanted)?;
        if !special.mounts.is_empty() {
            // What the daemon would mount for it, nobody else could see.
            run::run(Command::new("ip").args(["netns", "add", &at.namespace]))?;
        }
        let daemon = Daemon::on(at, &places.program, &wanted)?;
        Ok(Self { daemon, golden: places.golden.join("images"), special: special.clone() })
    }

    /// The next daemon on the same state directory, when the first one is gone.
    pub fn restart(&mut self, places: &Places) -> Result<()> {
        let (config, wrapper, path) = wanted(self.state(), &self.special);
        let wanted = Wanted { name: "faults", config: &config, network: &self.special.network, wrapper, path };
        self.daemon.restart(&places.program, &wanted)
    }

    /// Its state directory.
    pub fn state(&self) -> &Path {
        self.daemon.at.state.path()
    }

    /// Directory of its images.
    pub fn images(&self) -> PathBuf {
        self.state().join("images")
    }

    /// What the next machine is started from: an image as it is, or changed.
    pub fn offer(&self, name: &str, change: Option<fn(&mut Image) -> Result<()>>) -> Result<()> {
        if let Some(change) = change {
            let mut image = Image::open(&self.golden, name)?;
            change(&mut image).with_context(|| format!("change the image {name}"))?;
            return image.publish(&self.images(), OFFERED);
        }
        let current = self.golden.join(format!("{name}.current"));
        let reference = fs::read_to_string(&current).with_context(|| format!("read {}", current.display()))?;
        let link = self.images().join(reference.trim());
        if !link.exists() {
            symlink(self.golden.join(reference.trim()), &link).with_context(|| format!("link {}", link.display()))?;
        }
        let offered = self.images().join(format!("{OFFERED}.current"));
        fs::write(&offered, reference).with_context(|| format!("write {}", offered.display()))
    }

    /// What the stand-in of the VMM does for the machines that start from now on: Bash, with `$TAP`, and `args` to be changed
    /// (`edit SED` changes each). Empty: nothing.
    pub fn before_vmm(&self, script: &str) -> Result<()> {
        let path = self.state().join("before-vmm");
        fs::write(&path, script).with_context(|| format!("write {}", path.display()))
    }

    /// Runs a shell script in the daemon's network namespace.
    pub fn on_host(&self, script: &str, variables: &[(&str, &str)]) -> Result<String> {
        // Not `ip netns exec`: what that script mounts, namespaces included, would end with it.
        let mut command = Command::new("nsenter");
        command.args([&format!("--net=/run/netns/{}", self.daemon.at.namespace), "bash", "-euc", script]);
        command.envs(variables.iter().copied()).env("NETNS", &self.daemon.at.namespace);
        run::output(&mut command)
    }

    /// Runs a shell script in a guest that has [`Image::with_shell`]; what it wrote.
    pub fn in_guest(&self, address: &str, script: &str) -> Result<String> {
        let talk = format!(
            "exec 3<>/dev/tcp/{address}/{SHELL_PORT}; printf '%s\\nexit\\n' \"$SCRIPT\" >&3; timeout 5 cat <&3 || [ $? = 124 ]"
        );
        self.on_host(&talk, &[("SCRIPT", script)])
    }

    /// Ends the daemon, and fails if something of it or of its machines is left.
    pub fn close(self) -> Result<()> {
        Leftovers::default().await_no_more(&self)?;
        let (namespace, state) = (self.daemon.at.namespace.clone(), self.state().to_owned());
        drop(self);
        leftovers::await_none_of_ended(&namespace, &state)
    }
}

/// Configuration, wrapper and `PATH` of a daemon.
fn wanted(state: &Path, special: &Special) -> (String, Vec<OsString>, Option<OsString>) {
    let defaults = [("boot_deadline_s", "boot_deadline_s = 25\n"), ("driver", "driver = \"qemu-tcg\"\n")];
    let defaults = defaults.iter().filter(|(key, _)| !special.config.contains(key));
    let mut config: String = defaults.map(|(_, line)| *line).collect();
    config += special.config;
    config += &format!("provider_images = {{ shell = \"{OFFERED}\" }}\n");
    let wrapper = match special.mounts {
        "" => Vec::new(),
        mounts => {
            let script = format!("{mounts}\nexec \"$@\"");
            ["unshare", "--mount", "sh", "-euc", &script, "sh"].map(OsString::from).to_vec()
        }
    };
    let path = special.path.map(OsString::from).unwrap_or_else(|| {
        let mut path = state.join("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        path
    });
    (config, wrapper, Some(path))
}

/// Writes the program that stands in for the VMM's: it runs in the machine's directory and namespace, under the pid that the
/// VMM will have.
fn write_stand_in(bin: &Path, state: &Path) -> Result<()> {
    let real = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|dir| dir.join(VMM))
        .find(|program| program.exists())
        .with_context(|| format!("{VMM} is not installed"))?;
    let text = format!(
        "#!/bin/bash\nreal={real:?}\nargs=(\"$@\")\n\
         edit() {{ local i; for i in \"${{!args[@]}}\"; do args[i]=$(sed -E -e \"$1\" <<<\"${{args[i]}}\"); done; }}\n\
         TAP=$(grep -oE 'fc-[0-9a-f]{{10}}' <<<\"$*\" | head -n 1)\n\
         if [ -e {before:?} ]; then . {before:?}; fi\n\
         exec \"$real\" \"${{args[@]}}\"\n",
        before = state.join("before-vmm"),
    );
    let path = bin.join(VMM);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).with_context(|| format!("chmod {}", path.display()))
}
