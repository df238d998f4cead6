//! Builds of golden images.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ErrorDetail;

/// `POST /api/images/builds`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BuildRequest {
    /// Name of a recipe that the program ships.
    pub recipe: String,
    /// Fetch kernel and packages anew.
    #[serde(default)]
    pub refresh: bool,
    /// Boot the image in a real machine before it is published; without it the image is unverified.
    #[serde(default = "yes")]
    pub boot_test: bool,
    /// Wait for another build; without it the build fails with `build_running` where another one runs.
    #[serde(default = "yes")]
    pub wait: bool,
}

const fn yes() -> bool {
    true
}

/// One stage of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildStageView {
    /// Name of the stage.
    pub stage: String,
    /// `waiting`, `running` or `done`.
    pub state: String,
    /// How long it took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elapsed_ms: Option<u64>,
    /// How long it took in the last build, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_ms: Option<u64>,
    /// Its outcome was taken from the cache.
    pub reused: bool,
}

/// A build of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildView {
    /// Identity.
    pub id: String,
    /// Name of the image.
    pub name: String,
    /// `running`, `published`, `failed`, `cancelled` or `interrupted` (its process died).
    pub state: String,
    /// The stage that runs.
    pub stage: Option<String>,
    /// How long it will still take if it is as fast as the last one, in milliseconds.
    pub remaining_ms: Option<u64>,
    /// When it was asked for (RFC 3339).
    pub started_at: String,
    /// When it ended (RFC 3339).
    pub ended_at: Option<String>,
    /// Every stage, in order.
    pub stages: Vec<BuildStageView>,
    /// What it published, `name@sha256:digest`.
    pub image: Option<String>,
    /// Why it published nothing.
    pub error: Option<ErrorDetail>,
}

impl BuildView {
    /// Whether nothing more will happen.
    pub fn is_over(&self) -> bool {
        self.state != "running"
    }
}

/// Builds, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildList {
    /// Those that run, and the latest of each name.
    pub builds: Vec<BuildView>,
}

/// A line of a build's log, the event `line`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildLine {
    /// The stage it belongs to.
    pub stage: String,
    /// Without line end.
    pub line: String,
}
