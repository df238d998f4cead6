//! API tokens: create, list, revoke. All need `admin`.

use airlock_api::ErrorBody;
use airlock_api::token::{TokenCreated, TokenList, TokenRequest};
use airlock_engine::records::Scope;
use airlock_protocol::Sensitive;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};

use crate::access::Caller;
use crate::app::App;
use crate::error::ApiError;
use crate::request::{JsonBody, PathText};
use crate::views;

/// Make a token. Its secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/api/tokens", request_body = TokenRequest,
    responses((status = 200, body = TokenCreated), (status = "default", body = ErrorBody)))]
pub async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    JsonBody(body): JsonBody<TokenRequest>,
) -> Result<Json<TokenCreated>, ApiError> {
    if !(1..=64).contains(&body.name.chars().count()) || body.name.chars().any(char::is_control) {
        let remedy = "send 1 to 64 characters without control characters";
        return Err(ApiError::bad_input("invalid_token_name", "the token's name cannot be used", remedy));
    }
    let scopes = scopes(&body.scopes)?;
    let (record, token) = app.engine().create_token(&body.name, &scopes, &caller.actor()).await?;
    Ok(Json(TokenCreated { record: views::token(&record), token: Sensitive::new(token) }))
}

/// Every token, without secrets.
#[utoipa::path(get, path = "/api/tokens", responses((status = 200, body = TokenList), (status = "default", body = ErrorBody)))]
pub async fn list(State(app): State<App>) -> Result<Json<TokenList>, ApiError> {
    let tokens = app.engine().tokens().await?;
    Ok(Json(TokenList { tokens: tokens.iter().map(views::token).collect() }))
}

/// Revoke a token at once.
#[utoipa::path(delete, path = "/api/tokens/{id}", params(("id" = String, Path)),
    responses((status = 204, description = "revoked"), (status = "default", body = ErrorBody)))]
pub async fn revoke(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    PathText(id): PathText<String>,
) -> Result<StatusCode, ApiError> {
    app.engine().revoke_token(&id, &caller.actor()).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn scopes(names: &[String]) -> Result<Vec<Scope>, ApiError> {
    let remedy = "send one or more of sessions:write, credentials:read, credentials:write, admin";
    if names.is_empty() {
        return Err(ApiError::bad_input("invalid_scope", "a token needs a scope", remedy));
    }
    let mut scopes = Vec::new();
    for name in names {
        let scope = name.parse::<Scope>();
        let scope =
            scope.map_err(|_| ApiError::bad_input("invalid_scope", format!("{name:?} is not a scope"), remedy))?;
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    Ok(scopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_named_and_not_empty() {
        let parse = |names: &[&str]| scopes(&names.iter().map(ToString::to_string).collect::<Vec<_>>()).ok();
        assert_eq!(parse(&["admin", "admin"]), Some(vec![Scope::Admin]));
        assert_eq!(
            parse(&["sessions:write", "credentials:read"]),
            Some(vec![Scope::SessionsWrite, Scope::CredentialsRead])
        );
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&["root"]), None);
    }
}
