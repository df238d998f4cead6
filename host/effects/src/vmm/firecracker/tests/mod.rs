//! The driver against the contract server, and against the real binary where `AIRLOCK_FIRECRACKER` (and `AIRLOCK_JAILER`) names
//! one. Without it each test that needs it says that it was skipped.

mod cost;
mod faults;
mod guest;
pub(super) mod real;
mod sequence;

use airlock_domain::config::FirecrackerConfig;

use super::FirecrackerDriver;
use super::contract::{self, Mode};
use crate::vmm::tests::{Bench, keeps_the_contract};

/// A kernel that runs until a key is pressed.
pub(in crate::vmm) fn bare_guest() -> Vec<u8> {
    guest::elf(guest::Then::AwaitKey)
}

/// A driver whose Firecracker is a contract server.
fn contract_driver(bench: &Bench, mode: Mode, at: &str) -> FirecrackerDriver {
    let program = contract::program(bench.dir(), mode, at);
    FirecrackerDriver::new(FirecrackerConfig { program, ..Default::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_server_lets_the_driver_keep_the_contract() {
    let Some(bench) = Bench::new("contract server").await else { return };
    keeps_the_contract(&contract_driver(&bench, Mode::Good, ""), &bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_binary_lets_the_driver_keep_the_contract() {
    let Some(binary) = real::Binary::given("the contract suite on the real binary") else { return };
    let Some(bench) = Bench::new("real Firecracker").await else { return };
    keeps_the_contract(&binary.driver(), &bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_binary_in_a_jail_lets_the_driver_keep_the_contract() {
    let Some(binary) = real::Binary::given_with_jailer("the contract suite on the real binary in a jail") else {
        return;
    };
    let Some(bench) = Bench::new("real Firecracker in a jail").await else { return };
    keeps_the_contract(&binary.jailed_driver(), &bench).await;
}
