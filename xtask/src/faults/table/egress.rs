//! Faults of the way out: the machine is healthy until one thing is broken, and must be judged so.

use airlock_protocol::Stage;
use anyhow::{Result, ensure};

use crate::faults::cell::World;
use crate::faults::fault::{Fault, Said, Since, fault};
use crate::faults::lent::Lent;

pub fn faults() -> Vec<Fault> {
    let of = |name, cause| fault(name, cause, Stage::Reachable).shows(Since::Acted, 5000);
    vec![
        of("nat-missing", "nat_missing")
            .how("the rule that translates the guests' addresses is removed")
            .own(|world| broken(world, |lent| lent.on_host("nft flush chain inet airlock postrouting"))),
        of("forward-dropped", "forward_policy_drop")
            .how("somebody else's chain in the namespace drops what is forwarded")
            .own(|world| {
                broken(world, |lent| {
                    lent.on_host(
                        "nft add table inet other; \
                         nft add chain inet other drops '{ type filter hook forward priority 10; policy drop; }'",
                    )
                })
            }),
        of("dns-dead", "dns_failed")
            .how("the guest's name server ends; the way to its machine is open")
            .own(|world| broken(world, |lent| lent.outside.end_name_server())),
        Fault { stage: None, ..of("egress-closed", "egress_blocked") }
            .how("the link behind the uplink is down: the machine is healthy, and the verdict says what it does not reach")
            .own(|world| broken(world, |lent| lent.outside.at_lender("ip link set far0 down"))),
    ]
}

/// A machine that gets out, is judged healthy, and is asked again when something is broken.
fn broken(world: &World, break_it: fn(&mut Lent) -> Result<()>) -> Result<Said> {
    let mut lent = Lent::open(world)?;
    let before = lent.ask()?;
    ensure!(before.cause == "healthy" && before.detail == "the boot is good", "it was {before:?} before");
    break_it(&mut lent)?;
    let said = lent.ask_until_broken()?;
    lent.close()?;
    Ok(said)
}
