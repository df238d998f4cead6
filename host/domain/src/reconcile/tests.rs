use super::*;
use proptest::prelude::*;

const NOW: i64 = 100_000;
const VMM: ProcessId = ProcessId { pid: 42, start_ticks: 7 };

fn id(n: u8) -> VmId {
    format!("0000000{:x}-89ab-4def-8123-456789abcdef", n & 0xf).parse().unwrap()
}

fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 100, 2 + n)
}

/// A VM that waits for its user, everything applied.
fn live(n: u8) -> VmRow {
    VmRow {
        id: id(n),
        address: address(n),
        ended: false,
        session: SessionState::AwaitingUser,
        deadline_ms: NOW + 1000,
        lease: Some(Lease { generation: 3, expires_ms: NOW + 10 }),
        process: Some(VMM),
        begun: Step::ALL.to_vec(),
        applied: Step::ALL.to_vec(),
        held: false,
    }
}

/// What the kernel shows of a VM that is as it should be.
fn shown(row: &VmRow) -> Observed {
    Observed {
        taps: vec![TapSeen { name: row.id.tap_name(), alias: row.id.to_string(), in_service: true }],
        guards: vec![GuardSeen {
            tap: row.id.tap_name(),
            sender: Some((MacAddr::from_lease(row.address), row.address)),
        }],
        processes: row.process.into_iter().collect(),
        in_vm_dir: row.process.map(|process| (process, row.id.dir_name())).into_iter().collect(),
        dirs: vec![row.id.dir_name()],
    }
}

fn destroyed(row: &VmRow) -> Action {
    Action::Undo { vm: row.id, steps: step::destroy(&row.begun) }
}

fn causes(result: &Reconciliation) -> Vec<Cause> {
    let cause = |action: &Action| match action {
        Action::Fail { cause, .. } | Action::Tell { cause, .. } => Some(*cause),
        _ => None,
    };
    result.actions.iter().filter_map(cause).collect()
}

#[test]
fn a_live_vm_is_adopted_and_one_in_order_is_left_alone() {
    let row = live(1);
    let seen = shown(&row);
    let adopted = reconcile(std::slice::from_ref(&row), &seen, NOW);
    assert_eq!(adopted, Reconciliation { actions: vec![Action::Adopt { vm: row.id }], ..Reconciliation::default() });
    let held = VmRow { held: true, ..row };
    assert_eq!(reconcile(&[held], &seen, NOW), Reconciliation::default());
}

#[test]
fn what_cannot_be_adopted_fails_with_its_cause_and_is_undone() {
    let row = live(1);
    let no_process = Observed { processes: BTreeSet::new(), in_vm_dir: vec![], ..shown(&row) };
    let reused_pid = Observed { processes: [ProcessId { start_ticks: 8, ..VMM }].into(), ..no_process.clone() };
    let no_tap = Observed { taps: vec![], ..shown(&row) };
    let not_spawned = VmRow { process: None, applied: vec![Step::LeaseAddress, Step::CreateTap], ..row.clone() };
    for (row, seen, cause) in [
        (row.clone(), no_process.clone(), Cause::VmmExited),
        (row.clone(), reused_pid, Cause::VmmExited),
        (row.clone(), no_tap, Cause::TapMissing),
        (not_spawned, no_process, Cause::DaemonInterrupted),
    ] {
        let result = reconcile(std::slice::from_ref(&row), &seen, NOW);
        assert_eq!(causes(&result), [cause]);
        assert_eq!(result.actions[1], destroyed(&row));
    }
}

#[test]
fn a_session_that_ended_is_undone_without_another_failure() {
    let row = VmRow { session: SessionState::Completed, ..live(1) };
    let result = reconcile(std::slice::from_ref(&row), &shown(&row), NOW);
    assert_eq!(result.actions, [destroyed(&row)]);
    // Nothing seen of it: it still has to be recorded as ended.
    let nothing = VmRow { begun: vec![], lease: None, ..row };
    let result = reconcile(std::slice::from_ref(&nothing), &Observed::default(), NOW);
    assert_eq!(result.actions, [Action::Undo { vm: nothing.id, steps: vec![] }]);
    assert!(result.leaked.is_empty());
    // Undone once, and there again: it goes before the VM is recorded as ended.
    let again = Observed { guards: shown(&nothing).guards, ..Observed::default() };
    let result = reconcile(std::slice::from_ref(&nothing), &again, NOW);
    assert_eq!(result.actions, [Action::Undo { vm: nothing.id, steps: vec![Step::GuardTap] }]);
}

#[test]
fn a_lapsed_lease_is_reaped_but_never_under_a_person() {
    let lapsed = VmRow {
        held: true,
        session: SessionState::Booting,
        lease: Some(Lease { generation: 3, expires_ms: NOW - 1 }),
        ..live(1)
    };
    let seen = shown(&lapsed);
    let result = reconcile(std::slice::from_ref(&lapsed), &seen, NOW);
    assert!(matches!(result.actions[0], Action::Fail { cause: Cause::DaemonInterrupted, generation: Some(3), .. }));
    let typing = VmRow { session: SessionState::AwaitingUser, ..lapsed.clone() };
    assert_eq!(reconcile(std::slice::from_ref(&typing), &seen, NOW).actions, []);
    let too_late = VmRow { deadline_ms: NOW, ..typing };
    assert_eq!(reconcile(&[too_late], &seen, NOW).actions.len(), 2);
}

#[test]
fn drift_is_repaired_or_told() {
    let row = VmRow { held: true, ..live(1) };
    let good = shown(&row);
    let down = Observed { taps: vec![TapSeen { in_service: false, ..good.taps[0].clone() }], ..good.clone() };
    let bare = Observed { guards: vec![], ..good.clone() };
    let other = GuardSeen { sender: Some((MacAddr::from_lease(address(9)), address(9))), ..good.guards[0].clone() };
    let wrong = Observed { guards: vec![other], ..good.clone() };
    for seen in [down, bare, wrong] {
        assert_eq!(reconcile(std::slice::from_ref(&row), &seen, NOW).actions, [Action::Repair { vm: row.id }]);
    }
    let gone = Observed { taps: vec![], guards: vec![], ..good.clone() };
    assert_eq!(causes(&reconcile(std::slice::from_ref(&row), &gone, NOW)), [Cause::TapMissing]);
    // A task that is still making these things is left alone.
    let starting = VmRow { applied: vec![Step::LeaseAddress], session: SessionState::Starting, ..row };
    assert_eq!(reconcile(&[starting], &gone, NOW).actions, []);
}

#[test]
fn a_trace_of_an_ended_vm_is_a_leak_and_goes() {
    let row = VmRow { ended: true, session: SessionState::Completed, begun: vec![], ..live(1) };
    let result = reconcile(std::slice::from_ref(&row), &shown(&row), NOW);
    let steps = vec![Step::SpawnVmm, Step::PrepareDisk, Step::GuardTap, Step::CreateTap, Step::LeaseAddress];
    assert_eq!(result.actions, [Action::Undo { vm: row.id, steps }]);
    assert_eq!(result.leaked, Resource::ALL.map(|kind| (kind, 1)).into());
    let gone = VmRow { lease: None, ..row };
    assert_eq!(reconcile(&[gone], &Observed::default(), NOW), Reconciliation::default());
}

#[test]
fn what_is_not_proved_to_be_ours_is_named_and_left_alone() {
    let row = VmRow { held: true, ..live(1) };
    let mut seen = shown(&row);
    let stranger = ProcessId { pid: 77, start_ticks: 1 };
    seen.taps.push(TapSeen { name: "fc-aaaaaaaaaa".into(), alias: "somebody".into(), in_service: true });
    seen.guards.push(GuardSeen { tap: "fc-aaaaaaaaaa".into(), sender: None });
    seen.taps.push(TapSeen { name: id(2).tap_name(), alias: String::new(), in_service: false });
    seen.dirs.push("notes".into());
    seen.processes.insert(stranger);
    seen.in_vm_dir.push((stranger, row.id.dir_name()));
    let result = reconcile(std::slice::from_ref(&row), &seen, NOW);
    assert_eq!(result.actions, []);
    assert_eq!(result.foreign.len(), 4, "{:?}", result.foreign);
    assert!(result.leaked.is_empty());
    // Rules of a port that neither exists nor belongs to a VM are in our own table, so they go.
    seen.guards.push(GuardSeen { tap: "fc-bbbbbbbbbb".into(), sender: None });
    let result = reconcile(&[row], &seen, NOW);
    assert_eq!(result.actions, [Action::RemoveGuard { tap: "fc-bbbbbbbbbb".into() }]);
}

#[test]
fn the_port_of_somebody_else_keeps_its_rules() {
    let row = VmRow { ended: true, begun: vec![], lease: None, process: None, ..live(1) };
    let mut seen = shown(&row);
    seen.taps[0].alias = "somebody".into();
    seen.dirs.clear();
    let result = reconcile(&[row], &seen, NOW);
    assert_eq!(result.actions, []);
    assert_eq!(result.foreign.len(), 1);
}

/// A host with a few VMs, each thing there or not.
fn any_row(n: u8) -> impl Strategy<Value = VmRow> {
    (
        any::<[bool; 4]>(),
        proptest::sample::select(SessionState::ALL.to_vec()),
        proptest::sample::subsequence(Step::ALL.to_vec(), 0..=7),
        -50i64..50,
        -50i64..50,
    )
        .prop_map(move |([ended, held, lease, process], session, begun, expires, deadline)| VmRow {
            id: id(n),
            address: address(n),
            ended,
            session,
            deadline_ms: NOW + deadline,
            lease: lease.then_some(Lease { generation: 1, expires_ms: NOW + expires }),
            process: process.then_some(ProcessId { pid: 100 + i32::from(n), start_ticks: 5 }),
            applied: begun.iter().copied().take(4).collect(),
            begun,
            held: held && !ended,
        })
}

proptest! {
    #[test]
    fn nothing_is_touched_that_is_held_in_order_or_not_ours(
        rows in (any_row(1), any_row(2), any_row(3)).prop_map(|(a, b, c)| vec![a, b, c]),
        present in any::<[bool; 15]>(),
    ) {
        let mut seen = Observed::default();
        for (row, there) in rows.iter().zip(present.chunks(5)) {
            let all = shown(row);
            if there[0] { seen.taps.extend(all.taps); }
            if there[1] { seen.guards.extend(all.guards); }
            if there[2] { seen.processes.extend(all.processes); seen.in_vm_dir.extend(all.in_vm_dir); }
            if there[3] { seen.dirs.extend(all.dirs); }
        }
        let result = reconcile(&rows, &seen, NOW);
        for action in &result.actions {
            let Action::Undo { vm, steps } = action else { continue };
            let row = rows.iter().find(|row| row.id == *vm).unwrap();
            let lapsed = row.lease.is_some_and(|lease| lease.expires_ms < NOW);
            prop_assert!(!row.held || lapsed, "a held VM was undone: {row:?}");
            let typing = row.session == SessionState::AwaitingUser && NOW < row.deadline_ms;
            prop_assert!(!(row.held && typing), "under a person: {row:?}");
            prop_assert!(steps.is_sorted_by(|a, b| a > b), "in reverse");
            let adopted = result.actions.contains(&Action::Adopt { vm: *vm });
            prop_assert!(!adopted);
        }
        for action in &result.actions {
            let Action::Adopt { vm } = action else { continue };
            let row = rows.iter().find(|row| row.id == *vm).unwrap();
            prop_assert!(!row.held && !row.ended && !row.session.is_terminal());
            prop_assert!(seen.processes.contains(&row.process.unwrap()));
        }
        prop_assert!(result.foreign.is_empty());
    }
}
