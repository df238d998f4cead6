//! Runs a cell to its end and judges it. An error says what is left, missing or touched.

use std::collections::BTreeSet;

use airlock_domain::VmId;
use airlock_domain::reconcile::{Action, Resource};
use airlock_domain::vmm::VmPlan;
use airlock_effects::clock::monotonic_ms;
use airlock_engine::records::{SessionRecord, VmState};
use airlock_engine::store::LEASE_MS;
use anyhow::{Result, bail, ensure};
use uuid::Uuid;

use crate::cell::{Cell, End, Plan};
use crate::fake::FakeSite;
use crate::life;
use crate::site::{Daemon, Site, Thing, everything};
use crate::support::faulty::Fault;
use crate::support::{begin, plan_of};

/// Longer than any run of the matrix.
const LASTS_MS: i64 = 3_600_000;

/// One cell, see the head of `main.rs`.
pub async fn run<S: Site>(site: &mut S, cell: Cell, planted: bool) -> Result<()> {
    let vm_id = VmId::from_uuid(Uuid::new_v4());
    let session = begin(&site.daemon().store, vm_id, LASTS_MS).await;
    let plan = plan_of(&session, site.state_dir());
    if planted {
        site.plant(vm_id).await;
    }

    let died = site.live(cell, &session).await?;
    ensure!(
        died == cell.strike.fault.is_death(),
        "the daemon {} in its first life",
        if died { "died" } else { "did not die" }
    );
    if died {
        site.restart().await;
        first_order(site.daemon(), cell, &session).await?;
    } else {
        ensure!(site.daemon().faults.has_fired(cell.strike), "the fault never struck");
        judge_attention(site, cell, &plan).await?;
        judge_stop(site, cell, &plan).await?;
    }
    judge_pass(site, Some(cell.end()), &session, &plan).await?;
    judge_rest(site, &plan).await
}

/// A cell of the host in memory whose first life is forgotten after so many waits; `false` if it came to its end before.
pub async fn run_forgotten(site: &mut FakeSite, cell: Cell, waits: usize) -> Result<bool> {
    let session = begin(&site.daemon().store, VmId::from_uuid(Uuid::new_v4()), LASTS_MS).await;
    let plan = plan_of(&session, site.state_dir());
    let forgotten = site.forget_after(waits, cell, &session).await;
    site.restart().await;
    judge_pass(site, None, &session, &plan).await?;
    judge_rest(site, &plan).await?;
    Ok(forgotten)
}

/// A stop or a destruction that the former daemon died in is asked for again.
async fn first_order<E: airlock_effects::steps::Effects + 'static>(
    daemon: &Daemon<E>,
    cell: Cell,
    session: &SessionRecord,
) -> Result<()> {
    match cell.plan {
        Plan::Start => {}
        Plan::Stop => daemon.executor.stop(session.vm_id).await?,
        Plan::Destroy => {
            life::end(&daemon.store, session, None).await;
            daemon.executor.destroy(session.vm_id).await?;
        }
    }
    Ok(())
}

/// An undo that never succeeds: the VM needs attention, its failure names the thing, its address is not given away, and the metric
/// counts it. The next pass changes nothing about that. Then the fault is lifted.
async fn judge_attention<S: Site>(site: &S, cell: Cell, plan: &VmPlan) -> Result<()> {
    let Daemon { store, executor, faults } = site.daemon();
    let (vm_id, step) = (plan.vmm.vm_id, cell.strike.step);
    for pass in 0..2 {
        let vm = store.vm(vm_id).await?.expect("the VM is recorded");
        if cell.strike.fault != Fault::UndoFailsAlways {
            ensure!(
                vm.state != VmState::NeedsAttention || cell.strike.fault == Fault::UndoFailsOnce,
                "needs attention: {:?}",
                vm.failure
            );
            return Ok(());
        }
        ensure!(vm.state == VmState::NeedsAttention, "{} and not in need of attention, pass {pass}", vm.state);
        let detail = vm.failure.map(|failure| failure.detail).unwrap_or_default();
        let names = [step.name().to_owned(), vm_id.to_string(), "an injected fault".to_owned()];
        ensure!(names.iter().all(|name| detail.contains(name)), "the failure does not name the thing: {detail}");
        ensure!(look(site, plan).await.contains(&Thing::Lease), "its address was given away");
        let leaked = executor.leaked(&BTreeSet::new()).await?;
        if let Some(kind) = Resource::of(step) {
            ensure!(leaked[&kind] == 1, "the metric does not count the {}: {leaked:?}", kind.name());
        }
        if pass == 0 {
            executor.reconcile(&BTreeSet::new(), &|_| {}).await?;
        }
    }
    faults.lift();
    Ok(())
}

/// A stopped VM has everything but its VMM.
async fn judge_stop<S: Site>(site: &S, cell: Cell, plan: &VmPlan) -> Result<()> {
    if cell.plan == Plan::Stop && cell.strike.fault == Fault::ApplyTwice {
        let mut wanted = everything();
        wanted.remove(&Thing::Vmm);
        let actual = look(site, plan).await;
        ensure!(actual == wanted, "after the stop there is {actual:?}");
    }
    Ok(())
}

/// One pass of a daemon without tasks, and what is there after it: the wanted end, or either, but whole. A VM that lives is then
/// ended.
async fn judge_pass<S: Site>(site: &S, wanted: Option<End>, session: &SessionRecord, plan: &VmPlan) -> Result<()> {
    let Daemon { store, executor, .. } = site.daemon();
    let vm_id = plan.vmm.vm_id;
    let (found, handover) = executor.reconcile(&BTreeSet::new(), &|_| {}).await?;
    let adopted = handover.adopt.contains(&vm_id);
    let actual = look(site, plan).await;
    match wanted.unwrap_or(if adopted { End::Live } else { End::Gone }) {
        End::Live => {
            ensure!(adopted && actual == everything(), "adopted: {adopted}, there is {actual:?}");
            let until = monotonic_ms() + LEASE_MS;
            ensure!(store.adopt_lease(vm_id, until).await? == Some(2), "not adopted once");
            life::end(store, session, None).await;
            executor.destroy(vm_id).await?;
        }
        End::Gone => ensure!(!adopted && actual.is_empty(), "adopted: {adopted}, left: {actual:?}, did {found:?}"),
    }
    let actual = look(site, plan).await;
    ensure!(actual.is_empty(), "left after its end: {actual:?}");
    let vm = store.vm(vm_id).await?.expect("the VM is recorded");
    ensure!(vm.state == VmState::Destroyed && vm.ended_ms.is_some(), "recorded as {}", vm.state);
    let session = store.session(session.id).await?.expect("the session is recorded");
    ensure!(session.state.is_terminal(), "the session is {}", session.state);
    Ok(())
}

/// There is nothing to do any more, and everything else is as it was.
async fn judge_rest<S: Site>(site: &S, plan: &VmPlan) -> Result<()> {
    let (executor, neighbour) = (&site.daemon().executor, site.neighbour());
    let (found, _) = executor.reconcile(&BTreeSet::new(), &|_| {}).await?;
    let wanted = [Action::Adopt { vm: neighbour.vmm.vm_id }];
    ensure!(found.actions == wanted && found.leaked.is_empty(), "the next pass did {:?}", found.actions);
    let leaked = executor.leaked(&BTreeSet::new()).await?;
    ensure!(leaked.values().all(|count| *count == 0), "the metric counts {leaked:?}");
    let actual = look(site, neighbour).await;
    ensure!(actual == everything(), "of the live VM {} there is {actual:?} now", neighbour.vmm.vm_id);
    let disturbed = site.disturbed().await;
    ensure!(disturbed.is_empty(), "foreign things were touched: {disturbed:?}");
    let actual = look(site, plan).await;
    ensure!(actual.is_empty(), "left: {actual:?}");
    Ok(())
}

/// At the end of a site its live VM is destroyed too: then nothing of ours is on it.
pub async fn sweep<S: Site>(site: &mut S) -> Result<()> {
    let (daemon, vm_id) = (site.daemon(), site.neighbour().vmm.vm_id);
    let vm = daemon.store.vm(vm_id).await?.expect("the VM is recorded");
    let session = daemon.store.session(vm.session_id).await?.expect("the session is recorded");
    life::end(&daemon.store, &session, None).await;
    daemon.executor.destroy(vm_id).await?;
    let rest = site.rest().await;
    ensure!(rest.is_empty(), "left: {rest:?}");
    let disturbed = site.disturbed().await;
    ensure!(disturbed.is_empty(), "foreign things were touched: {disturbed:?}");
    match site.daemon().store.counts().await? {
        counts if counts.leased == 0 && counts.vms.is_empty() && counts.sessions.is_empty() => Ok(()),
        counts => bail!("recorded: {counts:?}"),
    }
}

/// What there is of a VM, its lease included.
async fn look<S: Site>(site: &S, plan: &VmPlan) -> BTreeSet<Thing> {
    let vm_id = plan.vmm.vm_id;
    let rows = site.daemon().store.reconcile_rows(&BTreeSet::from([vm_id]), &BTreeSet::new()).await.unwrap();
    let row = rows.into_iter().find(|row| row.id == vm_id).expect("the VM is recorded");
    let mut things = site.look(plan, row.process).await;
    things.extend(row.lease.map(|_| Thing::Lease));
    things
}
