//! Liveness.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `GET /health`: the process answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: String,
    /// Version of the daemon.
    pub version: String,
}

/// Body of `GET /api/auth/health`: whether a sign-in could start now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthHealth {
    /// `ok`, or `degraded` if a dependency is not usable (the answer then has status 503).
    pub status: String,
    /// What it needs.
    pub dependencies: Dependencies,
    /// Machines that live now.
    pub live_vms: u32,
}

/// What a sign-in needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dependencies {
    /// The store answers.
    pub database: bool,
    /// The namespace and its bridge are there.
    pub network: bool,
    /// VMM driver in use.
    pub driver: String,
    /// At least one golden image is published.
    pub images: bool,
}
