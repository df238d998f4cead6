//! What every request gets: an id, a log line without its query, an answer even after a panic; and the extractors whose refusals
//! are error bodies.

use std::any::Any;
use std::str::FromStr;
use std::time::Instant;

use airlock_domain::ids::IdParseError;
use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::error::ApiError;

/// Names the request in the daemon's log.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT: String;
}

/// Id of the request that this task answers.
pub fn current_request_id() -> String {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// Outermost layer. The query is never logged: a viewer link carries its ticket there.
pub async fn identify(request: Request, next: Next) -> Response {
    let id = Uuid::new_v4().simple().to_string();
    let (method, path, start) = (request.method().clone(), request.uri().path().to_owned(), Instant::now());
    let mut response = CURRENT.scope(id.clone(), next.run(request)).await;
    let (status, ms) = (response.status().as_u16(), start.elapsed().as_secs_f64() * 1000.0);
    tracing::info!(request_id = %id, %method, path, status, ms, "request");
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.entry(header::REFERRER_POLICY).or_insert(HeaderValue::from_static("no-referrer"));
    response
}

/// The answer after a panic in a handler.
pub fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let what = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(request_id = %current_request_id(), panic = what.unwrap_or("no message"), "a handler panicked");
    ApiError::internal().into_response()
}

/// Answer to a path that no route has.
pub async fn no_such_route() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "no_such_route", "there is no such route", "see /openapi.json for the routes")
}

/// Answer to a method that the route does not have.
pub async fn no_such_method() -> ApiError {
    let remedy = "see /openapi.json for the methods of a route";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "no_such_method", "the route does not have this method", remedy)
}

/// A JSON body.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body: Result<Json<T>, JsonRejection> = Json::from_request(request, state).await;
        Ok(Self(body?.0))
    }
}

/// A JSON body that holds a secret: what is wrong with it is said without a word of it.
pub struct SecretBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for SecretBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body: Result<Json<T>, JsonRejection> = Json::from_request(request, state).await;
        body.map(|Json(body)| Self(body)).map_err(|rejection| ApiError::from(rejection).without_words())
    }
}

/// The `{id}` of the path.
pub struct Id<T>(pub T);

impl<T: FromStr<Err = IdParseError>, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| ApiError::internal())?;
        let text = params.iter().find(|(name, _)| *name == "id").map_or("", |(_, value)| value);
        Ok(Self(text.parse()?))
    }
}

/// Text parameters of the path.
pub struct PathText<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathText<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path: Result<Path<T>, PathRejection> = Path::from_request_parts(parts, state).await;
        Ok(Self(path?.0))
    }
}

/// Parameters of the query.
pub struct QueryOf<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryOf<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        Ok(Self(query?.0))
    }
}
