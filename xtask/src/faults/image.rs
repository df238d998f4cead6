//! A golden image, changed past every check of a build: the fault is in the image, its manifest and its digest are right.
//!
//! What is not changed is linked to the original; the original is never written to.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::cpio::Archive;
use crate::run;

const CONFIG: &str = "/airlock/config.json";
/// In the initramfs: our programs.
pub const BIN: &str = "/airlock/bin";
const MODULES: &str = "/airlock/modules";
/// In the running guest: where [`BIN`] is seen.
pub const GUEST_BIN: &str = "/run/airlock/bin";
/// Port of the shell that [`Image::with_shell`] puts into a guest.
pub const SHELL_PORT: u16 = 2323;

/// An image being changed.
#[derive(Debug)]
pub struct Image {
    original: PathBuf,
    /// Its manifest.
    pub manifest: toml::Table,
    /// Its initramfs.
    pub initramfs: Archive,
    kernel: Option<Vec<u8>>,
    rootfs: Option<PathBuf>,
    /// Holds what was made.
    made: tempfile::TempDir,
}

impl Image {
    /// The current image of that name in `images`.
    pub fn open(images: &Path, name: &str) -> Result<Self> {
        let current = images.join(format!("{name}.current"));
        let reference = fs::read_to_string(&current).with_context(|| format!("read {}", current.display()))?;
        let original = images.join(reference.trim());
        let text = fs::read_to_string(original.join("manifest.toml")).context("read the manifest")?;
        let manifest: toml::Table = text.parse().context("parse the manifest")?;
        let archive = fs::read(original.join("initramfs")).context("read the initramfs")?;
        let made = tempfile::Builder::new().prefix("airlock-faults-image-").tempdir().context("make a directory")?;
        let initramfs = Archive::parse(&archive)?;
        Ok(Self { original, manifest, initramfs, kernel: None, rootfs: None, made })
    }

    /// Changes the guest's configuration.
    pub fn config(&mut self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let content = self.initramfs.content(CONFIG)?;
        let mut config = serde_json::from_slice(content).context("parse the guest's configuration")?;
        change(&mut config);
        *content = serde_json::to_vec(&config)?;
        Ok(())
    }

    /// Leaves modules out, in the list and in the archive.
    pub fn without_modules(&mut self, names: &[&str]) -> Result<()> {
        for name in names {
            self.initramfs.remove(&format!("{MODULES}/{name}"))?;
        }
        self.config(|config| {
            for list in ["modules", "later_modules"] {
                if let Some(list) = config[list].as_array_mut() {
                    list.retain(|module| !names.iter().any(|name| module == name));
                }
            }
        })
    }

    /// Changes a module's bytes.
    pub fn module(&mut self, name: &str) -> Result<&mut Vec<u8>> {
        self.initramfs.content(&format!("{MODULES}/{name}"))
    }

    /// Lists a service last.
    pub fn service(&mut self, service: Value) -> Result<()> {
        self.config(|config| {
            if let Some(services) = config["services"].as_array_mut() {
                services.push(service);
            }
        })
    }

    /// Changes a service.
    pub fn change_service(&mut self, name: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut found = false;
        self.config(|config| {
            let services = config["services"].as_array_mut();
            if let Some(service) = services.and_then(|list| list.iter_mut().find(|service| service["name"] == name)) {
                change(service);
                found = true;
            }
        })?;
        found.then_some(()).with_context(|| format!("the image has no service {name}"))
    }

    /// Adds BusyBox to our programs in the guest.
    pub fn with_busybox(&mut self) -> Result<()> {
        let busybox = fs::read("/bin/busybox").context("read /bin/busybox (package busybox-static)")?;
        self.initramfs.put(&format!("{BIN}/busybox"), 0o755, &busybox);
        Ok(())
    }

    /// Adds a shell on a port, for whoever breaks something in the running guest.
    pub fn with_shell(&mut self) -> Result<()> {
        self.with_busybox()?;
        let busybox = format!("{GUEST_BIN}/busybox");
        let shell = format!("#!{busybox} sh\nexport PATH={GUEST_BIN}:$PATH\nexec {busybox} sh\n");
        self.initramfs.put(&format!("{BIN}/shell"), 0o755, shell.as_bytes());
        let port = SHELL_PORT.to_string();
        let command = [busybox.as_str(), "nc", "-ll", "-p", &port, "-e", &format!("{GUEST_BIN}/shell")];
        self.service(json!({"name": "shell", "command": command, "restart": "always"}))
    }

    /// Puts a script in the place of the agent; the agent is `airlock-agent.real` beside it.
    pub fn wrap_agent(&mut self, script: &str) -> Result<()> {
        self.with_busybox()?;
        let agent = format!("{BIN}/airlock-agent");
        self.initramfs.rename(&agent, &format!("{agent}.real"))?;
        let text = format!("#!{GUEST_BIN}/busybox sh\nPATH={GUEST_BIN}:$PATH\nbb={GUEST_BIN}/busybox\n{script}\n");
        self.initramfs.put(&agent, 0o755, text.as_bytes());
        Ok(())
    }

    /// Lets the agent ask for its port as ever, and get it on loopback.
    pub fn agent_on_loopback(&mut self) -> Result<()> {
        let (source, program) = (self.made.path().join("loopback.c"), self.made.path().join("loopback"));
        fs::write(&source, include_str!("loopback.c")).context("write the tracer's source")?;
        run::run(Command::new("cc").args(["-O1", "-static", "-o"]).arg(&program).arg(&source))?;
        let agent = format!("{BIN}/airlock-agent");
        self.initramfs.rename(&agent, &format!("{agent}.real"))?;
        self.initramfs.put(&agent, 0o755, &fs::read(&program).context("read the tracer")?);
        Ok(())
    }

    /// The kernel's bytes, to be changed.
    pub fn kernel(&mut self) -> Result<&mut Vec<u8>> {
        if self.kernel.is_none() {
            self.kernel = Some(fs::read(self.original.join("vmlinuz")).context("read the kernel")?);
        }
        self.kernel.as_mut().context("no kernel")
    }

    /// Writes over bytes of a copy of the root filesystem.
    pub fn damage_root(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let path = self.made.path().join("rootfs");
        if self.rootfs.is_none() {
            fs::copy(self.original.join("rootfs.erofs"), &path).context("copy the root filesystem")?;
            self.rootfs = Some(path.clone());
        }
        let mut mode = fs::metadata(&path)?.permissions();
        #[allow(clippy::permissions_set_readonly_false, reason = "a private copy")]
        mode.set_readonly(false);
        fs::set_permissions(&path, mode)?;
        let file = fs::File::options().write(true).open(&path).with_context(|| format!("open {}", path.display()))?;
        file.write_all_at(bytes, offset).context("damage the root filesystem")
    }

    /// Another root filesystem, or anything else in its place.
    pub fn root(&mut self, bytes: &[u8]) -> Result<()> {
        let path = self.made.path().join("rootfs");
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        self.rootfs = Some(path);
        Ok(())
    }

    /// Unpacks the root filesystem, lets a shell script change it (it runs there) and packs it again.
    pub fn change_root(&mut self, script: &str) -> Result<()> {
        let (tree, packed) = (self.made.path().join("tree"), self.made.path().join("rootfs"));
        let extract = format!("--extract={}", tree.display());
        run::run(Command::new("fsck.erofs").arg(extract).arg(self.original.join("rootfs.erofs")))?;
        run::run(Command::new("sh").args(["-euc", script]).current_dir(&tree))?;
        run::run(Command::new("mkfs.erofs").arg(&packed).arg(&tree))?;
        fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
        self.rootfs = Some(packed);
        Ok(())
    }

    /// Publishes it in `images` as the current image of `name`.
    pub fn publish(mut self, images: &Path, name: &str) -> Result<()> {
        let dir = self.made.path().join("image");
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        let initramfs = self.initramfs.finish();
        self.file("initramfs", &dir.join("initramfs"), &initramfs)?;
        if let Some(kernel) = self.kernel.take() {
            self.file("kernel", &dir.join("vmlinuz"), &kernel)?;
        }
        if let Some(made) = self.rootfs.take() {
            let root = dir.join("rootfs.erofs");
            fs::rename(&made, &root).with_context(|| format!("move {}", made.display()))?;
            self.note("rootfs", fs::metadata(&root)?.len());
        }
        self.link_the_rest(&dir)?;
        let text = toml::to_string(&self.manifest).context("write the manifest")?;
        fs::write(dir.join("manifest.toml"), &text).context("write the manifest")?;
        let digest: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let reference = format!("{name}@sha256:{digest}");
        let published = images.join(&reference);
        // Two faults may ask for the same image.
        if published.exists() {
            fs::remove_dir_all(&published).with_context(|| format!("remove {}", published.display()))?;
        }
        fs::rename(&dir, &published).with_context(|| format!("publish {}", published.display()))?;
        let current = images.join(format!("{name}.current"));
        fs::write(&current, reference).with_context(|| format!("write {}", current.display()))
    }

    /// Writes one file of the image.
    fn file(&mut self, kind: &str, path: &Path, bytes: &[u8]) -> Result<()> {
        self.note(kind, bytes.len() as u64);
        fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
    }

    /// Links what was not changed.
    fn link_the_rest(&self, dir: &Path) -> Result<()> {
        let original = self.original.display();
        for entry in fs::read_dir(&self.original).with_context(|| format!("list {original}"))?.flatten() {
            let link = dir.join(entry.file_name());
            if entry.file_name() != "manifest.toml" && !link.exists() {
                symlink(entry.path(), &link).with_context(|| format!("link {}", entry.path().display()))?;
            }
        }
        Ok(())
    }

    /// Size of a file as the manifest has it. Its digest is looked at by `image verify` only.
    fn note(&mut self, kind: &str, size: u64) {
        let files = self.manifest.get_mut("files").and_then(toml::Value::as_table_mut);
        if let Some(file) = files.and_then(|files| files.get_mut(kind)).and_then(toml::Value::as_table_mut) {
            file.insert("size".into(), toml::Value::Integer(i64::try_from(size).unwrap_or(i64::MAX)));
        }
    }
}
