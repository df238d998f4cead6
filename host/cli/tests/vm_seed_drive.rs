//! A real VM whose cloud-init configures its interface from the seed drive that the host made for it.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::os::unix::fs::PermissionsExt;

use support::guest::Guest;

#[tokio::test]
async fn cloud_init_owns_the_interface_by_a_drive_that_goes_with_its_machine() {
    need_vms!();
    let guest = Guest::boot("net-cloud-init", "").await;
    guest.assert_owned_by_the_image();
    assert_eq!(guest.addresses(), [format!("{}/24", guest.addr)]);
    let drive = guest.dir().join("seed.img");
    let facts = std::fs::metadata(&drive).unwrap();
    assert_eq!((facts.permissions().mode() & 0o777, facts.len() % 512), (0o600, 0));
    // It says itself where it had it from: the second drive, which is no file of the image.
    guest.says("DataSourceNoCloud [seed=/dev/vdb]").await;
    let (status, _) = guest.daemon.call("DELETE", &format!("/api/vms/{}", guest.vm), None).await;
    assert!((200..300).contains(&status), "{status}");
    assert!(!drive.exists());
    guest.daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn who_reads_no_seed_gets_none() {
    need_vms!();
    let guest = Guest::boot("busybox", "").await;
    assert!(!guest.dir().join("seed.img").exists());
}
