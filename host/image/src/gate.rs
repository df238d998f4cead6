//! The boot test between a finished image and its publication, and the record it leaves beside the manifest.
//!
//! ```text
//! candidate ─ preflight ─ boot test ─┬─ ready ──> published, boot-test.json beside the manifest: verified
//!                                    ├─ failed ─> nothing published, evidence kept
//!                                    └─ not run > published without the record: unverified
//! ```
//!
//! Who boots is not known here: this crate runs no VM. The record is no part of the image's digest, because the same image
//! boots in another time each time.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use airlock_domain::Cause;
use airlock_domain::boot::TimelineEntry;
use airlock_protocol::Stage;
use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::error::ImageError;
use crate::registry::GoldenImage;

/// File name of the record in an image.
pub(crate) const BOOT_TEST_FILE: &str = "boot-test.json";

/// How an image booted before it was published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BootRecord {
    /// What ran it.
    pub driver: String,
    /// Milliseconds from the request to its readiness contract.
    pub ready_ms: f64,
    /// When it was ready, milliseconds since the Unix epoch.
    pub tested_ms: i64,
    /// Every stage.
    pub timeline: Vec<TimelineEntry>,
}

impl BootRecord {
    /// The record beside an image's manifest; none if the image was never tested.
    pub(crate) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(BOOT_TEST_FILE)).ok()?).ok()
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, ImageError> {
        serde_json::to_vec_pretty(self).map_err(ImageError::Encode)
    }
}

/// Why an image did not boot to its readiness contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFailure {
    /// Code of the fault catalogue.
    pub cause: Cause,
    /// The first stage that was not reached.
    pub stage: Option<Stage>,
    /// What was seen.
    pub detail: String,
    /// The evidence bundle.
    pub evidence_id: Option<String>,
}

type Boot = dyn Fn(&GoldenImage, &Cancel, &mut dyn FnMut(&str)) -> Result<BootRecord, ImageError> + Send + Sync;

/// Boots a candidate in a real VM; tells its stages, ends early when it is cancelled.
#[derive(Clone)]
pub struct BootTest(Arc<Boot>);

impl BootTest {
    /// A test by `boot`, which gets the candidate where it lies now.
    pub fn new(
        boot: impl Fn(&GoldenImage, &Cancel, &mut dyn FnMut(&str)) -> Result<BootRecord, ImageError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(boot))
    }

    pub(crate) fn run(
        &self,
        candidate: &GoldenImage,
        cancel: &Cancel,
        tell: &mut dyn FnMut(&str),
    ) -> Result<BootRecord, ImageError> {
        (self.0)(candidate, cancel, tell)
    }
}

impl fmt::Debug for BootTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BootTest")
    }
}
