//! Which driver runs guests, and why.
//!
//! ```text
//! auto: Firecracker's probe guest reaches its init ──> firecracker
//!          └─ it does not: QEMU's with KVM does ──> qemu-kvm
//!                             └─ it does not ──> qemu-tcg
//! ```
//! A driver that is configured is not probed: what it cannot do fails where it is done. In the reason stands what was seen of
//! each driver that was not taken.

use std::future::Future;

use airlock_domain::vmm::DriverKind;
use airlock_effects::probe::ProbeVerdict;
use airlock_image::{GoldenImage, Manifest};
use serde::Serialize;

use crate::error::Error;

/// Which driver was chosen, and why.
#[derive(Debug, Clone, Serialize)]
pub struct DriverReport {
    /// The driver; none as long as no image is there to probe with.
    pub kind: Option<DriverKind>,
    /// Why.
    pub reason: String,
}

/// A driver with the reason it was chosen for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChosenDriver {
    pub kind: DriverKind,
    pub reason: String,
}

/// The first driver whose probe says that it can be used; a probe behind it is not made. Emulation needs none.
pub(crate) async fn first_usable(
    firecracker: impl Future<Output = ProbeVerdict>,
    kvm: impl Future<Output = ProbeVerdict>,
) -> ChosenDriver {
    let firecracker = firecracker.await;
    if firecracker.usable {
        return ChosenDriver { kind: DriverKind::Firecracker, reason: firecracker.reason };
    }
    let kvm = kvm.await;
    let kind = if kvm.usable { DriverKind::QemuKvm } else { DriverKind::QemuTcg };
    ChosenDriver { kind, reason: format!("firecracker: {}; qemu-kvm: {}", firecracker.reason, kvm.reason) }
}

/// Whether a driver's guests can be of an image.
pub(crate) fn check_image(kind: DriverKind, image: &GoldenImage) -> Result<(), Error> {
    check_manifest(kind, &image.manifest)
}

/// Without a vsock nobody hears of the agent under Firecracker, and every boot would fail at its deadline.
fn check_manifest(kind: DriverKind, manifest: &Manifest) -> Result<(), Error> {
    match kind {
        DriverKind::Firecracker if !manifest.has_vsock() => Err(Error::NoVsock { image: manifest.name.clone() }),
        DriverKind::Firecracker | DriverKind::QemuKvm | DriverKind::QemuTcg => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    async fn verdict(usable: bool, reason: &str) -> ProbeVerdict {
        ProbeVerdict { usable, cause: None, reason: reason.to_owned() }
    }

    async fn not_asked() -> ProbeVerdict {
        panic!("a probe behind a driver that can be used");
    }

    #[tokio::test]
    async fn the_first_driver_whose_guest_boots_is_taken_and_no_other_is_asked() {
        let chosen = first_usable(verdict(true, "booted"), not_asked()).await;
        assert_eq!(chosen, ChosenDriver { kind: DriverKind::Firecracker, reason: "booted".into() });
        for (kvm, kind) in [(true, DriverKind::QemuKvm), (false, DriverKind::QemuTcg)] {
            let chosen = first_usable(verdict(false, "not installed"), verdict(kvm, "seen")).await;
            assert_eq!(chosen.kind, kind);
            assert_eq!(chosen.reason, "firecracker: not installed; qemu-kvm: seen");
        }
    }

    #[test]
    fn an_image_without_vsock_is_none_for_firecracker_only_and_told_what_to_do() {
        let manifest: Manifest = toml::from_str(MANIFEST).unwrap();
        for kind in [DriverKind::QemuKvm, DriverKind::QemuTcg] {
            check_manifest(kind, &manifest).unwrap();
        }
        let error = check_manifest(DriverKind::Firecracker, &manifest).unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "image_lacks_vsock"));
        let remedy = error.remedy().unwrap();
        for word in ["vmw_vsock_virtio_transport", "airlock image build base", "qemu"] {
            assert!(remedy.contains(word), "{remedy}");
        }
        let modules = vec!["virtio_net.ko".to_owned(), "vmw_vsock_virtio_transport.ko".to_owned()];
        check_manifest(DriverKind::Firecracker, &Manifest { modules, ..manifest }).unwrap();
    }

    const MANIFEST: &str = r#"
format = 1
name = "base"
recipe_digest = "d"
build_id = "b"
epoch = 1
suite = "bookworm"
memory_mib = 256
vcpus = 1
network_owner = "airlock"
readiness = ["agent_up"]
root_fs = "erofs"
modules = ["virtio_net.ko"]

[kernel]
package = "linux-image-cloud-amd64"
release = "6.1"
config = { CONFIG_VIRTIO_VSOCKETS = "m" }

[files.kernel]
name = "vmlinuz"
sha256 = "0"
size = 1

[files.initramfs]
name = "initramfs"
sha256 = "0"
size = 1

[files.rootfs]
name = "rootfs.erofs"
sha256 = "0"
size = 1

[packages]
"#;
}
