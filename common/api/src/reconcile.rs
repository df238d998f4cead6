//! What the reconciler finds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET` and `POST /api/reconcile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReconcileView {
    /// What is to be done, or was done, in this order.
    pub actions: Vec<String>,
    /// What may be a leftover but is not proved to be Airlock's, and is left alone.
    pub foreign: Vec<String>,
    /// What was there and nobody owned, by kind; kinds without any are absent.
    pub leaked: BTreeMap<String, usize>,
}
