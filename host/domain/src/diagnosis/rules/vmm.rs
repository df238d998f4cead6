//! What a VMM says: Firecracker's log and QEMU's standard error, in a log of their own or in the console's file.

use airlock_protocol::Stage;

use super::From::{Any, Vmm};
use super::Grade::{Hard, Weak};
use super::{Rule, rule};
use crate::cause::Cause;

const VMM: Option<Stage> = Some(Stage::VmmStarted);
const DISK: Option<Stage> = Some(Stage::DiskReady);
const TAP: Option<Stage> = Some(Stage::TapUp);

// A table: one row is one rule and its example.
#[rustfmt::skip]
pub(super) const RULES: &[Rule] = &[
    rule(Cause::KvmMissing, VMM, Any, Hard, &["KVM object", "os error 2)"],
        "2026-05-01T10:00:00.000000000 [anonymous-instance:main:ERROR:src/firecracker/src/main.rs:93] RunWithApiError error: Error creating KVM object: No such file or directory (os error 2)"),
    rule(Cause::KvmMissing, VMM, Any, Hard, &["Could not access KVM kernel module: No such file"],
        "Could not access KVM kernel module: No such file or directory"),
    rule(Cause::KvmPermission, VMM, Any, Hard, &["KVM object", "os error 13)"],
        "[anonymous-instance:main:ERROR] Error creating KVM object: Permission denied (os error 13)"),
    rule(Cause::KvmPermission, VMM, Any, Hard, &["Could not access KVM kernel module: Permission denied"],
        "Could not access KVM kernel module: Permission denied"),
    rule(Cause::KvmUnusable, VMM, Any, Hard, &["error: failed to set MSR "],
        "error: failed to set MSR 0x48b to 0x137bfff00000000"),
    rule(Cause::KvmUnusable, VMM, Any, Hard, &["KVM internal error. Suberror: "], "KVM internal error. Suberror: 1"),
    rule(Cause::TunMissing, TAP, Any, Hard, &["could not open /dev/net/tun: No such file"],
        "qemu-system-x86_64: could not open /dev/net/tun: No such file or directory"),
    rule(Cause::TunPermission, TAP, Any, Hard, &["/dev/net/tun", "Operation not permitted"],
        "qemu-system-x86_64: could not configure /dev/net/tun (fc-0123456789): Operation not permitted"),
    rule(Cause::TapBusy, TAP, Any, Hard, &["/dev/net/tun", "Device or resource busy"],
        "qemu-system-x86_64: -netdev tap,id=n0: could not configure /dev/net/tun (fc-0123456789): Device or resource busy"),
    rule(Cause::TapBusy, TAP, Any, Hard, &["tap device failed", "os error 16)"],
        "Open tap device failed: Error while creating ifreq structure: Resource busy (os error 16). Invalid TUN/TAP Backend provided by fc-01."),
    rule(Cause::TunPermission, TAP, Any, Hard, &["tap device failed", "os error 1)"],
        "Open tap device failed: Error while creating ifreq structure: Operation not permitted (os error 1). Invalid TUN/TAP Backend provided by fc-01."),
    rule(Cause::VmmSocketStale, VMM, Any, Hard, &["FailedToBindSocket"],
        "Error: RunWithApi(FailedToBindAndRunHttpServer(FailedToBindSocket(Os { code: 98, kind: AddrInUse })))"),
    rule(Cause::VmmSocketStale, VMM, Any, Hard, &["Failed to open the API socket at: "],
        "RunWithApiError error: Failed to open the API socket at: /run/fc.sock. Check that it is not already used."),
    rule(Cause::VmmSocketStale, VMM, Any, Hard, &["qemu-system", "Failed to unlink socket "],
        "qemu-system-x86_64: -qmp unix:qmp.sock,server=on,wait=off: Failed to unlink socket qmp.sock: Is a directory"),
    rule(Cause::VmmSocketStale, VMM, Any, Hard, &["qemu-system", "Failed to bind socket to "],
        "qemu-system-x86_64: -qmp unix:qmp.sock,server=on,wait=off: Failed to bind socket to qmp.sock: Address already in use"),
    rule(Cause::VmmConfigRejected, VMM, Any, Hard, &["fault_message"],
        "{\"fault_message\":\"An error occurred when deserializing the json body of a request: invalid type: floating point `1.5`, expected u8\"}"),
    rule(Cause::VmmConfigRejected, VMM, Any, Hard, &["Configuration for VMM from one single json failed"],
        "RunWithoutApiError error: Failed to build MicroVM from Json: Configuration for VMM from one single json failed: unknown field `console`"),
    rule(Cause::MemoryInsufficient, VMM, Any, Hard, &["cannot set up guest memory "],
        "qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory"),
    rule(Cause::MemoryInsufficient, VMM, Vmm, Hard, &["Cannot allocate memory (os error 12)"],
        "2026-05-01T10:00:00.000000000 [anonymous-instance:main:ERROR] Cannot create guest memory: Cannot allocate memory (os error 12)"),
    rule(Cause::ImageMissing, DISK, Any, Hard, &["The kernel file cannot be opened: "],
        "The kernel file cannot be opened: No such file or directory (os error 2)"),
    rule(Cause::ImageMissing, DISK, Any, Hard, &["qemu-system", ": Could not open '", "No such file or directory"],
        "qemu-system-x86_64: -drive id=root,file=rootfs.erofs: Could not open 'rootfs.erofs': No such file or directory"),
    rule(Cause::DiskFull, DISK, Vmm, Hard, &["No space left on device"],
        "2026-05-01T10:00:00.000000000 [anonymous-instance:main:ERROR] write: No space left on device (os error 28)"),
    rule(Cause::VmmExited, None, Vmm, Weak, &["Firecracker panicked at "],
        "2026-05-01T10:00:00.000000000 [anonymous-instance:fc_vcpu 0:ERROR] Firecracker panicked at 'index out of bounds'"),
    rule(Cause::VmmExited, None, Any, Weak, &["Vmm is stopping."],
        "2026-05-01T10:00:00.000000000 [anonymous-instance:main:INFO] Vmm is stopping."),
];
