//! Why an OCI image is refused.

use std::io;
use std::path::PathBuf;

use crate::tarball::ArchiveError;

/// A fault of an OCI image, or of fetching it.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// No such file, and no reference either.
    #[error("{reference:?} is neither an archive or a layout here nor a reference of a registry")]
    Reference {
        /// What was given.
        reference: String,
    },
    /// A file or directory that is no image.
    #[error("{} is no OCI layout, no oci-archive and no docker-archive", path.display())]
    NoImage {
        /// The file or directory.
        path: PathBuf,
    },
    /// A document of the image is not what the specification says.
    #[error("parse {document}")]
    Document {
        /// Which.
        document: String,
        /// Where and what.
        #[source]
        source: serde_json::Error,
    },
    /// A document that is too large to be one.
    #[error("{document} is larger than {limit} bytes")]
    DocumentTooLarge {
        /// Which.
        document: String,
        /// The limit.
        limit: u64,
    },
    /// A digest that is none.
    #[error("{digest:?} is no SHA-256 digest")]
    DigestMalformed {
        /// What stands in its place.
        digest: String,
    },
    /// A blob is not what its digest says.
    #[error("{blob} is not what the image names: wanted {wanted}, found {actual}")]
    DigestMismatch {
        /// Which.
        blob: String,
        /// Digest or size by the image.
        wanted: String,
        /// Of the bytes.
        actual: String,
    },
    /// A layer unpacks to something else than the configuration says.
    #[error("{layer} unpacks to something else than the image names: wanted {wanted}, found {actual}")]
    DiffIdMismatch {
        /// Which.
        layer: String,
        /// Diff id by the configuration.
        wanted: String,
        /// Of the plain tar.
        actual: String,
    },
    /// Manifest and configuration have different numbers of layers.
    #[error("the manifest has {layers} layers and the configuration {diff_ids}")]
    LayerCount {
        /// Of the manifest.
        layers: usize,
        /// Of the configuration.
        diff_ids: usize,
    },
    /// A blob is not there.
    #[error("{blob} is not in the archive or layout")]
    BlobMissing {
        /// Which.
        blob: String,
    },
    /// A kind of document or layer that is not read here.
    #[error("{what} has the media type {media_type:?}, which is not read here")]
    MediaType {
        /// Which.
        what: String,
        /// As it stands there.
        media_type: String,
    },
    /// No image for this machine.
    #[error("there is no image for {wanted}; there {}", listed(found))]
    Platform {
        /// Operating system and architecture.
        wanted: &'static str,
        /// What there is.
        found: Vec<String>,
    },
    /// Several images, and nothing that says which.
    #[error("there are several images: {}", tags.join(", "))]
    Ambiguous {
        /// Their names.
        tags: Vec<String>,
    },
    /// None of this name.
    #[error("there is no image named {tag:?}; there {}", listed(tags))]
    TagUnknown {
        /// What was asked for.
        tag: String,
        /// Their names.
        tags: Vec<String>,
    },
    /// The registry wants a name and a password, or other ones.
    #[error("{url} refuses: {status}")]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The registry answers something else.
    #[error("{url} answers {status}")]
    Registry {
        /// What was asked for.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The registry does not answer.
    #[error("ask {url}")]
    Request {
        /// What was asked for.
        url: String,
        /// Why not.
        #[source]
        source: Box<ureq::Error>,
    },
    /// A file of the layout cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// What a registry sends cannot be read or kept.
    #[error("fetch {blob}")]
    Fetch {
        /// Which.
        blob: String,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The archive that holds the image, or one of its layers.
    #[error("an archive of the image is refused")]
    Archive(#[from] ArchiveError),
    /// The user that the image wants to run as.
    #[error("the image runs as {user:?}, which is no user of its /etc/passwd")]
    User {
        /// As the configuration has it.
        user: String,
    },
}

impl OciError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Reference { .. } | Self::NoImage { .. } => "oci_reference_unknown",
            Self::Document { .. } | Self::DocumentTooLarge { .. } | Self::LayerCount { .. } => "oci_document_malformed",
            Self::DigestMalformed { .. } => "oci_digest_malformed",
            Self::DigestMismatch { .. } => "oci_digest_mismatch",
            Self::DiffIdMismatch { .. } => "oci_diff_id_mismatch",
            Self::BlobMissing { .. } => "oci_blob_missing",
            Self::MediaType { .. } => "oci_media_type_unsupported",
            Self::Platform { .. } => "oci_platform_missing",
            Self::Ambiguous { .. } | Self::TagUnknown { .. } => "oci_tag_unknown",
            Self::Unauthorized { .. } => "oci_registry_refused",
            Self::Registry { .. } | Self::Request { .. } => "oci_registry_failed",
            Self::Read { .. } | Self::Fetch { .. } => "oci_unreadable",
            Self::Archive(source) => source.code(),
            Self::User { .. } => "oci_user_unknown",
        }
    }

    /// What to do next.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Reference { .. } | Self::NoImage { .. } => {
                "name a file of docker save or an oci-archive, a layout's directory, or a registry's REGISTRY/NAME:TAG"
            }
            Self::Document { .. } | Self::DocumentTooLarge { .. } | Self::LayerCount { .. } => {
                "write the image again with a tool that follows the OCI image specification"
            }
            Self::DigestMalformed { .. } | Self::DigestMismatch { .. } | Self::DiffIdMismatch { .. } => {
                "fetch the image again; if it repeats, do not trust where it comes from"
            }
            Self::BlobMissing { .. } => "write the archive again, with all of its layers",
            Self::MediaType { .. } => "convert the image: plain, gzip and zstd tar layers are read",
            Self::Platform { .. } => "take an image for linux/amd64",
            Self::Ambiguous { .. } | Self::TagUnknown { .. } => "add :TAG to the path",
            Self::Unauthorized { .. } => {
                "log in to the registry (docker login, skopeo login): its file of credentials is read. Or the image does not exist"
            }
            Self::Registry { .. } | Self::Request { .. } => "check the reference and the network to the registry",
            Self::Read { .. } | Self::Fetch { .. } => {
                "check that the files exist and can be read, and the room on the disk"
            }
            Self::Archive(source) => source.remedy(),
            Self::User { .. } => "give the image a user in /etc/passwd, or let it run as root",
        }
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "are none".to_owned() } else { format!("are {}", names.join(", ")) }
}
