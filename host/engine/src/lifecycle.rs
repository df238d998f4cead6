//! How sessions and their VMs come and go: start, queue, adoption, passes of the reconciler, heartbeat, end.
//!
//! ```text
//! start ─> admitted ─> task ──────────────> ended: nothing left ─> the next one that waits is admitted
//!   └────> waiting ──────┘ ↑                  ↑
//! open ─> pass ─> adopt ───┘   pass ─> fail, undo (a VM without a task, or whose task lost its lease)
//! ```
//!
//! One pass is the same at the start, every [`PERIOD`], and when somebody asks.

use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use airlock_domain::reconcile::Reconciliation;
use airlock_domain::session::SessionState;
use airlock_domain::{Cause, SessionId, VmId};
use airlock_image::{GoldenImage, ImageError};
use airlock_protocol::message::ReachTarget;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::clock::{Moment, now_ms};
use crate::engine::{
    Engine, Inner, OpenError, Screen, StartSession, Tasks, ViewerEnd, check_user_id, cut, is_printable,
};
use crate::error::{Error, chain};
use crate::reconcile::ReconcileError;
use crate::records::{Reached, SessionEvent, SessionRecord};
use crate::store::{Accepted, LEASE_MS, NewSession};
use crate::vm::{Channels, Ingredients, LiveVm, Order, View, VmTask};

/// Time between two passes that nobody asked for.
const PERIOD: Duration = Duration::from_secs(30);

impl Engine {
    /// Takes up what an earlier daemon left, then keeps records and host together until the engine is gone.
    pub(crate) async fn take_up(&self) -> Result<(), OpenError> {
        for session in self.ctx().store.queue().await? {
            self.tasks().waiting.insert(session.vm_id, Channels::new(session.state));
        }
        self.reconcile().await?;
        tokio::spawn(keep(Arc::downgrade(&self.inner)));
        Ok(())
    }

    /// Accepts a start and answers at once; the VM boots in its own task, or the session waits.
    pub async fn start_session(&self, request: StartSession) -> Result<SessionRecord, Error> {
        check_user_id(&request.user_id)?;
        if request.idempotency_key.as_ref().is_some_and(|key| !is_printable(key, 200)) {
            return Err(Error::BadIdempotencyKey);
        }
        let ctx = self.ctx();
        let provider = ctx.providers.iter().find(|provider| provider.id == request.provider).ok_or_else(|| {
            let known: Vec<_> = ctx.providers.iter().map(|provider| provider.id.as_str()).collect();
            Error::UnknownProvider { provider: cut(&request.provider), known: known.join(", ") }
        })?;
        let image = ctx.registry.find(&provider.image);
        let unusable = |source| Error::Image { image: provider.image.clone(), source: Box::new(source) };
        let image = image.map_err(unusable)?;
        if ctx.config.images.require_verified && image.boot_record().is_none() {
            return Err(unusable(ImageError::ImageUnverified { image: image.reference() }));
        }
        let driver = ctx.driver(&image).await?.kind;
        let new = NewSession {
            id: SessionId::from_uuid(Uuid::new_v4()),
            vm_id: VmId::from_uuid(Uuid::new_v4()),
            user_id: request.user_id,
            provider: provider.id.clone(),
            idempotency_key: request.idempotency_key,
            image: image.reference(),
            driver,
            memory_mib: image.manifest.memory_mib,
            // Not earlier: the first start waits for a probe boot, and a lease counted from before it may have lapsed by now.
            now: Moment::now(),
            boot_id: ctx.boot_id.clone(),
            lasts_ms: i64::try_from(ctx.config.session_deadline_s * 1000).unwrap_or(i64::MAX),
        };
        {
            let mut tasks = self.tasks();
            if tasks.closing {
                return Err(Error::ShuttingDown);
            }
            tasks.accepting.insert(new.vm_id);
        }
        let accepted = ctx.store.accept(&new, &ctx.room()).await;
        if let Ok(accepted) = &accepted {
            match accepted {
                Accepted::Begun(session) => self.inner.begin(session.clone(), image, Channels::new(session.state)),
                Accepted::Waiting(session, shortage) => {
                    tracing::info!(session = %session.id, position = session.queue_position, %shortage, "waits");
                    self.tasks().waiting.insert(session.vm_id, Channels::new(session.state));
                }
                Accepted::Known(_) | Accepted::Refused(_) | Accepted::Taken { .. } => {}
            }
        }
        self.tasks().accepting.remove(&new.vm_id);
        match accepted? {
            Accepted::Known(session) | Accepted::Begun(session) | Accepted::Waiting(session, _) => Ok(session),
            Accepted::Refused(shortage) => Err(Error::NoRoom(shortage)),
            Accepted::Taken { provider } => Err(Error::IdempotencyKeyTaken { provider }),
        }
    }

    /// One pass of the reconciler; says what it found and did.
    pub async fn reconcile(&self) -> Result<Reconciliation, ReconcileError> {
        let ctx = self.ctx();
        let held = self.tasks().held();
        let seize = |vm_id| {
            if let Some((_, task)) = self.tasks().live.remove(&vm_id) {
                task.abort();
            }
        };
        let (found, handover) = ctx.executor.reconcile(&held, &seize).await?;
        for (vm_id, cause) in handover.tell {
            self.order(vm_id, Order::Tell(cause)).await;
        }
        for vm_id in handover.adopt {
            if let Err(error) = self.inner.adopt(vm_id).await {
                tracing::error!(%vm_id, error = chain(&error), "not adopted, tried again at the next pass");
            }
        }
        ctx.executor.retain_evidence().await;
        Ok(found)
    }

    /// What a pass would do now.
    pub async fn plan_reconciliation(&self) -> Result<Reconciliation, ReconcileError> {
        let held = self.tasks().held();
        self.ctx().executor.plan(&held).await
    }

    /// Asks for a pass soon.
    pub fn request_reconciliation(&self) {
        self.inner.wake.notify_one();
    }

    /// Says that somebody is still there: the session lasts a whole session's time from now on, but not longer than
    /// `session_max_s` from its start.
    pub async fn heartbeat(&self, id: SessionId) -> Result<SessionRecord, Error> {
        let session = self.session(id).await?;
        if session.state.is_terminal() {
            return Err(Error::SessionEnded { id, state: session.state });
        }
        let (now, config) = (Moment::now(), &self.ctx().config);
        let ms = |seconds: u64| i64::try_from(seconds * 1000).unwrap_or(i64::MAX);
        let latest = session.clock.created_ms.saturating_add(ms(config.session_max_s));
        let mono_ms = (now.mono_ms.saturating_add(ms(config.session_deadline_s))).min(latest);
        if mono_ms > session.clock.deadline_ms {
            let deadline = Moment { wall_ms: now.wall_ms + (mono_ms - now.mono_ms), mono_ms };
            self.ctx().store.extend_session(id, deadline).await?;
            self.order(session.vm_id, Order::Extend(deadline)).await;
        }
        self.session(id).await
    }

    /// Asks a guest what it reaches.
    pub async fn reach(&self, vm_id: VmId, target: ReachTarget, timeout: Duration) -> Result<Reached, Error> {
        let vm = self.vm(vm_id).await?;
        let (answer, answered) = oneshot::channel();
        let asked = self.order(vm_id, Order::Reach { target, timeout, answer }).await;
        // The agent answers in time or its channel is lost, which drops the question.
        let waited = tokio::time::timeout(timeout + Duration::from_secs(5), answered).await;
        match waited {
            Ok(Ok(reached)) if asked => Ok(reached),
            _ => Err(Error::GuestSilent { id: vm_id, stage: vm.stage }),
        }
    }

    /// Ends a session as cancelled; returns when nothing of its VM is left. One that ended already is left as it is.
    pub async fn cancel(&self, id: SessionId) -> Result<SessionRecord, Error> {
        let session = self.session(id).await?;
        if session.state == SessionState::Queued {
            let store = &self.ctx().store;
            if store.move_session(id, session.state, SessionState::Cancelled, None, now_ms()).await? {
                self.inner.leave_queue(self.session(id).await?);
            }
        }
        self.end_vm(session.vm_id).await;
        self.session(id).await
    }

    /// Destroys a VM; returns when nothing of it is left. Its session, if it still runs, is cancelled.
    pub async fn destroy_vm(&self, id: VmId) -> Result<(), Error> {
        let vm = self.vm(id).await?;
        self.end_vm(id).await;
        // A VM that needs attention has no task: this is the moment to try again.
        if vm.ended_ms.is_none() {
            self.reconcile().await?;
        }
        Ok(())
    }

    /// Where the session's screen is; waits for its display.
    pub async fn viewer_target(&self, id: SessionId) -> Result<Result<Screen, ViewerEnd>, Error> {
        self.await_view(id, |view| view.target.is_some()).await
    }

    /// The same, for a screen that asks for a password: waits until the agent has set it.
    pub async fn viewer_target_with_password(&self, id: SessionId) -> Result<Result<Screen, ViewerEnd>, Error> {
        self.await_view(id, |view| view.target.is_some() && view.password.is_some()).await
    }

    async fn await_view(&self, id: SessionId, wanted: fn(&View) -> bool) -> Result<Result<Screen, ViewerEnd>, Error> {
        let session = self.session(id).await?;
        let view = {
            let tasks = self.tasks();
            let live = tasks.live.get(&session.vm_id).map(|(live, _)| live.view.clone());
            live.or_else(|| tasks.waiting.get(&session.vm_id).map(|waiting| waiting.view.subscribe()))
        };
        let Some(mut view) = view else { return Ok(Err(ViewerEnd { state: session.state })) };
        let seen = view.wait_for(|view| wanted(view) || view.state.is_terminal()).await.map(|view| view.clone());
        Ok(match seen {
            Ok(View { target: Some(addr), password, state, .. }) if !state.is_terminal() => {
                Ok(Screen { addr, password })
            }
            Ok(view) => Err(ViewerEnd { state: view.state }),
            Err(_) => Err(ViewerEnd { state: self.session(id).await?.state }),
        })
    }

    /// Lets go of every VM and leaves it running for the next daemon, which adopts it. New starts are refused. Starts and ends
    /// that are under way are finished first.
    pub async fn detach(&self) {
        self.close(|live| async move { drop(live.orders.send(Order::Detach).await) }).await;
    }

    /// Ends every live VM and waits until nothing of them is left. New starts are refused.
    pub async fn shutdown(&self) {
        self.close(|live| async move { end_and_wait(&live).await }).await;
    }

    async fn close<F: Future<Output = ()>>(&self, end: impl Fn(LiveVm) -> F) {
        let (live, mut running) = {
            let mut tasks = self.tasks();
            tasks.closing = true;
            let live: Vec<_> = tasks.live.values().map(|(live, _)| live.clone()).collect();
            (live, std::mem::take(&mut tasks.running))
        };
        self.inner.builds.close().await;
        for vm in live {
            end(vm).await;
        }
        while running.join_next().await.is_some() {}
        self.ctx().dhcp.stop();
        self.ctx().store.close().await;
    }

    async fn end_vm(&self, id: VmId) {
        let live = self.tasks().live.get(&id).map(|(live, _)| live.clone());
        if let Some(live) = live {
            end_and_wait(&live).await;
        }
    }

    /// Gives an order to the task of a VM; `false` if there is none that takes orders.
    pub(crate) async fn order(&self, id: VmId, order: Order) -> bool {
        let orders = self.tasks().live.get(&id).map(|(live, _)| live.orders.clone());
        match orders {
            Some(orders) => orders.send(order).await.is_ok(),
            None => false,
        }
    }
}

impl Inner {
    /// The map is whole after every statement that holds the lock.
    pub(crate) fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a session that was just admitted its task.
    fn begin(self: &Arc<Self>, session: SessionRecord, image: GoldenImage, channels: Channels) {
        let Some(address) = session.address else { return };
        let made_of = Ingredients {
            ctx: self.ctx.clone(),
            session,
            address,
            image,
            channels,
            timeline: Vec::new(),
            generation: 1,
        };
        self.spawn(made_of, false);
    }

    /// Gives a live VM that an earlier daemon started a task of its own.
    async fn adopt(self: &Arc<Self>, vm_id: VmId) -> Result<(), Error> {
        let store = &self.ctx.store;
        let vm = store.vm(vm_id).await?.ok_or(Error::NoVm(vm_id))?;
        let session = store.session(vm.session_id).await?.ok_or(Error::NoSession(vm.session_id))?;
        let image = match self.ctx.registry.find(&vm.image) {
            Ok(image) => image,
            Err(error) => {
                // Without its image nobody knows what the VM must reach.
                let cause = error.code().parse().unwrap_or(Cause::ImageMissing);
                return Ok(self.ctx.executor.give_up(vm_id, cause, &chain(&error)).await?);
            }
        };
        let until = Moment::now().mono_ms + LEASE_MS;
        let Some(generation) = store.adopt_lease(vm_id, until).await? else { return Ok(()) };
        tracing::info!(%vm_id, session = %session.id, state = %session.state, stage = ?vm.stage, "adopted");
        let channels = Channels::new(session.state);
        let timeline = store.timeline(vm_id).await?;
        let made_of =
            Ingredients { ctx: self.ctx.clone(), session, address: vm.address, image, channels, timeline, generation };
        self.spawn(made_of, true);
        Ok(())
    }

    fn spawn(self: &Arc<Self>, made_of: Ingredients, adopted: bool) {
        let vm_id = made_of.session.vm_id;
        let (task, live, orders) = VmTask::new(made_of);
        let inner = self.clone();
        let mut tasks = self.tasks();
        let task = async move {
            if adopted {
                task.run_adopted(orders).await
            } else {
                task.run(orders).await
            }
            inner.tasks().live.remove(&vm_id);
            // What it freed may be enough for one that waits.
            inner.wake.notify_one();
        };
        let running = tasks.running.spawn(task);
        tasks.live.insert(vm_id, (live, running));
        // Collect what ended already, so the set does not grow.
        while tasks.running.try_join_next().is_some() {}
    }

    /// Begins sessions that wait, as long as there is room.
    async fn admit_waiting(self: &Arc<Self>) -> Result<(), Error> {
        for session in self.ctx.executor.expire_queue(Moment::now()).await? {
            if let Some(session) = self.ctx.store.session(session.id).await? {
                self.leave_queue(session);
            }
        }
        loop {
            let Some(first) = self.ctx.store.queue().await?.into_iter().next() else { return Ok(()) };
            {
                let mut tasks = self.tasks();
                if tasks.closing {
                    return Ok(());
                }
                tasks.accepting.insert(first.vm_id);
            }
            let admitted = self.ctx.store.admit(first.id, &self.ctx.room(), Moment::now()).await;
            let begun = match admitted {
                Ok(Some(session)) => self.begin_waiting(session).await,
                other => other.map(|_| false).map_err(Error::from),
            };
            self.tasks().accepting.remove(&first.vm_id);
            if !begun? {
                return Ok(());
            }
        }
    }

    async fn begin_waiting(self: &Arc<Self>, session: SessionRecord) -> Result<bool, Error> {
        let waiting = self.tasks().waiting.remove(&session.vm_id);
        let channels = waiting.unwrap_or_else(|| Channels::new(session.state));
        channels.view.send_modify(|view| view.state = session.state);
        let _ = channels.events.send(SessionEvent::State(Box::new(session.clone())));
        match self.ctx.registry.find(&session.image) {
            Ok(image) => self.begin(session, image, channels),
            // Removed while the session waited: without a task the next pass fails it.
            Err(error) => tracing::error!(session = %session.id, error = chain(&error), "its image is gone"),
        }
        Ok(true)
    }

    /// Says the end of a session that waited.
    fn leave_queue(&self, session: SessionRecord) {
        let waiting = self.tasks().waiting.remove(&session.vm_id);
        if let Some(channels) = waiting {
            channels.view.send_modify(|view: &mut View| view.state = session.state);
            let _ = channels.events.send(SessionEvent::State(Box::new(session)));
        }
    }
}

/// Passes and admissions, until the engine is gone.
async fn keep(inner: Weak<Inner>) {
    loop {
        let Some(now) = inner.upgrade() else { return };
        if let Err(error) = now.admit_waiting().await {
            tracing::error!(error = chain(&error), "nobody admitted");
        }
        drop(now);
        let due = tokio::time::sleep(PERIOD);
        tokio::pin!(due);
        // Not to keep the engine alive while nothing is to be done.
        let Some(now) = inner.upgrade() else { return };
        let woken = async move { now.wake.notified().await };
        let periodic = tokio::select! {
            () = &mut due => true,
            () = woken => false,
        };
        let Some(now) = inner.upgrade() else { return };
        if now.tasks().closing {
            return;
        }
        if periodic {
            let engine = Engine { inner: now };
            if let Err(error) = engine.reconcile().await {
                tracing::error!(error = chain(&error), "no pass");
            }
        }
    }
}

async fn end_and_wait(vm: &LiveVm) {
    // A task that takes no orders any more is unwinding already. Its view closes when nothing is left.
    let _ = vm.orders.send(Order::Cancel).await;
    let mut view = vm.view.clone();
    while view.changed().await.is_ok() {}
}
