//! Broken images: each is refused or found out with the catalogue's code, and nothing of it is published.
//!
//! One small sound image, made of synthetic parts and a real filesystem, is broken in one way after the other. The rows of the
//! catalogue's "Guest kernel and root" are all here but `clock_wrong`, which no image has: it is of a restored snapshot. A cut
//! tar and the like are refused before there is a candidate, in the tests of the sources.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use airlock_domain::Cause;
use airlock_image::cpio::Archive;
use airlock_image::preflight::RootSeen;
use airlock_image::{
    BootFailure, BootTest, BuildOptions, Candidate, GoldenImage, ImageError, Manifest, Registry, publish_candidate,
};
use airlock_protocol::Stage;
use airlock_protocol::guest_config::{GuestConfig, Handover, NetworkOwner, RootFs};
use sha2::{Digest, Sha256};

const RELEASE: &str = "6.1.0-56-cloud-amd64";
const MODULES: [(&str, &str); 8] = [
    ("virtio", ""),
    ("virtio_pci", "virtio"),
    ("virtio_net", "virtio"),
    ("virtio_blk", "virtio"),
    ("virtio_console", "virtio"),
    ("virtio-rng", "virtio"),
    ("overlay", ""),
    ("erofs", ""),
];

/// The parts of an image, sound until somebody breaks one.
struct Parts {
    kernel: Vec<u8>,
    config: BTreeMap<&'static str, &'static str>,
    /// File name, content.
    modules: Vec<(String, Vec<u8>)>,
    load_order: Vec<String>,
    /// Path in the initramfs, mode, content.
    programs: Vec<(String, u32, Vec<u8>)>,
    /// Leaves out so much of the initramfs's end.
    initramfs_cut: usize,
    rootfs: Vec<u8>,
    tree: tempfile::TempDir,
    manifest: Manifest,
}

/// An ELF-64 file of `machine`, with an interpreter if one is given.
fn elf(machine: u16, interpreter: Option<&str>) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[18..20].copy_from_slice(&machine.to_le_bytes());
    file[32] = 64;
    file[54] = 56;
    if let Some(interpreter) = interpreter {
        file[56] = 1;
        let mut segment = vec![0; 56];
        segment[0] = 3;
        segment[8] = 120;
        segment[32] = u8::try_from(interpreter.len() + 1).unwrap();
        file.extend(segment);
        file.extend(interpreter.bytes());
        file.push(0);
    }
    file
}

fn module(release: &str, depends: &str) -> Vec<u8> {
    let mut file = elf(62, None);
    file.extend(
        format!("\0license=GPL\0depends={depends}\0vermagic={release} SMP preempt mod_unload modversions \0").bytes(),
    );
    file
}

fn write(tree: &Path, path: &str, mode: u32, content: &[u8]) {
    let file = tree.join(path.trim_start_matches('/'));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let _ = fs::remove_file(&file);
    fs::write(&file, content).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
}

fn bz_image() -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    image[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x1f1] = 1;
    image[0x1f4] = 0xc0;
    image
}

impl Parts {
    fn sound() -> Self {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
        for dir in ["usr/bin", "usr/sbin", "usr/lib/systemd", "usr/lib64", "etc"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for (link, to) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
            symlink(to, root.join(link)).unwrap();
        }
        write(root, LOADER, 0o755, &elf(62, None));
        write(root, "/usr/lib/systemd/systemd", 0o755, &elf(62, Some(LOADER)));
        symlink("/lib/systemd/systemd", root.join("usr/sbin/init")).unwrap();
        write(root, "/usr/bin/sh", 0o755, &elf(62, Some(LOADER)));
        write(root, "/usr/bin/Xvnc", 0o755, &elf(62, Some(LOADER)));
        write(root, "/usr/bin/app", 0o755, b"#!/bin/sh\nexec true\n");
        write(root, "/usr/bin/firefox", 0o755, b"#!/bin/sh\nexec true\n");
        write(root, "/etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n");
        write(root, "/etc/fstab", 0o644, b"# nothing\ntmpfs /tmp tmpfs defaults 0 0\n/dev/vda / ext4 ro 0 1\n");

        let set = "64BIT SERIAL_8250_CONSOLE BLK_DEV_INITRD BINFMT_ELF DEVTMPFS TMPFS";
        let modular = "VIRTIO_NET VIRTIO_BLK OVERLAY_FS VIRTIO_CONSOLE EROFS_FS VIRTIO_PCI HW_RANDOM_VIRTIO";
        let config = set.split(' ').map(|option| (option, "y")).chain(modular.split(' ').map(|option| (option, "m")));
        Self {
            kernel: bz_image(),
            config: config.collect(),
            modules: MODULES.iter().map(|(name, depends)| (format!("{name}.ko"), module(RELEASE, depends))).collect(),
            load_order: MODULES.iter().map(|(name, _)| format!("{name}.ko")).collect(),
            programs: vec![
                ("/init".to_owned(), 0o755, elf(62, None)),
                ("/airlock/bin/airlock-agent".to_owned(), 0o755, elf(62, None)),
            ],
            initramfs_cut: 0,
            rootfs: Vec::new(),
            tree,
            manifest: manifest(),
        }
    }

    fn root(&self) -> &Path {
        self.tree.path()
    }

    fn set(&mut self, option: &'static str, value: &'static str) {
        self.config.insert(option, value);
    }

    fn drop_module(&mut self, name: &str) {
        self.modules.retain(|(file, _)| !file.starts_with(name));
        self.load_order.retain(|file| !file.starts_with(name));
        self.manifest.modules.retain(|file| !file.starts_with(name));
    }

    fn initramfs(&self) -> Vec<u8> {
        let config = GuestConfig {
            modules: self.load_order.clone(),
            ..serde_json::from_str(
                r#"{"build_id":"b","kernel_release":"r","modules":[],"root_fs":"erofs","handover":"init","services":[],"display":null}"#,
            )
            .unwrap()
        };
        let mut archive = Archive::new();
        for (path, mode, content) in &self.programs {
            archive.file(path, *mode, content).unwrap();
        }
        for (name, content) in &self.modules {
            archive.file(&format!("{}/{name}", airlock_protocol::paths::INITRAMFS_MODULES), 0o644, content).unwrap();
        }
        archive.file(airlock_protocol::paths::INITRAMFS_CONFIG, 0o644, &serde_json::to_vec(&config).unwrap()).unwrap();
        let mut bytes = archive.finish();
        bytes.truncate(bytes.len() - self.initramfs_cut);
        bytes
    }

    /// Writes the files into `dir` and says what they are.
    fn candidate(mut self, dir: &Path) -> Candidate {
        let initramfs = self.initramfs();
        for (facts, content) in [
            (&mut self.manifest.files.kernel, &self.kernel),
            (&mut self.manifest.files.initramfs, &initramfs),
            (&mut self.manifest.files.rootfs, &self.rootfs),
        ] {
            fs::write(dir.join(&facts.name), content).unwrap();
            facts.size = content.len() as u64;
            facts.sha256 = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        }
        let config = self.config.iter().map(|(option, value)| format!("CONFIG_{option}={value}\n")).collect();
        Candidate { config, root: Some(RootSeen::of(self.tree.path()).unwrap()), manifest: self.manifest }
    }
}

fn manifest() -> Manifest {
    let modules: Vec<_> = MODULES.iter().map(|(name, _)| format!("\"{name}.ko\"")).collect();
    let file = |name: &str| format!("{{ name = \"{name}\", sha256 = \"\", size = 0 }}");
    let text = format!(
        r#"
format = 1
name = "small"
recipe_digest = "00"
build_id = "11"
epoch = 1
suite = "none"
memory_mib = 1024
vcpus = 1
network_owner = "airlock"
handover = "init"
readiness = ["agent_up", "display_up", "reachable"]
root_fs = "erofs"
modules = [{}]
packages = {{ libc6 = "2.36-9" }}
kernel = {{ package = "linux-image", release = "{RELEASE}", config = {{}} }}
files = {{ kernel = {}, initramfs = {}, rootfs = {} }}
display = {{ number = 1, browser_class = "Firefox", user = "user", open_command = ["/usr/bin/firefox"] }}
[[services]]
name = "xvnc"
command = ["/usr/bin/Xvnc", ":1"]
user = "user"
ports = [5901]
[[services]]
name = "app"
command = ["/bin/app"]
ports = [9000]
"#,
        modules.join(", "),
        file("vmlinuz"),
        file("initramfs"),
        file("rootfs.erofs")
    );
    toml::from_str(&text).unwrap()
}

/// A real filesystem, written once for all cases.
fn real_rootfs() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    write(&tree, "/etc/hostname", 0o644, &[b'x'; 20_000]);
    let image = dir.path().join("root");
    let made = Command::new("mkfs.erofs").arg("--quiet").arg(&image).arg(&tree).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::read(image).unwrap()
}

type Break = fn(&mut Parts);

/// What is broken, the code it is refused with, the words that name it, and how it is broken.
const BROKEN: &[(&str, &str, Break)] = &[
    ("no_console_output", "neither a bzImage nor an ELF", |p| p.kernel = b"\x1f\x8b\x08 a gzip file".repeat(100)),
    ("no_console_output", "vmlinuz is cut", |p| p.kernel.truncate(0x800)),
    ("no_console_output", "ELF machine 183", |p| p.kernel = elf(183, None)),
    ("no_console_output", "CONFIG_SERIAL_8250_CONSOLE is n", |p| p.set("SERIAL_8250_CONSOLE", "n")),
    ("kernel_panic", "initramfs cannot be unpacked", |p| p.initramfs_cut = 600),
    ("kernel_panic", "CONFIG_64BIT", |p| p.set("64BIT", "n")),
    ("guest_oom", "memory_mib is 256", |p| p.manifest.memory_mib = 256),
    ("guest_oom", "memory_mib is 32", |p| {
        p.manifest.memory_mib = 32;
        p.manifest.display = None;
        p.manifest.readiness = vec![Stage::AgentUp, Stage::Reachable];
    }),
    ("root_device_missing", "virtio_blk is not in the initramfs", |p| p.drop_module("virtio_blk")),
    ("root_device_missing", "CONFIG_VIRTIO_BLK is n", |p| p.set("VIRTIO_BLK", "n")),
    ("root_device_missing", "CONFIG_VIRTIO_PCI", |p| p.drop_module("virtio_pci")),
    ("root_device_missing", "CONFIG_BLK_DEV_INITRD", |p| p.set("BLK_DEV_INITRD", "n")),
    ("root_device_missing", "CONFIG_DEVTMPFS", |p| p.set("DEVTMPFS", "n")),
    ("root_wait_forever", "rootwait", |p| p.set("CMDLINE", "\"root=/dev/vda rootwait\"")),
    ("root_fs_unsupported", "CONFIG_EROFS_FS is n", |p| p.set("EROFS_FS", "n")),
    ("root_fs_unsupported", "overlay is not in the initramfs", |p| p.drop_module("overlay")),
    ("root_fs_unsupported", "is erofs, the manifest says ext4", |p| {
        p.manifest.root_fs = RootFs::Ext4;
        p.set("EXT4_FS", "y");
    }),
    ("root_fs_corrupt", "rootfs.erofs is cut", |p| p.rootfs.truncate(4096 + 512)),
    ("root_fs_corrupt", "does not begin as erofs", |p| p.rootfs[1024..1028].fill(0)),
    ("root_fs_corrupt", "does not begin as erofs", |p| p.rootfs.clear()),
    ("init_missing", "init /sbin/init is a link to nothing", |p| {
        fs::remove_file(p.root().join("usr/lib/systemd/systemd")).unwrap();
    }),
    ("init_missing", "init /sbin/init is not executable", |p| {
        fs::set_permissions(p.root().join("usr/lib/systemd/systemd"), fs::Permissions::from_mode(0o644)).unwrap();
    }),
    ("init_missing", "needs the interpreter /lib64/gone.so", |p| {
        write(p.root(), "/usr/lib/systemd/systemd", 0o755, &elf(62, Some("/lib64/gone.so")));
    }),
    ("init_missing", "init /sbin/init is for ELF machine 183", |p| {
        write(p.root(), "/usr/lib/systemd/systemd", 0o755, &elf(183, None));
    }),
    ("init_missing", "init /sbin/init is empty", |p| write(p.root(), "/usr/lib/systemd/systemd", 0o755, b"")),
    ("init_missing", "which alone starts systemd-networkd", |p| {
        fs::remove_file(p.root().join("usr/sbin/init")).unwrap();
        fs::remove_file(p.root().join("usr/lib/systemd/systemd")).unwrap();
        p.manifest.network_owner = NetworkOwner::SystemdNetworkd;
    }),
    ("init_missing", "lacks airlock-init", |p| p.programs.retain(|(path, ..)| path != "/init")),
    ("init_missing", "airlock-init in the initramfs is not executable", |p| p.programs[0].1 = 0o644),
    ("init_missing", "CONFIG_BINFMT_ELF", |p| p.set("BINFMT_ELF", "n")),
    ("virtio_dma_failed", "older than 4.14", |p| {
        p.manifest.kernel.release = "4.9.337".into();
        for (_, content) in &mut p.modules {
            *content = module("4.9.337", "");
        }
    }),
    ("modules_mismatch", "virtio_net.ko is of kernel 5.10.0-1", |p| {
        p.modules[2].1 = module("5.10.0-1", "virtio");
    }),
    ("modules_mismatch", "lacks the module virtio_net.ko", |p| p.modules.retain(|(name, _)| name != "virtio_net.ko")),
    ("modules_mismatch", "virtio_net.ko is loaded before virtio,", |p| p.load_order.swap(0, 2)),
    ("modules_mismatch", "erofs.ko is no kernel module", |p| p.modules[7].1 = b"<html>404</html>".to_vec()),
    ("entropy_blocked", "CONFIG_HW_RANDOM_VIRTIO", |p| {
        p.manifest.kernel.release = "4.19.0-1".into();
        for (_, content) in &mut p.modules {
            *content = module("4.19.0-1", "");
        }
        p.drop_module("virtio-rng");
    }),
    ("systemd_emergency", "mounts UUID=1234 on /data", |p| {
        write(p.root(), "/etc/fstab", 0o644, b"UUID=1234 /data ext4 defaults 0 2\n");
    }),
    ("link_missing", "virtio_net is not in the initramfs", |p| p.drop_module("virtio_net")),
    ("kernel_option_missing", "CONFIG_IP_PNP is n", |p| p.manifest.network_owner = NetworkOwner::Kernel),
    ("cmdline_ip_missing", "CONFIG_CMDLINE_OVERRIDE", |p| p.set("CMDLINE_OVERRIDE", "y")),
    ("agent_not_installed", "lacks airlock-agent", |p| p.programs.truncate(1)),
    ("agent_not_installed", "CONFIG_VIRTIO_CONSOLE is n", |p| p.set("VIRTIO_CONSOLE", "n")),
    ("guest_program_invalid", "airlock-agent is not static", |p| p.programs[1].2 = elf(62, Some("/lib64/ld.so"))),
    ("guest_program_invalid", "airlock-init is for ELF machine 183", |p| p.programs[0].2 = elf(183, None)),
    ("agent_port_conflict", "service app wants port 8080", |p| p.manifest.services[1].ports = vec![8080]),
    ("service_port_conflict", "service app wants port 5901, which is service xvnc's", |p| {
        p.manifest.services[1].ports = vec![5901];
    }),
    ("service_program_missing", "service app runs /bin/app, which does not exist", |p| {
        fs::remove_file(p.root().join("usr/bin/app")).unwrap();
    }),
    ("service_program_missing", "which is not executable", |p| write(p.root(), "/usr/bin/app", 0o644, b"#!/bin/sh\n")),
    ("service_program_missing", "needs the interpreter /usr/bin/python3", |p| {
        write(p.root(), "/usr/bin/app", 0o755, b"#!/usr/bin/python3 -u\n");
    }),
    ("service_program_missing", "is for ELF machine 40", |p| write(p.root(), "/usr/bin/app", 0o755, &elf(40, None))),
    ("service_user_missing", "service app runs as nobody-here", |p| {
        p.manifest.services[1].user = Some("nobody-here".into());
    }),
    ("browser_missing", "/usr/bin/firefox does not exist", |p| {
        fs::remove_file(p.root().join("usr/bin/firefox")).unwrap();
    }),
    ("display_failed", "readiness has display_up, and the image has no display", |p| p.manifest.display = None),
    ("readiness_impossible", "readiness lacks reachable", |p| p.manifest.readiness = vec![Stage::AgentUp]),
];

/// Everything below `images/` of a state directory.
fn published(state: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(state.join("images")) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

struct Bench {
    state: tempfile::TempDir,
    rootfs: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        Self { state: tempfile::tempdir().unwrap(), rootfs: real_rootfs() }
    }

    fn publish(&self, boot_test: Option<BootTest>, broken: impl FnOnce(&mut Parts)) -> Result<GoldenImage, ImageError> {
        let mut parts = Parts::sound();
        parts.rootfs.clone_from(&self.rootfs);
        broken(&mut parts);
        let files = tempfile::tempdir().unwrap();
        let candidate = parts.candidate(files.path());
        let options = BuildOptions { boot_test, ..BuildOptions::at(self.state.path()) };
        publish_candidate(&candidate, files.path(), &options, &mut |_| {})
    }
}

#[test]
fn each_is_refused_by_name_and_none_is_half_published() {
    let bench = Bench::new();
    assert!(BROKEN.len() >= 25);
    for (code, words, broken) in BROKEN {
        let error = bench.publish(None, broken).map(|image| image.reference()).expect_err(words);
        let ImageError::Preflight { problems, .. } = &error else { panic!("{words}: {error}") };
        let named = problems.iter().find(|problem| problem.what.contains(words));
        let named = named.unwrap_or_else(|| panic!("nothing names {words:?}: {problems:?}"));
        assert_eq!(named.code, *code, "{words}");
        assert!(!named.remedy.is_empty(), "{words}");
        // One fault may be seen in two ways; a third thing must not be blamed.
        assert!(problems.len() <= 3, "{words}: {problems:?}");
        assert_eq!(published(bench.state.path()), [""; 0], "{words}");
        let ours =
            ["guest_program_invalid", "kernel_option_missing", "service_port_conflict", "service_program_missing"];
        let ours = [&ours[..], &["service_user_missing", "readiness_impossible"]].concat();
        assert!(code.parse::<Cause>().is_ok() || ours.contains(code), "{code} is in no catalogue");
    }
    // The image that was broken so often is sound.
    let image = bench.publish(None, |_| {}).unwrap();
    assert_eq!(published(bench.state.path()), ["small.current".to_owned(), image.reference()]);
    assert!(image.boot_record().is_none(), "nobody booted it: unverified");
}

#[test]
fn all_problems_are_told_at_once_the_worst_first() {
    let bench = Bench::new();
    let error = bench
        .publish(None, |p| {
            p.manifest.services[1].ports = vec![5901];
            fs::remove_file(p.root().join("usr/bin/app")).unwrap();
            p.drop_module("virtio_blk");
            p.kernel.truncate(0x800);
        })
        .unwrap_err();
    let ImageError::Preflight { problems, .. } = &error else { panic!("{error}") };
    let codes: Vec<_> = problems.iter().map(|problem| problem.code).collect();
    assert_eq!(codes, ["no_console_output", "root_device_missing", "service_port_conflict", "service_program_missing"]);
    assert_eq!((error.code(), error.cause()), ("no_console_output", Some(Cause::NoConsoleOutput)));
    assert!(error.to_string().ends_with("(and 3 more)"), "{error}");
}

#[test]
fn one_that_does_not_boot_is_not_published_and_the_one_before_it_stays() {
    let bench = Bench::new();
    let failing = || {
        BootTest::new(|candidate, _, tell| {
            assert!(candidate.kernel_path().exists());
            tell("booting");
            let failure = BootFailure {
                cause: Cause::KernelPanic,
                stage: Some(Stage::InitStarted),
                detail: "Kernel panic - not syncing".into(),
                evidence_id: Some("ev-1".into()),
            };
            Err(ImageError::BootTestFailed { image: candidate.name.clone(), failure: Box::new(failure) })
        })
    };
    let error = bench.publish(Some(failing()), |_| {}).unwrap_err();
    assert_eq!((error.code(), error.cause()), ("boot_test_failed", Some(Cause::KernelPanic)));
    assert_eq!(published(bench.state.path()), [""; 0]);

    let first = bench.publish(None, |_| {}).unwrap();
    bench.publish(Some(failing()), |p| p.manifest.memory_mib = 2048).unwrap_err();
    assert_eq!(published(bench.state.path()), ["small.current".to_owned(), first.reference()]);
    assert_eq!(Registry::open(bench.state.path()).unwrap().find("small").unwrap(), first);
}

/// What happens to an image after it was published: by size when it is looked up, by digest when it is verified.
#[test]
fn damage_after_the_publication_is_found() {
    let bench = Bench::new();
    type Damage = fn(&Path);
    let flip: Damage = |path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let damages: [(&str, &str, Damage); 7] = [
        ("rootfs.erofs", "image_corrupt", flip),
        ("vmlinuz", "image_corrupt", flip),
        ("initramfs", "image_corrupt", flip),
        ("manifest.toml", "image_corrupt", flip),
        ("sbom.spdx.json", "image_corrupt", flip),
        ("rootfs.erofs", "image_corrupt", |path| {
            fs::OpenOptions::new().write(true).open(path).unwrap().set_len(4096).unwrap();
        }),
        ("initramfs", "image_missing", |path| fs::remove_file(path).unwrap()),
    ];
    let registry = Registry::open(bench.state.path()).unwrap();
    for (file, code, damage) in damages {
        let image = bench.publish(None, |_| {}).unwrap();
        registry.verify(&image).unwrap();
        damage(&image.dir.join(file));
        let error = registry.find("small").and_then(|image| registry.verify(&image)).unwrap_err();
        assert_eq!(error.code(), code, "{file}: {error}");
        // A manifest that cannot be read hides no image.
        assert_eq!(registry.all().unwrap().len(), 1, "{file}");
        // The next publication repairs it.
        registry.verify(&bench.publish(None, |_| {}).unwrap()).unwrap();
    }
}

#[test]
fn what_is_supervised_needs_no_init() {
    let bench = Bench::new();
    let image = bench.publish(None, |p| {
        p.manifest.handover = Handover::Supervise;
        fs::remove_file(p.root().join("usr/sbin/init")).unwrap();
        fs::remove_file(p.root().join("usr/lib/systemd/systemd")).unwrap();
        write(p.root(), "/etc/fstab", 0o644, b"UUID=1234 /data ext4 defaults 0 2\n");
    });
    assert_eq!(image.unwrap().manifest.handover, Handover::Supervise);
}
