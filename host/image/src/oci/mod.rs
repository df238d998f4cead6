//! OCI images: what a reference leads to, with every digest checked, and how the image wants to be run.
//!
//! ```text
//! reference ─┬─ directory with index.json ──────────┐
//!            ├─ tar with index.json (oci-archive) ──┼─ index ─ linux/amd64 ─ manifest ─┐
//!            ├─ registry ───────────────────────────┘                                  ├─ config ─ layers
//!            └─ tar with manifest.json (docker save) ──────────────────────────────────┘
//! ```
//!
//! Nothing of an image is believed: documents are checked against the digests that lead to them, layers against their digest
//! and their diff id, and an image for another machine is refused. A failure leaves nothing but layers that were in order.

mod blobs;
mod document;
mod error;
mod remote;
mod service;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub(crate) use document::RunConfig;
use document::{ARCHITECTURE, Descriptor, Digest, Document, ImageFile, Manifest, OS, PLATFORM, Saved};
pub use error::OciError;
pub(crate) use service::service_of;

use crate::cancel::Cancel;
use crate::digest;
use crate::error::ImageError;
use crate::layers::{Layer, LayerCache};
use crate::reporter::Reporter;
use crate::tarball::{Limits, Unpacked};
use blobs::{Blobs, Members, mismatch, read_document};
use remote::{Reference, Remote};

/// Lists of lists of lists are nobody's image.
const INDEX_DEPTH: usize = 3;
/// What other tools put before a path or a reference.
const TRANSPORTS: [&str; 4] = ["oci:", "oci-archive:", "docker-archive:", "docker://"];

/// An image that was found; its layers are not read yet.
#[derive(Debug)]
pub(crate) struct OciImage {
    reference: String,
    blobs: Blobs,
    /// SHA-256 of the configuration, which names every layer: the image's identity.
    id: String,
    run: RunConfig,
    layers: Vec<LayerPlace>,
}

#[derive(Debug)]
struct LayerPlace {
    at: At,
    diff_id: Digest,
}

#[derive(Debug)]
enum At {
    Blob(Digest, u64),
    Member(String),
}

impl OciImage {
    /// Finds the image of a reference; `scratch` is for an archive that has to be unpacked.
    pub(crate) fn open(reference: &str, scratch: &Path) -> Result<Self, ImageError> {
        open(reference, scratch).map_err(|source| refused(reference, source))
    }

    /// SHA-256 of the configuration.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// How the image wants to be run.
    pub(crate) fn run_config(&self) -> &RunConfig {
        &self.run
    }

    /// Every layer, unpacked, lowest first; those in the cache are not fetched.
    pub(crate) fn layers(&self, cache: &LayerCache, reporter: &mut Reporter<'_>) -> Result<Vec<Layer>, ImageError> {
        let count = self.layers.len();
        let unpack = |(index, place): (usize, &LayerPlace)| {
            reporter.cancel().check()?;
            let what = format!("layer {} of {count}", index + 1);
            let (layer, how) = self.layer(place, &what, cache, reporter.cancel())?;
            reporter.line(&format!("{what}: sha256:{} {how}", layer.plain_sha256));
            Ok(layer)
        };
        self.layers.iter().enumerate().map(unpack).collect()
    }

    fn layer(
        &self,
        place: &LayerPlace,
        what: &str,
        cache: &LayerCache,
        cancel: &Cancel,
    ) -> Result<(Layer, &'static str), ImageError> {
        let refuse = |source| refused(&self.reference, source);
        let wanted = &place.diff_id;
        let differs = |actual: &str| OciError::DiffIdMismatch {
            layer: what.to_owned(),
            wanted: wanted.to_string(),
            actual: format!("sha256:{actual}"),
        };
        let key = match &place.at {
            At::Blob(digest, _) => digest,
            // Most members are plain, and then both digests are the same.
            At::Member(_) => wanted,
        };
        if let Some(layer) = cache.find(key.hex()) {
            if layer.plain_sha256 != wanted.hex() {
                return Err(refuse(differs(&layer.plain_sha256)));
            }
            return Ok((layer, "from the cache"));
        }
        let packed: Box<dyn Read + '_> = match (&place.at, &self.blobs) {
            // One byte more than there should be is enough to know.
            (At::Blob(digest, size), blobs) => {
                Box::new(blobs.layer(digest, what).map_err(refuse)?.take(size.saturating_add(1)))
            }
            (At::Member(name), Blobs::Archive(members)) => Box::new(members.open(name, what).map_err(refuse)?),
            (At::Member(_), _) => return Err(refuse(OciError::BlobMissing { blob: what.to_owned() })),
        };
        let check = |unpacked: &Unpacked| {
            if let At::Blob(digest, size) = &place.at {
                let sizes =
                    (*size != unpacked.size).then(|| (format!("{size} bytes"), format!("{} bytes", unpacked.size)));
                let digests = (digest.hex() != unpacked.sha256)
                    .then(|| (digest.to_string(), format!("sha256:{}", unpacked.sha256)));
                if let Some((wanted, actual)) = sizes.or(digests) {
                    return Err(refuse(mismatch(what, wanted, actual)));
                }
            }
            if unpacked.plain_sha256 != wanted.hex() { Err(refuse(differs(&unpacked.plain_sha256))) } else { Ok(()) }
        };
        let layer = cache.add(Cancellable { inner: packed, cancel }, what, Limits::DEFAULT, check);
        // A refused archive is refused as a part of this image.
        let layer = layer.map_err(|err| match err {
            ImageError::Archive { source, .. } => refuse(OciError::Archive(source)),
            other => other,
        });
        Ok((layer?, "unpacked"))
    }
}

/// The error of an image.
pub(crate) fn refused(reference: &str, source: OciError) -> ImageError {
    ImageError::Oci { reference: reference.to_owned(), source: Box::new(source) }
}

/// Ends with an error when the build is to end.
pub(crate) struct Cancellable<'a, R> {
    pub(crate) inner: R,
    pub(crate) cancel: &'a Cancel,
}

impl<R: Read> Read for Cancellable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_asked() {
            return Err(io::Error::other("cancelled"));
        }
        self.inner.read(buffer)
    }
}

/// A path, with the tag behind it that chooses among several images.
fn local(reference: &str) -> Option<(PathBuf, Option<&str>)> {
    if Path::new(reference).exists() {
        return Some((reference.into(), None));
    }
    let (path, tag) = reference.rsplit_once(':')?;
    Path::new(path).exists().then(|| (path.into(), Some(tag)))
}

fn open(reference: &str, scratch: &Path) -> Result<OciImage, OciError> {
    let plain = TRANSPORTS.iter().find_map(|transport| reference.strip_prefix(transport)).unwrap_or(reference);
    let Some((path, tag)) = local(plain) else {
        let found = Reference::parse(plain).ok_or_else(|| OciError::Reference { reference: reference.to_owned() })?;
        let remote = Remote::new(found);
        let (bytes, media_type) = remote.root_document()?;
        return of_document(reference, Blobs::Registry(remote), &bytes, &media_type, None);
    };
    if path.is_dir() {
        let index = path.join("index.json");
        if !index.is_file() {
            return Err(OciError::NoImage { path });
        }
        let file = std::fs::File::open(&index).map_err(|source| OciError::Read { path: index, source })?;
        let bytes = read_document(file, "index.json")?;
        return of_document(reference, Blobs::Directory(path), &bytes, "", tag);
    }
    let members = Members::of(&path, scratch)?;
    if members.has("index.json") {
        let bytes = read_document(members.open("index.json", "index.json")?, "index.json")?;
        return of_document(reference, Blobs::Archive(members), &bytes, "", tag);
    }
    if members.has("manifest.json") {
        return of_saved(reference, members, tag);
    }
    Err(OciError::NoImage { path })
}

fn of_document(
    reference: &str,
    blobs: Blobs,
    bytes: &[u8],
    media_type: &str,
    tag: Option<&str>,
) -> Result<OciImage, OciError> {
    let manifest = match document::parse_document(bytes, media_type, "the image's first document")? {
        Document::Manifest(manifest) => manifest,
        Document::Index(list) => {
            let list = match tag {
                None => list,
                Some(tag) => tagged(list, tag)?,
            };
            choose(&blobs, list, 0)?
        }
    };
    let digest = Digest::parse(&manifest.config.digest)?;
    let config = blobs.document(&digest, Some(manifest.config.size), "the configuration")?;
    let file: ImageFile = document::parse(&config, "the configuration")?;
    let places = manifest.layers.iter().map(|layer| Ok(At::Blob(Digest::parse(&layer.digest)?, layer.size)));
    let places = places.collect::<Result<Vec<_>, OciError>>()?;
    finish(reference, blobs, digest.hex().to_owned(), file, places)
}

fn of_saved(reference: &str, members: Members, tag: Option<&str>) -> Result<OciImage, OciError> {
    let bytes = read_document(members.open("manifest.json", "manifest.json")?, "manifest.json")?;
    let saved: Vec<Saved> = document::parse(&bytes, "manifest.json")?;
    let tags = |saved: &Saved| saved.repo_tags.clone().unwrap_or_default();
    let all: Vec<String> = saved.iter().flat_map(tags).collect();
    let mut wanted = saved.into_iter().filter(|saved| tag.is_none_or(|tag| is_named(&tags(saved), tag)));
    let Some(chosen) = wanted.next() else {
        return Err(OciError::TagUnknown { tag: tag.unwrap_or_default().to_owned(), tags: all });
    };
    if wanted.next().is_some() {
        return Err(OciError::Ambiguous { tags: all });
    }
    let config = read_document(members.open(&chosen.config, "the configuration")?, "the configuration")?;
    let id = digest::of_bytes(&config);
    // The file is named by its digest.
    let named = chosen.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
    if Digest::parse(&format!("sha256:{named}")).is_ok_and(|named| named.hex() != id) {
        return Err(mismatch("the configuration", format!("sha256:{named}"), format!("sha256:{id}")));
    }
    let file: ImageFile = document::parse(&config, "the configuration")?;
    finish(reference, Blobs::Archive(members), id, file, chosen.layers.into_iter().map(At::Member).collect())
}

fn finish(reference: &str, blobs: Blobs, id: String, file: ImageFile, places: Vec<At>) -> Result<OciImage, OciError> {
    if file.os != OS || file.architecture != ARCHITECTURE {
        let found = vec![format!("{}/{}", file.os, file.architecture)];
        return Err(OciError::Platform { wanted: PLATFORM, found });
    }
    let diff_ids = file.rootfs.diff_ids;
    if diff_ids.len() != places.len() {
        return Err(OciError::LayerCount { layers: places.len(), diff_ids: diff_ids.len() });
    }
    let layers = places.into_iter().zip(&diff_ids).map(|(at, id)| Ok(LayerPlace { at, diff_id: Digest::parse(id)? }));
    let layers = layers.collect::<Result<_, OciError>>()?;
    Ok(OciImage { reference: reference.to_owned(), blobs, id, run: file.config.unwrap_or_default(), layers })
}

fn is_named(names: &[String], tag: &str) -> bool {
    names.iter().any(|name| name == tag || name.strip_suffix(tag).is_some_and(|rest| rest.ends_with(':')))
}

fn tagged(list: Vec<Descriptor>, tag: &str) -> Result<Vec<Descriptor>, OciError> {
    let tags: Vec<String> = list.iter().flat_map(Descriptor::tags).collect();
    let list: Vec<Descriptor> = list.into_iter().filter(|entry| is_named(&entry.tags(), tag)).collect();
    if list.is_empty() { Err(OciError::TagUnknown { tag: tag.to_owned(), tags }) } else { Ok(list) }
}

/// The image of a list that is for this machine.
fn choose(blobs: &Blobs, list: Vec<Descriptor>, depth: usize) -> Result<Manifest, OciError> {
    let (mut ours, others): (Vec<_>, Vec<_>) =
        list.into_iter().partition(|entry| entry.platform.as_ref().is_none_or(document::Platform::is_ours));
    ours.dedup_by(|a, b| a.digest == b.digest);
    let Some(first) = ours.first() else {
        let named = others.iter().filter_map(|entry| entry.platform.as_ref());
        let found = named.map(|platform| format!("{}/{}", platform.os, platform.architecture)).collect();
        return Err(OciError::Platform { wanted: PLATFORM, found });
    };
    // One list names the platforms of one image; the outermost of a layout names several images.
    if depth == 0 && ours.len() > 1 {
        let name = |entry: &Descriptor| entry.tags().first().cloned().unwrap_or_else(|| entry.digest.clone());
        return Err(OciError::Ambiguous { tags: ours.iter().map(name).collect() });
    }
    let bytes = blobs.document(&Digest::parse(&first.digest)?, Some(first.size), "manifest of the image")?;
    match document::parse_document(&bytes, &first.media_type, "the image's manifest")? {
        Document::Manifest(manifest) => Ok(manifest),
        Document::Index(list) if depth < INDEX_DEPTH => choose(blobs, list, depth + 1),
        Document::Index(_) => {
            let media_type = first.media_type.clone();
            Err(OciError::MediaType { what: "a list of lists of lists".to_owned(), media_type })
        }
    }
}

#[cfg(test)]
mod tests;
