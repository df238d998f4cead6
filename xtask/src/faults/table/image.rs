//! Faults of kernel, initramfs and root filesystem, made past preflight: the image is changed after its build.

use airlock_protocol::Stage;
use anyhow::{Context, Result};

use crate::faults::fault::{Fault, Since, fault};
use crate::faults::image::Image;
use crate::faults::site::Special;

/// A boot that is only ever silent is judged by its deadline.
const SILENT_MS: u64 = 27_500;
/// Behind the superblock of erofs: its offset, and that of its first inode's block (linux/fs/erofs/erofs_fs.h).
const EROFS_SUPERBLOCK: u64 = 1024;
/// More of the kernel's words than `quiet` lets through.
const LOUD: &str = "ignore_loglevel";

pub fn faults() -> Vec<Fault> {
    let mut all = modules();
    all.extend(root());
    all.extend(init());
    all.extend(kernel());
    all
}

fn modules() -> Vec<Fault> {
    vec![
        fault("virtio-net-missing", "link_missing", Stage::LinkFound)
            .how("the initramfs has no `virtio_net`")
            .image(|image| image.without_modules(&["virtio_net.ko"]))
            .quick(),
        fault("transport-missing", "link_missing", Stage::LinkFound)
            .how("the initramfs has no `virtio_pci`: neither network nor disk is seen")
            .image(|image| image.without_modules(&["virtio_pci.ko"])),
        fault("virtio-blk-missing", "root_device_missing", Stage::RootMounted)
            .how("the initramfs has no `virtio_blk`")
            .image(|image| image.without_modules(&["virtio_blk.ko"])),
        fault("modules-of-other-kernel", "modules_mismatch", Stage::ModulesLoaded)
            .how("`virtio_net` in the initramfs was built for another kernel release")
            .image(|image| other_release(image.module("virtio_net.ko")?)),
        fault("module-file-missing", "modules_mismatch", Stage::ModulesLoaded)
            .how("the list names `virtio_net`, the initramfs does not hold it")
            .image(|image| image.initramfs.remove("/airlock/modules/virtio_net.ko")),
        fault("module-cut", "modules_mismatch", Stage::ModulesLoaded)
            .how("the file of `virtio_net` ends in its middle")
            .image(|image| {
                let module = image.module("virtio_net.ko")?;
                module.truncate(module.len() / 2);
                Ok(())
            }),
        fault("filesystem-module-missing", "root_fs_unsupported", Stage::RootMounted)
            .how("the initramfs has no `erofs`")
            .image(|image| image.without_modules(&["erofs.ko"])),
        fault("overlay-module-missing", "root_fs_unsupported", Stage::RootMounted)
            .how("the initramfs has no `overlay`")
            .image(|image| image.without_modules(&["overlay.ko"])),
    ]
}

/// Gives a module the checksum of another kernel's `module_layout` (section `__versions`: checksum, then name). The release's name
/// alone is not compared where there are checksums.
fn other_release(module: &mut [u8]) -> Result<()> {
    let name = b"module_layout\0";
    let places = module.windows(name.len()).enumerate().filter(|(_, window)| window == name);
    let at = places.map(|(at, _)| at).find(|at| module[at - 4..*at] == [0; 4]).context("the module has no versions")?;
    module[at - 8] ^= 0xff;
    Ok(())
}

fn root() -> Vec<Fault> {
    vec![
        fault("root-device-missing", "root_device_missing", Stage::RootMounted)
            .how("`airlock.root=/dev/vdz`")
            .cmdline("airlock.root=/dev/vdz"),
        fault("root-disk-missing", "root_device_missing", Stage::RootMounted)
            .how("the VMM has no disk")
            .before_vmm(
                "kept=(); for arg in \"${args[@]}\"; do case $arg in virtio-blk*drive=root*) unset 'kept[-1]';; *) kept+=(\"$arg\");; esac; done; args=(\"${kept[@]}\")",
            ),
        fault("root-superblock-corrupt", "root_fs_corrupt", Stage::RootMounted)
            .how("bits of the superblock of erofs are flipped")
            .image(|image| image.damage_root(EROFS_SUPERBLOCK, &[0; 128]))
            .quick(),
        fault("root-data-corrupt", "root_fs_corrupt", Stage::RootMounted)
            .how("the superblock is whole, the blocks behind it are not")
            .image(|image| image.damage_root(EROFS_SUPERBLOCK + 128, &vec![0xa5; 4 << 20])),
        fault("root-empty", "root_fs_corrupt", Stage::RootMounted)
            .how("the root filesystem is 1 MiB of zeros")
            .image(|image| image.root(&vec![0; 1 << 20])),
        fault("root-wait-forever", "root_wait_forever", Stage::RootMounted)
            .how("no init in the initramfs, `root=/dev/vdz rootwait`: the kernel waits for ever")
            .cmdline(&format!("rdinit=/none root=/dev/vdz rootwait {LOUD}"))
            .shows(Since::Asked, SILENT_MS),
        fault("root-unknown-to-kernel", "root_device_missing", Stage::RootMounted)
            .how("`[vmm] extra_cmdline`: no init in the initramfs, `root=/dev/vda`; the kernel itself has no block driver")
            .daemon(Special { network: "[vmm]\nextra_cmdline = \"rdinit=/none root=/dev/vda\"\n".into(), ..Special::default() })
            .shows(Since::Sign("Kernel panic"), 1000),
    ]
}

fn init() -> Vec<Fault> {
    let panics = |fault: Fault| fault.shows(Since::Sign("Kernel panic"), 1000);
    vec![
        panics(
            fault("init-not-executable", "init_missing", Stage::HandedOver)
                .how("`/init` has mode 0644")
                .image(|image| image.initramfs.set_mode("/init", 0o644))
                .quick(),
        ),
        panics(
            fault("init-of-other-machine", "init_missing", Stage::HandedOver)
                .how("`/init` is a program for another processor")
                .image(|image| {
                    // e_machine of the ELF header: AArch64.
                    image.initramfs.content("/init")?[18] = 183;
                    Ok(())
                }),
        ),
        panics(
            fault("init-without-interpreter", "init_missing", Stage::HandedOver)
                .how("`/init` is a script whose interpreter is not there")
                .image(|image| {
                    image.initramfs.put("/init", 0o755, b"#!/bin/nosuch\n");
                    Ok(())
                }),
        ),
        panics(
            fault("init-dies", "kernel_panic", Stage::InitStarted).how("`/init` is cut, and crashes at once").image(
                |image| {
                    // Everything behind the first page of the program, of which its headers are the beginning.
                    image.initramfs.content("/init")?[4096..].fill(0);
                    Ok(())
                },
            ),
        ),
    ]
}

fn kernel() -> Vec<Fault> {
    vec![
        fault("kernel-is-no-kernel", "vmm_config_rejected", Stage::VmmStarted)
            .how("the kernel is a text")
            .image(|image| {
                *image.kernel()? = b"this is no kernel\n".repeat(4096);
                Ok(())
            })
            .shows(Since::Exit, 1000),
        fault("kernel-cut", "vmm_exited", Stage::KernelStarted)
            .how("the last three quarters of the kernel are missing: it resets the machine before its first word")
            .image(|image| {
                let kernel = image.kernel()?;
                kernel.truncate(kernel.len() / 4);
                Ok(())
            })
            .shows(Since::Exit, 1000),
        fault("kernel-hangs", "no_console_output", Stage::KernelStarted)
            .how("the kernel's first instruction jumps to itself, as stock kernels do on a paravirtual host")
            .image(hang)
            .shows(Since::Asked, SILENT_MS),
        fault("memory-too-small", "guest_oom", Stage::InitStarted)
            .how("PID 1 needs more memory than the guest has")
            .image(|image| {
                image.with_busybox()?;
                image.manifest.insert("memory_mib".into(), toml::Value::Integer(96));
                let greedy = "#!/airlock/bin/busybox sh\nbb=/airlock/bin/busybox\n\
                    $bb mount -t ramfs none /newroot\n$bb yes > /newroot/all\nexec $bb sh -c '$bb yes > /newroot/more'\n";
                image.initramfs.put("/init", 0o755, greedy.as_bytes());
                Ok(())
            })
            .shows(Since::Sign("Kernel panic"), 1000),
    ]
}

/// Protected-mode code begins behind the boot sector and the setup sectors (kernel: Documentation/arch/x86/boot.rst).
fn hang(image: &mut Image) -> Result<()> {
    let kernel = image.kernel()?;
    let start = (usize::from(kernel[0x1f1]) + 1) * 512;
    kernel[start..start + 2].copy_from_slice(&[0xeb, 0xfe]);
    Ok(())
}
