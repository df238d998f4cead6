//! Evidence as the engine's callers meet it: shown, exported, removed. The executor saves it and keeps it in bounds.

use std::sync::Arc;

use airlock_domain::diagnosis::Verdict;
use airlock_domain::{EvidenceId, VmId};

use crate::audit::Act;
use crate::clock::now_ms;
use crate::context::Context;
use crate::engine::Engine;
use crate::error::Error;
use crate::evidence::{Bundle, Bundles, EvidenceError, Export, Summary};

fn bundles(ctx: &Context) -> Bundles {
    Bundles::new(&ctx.config.state_dir, ctx.config.evidence)
}

impl Engine {
    /// Every evidence bundle, newest first.
    pub async fn evidence(&self) -> Result<Vec<Summary>, Error> {
        let bundles = bundles(self.ctx());
        Ok(blocking(move || bundles.list()).await?)
    }

    /// One evidence bundle.
    pub async fn evidence_bundle(&self, id: EvidenceId) -> Result<Bundle, Error> {
        let bundles = bundles(self.ctx());
        Ok(blocking(move || bundles.read(id)).await?)
    }

    /// The verdict that was kept with a VM's evidence.
    pub(crate) async fn kept_diagnosis(&self, id: VmId) -> Option<Verdict> {
        let bundles = bundles(self.ctx());
        blocking(move || bundles.diagnosis(EvidenceId::of(id))).await
    }

    /// An evidence bundle to write out.
    pub async fn export_evidence(&self, id: EvidenceId) -> Result<Export, Error> {
        let bundles = bundles(self.ctx());
        Ok(blocking(move || bundles.export(id)).await?)
    }

    /// Removes an evidence bundle. `actor` (a token's id) is written to the audit log. Refused while its VM is not destroyed.
    pub async fn delete_evidence(&self, id: EvidenceId, actor: &str) -> Result<(), Error> {
        let ctx: &Arc<Context> = self.ctx();
        if ctx.store.vm(id.vm_id()).await?.is_some_and(|vm| vm.ended_ms.is_none()) {
            return Err(EvidenceError::Held(id).into());
        }
        let bundles = bundles(ctx);
        blocking(move || bundles.remove(id)).await?;
        Ok(ctx.store.audit(&Act::new(actor, "evidence_deleted", id.to_string()), now_ms()).await?)
    }
}

/// Runs disk work off the async threads. A panic in it goes on in the caller.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that ends cancels blocking work, and it takes the caller with it.
            Err(_) => std::future::pending().await,
        },
    }
}
