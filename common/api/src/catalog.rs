//! What can be started: golden images and providers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A published golden image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageView {
    /// Name of the recipe.
    pub name: String,
    /// Content digest, `sha256:` and 64 hex digits.
    pub digest: String,
    /// Kernel release it boots.
    pub kernel_release: String,
    /// Bytes of all its files.
    pub size_bytes: u64,
    /// Whether its name alone stands for it.
    #[serde(default)]
    pub current: bool,
    /// Whether it booted to its readiness contract before it was published.
    #[serde(default)]
    pub verified: bool,
}

/// Published images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageList {
    /// The images, by name.
    pub images: Vec<ImageView>,
}

/// A tool that can be signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderView {
    /// Id for `POST /api/auth/start`.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Recipe of the image it runs in.
    pub image: String,
}

/// Tools that can be signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProviderList {
    /// The providers, by name.
    pub providers: Vec<ProviderView>,
}
