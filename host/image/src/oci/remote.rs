//! An image in a registry: the OCI distribution specification's pull, with the tokens of Docker's registries.
//!
//! Registries on this machine's loopback are asked over plain HTTP, all others over TLS with the certificates this host trusts.
//! Name and password are those that `docker login` or `skopeo login` left; they are sent to the registry that they are for, and
//! never appear in an error.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::{Response, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::blobs::read_document;
use super::document::{Digest, accepted};
use super::error::OciError;

/// A registry that says nothing for so long has gone.
const CONNECT: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(60);

/// `REGISTRY/NAME[:TAG][@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// Host, and port if it has one.
    pub(super) registry: String,
    /// Name of the repository.
    pub(super) name: String,
    /// Tag or digest.
    pub(super) version: String,
}

impl Reference {
    /// Reads a reference. The registry is always named: which one a bare name means is a matter of each tool's settings.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (registry, rest) = text.split_once('/')?;
        let is_host = registry == "localhost" || registry.contains(['.', ':']);
        let fits = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
        };
        let (name, version) = match rest.split_once('@') {
            Some((name, digest)) => {
                Digest::parse(digest).ok()?;
                (name.rsplit_once(':').map_or(name, |(name, _)| name), digest)
            }
            None => rest.rsplit_once(':').unwrap_or((rest, "latest")),
        };
        let parts_fit = name.split('/').all(|part| fits(part) && !part.starts_with('.'));
        let version_fits = version.contains(':') || (fits(version) && !version.contains('/'));
        let host_fits = registry.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte));
        let all = is_host && host_fits && parts_fit && version_fits;
        all.then(|| Self { registry: registry.to_owned(), name: name.to_owned(), version: version.to_owned() })
    }

    fn url(&self, kind: &str, version: &str) -> String {
        let host = self.registry.split_once(':').map_or(self.registry.as_str(), |(host, _)| host);
        let local = host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|addr| addr.is_loopback());
        let scheme = if local { "http" } else { "https" };
        format!("{scheme}://{}/v2/{}/{kind}/{version}", self.registry, self.name)
    }
}

/// One repository of a registry.
pub(super) struct Remote {
    agent: Agent,
    reference: Reference,
    /// Value of the `Authorization` header, once the registry wanted one.
    authorization: Mutex<Option<String>>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Remote").field(&self.reference).finish()
    }
}

impl Remote {
    pub(super) fn new(reference: Reference) -> Self {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .build();
        Self { agent: config.new_agent(), reference, authorization: Mutex::new(None) }
    }

    /// The document that the reference leads to, and its media type.
    pub(super) fn root_document(&self) -> Result<(Vec<u8>, String), OciError> {
        let what = format!("the manifest of {}", self.reference.name);
        let response = self.get("manifests", &self.reference.version, &what)?;
        let media_type = header(&response, "content-type").unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        let bytes = read_document(response.into_body().into_reader(), &what)?;
        if let Ok(digest) = Digest::parse(&self.reference.version) {
            let actual = crate::digest::of_bytes(&bytes);
            if actual != digest.hex() {
                return Err(super::blobs::mismatch(&what, digest.to_string(), format!("sha256:{actual}")));
            }
        }
        Ok((bytes, media_type))
    }

    /// A manifest, or a configuration, whichever has this digest.
    pub(super) fn document(&self, digest: &Digest, what: &str) -> Result<Vec<u8>, OciError> {
        // Registries keep manifests apart from blobs.
        let kind = if what.starts_with("manifest") { "manifests" } else { "blobs" };
        read_document(self.get(kind, &digest.to_string(), what)?.into_body().into_reader(), what)
    }

    /// A layer.
    pub(super) fn blob(&self, digest: &Digest, what: &str) -> Result<impl Read + 'static, OciError> {
        Ok(self.get("blobs", &digest.to_string(), what)?.into_body().into_reader())
    }

    fn get(&self, kind: &str, version: &str, what: &str) -> Result<Response<Body>, OciError> {
        let url = self.reference.url(kind, version);
        let mut response = self.send(&url)?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenge = header(&response, "www-authenticate").unwrap_or_default();
            let authorization = self.authorize(&challenge, &url)?;
            *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
            response = self.send(&url)?;
        }
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(OciError::Unauthorized { url, status: response.status().as_u16() })
            }
            StatusCode::NOT_FOUND if kind == "blobs" => Err(OciError::BlobMissing { blob: what.to_owned() }),
            status => Err(OciError::Registry { url, status: status.as_u16() }),
        }
    }

    fn send(&self, url: &str) -> Result<Response<Body>, OciError> {
        let mut request = self.agent.get(url).header("Accept", format!("{}, */*;q=0.1", accepted()));
        // Dropped by the client when a registry sends it to another host (a store of blobs).
        if let Some(value) = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).as_deref() {
            request = request.header("Authorization", value);
        }
        request.call().map_err(|source| OciError::Request { url: url.to_owned(), source: Box::new(source) })
    }

    /// Answers a challenge (RFC 7235; Docker's token document for `Bearer`).
    fn authorize(&self, challenge: &str, url: &str) -> Result<String, OciError> {
        let login = login_for(&self.reference.registry);
        let refused = || OciError::Unauthorized { url: url.to_owned(), status: 401 };
        let (scheme, fields) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return login.map(|login| format!("Basic {login}")).ok_or_else(refused);
        }
        let field = |name: &str| challenge_field(fields, name);
        let (true, Some(realm)) = (scheme.eq_ignore_ascii_case("bearer"), field("realm")) else {
            return Err(refused());
        };
        let mut request = self.agent.get(&realm);
        for name in ["service", "scope"] {
            if let Some(value) = field(name) {
                request = request.query(name, value);
            }
        }
        if let Some(login) = login {
            request = request.header("Authorization", format!("Basic {login}"));
        }
        let sent = request.call();
        let response = sent.map_err(|source| OciError::Request { url: realm.clone(), source: Box::new(source) })?;
        if !response.status().is_success() {
            return Err(OciError::Unauthorized { url: realm, status: response.status().as_u16() });
        }
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let what = "the registry's token";
        let token: Token = super::document::parse(&read_document(response.into_body().into_reader(), what)?, what)?;
        token.token.or(token.access_token).map(|token| format!("Bearer {token}")).ok_or_else(refused)
    }
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// `name="value"` in a list of such.
fn challenge_field(fields: &str, name: &str) -> Option<String> {
    let start = format!("{name}=\"");
    let at = fields.match_indices(&start).map(|(at, _)| at);
    let at = at.into_iter().find(|at| *at == 0 || fields[..*at].ends_with([',', ' ']))?;
    fields[at + start.len()..].split('"').next().map(str::to_owned)
}

/// Base64 of name and password for a registry, from the files where the common tools keep them.
fn login_for(registry: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Logins {
        #[serde(default)]
        auths: std::collections::BTreeMap<String, Login>,
    }
    #[derive(Deserialize)]
    struct Login {
        auth: Option<String>,
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let files = [
        std::env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from),
        std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("containers/auth.json")),
        std::env::var_os("DOCKER_CONFIG").map(|dir| PathBuf::from(dir).join("config.json")),
        home.map(|dir| dir.join(".docker/config.json")),
    ];
    files.into_iter().flatten().find_map(|file| {
        let mut logins: Logins = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        let auth = logins.auths.remove(registry)?.auth?;
        // Only what is base64 of "name:password" goes into a header.
        STANDARD.decode(&auth).ok()?.contains(&b':').then_some(auth)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_its_registry() {
        let of = |text: &str| Reference::parse(text).map(|found| (found.registry, found.name, found.version));
        let parts = |a: &str, b: &str, c: &str| Some((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(of("registry.example/a/b:1.2"), parts("registry.example", "a/b", "1.2"));
        assert_eq!(of("localhost:5000/a"), parts("localhost:5000", "a", "latest"));
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(of(&format!("r.example/a:tag@{digest}")), parts("r.example", "a", &digest));
        for bad in [
            "debian",
            "library/debian:12",
            "r.example/",
            "r.example/a:",
            "r.example/../x",
            "r.example/a@sha256:1",
            "r.example/a?x",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_loopback_is_asked_without_tls() {
        let url = |text: &str| Reference::parse(text).unwrap().url("blobs", "x");
        assert_eq!(url("localhost:5000/a"), "http://localhost:5000/v2/a/blobs/x");
        assert_eq!(url("127.0.0.1:5000/a"), "http://127.0.0.1:5000/v2/a/blobs/x");
        assert_eq!(url("r.example/a"), "https://r.example/v2/a/blobs/x");
        assert_eq!(url("127.0.0.example/a"), "https://127.0.0.example/v2/a/blobs/x");
        assert_eq!(url("localhost.example/a"), "https://localhost.example/v2/a/blobs/x");
    }

    #[test]
    fn challenges_are_read_by_name() {
        let fields = r#"realm="https://auth.example/token",service="r.example",scope="repository:a:pull,push""#;
        assert_eq!(challenge_field(fields, "realm").unwrap(), "https://auth.example/token");
        assert_eq!(challenge_field(fields, "scope").unwrap(), "repository:a:pull,push");
        assert_eq!(challenge_field(fields, "ervice"), None);
    }
}
