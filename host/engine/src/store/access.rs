//! Tokens and viewer tickets. Secrets are stored as hashes only.

use airlock_domain::SessionId;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError, sql};
use crate::audit::Act;
use crate::records::{Scope, TokenRecord};

impl Store {
    /// Records a token under the hash of its secret.
    pub async fn add_token(&self, token: &TokenRecord, hash: &[u8], actor: &str) -> Result<(), StoreError> {
        let doing = "record a token";
        let scopes: Vec<_> = token.scopes.iter().map(|scope| scope.name()).collect();
        let mut tx = self.begin(doing).await?;
        sqlx::query("INSERT INTO tokens (id, name, hash, scopes, created_ms) VALUES ($1, $2, $3, $4, $5)")
            .bind(&token.id)
            .bind(&token.name)
            .bind(hash)
            .bind(scopes.join(" "))
            .bind(token.created_ms)
            .execute(&mut *tx)
            .await
            .map_err(sql(doing))?;
        let act = Act::new(actor, "token_created", token.id.as_str());
        let act = act.with(serde_json::json!({"name": token.name, "scopes": scopes}));
        self.append(&mut tx, &act, token.created_ms).await?;
        tx.commit().await.map_err(sql(doing))
    }

    /// The live token with this hash. The look-up is by a hash of 256 bits of entropy, so its timing says nothing.
    pub async fn token_by_hash(&self, hash: &[u8]) -> Result<Option<TokenRecord>, StoreError> {
        let row = sqlx::query("SELECT * FROM tokens WHERE hash = $1 AND revoked_ms IS NULL")
            .bind(hash)
            .fetch_optional(&self.pool)
            .await
            .map_err(sql("look up a token"))?;
        row.as_ref().map(read_token).transpose()
    }

    /// Live tokens, oldest first.
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM tokens WHERE revoked_ms IS NULL ORDER BY created_ms, id")
            .fetch_all(&self.pool)
            .await
            .map_err(sql("list tokens"))?;
        rows.iter().map(read_token).collect()
    }

    /// Revokes a token; `false` if there is no such live token.
    pub async fn revoke_token(&self, id: &str, actor: &str, now_ms: i64) -> Result<bool, StoreError> {
        let doing = "revoke a token";
        let mut tx = self.begin(doing).await?;
        let done = sqlx::query("UPDATE tokens SET revoked_ms = $1 WHERE id = $2 AND revoked_ms IS NULL")
            .bind(now_ms)
            .bind(id)
            .execute(&mut *tx)
            .await
            .map_err(sql(doing))?;
        if done.rows_affected() != 1 {
            return Ok(false);
        }
        self.append(&mut tx, &Act::new(actor, "token_revoked", id), now_ms).await?;
        tx.commit().await.map_err(sql(doing))?;
        Ok(true)
    }

    /// Records the hash of a viewer secret (`ticket` or `cookie`), and forgets the expired ones.
    pub async fn add_viewer_secret(
        &self,
        kind: &str,
        hash: &[u8],
        session: SessionId,
        now_ms: i64,
        expires_ms: i64,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin("record a viewer secret").await?;
        sqlx::query("DELETE FROM viewer_secrets WHERE expires_ms <= $1")
            .bind(now_ms)
            .execute(&mut *tx)
            .await
            .map_err(sql("forget expired viewer secrets"))?;
        sqlx::query("INSERT INTO viewer_secrets (hash, kind, session_id, expires_ms) VALUES ($1, $2, $3, $4)")
            .bind(hash)
            .bind(kind)
            .bind(session.to_string())
            .bind(expires_ms)
            .execute(&mut *tx)
            .await
            .map_err(sql("record a viewer secret"))?;
        tx.commit().await.map_err(sql("commit a viewer secret"))
    }

    /// Uses up a ticket; `false` if it is unknown, used, expired or another session's.
    pub async fn use_ticket(&self, hash: &[u8], session: SessionId, now_ms: i64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "DELETE FROM viewer_secrets WHERE hash = $1 AND kind = 'ticket' AND session_id = $2 AND expires_ms > $3",
        )
        .bind(hash)
        .bind(session.to_string())
        .bind(now_ms)
        .execute(&self.writer)
        .await
        .map_err(sql("use a ticket"))?;
        Ok(done.rows_affected() == 1)
    }

    /// Whether a viewer cookie is good for a session.
    pub async fn check_cookie(&self, hash: &[u8], session: SessionId, now_ms: i64) -> Result<bool, StoreError> {
        let found = sqlx::query(
            "SELECT 1 FROM viewer_secrets WHERE hash = $1 AND kind = 'cookie' AND session_id = $2 AND expires_ms > $3",
        )
        .bind(hash)
        .bind(session.to_string())
        .bind(now_ms)
        .fetch_optional(&self.pool)
        .await
        .map_err(sql("check a viewer cookie"))?;
        Ok(found.is_some())
    }
}

fn read_token(row: &SqliteRow) -> Result<TokenRecord, StoreError> {
    let text = |column: &'static str| row.try_get::<String, _>(column).map_err(sql("read a token's column"));
    Ok(TokenRecord {
        id: text("id")?,
        name: text("name")?,
        scopes: text("scopes")?.split_whitespace().map(str::parse::<Scope>).collect::<Result<_, _>>()?,
        created_ms: row.try_get("created_ms").map_err(sql("read a token's column"))?,
    })
}
