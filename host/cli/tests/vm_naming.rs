//! Real VMs whose interface has another name, another bus, or another name than before: the guest finds its own by MAC.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use support::guest::Guest;

/// Devices at addresses in memory, and the two ways compared in one run.
#[tokio::test]
async fn a_guest_without_pci_is_reachable_too() {
    need_vms!();
    let mut times = Vec::new();
    for transport in ["pci", "mmio"] {
        let guest = Guest::boot("base", &format!("vmm.transport = {transport:?}")).await;
        guest.assert_owned_by_airlock();
        times.push(format!("{transport} {:.0} ms", guest.at("reachable")));
        let (_, vm) = guest.daemon.call("GET", &format!("/api/vms/{}", guest.vm), None).await;
        let vmm = std::fs::read_to_string(format!("/proc/{}/cmdline", vm["pid"])).unwrap();
        assert_eq!(vmm.contains("microvm") && !vmm.contains("-pci"), transport == "mmio", "{vmm}");
    }
    println!("base: reachable after {}", times.join(", "));
}

#[tokio::test]
async fn systemd_with_udev_is_reachable_without_pci() {
    need_vms!();
    Guest::boot("debian-systemd", "vmm.transport = \"mmio\"\npredictable_names = true").await.assert_owned_by_airlock();
}

#[tokio::test]
async fn the_right_one_of_two_is_found_without_pci() {
    need_vms!();
    let guest = Guest::boot("busybox", "vmm.transport = \"mmio\"\nextra_nics = 1").await;
    assert_eq!(guest.health().unwrap()["addresses"][0]["dev"], "eth1");
}

/// udev names it before its owner, networkd, sets it up: by its place on the PCI bus.
#[tokio::test]
async fn a_predictable_name_is_no_matter_where_the_image_owns_the_interface() {
    need_vms!();
    let guest = Guest::boot("net-networkd", "predictable_names = true\nextra_nics = 1").await;
    guest.assert_owned_by_the_image();
    let health = guest.health().unwrap();
    let ours = &health["addresses"][0];
    println!("net-networkd: the second NIC is called {}", ours["dev"]);
    assert!(ours["dev"].as_str().unwrap().starts_with("en"), "{health}");
    assert_eq!(ours["addr"], format!("{}/24", guest.addr));
}

/// Its image wants it to fail for any conflict, so that it lives proves that there was none.
#[tokio::test]
async fn an_interface_that_is_renamed_after_the_boot_is_followed() {
    need_vms!();
    let guest = Guest::boot("renamed", "").await;
    // It says so when its way out is there again as well.
    guest.says("renamed: done").await;
    guest.says("eth0 is called lan0 now").await;
    let start = Instant::now();
    loop {
        // The host reaches it under the address of its lease, which needs the interface up.
        let health = guest.health().unwrap_or_default();
        let ours = &health["addresses"][0];
        if ours["dev"] == "lan0" && ours["addr"] == format!("{}/24", guest.addr) && health["status"] == "ok" {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{health}\n{}", guest.said());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A conflict would be judged by now: it is longer than any patience of the agent.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(guest.daemon.session(&guest.session).await["state"], "awaiting_user");
    assert!(!guest.said().contains("address_owner_conflict"), "{}", guest.said());
}
