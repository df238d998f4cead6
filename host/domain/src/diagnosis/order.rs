//! Which comes first: stages in the order in which they follow from each other, and names for the same thing in the order of what
//! they say.

use airlock_protocol::Stage;

use crate::cause::Cause;

/// The order where the guest's own programs configure the network, after its root is mounted.
const LATE: [Stage; 22] = [
    Stage::Planned,
    Stage::Leased,
    Stage::TapUp,
    Stage::DiskReady,
    Stage::VmmStarted,
    Stage::KernelStarted,
    Stage::InitStarted,
    Stage::ModulesLoaded,
    Stage::RootMounted,
    Stage::HandedOver,
    Stage::ConfigRead,
    Stage::LinkFound,
    Stage::LinkUp,
    Stage::AddressSet,
    Stage::RouteSet,
    Stage::GatewayReachable,
    Stage::AgentUp,
    Stage::DisplayUp,
    Stage::BrowserUp,
    Stage::PagePainted,
    Stage::Reachable,
    Stage::Ready,
];

/// Every stage in causal order.
pub(super) fn stages(late: bool) -> &'static [Stage] {
    if late { &LATE } else { Stage::ALL }
}

/// The place of a stage in it.
pub(super) fn place(stage: Stage, late: bool) -> usize {
    stages(late).iter().position(|known| *known == stage).unwrap_or(usize::MAX)
}

/// Between causes of one stage: 0 says most.
pub(super) fn rank(cause: Cause) -> u8 {
    match cause {
        Cause::CloneTorn | Cause::LinkRenamed | Cause::AddressExists | Cause::AddressConflict => 0,
        Cause::RpFilterDrop | Cause::ForwardPolicyDrop | Cause::NatMissing | Cause::VncBoundToLoopback => 0,
        // It says why nobody knows more than that the interface is down.
        Cause::UnitOutputNotOnConsole => 0,
        Cause::AgentRestarting | Cause::AgentCrashed | Cause::VncRefused => 2,
        // That it ended, where another line says why.
        Cause::DisplayFailed | Cause::BrowserCrashed => 2,
        Cause::UnitFailed | Cause::SystemdEmergency => 3,
        Cause::KernelPanic | Cause::VmmExited => 5,
        _ => 1,
    }
}

/// The stage that keeps a soft finding from being a fault, once it is reached.
pub(super) fn cleared_by(cause: Cause, stage: Stage) -> Stage {
    match cause {
        // An interface may be up, and have its address, without a carrier.
        Cause::LinkNoCarrier => Stage::GatewayReachable,
        Cause::VirtioDmaFailed | Cause::ModulesMismatch => Stage::LinkFound,
        Cause::CmdlineIpMissing => Stage::AddressSet,
        _ => stage,
    }
}

/// The stage that a cause keeps from being reached, where nobody says which.
pub(super) fn home(cause: Cause) -> Option<Stage> {
    use Cause as C;
    Some(match cause {
        C::DaemonInterrupted => Stage::Planned,
        C::AddressPoolExhausted | C::AddressInUse | C::SubnetOverlap => Stage::Leased,
        C::TunMissing | C::TunPermission | C::BridgeMissing | C::BridgeAddressMismatch | C::BridgePortsExhausted => {
            Stage::TapUp
        }
        C::TapMissing | C::TapDown | C::TapNotInBridge | C::TapBusy | C::TapNoVnetHdr | C::TapNameCollision => {
            Stage::TapUp
        }
        C::DiskFull | C::ImageMissing | C::ImageCorrupt => Stage::DiskReady,
        C::KvmMissing | C::KvmUnusable | C::KvmPermission | C::VmmBinaryMissing | C::VmmVersionUnsupported => {
            Stage::VmmStarted
        }
        C::VmmConfigRejected | C::VmmSocketStale | C::MemoryInsufficient => Stage::VmmStarted,
        C::NoConsoleOutput => Stage::KernelStarted,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_have_every_stage_once() {
        for stage in Stage::ALL {
            assert_eq!(LATE.iter().filter(|known| *known == stage).count(), 1, "{stage}");
        }
        assert!(place(Stage::RootMounted, true) < place(Stage::LinkFound, true));
        assert!(place(Stage::RootMounted, false) > place(Stage::LinkFound, false));
    }
}
