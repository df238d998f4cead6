//! Which images the records of an installation still need, also without its daemon.

use std::collections::BTreeSet;
use std::path::Path;

use crate::engine::host_name;
use crate::error::Error;
use crate::store::Store;

/// Images of sessions and machines of the installation in `state_dir` that have not ended, as `name@sha256:digest`. Reads the
/// records, whether a daemon runs or not.
pub async fn images_in_use(state_dir: &Path) -> Result<BTreeSet<String>, Error> {
    let path = state_dir.join("airlock.db");
    if !path.exists() {
        return Ok(BTreeSet::new());
    }
    let store = Store::open(&path, &host_name()).await?;
    let used = store.images_in_use().await;
    store.close().await;
    Ok(used?)
}
