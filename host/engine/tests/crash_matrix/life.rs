//! The first life of a cell: what a daemon does with the cell's VM, up to its death if it dies. It is the same in memory, in this
//! process on a real host, and in the process that is killed.

use airlock_domain::session::SessionEvent;
use airlock_effects::steps::Effects;
use airlock_engine::Moment;
use airlock_engine::executor::StepError;
use airlock_engine::records::{SessionRecord, VmState};
use airlock_engine::store::Store;

use std::error::Error;
use std::path::Path;

use crate::cell::{Cell, Plan};
use crate::site::Daemon;
use crate::support::{make_ready, move_session, plan_of};

/// See the head of this file.
pub async fn live<E: Effects + 'static>(daemon: &Daemon<E>, cell: Cell, session: &SessionRecord, state_dir: &Path) {
    let Daemon { store, executor, faults } = daemon;
    let vm_id = session.vm_id;
    faults.arm(&cell.strikes());
    let started = executor.start(&plan_of(session, state_dir)).await;
    match &started {
        Ok(()) => make_ready(store, session).await,
        Err(error) => assert!(is_injected(error), "{cell}: {error:?}"),
    }
    // Undoing that fails is part of the matrix: what comes of it is judged, not what is answered.
    match cell.plan {
        Plan::Start => {
            if started.is_err() {
                end(store, session, started.err()).await;
                let _ = executor.destroy(vm_id).await;
            }
        }
        Plan::Stop => {
            let _ = executor.stop(vm_id).await;
            // What a stop does not undo, or could not, the destruction after it does.
            if cell.strike.fault.is_of_undo() {
                end(store, session, None).await;
                let _ = executor.destroy(vm_id).await;
            }
        }
        Plan::Destroy => {
            end(store, session, started.err()).await;
            let _ = executor.destroy(vm_id).await;
        }
    }
    faults.end_of_life().await;
}

/// Ends the session before anything is undone, as the owner of the VM does.
pub async fn end(store: &Store, session: &SessionRecord, error: Option<StepError>) {
    let failure = error.map(|error| error.failure());
    let event = if failure.is_some() { SessionEvent::Failed } else { SessionEvent::CancelRequested };
    move_session(store, session.id, event).await;
    let now = Moment::now().wall_ms;
    store.set_vm_state(session.vm_id, VmState::Destroying, failure.as_ref(), now).await.unwrap();
}

fn is_injected(error: &StepError) -> bool {
    std::iter::successors(Some(error as &dyn Error), |error| (*error).source())
        .any(|error| error.to_string().contains("an injected fault"))
}
