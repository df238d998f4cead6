//! Real VMs of roots that others made: OCI images of umoci and skopeo, a tar, the directory of another system. None of them is
//! changed, all of them end in `reachable`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use airlock_image::manifest::KernelFormat;
use airlock_image::{GoldenImage, Origin, Registry};
use support::guest::{Guest, config_of};
use support::{AIRLOCK, Daemon, Installation, Wanted};

/// A state directory with images of its own and the cache of all tests.
fn state() -> tempfile::TempDir {
    let state = tempfile::Builder::new().prefix("airlock-images-").tempdir().unwrap();
    fs::create_dir(state.path().join("images")).unwrap();
    symlink(support::images().join("cache"), state.path().join("cache")).unwrap();
    state
}

/// `airlock image ...` without a boot test: the test boots.
fn image(state: &Path, args: &[&str], name: &str) -> GoldenImage {
    let out = airlock(state, args);
    assert!(out.status.success(), "{args:?}\n{}{}", text(&out.stdout), text(&out.stderr));
    println!("{}", text(&out.stdout));
    Registry::open(state).unwrap().find(name).unwrap()
}

fn airlock(state: &Path, args: &[&str]) -> Output {
    let mut airlock = Command::new(AIRLOCK);
    airlock.arg("image").args(args).arg("--no-boot-test").arg("--state-dir").arg(state).env_remove("AIRLOCK_TOKEN");
    airlock.output().unwrap()
}

async fn boot(state: tempfile::TempDir, name: &str) -> Guest {
    let config = config_of(name, "");
    let wanted = Wanted { config: &config, ..Wanted::default() };
    Guest::of(Daemon::on(Installation::in_dir(state, &wanted)).await, name).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(dir: &Path, program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).current_dir(dir).output();
    let out = out.unwrap_or_else(|err| panic!("{program}: {err} (scripts/test installs it)"));
    assert!(out.status.success(), "{program} {args:?}\n{}{}", text(&out.stdout), text(&out.stderr));
}

/// A root of busybox; `init` makes it the init too.
fn busybox_root(root: &Path, init: bool) {
    for dir in ["bin", "sbin", "etc", "www", "proc", "dev", "sys", "run"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\nweb:x:101:102:web:/www:/bin/sh\n").unwrap();
    if init {
        symlink("../bin/busybox", root.join("sbin/init")).unwrap();
        symlink("busybox", root.join("bin/sh")).unwrap();
        let inittab = "::respawn:/bin/busybox httpd -f -p 8000 -h /www\n";
        fs::write(root.join("etc/inittab"), inittab).unwrap();
    }
}

/// Two layers by umoci: the second takes a page away and brings another, the program is a hard link.
fn umoci_image(dir: &Path) {
    run(dir, "umoci", &["init", "--layout", "layout"]);
    run(dir, "umoci", &["new", "--image", "layout:app"]);
    run(dir, "umoci", &["unpack", "--image", "layout:app", "one"]);
    let root = dir.join("one/rootfs");
    busybox_root(&root, false);
    fs::hard_link(root.join("bin/busybox"), root.join("bin/httpd")).unwrap();
    fs::write(root.join("www/index.html"), "from an OCI image\n").unwrap();
    fs::write(root.join("www/old.html"), "old\n").unwrap();
    run(dir, "umoci", &["repack", "--image", "layout:app", "one"]);
    run(dir, "umoci", &["unpack", "--image", "layout:app", "two"]);
    let root = dir.join("two/rootfs");
    fs::remove_file(root.join("www/old.html")).unwrap();
    fs::write(root.join("www/new.html"), "new\n").unwrap();
    run(dir, "umoci", &["repack", "--image", "layout:app", "two"]);
    let words = ["-f", "-p", "8000", "-h", "/www"].map(|word| format!("--config.cmd={word}"));
    let mut config = vec!["config", "--image", "layout:app", "--config.entrypoint=/bin/httpd"];
    config.extend(words.iter().map(String::as_str));
    config.extend(["--config.exposedports=8000/tcp", "--config.user=web", "--config.workingdir=/www"]);
    run(dir, "umoci", &config);
}

#[tokio::test]
async fn an_oci_image_of_umoci_boots_untouched_and_runs_its_program() {
    need_vms!();
    let work = tempfile::tempdir().unwrap();
    umoci_image(work.path());
    for (form, file) in [("docker-archive", "saved.tar"), ("oci-archive", "archive.tar")] {
        let target = format!("{form}:{file}:app:1");
        run(work.path(), "skopeo", &["--insecure-policy", "copy", "oci:layout:app", &target]);
    }
    let state = state();
    let path = |name: &str| work.path().join(name).to_string_lossy().into_owned();
    let layout = format!("{}:app", path("layout"));
    let made = image(state.path(), &["build", "--oci", &layout, "-o", "oci-app"], "oci-app");
    assert!(matches!(&made.manifest.origin, Origin::Oci { reference, .. } if *reference == layout));
    let service = &made.manifest.services[0];
    assert_eq!(service.command, ["/bin/httpd", "-f", "-p", "8000", "-h", "/www"]);
    assert_eq!((service.user.as_deref(), &service.ports[..]), (Some("web"), &[8000][..]));
    // Whatever form it comes in, it is the same root.
    for file in ["saved.tar", "archive.tar"] {
        let again = image(state.path(), &["build", "--oci", &path(file), "-o", "oci-app"], "oci-app");
        assert_eq!(again.manifest.files.rootfs, made.manifest.files.rootfs, "{file}");
    }
    let guest = boot(state, "oci-app").await;
    guest.assert_handed_over("none", "pid1");
    guest.assert_owned_by_airlock();
    assert_eq!(guest.page("/index.html").await, "from an OCI image\n");
    assert_eq!(guest.page("/new.html").await, "new\n");
    assert_eq!(guest.try_get(8000, "/old.html"), None, "the second layer hides it");
}

#[tokio::test]
async fn a_tar_of_a_root_becomes_an_ext4_image_with_its_own_init() {
    need_vms!();
    let work = tempfile::tempdir().unwrap();
    let root = work.path().join("root");
    busybox_root(&root, true);
    fs::write(root.join("www/index.html"), "from a tar\n").unwrap();
    run(work.path(), "tar", &["-C", "root", "--zstd", "-cf", "root.tar.zst", "."]);
    let state = state();
    let file = work.path().join("root.tar.zst").to_string_lossy().into_owned();
    let made = image(state.path(), &["build", "--rootfs-tar", &file, "-o", "tar-app", "--size", "256M"], "tar-app");
    assert_eq!(made.manifest.files.rootfs.name, "rootfs.ext4");
    assert_eq!(made.manifest.files.rootfs.size, 256 << 20);
    let guest = boot(state, "tar-app").await;
    guest.assert_handed_over("busybox", "child");
    assert_eq!(guest.page("/index.html").await, "from a tar\n");
}

/// What the system that was there before had: `golden-rootfs.ext4` with its modules inside, `vmlinux` beside it.
#[tokio::test]
async fn the_directory_of_another_system_is_taken_over_and_boots() {
    need_vms!();
    let state = state();
    let base = image(state.path(), &["build", "base"], "base");
    let release = &base.manifest.kernel.release;
    let work = tempfile::tempdir().unwrap();
    let root = work.path().join("root");
    busybox_root(&root, true);
    fs::write(root.join("www/index.html"), "from the seed\n").unwrap();
    // The modules of the kernel as its package had them, described by depmod.
    let modules = root.join("lib/modules").join(release);
    fs::create_dir_all(&modules).unwrap();
    let unpacked = work.path().join("initramfs");
    fs::create_dir(&unpacked).unwrap();
    let archive = base.initramfs_path().to_string_lossy().into_owned();
    run(&unpacked, "cpio", &["-id", "--quiet", "--no-absolute-filenames", "-F", &archive, "airlock*"]);
    for module in fs::read_dir(unpacked.join("airlock/modules")).unwrap() {
        let module: PathBuf = module.unwrap().path();
        fs::copy(&module, modules.join(module.file_name().unwrap())).unwrap();
    }
    fs::write(modules.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
    run(work.path(), "depmod", &["-b", "root", release]);
    let dir = work.path().join("seed");
    fs::create_dir(&dir).unwrap();
    run(work.path(), "mkfs.ext4", &["-q", "-d", "root", "seed/golden-rootfs.ext4", "128M"]);
    let elf = base.manifest.files.elf_kernel(base.manifest.kernel.format).unwrap();
    fs::copy(base.dir.join(&elf.name), dir.join("vmlinux")).unwrap();

    // One that was never unmounted is refused: a read-only mount could not replay its journal.
    let torn = work.path().join("torn");
    fs::create_dir(&torn).unwrap();
    for name in ["golden-rootfs.ext4", "vmlinux"] {
        fs::copy(dir.join(name), torn.join(name)).unwrap();
    }
    run(&torn, "debugfs", &["-w", "-R", "ssv feature_incompat 0x2c6", "golden-rootfs.ext4"]);
    let out = airlock(state.path(), &["import", torn.to_str().unwrap(), "--name", "torn"]);
    assert!(!out.status.success() && text(&out.stderr).contains("root_fs_corrupt"), "{}", text(&out.stderr));

    let made = image(state.path(), &["import", dir.to_str().unwrap(), "--name", "seed-import"], "seed-import");
    assert_eq!(made.manifest.kernel.format, KernelFormat::Elf);
    assert_eq!((made.manifest.files.kernel.name.as_str(), &made.manifest.kernel.release), ("vmlinux", release));
    assert!(made.manifest.modules.contains(&"virtio_net.ko".to_owned()), "{:?}", made.manifest.modules);
    assert!(matches!(made.manifest.origin, Origin::Imported { .. }));
    let guest = boot(state, "seed-import").await;
    guest.assert_handed_over("busybox", "child");
    assert_eq!(guest.page("/index.html").await, "from the seed\n");
}
