//! The flags that both sides of the boot bench share: machine, CPU model, accelerator.
//!
//! When ours is measured too, they are read from the command line of its QEMU process, so the two cannot drift apart.
//! Processors and memory are not shared: ours takes what its image asks for, the reference always gets [`REFERENCE_SIZE`].

use anyhow::{Context, Result, bail};

/// Flags with their values, in order, e.g. `-M q35,...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFlags(pub Vec<(String, String)>);

/// Two processors and 1 GiB: a full system on less would only look slower.
pub const REFERENCE_SIZE: &[&str] = &["-smp", "2", "-m", "1024"];

/// The flags of QEMU that have to be equal on both sides.
const SHARED: &[&str] = &["-M", "-machine", "-cpu", "-accel"];

impl Default for SharedFlags {
    /// What is used when ours is not measured in the same run.
    fn default() -> Self {
        let flags = [
            ("-M", "q35,usb=off,hpet=off,vmport=off"),
            ("-cpu", "Nehalem"),
            ("-accel", "tcg,thread=multi,tb-size=512"),
        ];
        Self(flags.map(|(flag, value)| (flag.to_owned(), value.to_owned())).to_vec())
    }
}

impl SharedFlags {
    /// Reads them from a command line.
    fn from_args<'a>(args: impl IntoIterator<Item = &'a str>) -> Self {
        let mut flags = Vec::new();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            if SHARED.contains(&arg)
                && let Some(value) = args.next()
            {
                flags.push((arg.to_owned(), value.to_owned()));
            }
        }
        Self(flags)
    }

    /// Reads them from a running QEMU.
    pub fn of_process(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/cmdline");
        let raw = std::fs::read(&path).with_context(|| format!("read {path}"))?;
        let flags = Self::from_args(String::from_utf8_lossy(&raw).split('\0'));
        if flags.0.is_empty() {
            bail!("process {pid} has none of the flags {}: is it QEMU?", SHARED.join(" "));
        }
        Ok(flags)
    }

    /// `tcg` or `kvm`.
    pub fn accelerator(&self) -> &str {
        let value = self.0.iter().find(|(flag, _)| flag == "-accel").map_or("tcg", |(_, value)| value.as_str());
        value.split(',').next().unwrap_or(value)
    }

    /// As one line.
    pub fn shown(&self) -> String {
        self.0.iter().map(|(flag, value)| format!("{flag} {value}")).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_the_shared_flags_only() {
        let line = "qemu-system-x86_64 -M q35 -cpu max -nodefaults -accel kvm,x=y -smp 2 -kernel vmlinuz -m 512";
        let flags = SharedFlags::from_args(line.split(' '));
        assert_eq!(flags.shown(), "-M q35 -cpu max -accel kvm,x=y");
        assert_eq!(flags.accelerator(), "kvm");
        assert_eq!(SharedFlags::default().accelerator(), "tcg");
    }
}
