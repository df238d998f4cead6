//! Every route, grouped by the right it needs. Router and OpenAPI document come from the same lines.

use std::sync::Arc;

use airlock_api::MAX_REQUEST_BYTES;
use airlock_engine::Engine;
use airlock_engine::records::Scope;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Access, Guard, guard};
use crate::bridge::Seats;
use crate::request::{identify, no_such_method, no_such_route, panicked};
use crate::serve::Ending;
use crate::{
    assets, auth, bridge, builds, console, credentials, dhcp, diagnosis, events, evidence, health, images, metrics,
    operator, reach, reconcile, sessions, tokens, viewer, vms,
};

/// What handlers share.
#[derive(Clone)]
pub struct App {
    engine: Engine,
    public_base: Arc<str>,
    seats: Seats,
    closing: watch::Receiver<Option<Ending>>,
}

impl App {
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Base of absolute links, without a slash at the end.
    pub(crate) fn public_base(&self) -> &str {
        &self.public_base
    }

    /// Who looks at which session's screen.
    pub(crate) fn seats(&self) -> &Seats {
        &self.seats
    }

    /// Returns when the daemon is asked to end: streams must not hold it up.
    pub(crate) async fn closing(&self) {
        let mut closing = self.closing.clone();
        // An error means that whoever would say so is gone: that is the end as well.
        let _ = closing.wait_for(Option::is_some).await;
    }
}

#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "Airlock",
    description = "Sign-ins inside disposable machines. Every error has the body ErrorBody: code, message, and where known cause, stage and remedy."
))]
struct Document;

/// The routes of one right. The layer and the document's `security` come from the same value.
fn group(app: &App, access: Access, routes: OpenApiRouter<App>) -> OpenApiRouter<App> {
    secured(access, routes).route_layer(from_fn_with_state(Guard { app: app.clone(), access }, guard))
}

fn secured(access: Access, mut routes: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let scope = access.scope().to_string();
    let mut security = vec![SecurityRequirement::new("bearer", [scope])];
    if matches!(access, Access::TokenOrViewer(_)) {
        security.push(SecurityRequirement::new("viewer", Vec::<String>::new()));
    }
    for item in routes.get_openapi_mut().paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten() {
            operation.security = Some(security.clone());
        }
    }
    routes
}

fn public_routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health::health))
        .routes(routes!(health::auth_health))
        .routes(routes!(metrics::metrics))
        .routes(routes!(viewer::page))
        .routes(routes!(operator::page))
}

fn viewer_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(sessions::show))
        .routes(routes!(sessions::timeline))
        .routes(routes!(sessions::cancel))
        .routes(routes!(sessions::heartbeat))
        .routes(routes!(events::events))
        .routes(routes!(diagnosis::of_session))
        .routes(routes!(bridge::screen))
}

fn session_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(auth::start))
        .routes(routes!(viewer::ticket))
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::of_user))
        .routes(routes!(vms::list))
        .routes(routes!(vms::show, vms::destroy))
        .routes(routes!(vms::timeline))
        .routes(routes!(console::console))
        .routes(routes!(diagnosis::diagnosis))
        .routes(routes!(images::images))
        .routes(routes!(images::providers))
        .routes(routes!(credentials::list))
        .routes(routes!(credentials::delete))
}

fn credential_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(credentials::read))
}

fn admin_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::revoke))
        .routes(routes!(evidence::list))
        .routes(routes!(evidence::show, evidence::remove))
        .routes(routes!(evidence::export))
        .routes(routes!(builds::create, builds::list))
        .routes(routes!(builds::show, builds::cancel))
        .routes(routes!(builds::events))
        .routes(routes!(reconcile::plan, reconcile::run))
        .routes(routes!(dhcp::show))
        .routes(routes!(reach::reach))
}

const VIEWER: Access = Access::TokenOrViewer(Scope::SessionsWrite);
const SESSIONS: Access = Access::Token(Scope::SessionsWrite);
const CREDENTIALS: Access = Access::Token(Scope::CredentialsRead);
const ADMIN: Access = Access::Token(Scope::Admin);

/// The whole API. `closing` turns true when streams must end.
pub fn router(engine: Engine, closing: watch::Receiver<Option<Ending>>) -> Router {
    let public_base: Arc<str> = engine.config().public_base().into();
    let app = App { engine, public_base, seats: Seats::default(), closing };
    let (router, _) = public_routes()
        .merge(group(&app, VIEWER, viewer_routes()))
        .merge(group(&app, SESSIONS, session_routes()))
        .merge(group(&app, CREDENTIALS, credential_routes()))
        .merge(group(&app, ADMIN, admin_routes()))
        .split_for_parts();
    let document: Arc<str> = openapi().to_json().unwrap_or_default().into();
    router
        .route(
            "/openapi.json",
            get(move || async move { ([(header::CONTENT_TYPE, "application/json")], document.to_string()) }),
        )
        .route("/assets/{name}", get(assets::asset))
        .route("/", get(operator::home))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .with_state(app)
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(identify))
}

/// The API's description, the same routes as [`router`].
pub fn openapi() -> OpenApi {
    let (_, mut document) = public_routes()
        .merge(secured(VIEWER, viewer_routes()))
        .merge(secured(SESSIONS, session_routes()))
        .merge(secured(CREDENTIALS, credential_routes()))
        .merge(secured(ADMIN, admin_routes()))
        .split_for_parts();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    let cookie = utoipa::openapi::security::ApiKeyValue::with_description(
        crate::access::VIEWER_COOKIE,
        "set by the session's viewer link, valid for that session only",
    );
    let cookie = utoipa::openapi::security::ApiKey::Cookie(cookie);
    components.add_security_scheme("viewer", SecurityScheme::ApiKey(cookie));
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Method and path of every operation that may be called without a token.
    fn open_operations() -> Vec<String> {
        let document = serde_json::to_value(openapi()).unwrap();
        let mut open = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
                if operation.get("security").is_none() {
                    open.push(format!("{method} {path}"));
                }
            }
        }
        open.sort();
        open
    }

    #[test]
    fn only_health_metrics_and_the_pages_are_open() {
        let expected = [
            "get /api/auth/health",
            "get /api/auth/session/{id}/novnc",
            "get /health",
            "get /metrics",
            "get /operator",
        ];
        assert_eq!(open_operations(), expected);
    }

    #[test]
    fn the_document_has_every_route_of_the_design() {
        let document = serde_json::to_value(openapi()).unwrap();
        for (method, path) in [
            ("post", "/api/auth/start"),
            ("get", "/api/auth/session/{id}"),
            ("get", "/api/auth/session/{id}/events"),
            ("get", "/api/auth/session/{id}/timeline"),
            ("post", "/api/auth/session/{id}/cancel"),
            ("get", "/api/auth/session/{id}/diagnosis"),
            ("post", "/api/auth/session/{id}/ticket"),
            ("get", "/api/auth/session/{id}/vnc"),
            ("get", "/operator"),
            ("get", "/api/auth/sessions"),
            ("get", "/api/auth/sessions/{userId}"),
            ("post", "/api/auth/session/{id}/heartbeat"),
            ("get", "/api/dhcp"),
            ("get", "/api/reconcile"),
            ("post", "/api/reconcile"),
            ("get", "/metrics"),
            ("get", "/api/vms"),
            ("get", "/api/vms/{id}"),
            ("delete", "/api/vms/{id}"),
            ("get", "/api/vms/{id}/timeline"),
            ("get", "/api/vms/{id}/console"),
            ("get", "/api/vms/{id}/diagnosis"),
            ("post", "/api/vms/{id}/reach"),
            ("get", "/api/images"),
            ("post", "/api/images/builds"),
            ("get", "/api/images/builds"),
            ("get", "/api/images/builds/{id}"),
            ("get", "/api/images/builds/{id}/events"),
            ("delete", "/api/images/builds/{id}"),
            ("get", "/api/providers"),
            ("get", "/api/auth/credentials/{userId}"),
            ("get", "/api/auth/credentials/{userId}/{provider}"),
            ("delete", "/api/auth/credentials/{userId}/{provider}"),
            ("get", "/api/evidence"),
            ("get", "/api/evidence/{id}"),
            ("delete", "/api/evidence/{id}"),
            ("get", "/api/evidence/{id}/export"),
            ("post", "/api/tokens"),
            ("get", "/api/tokens"),
            ("delete", "/api/tokens/{id}"),
        ] {
            assert!(document["paths"][path][method].is_object(), "{method} {path}");
        }
        let read = &document["paths"]["/api/auth/credentials/{userId}/{provider}"]["get"]["security"];
        assert_eq!(read, &serde_json::json!([{"bearer": ["credentials:read"]}]));
    }
}
