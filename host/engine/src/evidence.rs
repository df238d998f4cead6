//! Evidence bundles: what is kept of a VM outside its directory, saved before anything is undone.
//!
//! `evidence/ev-<vm id>/`: `failure.json`, `timeline.json`, `vm.json`, and copies of `console.log` and `vmm.log`. A bundle is
//! made under a temporary name and renamed, so it is whole or not there. What cannot be copied is left out, never fatal:
//! evidence must not stand in the way of cleaning up.

use std::io;
use std::path::{Path, PathBuf};

use airlock_domain::VmId;
use airlock_domain::boot::{Failure, TimelineEntry};

/// The bundle's id.
pub fn id_of(vm_id: VmId) -> String {
    format!("ev-{vm_id}")
}

/// Where a bundle lies.
pub fn dir_of(state_dir: &Path, evidence_id: &str) -> PathBuf {
    state_dir.join("evidence").join(evidence_id)
}

/// Saves the bundle of a VM; returns its id.
pub fn save(
    state_dir: &Path,
    vm_id: VmId,
    vm_dir: &Path,
    failure: &Failure,
    timeline: &[TimelineEntry],
) -> io::Result<String> {
    let id = id_of(vm_id);
    let (partial, dir) = (dir_of(state_dir, &format!(".{id}")), dir_of(state_dir, &id));
    if partial.exists() {
        std::fs::remove_dir_all(&partial)?;
    }
    std::fs::create_dir_all(&partial)?;
    for name in ["console.log", "vmm.log", "vm.json"] {
        match std::fs::copy(vm_dir.join(name), partial.join(name)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%vm_id, name, %error, "not kept as evidence"),
        }
    }
    std::fs::write(partial.join("failure.json"), serde_json::to_vec_pretty(failure)?)?;
    std::fs::write(partial.join("timeline.json"), serde_json::to_vec_pretty(timeline)?)?;
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::rename(&partial, &dir)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_domain::Cause;

    #[test]
    fn a_bundle_outlives_the_directory() {
        let state = tempfile::tempdir().unwrap();
        let vm_dir = state.path().join("vms/x");
        std::fs::create_dir_all(&vm_dir).unwrap();
        std::fs::write(vm_dir.join("console.log"), "last words").unwrap();
        let vm_id = VmId::from_uuid(uuid::Uuid::nil());
        let failure = Failure::new(Cause::VmmExited, None, "killed");
        for _ in 0..2 {
            let id = save(state.path(), vm_id, &vm_dir, &failure, &[]).unwrap();
            let dir = dir_of(state.path(), &id);
            assert_eq!(std::fs::read_to_string(dir.join("console.log")).unwrap(), "last words");
            assert!(std::fs::read_to_string(dir.join("failure.json")).unwrap().contains("vmm_exited"));
        }
        std::fs::remove_dir_all(&vm_dir).unwrap();
        assert_eq!(std::fs::read_dir(state.path().join("evidence")).unwrap().count(), 1);
    }
}
