//! Failures as answers: status, one error body, and the chain in the log (never in the answer).

use std::error::Error as _;

use airlock_api::{ErrorBody, ErrorDetail};
use airlock_domain::ids::IdParseError;
use airlock_engine::ErrorKind;
use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::request::current_request_id;

/// When it is worth asking again, in seconds: a sign-in takes minutes, but one may end any time.
const RETRY_AFTER_S: &str = "10";

/// A request that did not succeed.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    detail: Box<ErrorDetail>,
}

impl ApiError {
    /// An error with a remedy of its own.
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>, remedy: &str) -> Self {
        let detail = ErrorDetail {
            code: code.to_owned(),
            message: message.into(),
            remedy: (!remedy.is_empty()).then(|| remedy.to_owned()),
            ..ErrorDetail::default()
        };
        Self { status, detail: Box::new(detail) }
    }

    /// No token, or one that is not valid.
    pub fn unauthorized(message: &str) -> Self {
        let remedy = "send Authorization: Bearer TOKEN; the first token is in <state-dir>/admin.token, others: airlock token create";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message, remedy)
    }

    /// A valid token without the right.
    pub fn forbidden(message: impl Into<String>, remedy: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message, remedy)
    }

    /// A value that is refused.
    pub fn bad_input(code: &str, message: impl Into<String>, remedy: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message, remedy)
    }

    /// Our own fault; the log has the rest.
    pub fn internal() -> Self {
        let remedy = "see the daemon's log under the request id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the daemon failed to answer", remedy)
    }

    /// The same, without what the request's own words may be in.
    #[must_use]
    pub fn without_words(mut self) -> Self {
        self.detail.message =
            "the body is not what the route takes; it holds secrets, so nothing of it is repeated".to_owned();
        self
    }

    /// The status it is answered with.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What it says.
    pub fn message(&self) -> &str {
        &self.detail.message
    }
}

/// Every cause of an error, joined for one log line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl From<airlock_engine::Error> for ApiError {
    fn from(error: airlock_engine::Error) -> Self {
        let status = match error.kind() {
            ErrorKind::BadInput => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Refused => StatusCode::CONFLICT,
            ErrorKind::Busy => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status.is_server_error() {
            tracing::error!(request_id = %current_request_id(), code = error.code(), error = %chain(&error), "request failed");
        } else if error.source().is_some() {
            tracing::info!(request_id = %current_request_id(), code = error.code(), error = %chain(&error), "request refused");
        }
        let detail = ErrorDetail {
            code: error.code().to_owned(),
            message: error.to_string(),
            cause: error.cause().map(|cause| cause.code().to_owned()),
            stage: error.stage(),
            remedy: error.remedy(),
            evidence_id: None,
            console_end: Vec::new(),
            request_id: None,
        };
        Self { status, detail: Box::new(detail) }
    }
}

impl From<IdParseError> for ApiError {
    fn from(error: IdParseError) -> Self {
        let remedy = "ids are lower-case UUIDs; list them with airlock session ls or airlock vm ls";
        Self::new(StatusCode::BAD_REQUEST, "malformed_id", error.to_string(), remedy)
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let (code, remedy) = match &rejection {
            JsonRejection::JsonSyntaxError(_) => ("malformed_json", "send one JSON object"),
            JsonRejection::JsonDataError(_) => {
                ("invalid_field", "send the fields that /openapi.json lists, and no others")
            }
            JsonRejection::MissingJsonContentType(_) => {
                ("unsupported_media_type", "send Content-Type: application/json")
            }
            _ if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => ("body_too_large", "send at most 16 KiB"),
            _ => ("unreadable_body", "send one JSON object"),
        };
        Self::new(rejection.status(), code, rejection.body_text(), remedy)
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), "invalid_query", rejection.body_text(), "see /openapi.json for the parameters")
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), "malformed_path", rejection.body_text(), "percent-encode UTF-8 in the path")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut detail = *self.detail;
        detail.request_id = Some(current_request_id());
        let mut response = (self.status, Json(ErrorBody { error: detail })).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 6750 section 3.
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"airlock\""));
        }
        response
    }
}
