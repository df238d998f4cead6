//! The documents of an OCI image, as far as they are read here. Pure.
//!
//! Sources: OCI image specification 1.1 (index, manifest, config, descriptor), Docker's manifest v2 and the format of
//! `docker save`. Unknown fields are allowed, as the specification demands; a field of the wrong type is refused.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::OciError;

/// What is run here.
pub(super) const OS: &str = "linux";
pub(super) const ARCHITECTURE: &str = "amd64";
pub(super) const PLATFORM: &str = "linux/amd64";

const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// What compresses a layer is told by its first bytes; these are the media types that may stand there.
const LAYERS: [&str; 10] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// Everything a registry may send for a manifest.
pub(super) fn accepted() -> String {
    [INDEXES, MANIFESTS].concat().join(", ")
}

/// A SHA-256 digest in hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Digest(String);

impl Digest {
    /// Reads `sha256:<64 hex digits>`.
    pub(crate) fn parse(text: &str) -> Result<Self, OciError> {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        let fits = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if fits { Ok(Self(hex.to_owned())) } else { Err(OciError::DigestMalformed { digest: text.to_owned() }) }
    }

    /// The digits.
    pub(crate) fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// Names a blob.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// The names by which tools know the image it leads to.
    pub(super) fn tags(&self) -> Vec<String> {
        const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];
        let annotations = self.annotations.iter();
        annotations.flat_map(|all| NAMES.iter().filter_map(|name| all.get(*name).cloned())).collect()
    }
}

/// What an image runs on.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Platform {
    pub(super) architecture: String,
    pub(super) os: String,
}

impl Platform {
    pub(super) fn is_ours(&self) -> bool {
        self.os == OS && self.architecture == ARCHITECTURE
    }
}

/// A list of images, or of lists.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    manifests: Vec<Descriptor>,
}

/// One image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// What a reference leads to.
#[derive(Debug)]
pub(super) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// Reads an index or a manifest; `media_type` is what leads to it, and may be empty.
pub(super) fn parse_document(bytes: &[u8], media_type: &str, what: &str) -> Result<Document, OciError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        #[serde(default)]
        schema_version: Option<u64>,
        #[serde(default)]
        media_type: Option<String>,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = parse(bytes, what)?;
    let inside = shape.media_type.as_deref().filter(|media_type| !media_type.is_empty());
    let media_type = inside.unwrap_or(media_type);
    let unsupported =
        |media_type: &str| OciError::MediaType { what: what.to_owned(), media_type: media_type.to_owned() };
    if shape.schema_version != Some(2) {
        // Docker's first format had no digests of its layers.
        let version = shape.schema_version.map_or("none".to_owned(), |version| version.to_string());
        return Err(unsupported(&format!("{media_type}, schema version {version}")));
    }
    let is_index = if media_type.is_empty() { shape.manifests.is_some() } else { INDEXES.contains(&media_type) };
    if is_index {
        return Ok(Document::Index(parse::<Index>(bytes, what)?.manifests));
    }
    if !media_type.is_empty() && !MANIFESTS.contains(&media_type) {
        return Err(unsupported(media_type));
    }
    let manifest: Manifest = parse(bytes, what)?;
    check_media_type("the configuration", &manifest.config.media_type, &CONFIGS)?;
    for (index, layer) in manifest.layers.iter().enumerate() {
        check_media_type(&format!("layer {}", index + 1), &layer.media_type, &LAYERS)?;
    }
    Ok(Document::Manifest(manifest))
}

fn check_media_type(what: &str, media_type: &str, known: &[&str]) -> Result<(), OciError> {
    if known.contains(&media_type) {
        return Ok(());
    }
    Err(OciError::MediaType { what: what.to_owned(), media_type: media_type.to_owned() })
}

/// An image's configuration.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ImageFile {
    pub(super) architecture: String,
    pub(super) os: String,
    #[serde(default)]
    pub(super) config: Option<RunConfig>,
    pub(super) rootfs: RootFs,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct RootFs {
    pub(super) diff_ids: Vec<String>,
}

/// How an image wants to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RunConfig {
    pub(crate) user: Option<String>,
    pub(crate) exposed_ports: Option<BTreeMap<String, Empty>>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) working_dir: Option<String>,
}

/// Go's `struct{}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Empty {}

/// One image of `docker save`'s `manifest.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Saved {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Vec<String>,
}

/// Reads any of the documents.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], document: &str) -> Result<T, OciError> {
    serde_json::from_slice(bytes).map_err(|source| OciError::Document { document: document.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_is_64_digits_and_nothing_that_leads_elsewhere() {
        assert_eq!(Digest::parse(&format!("sha256:{HEX}")).unwrap().hex(), HEX);
        for bad in
            ["", HEX, "sha256:", "sha512:00", "sha256:../../../etc/passwd", &format!("sha256:{}", HEX.to_uppercase())]
        {
            assert_eq!(Digest::parse(bad).unwrap_err().code(), "oci_digest_malformed", "{bad}");
        }
    }

    fn manifest(layer: &str, version: u32) -> String {
        let blob = |media_type: &str| format!(r#"{{"mediaType":{media_type:?},"digest":"sha256:{HEX}","size":1}}"#);
        format!(r#"{{"schemaVersion":{version},"config":{},"layers":[{}]}}"#, blob(CONFIGS[0]), blob(layer))
    }

    #[test]
    fn media_types_are_checked() {
        for layer in LAYERS {
            assert!(matches!(parse_document(manifest(layer, 2).as_bytes(), "", "m"), Ok(Document::Manifest(_))));
        }
        let refused = |text: String, media_type| parse_document(text.as_bytes(), media_type, "m").unwrap_err().code();
        assert_eq!(
            refused(manifest("application/vnd.oci.image.layer.v1.tar+encrypted", 2), ""),
            "oci_media_type_unsupported"
        );
        assert_eq!(refused(manifest(LAYERS[0], 1), ""), "oci_media_type_unsupported");
        assert_eq!(refused(manifest(LAYERS[0], 2), "application/vnd.example"), "oci_media_type_unsupported");
        assert_eq!(refused("{".to_owned(), ""), "oci_document_malformed");
        assert_eq!(refused(r#"{"schemaVersion":2,"layers":"x"}"#.to_owned(), MANIFESTS[0]), "oci_document_malformed");
    }

    #[test]
    fn a_list_is_told_from_an_image() {
        let list = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"","digest":"sha256:{HEX}","size":7,
                "annotations":{{"org.opencontainers.image.ref.name":"v1"}},
                "platform":{{"architecture":"amd64","os":"linux","variant":"v2"}}}}]}}"#
        );
        let Ok(Document::Index(found)) = parse_document(list.as_bytes(), "", "list") else { panic!() };
        assert_eq!(found[0].tags(), ["v1"]);
        assert!(found[0].platform.as_ref().unwrap().is_ours());
    }

    #[test]
    fn nothing_is_as_good_as_null() {
        let file: ImageFile = parse(
            br#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"ExposedPorts":{"80/tcp":{}},"Volumes":{}},
                "rootfs":{"type":"layers","diff_ids":[]}}"#,
            "config",
        )
        .unwrap();
        let config = file.config.unwrap();
        assert_eq!(config.cmd, None);
        assert!(config.exposed_ports.unwrap().contains_key("80/tcp"));
    }
}
