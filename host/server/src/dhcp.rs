//! How the DHCP server is.

use airlock_api::ErrorBody;
use airlock_api::dhcp::DhcpView;
use axum::Json;
use axum::extract::State;

use crate::app::App;
use crate::error::chain;

/// Whether machines that ask for their address get one, and what came of all that asked.
#[utoipa::path(get, path = "/api/dhcp", responses((status = 200, body = DhcpView), (status = "default", body = ErrorBody)))]
pub async fn show(State(app): State<App>) -> Json<DhcpView> {
    let status = app.engine().dhcp();
    let remedy = |error: &std::sync::Arc<airlock_effects::network::NetworkError>| {
        error.remedy().unwrap_or("see the daemon's log; it goes on trying").to_owned()
    };
    Json(DhcpView {
        serving: status.failure.is_none(),
        failure: status.failure.as_ref().map(|error| chain(&**error)),
        remedy: status.failure.as_ref().map(remedy),
        outcomes: status.outcomes.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
    })
}
