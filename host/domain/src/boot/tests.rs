use super::*;
use proptest::prelude::*;

fn machine(agent_stages: &[Stage]) -> BootMachine {
    BootMachine::new(Contract {
        agent_stages: agent_stages.to_vec(),
        late_network: false,
        deadline_ms: 120_000.0,
        address: "192.168.100.8/24".into(),
        build_id: "b1".into(),
        needed_services: Vec::new(),
    })
}

const HOST: [Stage; 5] = [Stage::Planned, Stage::Leased, Stage::TapUp, Stage::DiskReady, Stage::VmmStarted];

fn healthy() -> BootEvent<'static> {
    static ADDRESSES: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| vec!["192.168.100.8/24".into()]);
    BootEvent::HealthAnswered { build_id: "b1", addresses: &ADDRESSES }
}

/// Feeds every host and guest stage up to `last`, one millisecond apart; returns the time of the last one.
fn boot_to(machine: &mut BootMachine, last: Stage) -> f64 {
    let mut now = 0.0;
    for stage in Stage::ALL.iter().copied().filter(|stage| *stage <= last) {
        now += 1.0;
        match stage.reporter() {
            Reporter::Host if stage == Stage::KernelStarted => {
                machine.on(BootEvent::ConsoleLine("[    0.000000] Linux version 6.1.0"), now);
            }
            Reporter::Host => {
                machine.on(BootEvent::Reached(stage), now);
            }
            _ => {
                let report = StageReport::reached(1, 1000 * stage as u64, stage);
                machine.on(BootEvent::ConsoleLine(report.to_console().trim()), now);
            }
        }
    }
    now
}

fn failure(outputs: &[BootOutput]) -> &Failure {
    match outputs.last() {
        Some(BootOutput::Failed(failure)) => failure,
        other => panic!("no failure but {other:?}"),
    }
}

#[test]
fn a_browser_boot_holds_every_stage_in_order() {
    let mut machine = machine(&[Stage::AgentUp, Stage::DisplayUp, Stage::BrowserUp, Stage::PagePainted]);
    let now = boot_to(&mut machine, Stage::PagePainted);
    let outputs = machine.on(healthy(), now + 1.0);
    assert_eq!(outputs.last(), Some(&BootOutput::Ready));
    let stages: Vec<_> = machine.timeline().iter().map(|e| e.stage).collect();
    assert_eq!(stages, Stage::ALL);
    assert!(machine.timeline().windows(2).all(|pair| pair[0].at_ms <= pair[1].at_ms));
    assert_eq!(machine.first_missing(), None);
}

#[test]
fn the_health_probe_starts_with_the_last_stage_of_the_contract() {
    let mut machine = machine(&[Stage::AgentUp]);
    for (at, stage) in HOST.into_iter().enumerate() {
        assert!(!machine.on(BootEvent::Reached(stage), at as f64).contains(&BootOutput::ProbeHealth));
    }
    let outputs = machine.on(BootEvent::GuestReport(&StageReport::reached(9, 3000, Stage::AgentUp)), 50.0);
    assert!(outputs.contains(&BootOutput::ProbeHealth));
}

/// Boots an image whose own manager owns the interface: up to `agent_up`, at the times of the guest's clock.
fn boot_without_network() -> BootMachine {
    let contract = Contract { late_network: true, ..machine(&[Stage::AgentUp]).contract };
    let mut machine = BootMachine::new(contract);
    for (stage, at) in HOST.into_iter().zip(1..) {
        machine.on(BootEvent::Reached(stage), f64::from(at));
    }
    let guest = Stage::ALL.iter().filter(|s| s.reporter() != Reporter::Host && **s <= Stage::AgentUp);
    for stage in guest.copied().filter(|stage| !OF_NETWORK.contains(stage)) {
        let report = StageReport::reached(1, 1000 * stage as u64, stage);
        let outputs = machine.on(BootEvent::GuestReport(&report), 100.0 + f64::from(stage as u8));
        assert!(!outputs.contains(&BootOutput::ProbeHealth), "{stage}");
    }
    machine
}

#[test]
fn a_network_that_comes_late_is_waited_for_and_stands_at_its_time() {
    let mut late = boot_without_network();
    assert_eq!(late.first_missing(), Some(Stage::LinkUp));
    for (stage, at) in OF_NETWORK.into_iter().zip(0..) {
        let report = StageReport::reached(1, 5_000_000 + at * 1000, stage);
        let outputs = late.on(BootEvent::GuestReport(&report), 5200.0);
        assert_eq!(outputs.contains(&BootOutput::ProbeHealth), stage == Stage::GatewayReachable);
    }
    assert!(late.on(healthy(), 5201.0).contains(&BootOutput::Ready));
    let times = |stages: &[TimelineEntry]| stages.iter().map(|e| (e.at_ms, e.stage)).collect::<Vec<_>>();
    let timeline = times(late.timeline());
    assert!(timeline.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{timeline:?}");
    let place = |wanted| timeline.iter().position(|(_, stage)| *stage == wanted);
    assert!(place(Stage::AgentUp) < place(Stage::LinkUp) && place(Stage::Reachable) < place(Stage::Ready));
    let resumed = BootMachine::resume(late.contract.clone(), late.timeline().to_vec());
    assert_eq!(times(resumed.timeline()), timeline);
}

#[test]
fn a_network_that_never_comes_is_the_missing_stage_and_no_cause_by_itself() {
    let outputs = boot_without_network().on(BootEvent::Tick, 120_000.0);
    assert_eq!((failure(&outputs).cause, failure(&outputs).stage), (Cause::Inconclusive, Some(Stage::LinkUp)));
}

#[test]
fn an_address_that_was_put_back_is_noted_and_one_that_was_not_ends_the_vm() {
    let mut ready = machine(&[Stage::AgentUp]);
    let now = boot_to(&mut ready, Stage::AgentUp);
    ready.on(healthy(), now);
    let mut report = StageReport::reached(30, 9, Stage::AddressSet).with("cause", "address_owner_conflict");
    report.detail = Some("dhcpcd removed it; put back".into());
    let outputs = ready.on(BootEvent::GuestReport(&report), now + 1.0);
    let [BootOutput::Stage(entry)] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!((entry.stage, entry.ok, entry.detail.clone()), (Stage::AddressSet, true, report.detail.clone()));
    assert_eq!(ready.on(BootEvent::GuestReport(&report), now + 2.0), [], "a repetition says nothing new");
    report.ok = false;
    let outputs = ready.on(BootEvent::GuestReport(&report), now + 3.0);
    assert_eq!((failure(&outputs).cause, failure(&outputs).stage), (Cause::AddressOwnerConflict, None));
}

#[test]
fn a_quiet_kernel_is_inferred_from_the_first_report() {
    let mut machine = machine(&[Stage::AgentUp]);
    for stage in HOST {
        machine.on(BootEvent::Reached(stage), 10.0);
    }
    machine.on(BootEvent::GuestReport(&StageReport::reached(1, 1_500_000, Stage::InitStarted)), 2000.0);
    let kernel = machine.timeline().iter().find(|e| e.stage == Stage::KernelStarted).unwrap();
    assert!((kernel.at_ms - 500.0).abs() < 0.001);
    assert!(kernel.detail.is_some());
}

#[test]
fn the_first_failing_stage_names_the_cause() {
    for (stage, errno, cause) in [
        (Stage::LinkFound, "ENODEV", Cause::LinkMissing),
        (Stage::LinkUp, "ENETDOWN", Cause::LinkNoCarrier),
        (Stage::AddressSet, "EPERM", Cause::AddressSetFailed),
        (Stage::RouteSet, "ENETUNREACH", Cause::RouteSetFailed),
        (Stage::GatewayReachable, "EHOSTUNREACH", Cause::GatewayUnreachable),
        (Stage::RootMounted, "ENOENT", Cause::RootDeviceMissing),
        (Stage::RootMounted, "ENODEV", Cause::RootFsUnsupported),
        (Stage::RootMounted, "EUCLEAN", Cause::RootFsCorrupt),
    ] {
        let mut machine = machine(&[Stage::AgentUp]);
        let report = StageReport::failed(4, 9, stage, Some(errno.into()), "what was done");
        let outputs = machine.on(BootEvent::ConsoleLine(report.to_console().trim()), 5.0);
        let failure = failure(&outputs);
        assert_eq!((failure.cause, failure.stage), (cause, Some(stage)));
        assert!(failure.detail.contains(errno) && failure.detail.contains("what was done"));
        let later = machine.on(BootEvent::VmmExited(VmmExit { code: Some(0), signal: None }), 6.0);
        assert_eq!(later, [], "the first failure stays");
    }
}

#[test]
fn the_guest_may_name_the_cause_itself() {
    let report = StageReport::failed(2, 9, Stage::ConfigRead, None, "no ip=").with("cause", "cmdline_ip_missing");
    let outputs = machine(&[]).on(BootEvent::GuestReport(&report), 5.0);
    assert_eq!(failure(&outputs).cause, Cause::CmdlineIpMissing);
}

#[test]
fn a_dead_vmm_is_no_slow_one() {
    let exit = VmmExit { code: None, signal: Some(9) };
    let mut booting = machine(&[Stage::AgentUp]);
    booting.on(BootEvent::Reached(Stage::Planned), 0.0);
    let outputs = booting.on(BootEvent::VmmExited(exit), 3.0);
    assert_eq!((failure(&outputs).cause, failure(&outputs).stage), (Cause::VmmExited, Some(Stage::Leased)));
    let mut ready = machine(&[Stage::AgentUp]);
    let now = boot_to(&mut ready, Stage::AgentUp);
    ready.on(healthy(), now);
    let outputs = ready.on(BootEvent::VmmExited(exit), now + 1.0);
    assert_eq!((failure(&outputs).cause, failure(&outputs).stage), (Cause::VmmExited, None));
}

#[test]
fn a_resumed_machine_goes_on_where_the_other_stopped() {
    let mut first = machine(&[Stage::AgentUp]);
    let now = boot_to(&mut first, Stage::AgentUp);
    let mut resumed = BootMachine::resume(first.contract.clone(), first.timeline().to_vec());
    assert_eq!(resumed.on(BootEvent::Reached(Stage::Planned), now), [], "nothing twice");
    assert_eq!(resumed.on(BootEvent::Tick, now), [BootOutput::ProbeHealth]);
    assert!(resumed.on(healthy(), now + 1.0).contains(&BootOutput::Ready));
    let mut ready = BootMachine::resume(first.contract.clone(), resumed.timeline().to_vec());
    assert_eq!(ready.on(BootEvent::Tick, 1e9), [], "a ready machine has no boot deadline");
    assert_eq!(ready.first_missing(), None);
}

#[test]
fn panics_and_deadlocks_on_memory_are_events() {
    for (line, cause) in [
        (
            "[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
            Cause::KernelPanic,
        ),
        ("[    1.2] Kernel panic - not syncing: System is deadlocked on memory", Cause::GuestOom),
        ("[    1.2] Out of memory and no killable processes...", Cause::GuestOom),
    ] {
        assert_eq!(failure(&machine(&[]).on(BootEvent::ConsoleLine(line), 1.0)).cause, cause);
    }
}

#[test]
fn another_address_or_agent_is_a_fault() {
    let mut other_address = machine(&[Stage::AgentUp]);
    let wrong = ["192.168.100.10/24".to_owned()];
    let outputs = other_address.on(BootEvent::HealthAnswered { build_id: "b1", addresses: &wrong }, 1.0);
    assert_eq!(failure(&outputs).cause, Cause::AddressMismatch);
    let outputs = machine(&[]).on(BootEvent::HealthAnswered { build_id: "old", addresses: &wrong }, 1.0);
    assert_eq!(failure(&outputs).cause, Cause::AgentBuildMismatch);
}

#[test]
fn a_deadline_names_the_stage_that_is_missing() {
    let mut silent = machine(&[Stage::AgentUp]);
    for stage in HOST {
        silent.on(BootEvent::Reached(stage), 1.0);
    }
    assert_eq!(silent.on(BootEvent::Tick, 119_999.0), []);
    let outputs = silent.on(BootEvent::Tick, 120_000.0);
    assert_eq!(
        (failure(&outputs).cause, failure(&outputs).stage),
        (Cause::NoConsoleOutput, Some(Stage::KernelStarted))
    );
}

proptest! {
    #[test]
    fn times_never_decrease_whatever_order_reports_arrive_in(
        // `ready` is the machine's own conclusion, never an input.
        order in Just((0..Stage::ALL.len() - 1).collect::<Vec<_>>()).prop_shuffle(),
        gaps in proptest::collection::vec(0.0f64..500.0, Stage::ALL.len()),
    ) {
        let mut machine = machine(&[Stage::AgentUp]);
        let mut now = 0.0;
        for (index, gap) in order.into_iter().zip(gaps) {
            now += gap;
            let stage = Stage::ALL[index];
            let report = StageReport::reached(1, 1000 * index as u64, stage);
            if stage.reporter() == Reporter::Host {
                machine.on(BootEvent::Reached(stage), now);
            } else {
                machine.on(BootEvent::GuestReport(&report), now);
            }
        }
        let stages: Vec<_> = machine.timeline().iter().map(|e| e.stage).collect();
        prop_assert!(stages.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(machine.timeline().windows(2).all(|pair| pair[0].at_ms <= pair[1].at_ms));
    }
}
