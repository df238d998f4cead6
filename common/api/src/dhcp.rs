//! The DHCP server inside the installation's network.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /api/dhcp`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DhcpView {
    /// Whether it serves. Machines whose image has a static address need no server.
    pub serving: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Requests since the daemon was started, by what came of them: kinds of answers and reasons for none.
    pub outcomes: BTreeMap<String, u64>,
}
