//! Roots that come from elsewhere, as cache entries: an OCI image, a tar, a finished ext4 filesystem.
//!
//! ```text
//! source (find, verify, unpack) -> customize (one tree, written) -> root_image
//!         `-- the same root was made before: the rest comes from the cache
//! ```
//!
//! The root stays as it is: no file is added, changed or removed but for the times, which are the recipe's epoch. A root that is
//! refused leaves no entry.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};

use airlock_protocol::guest_config::Service;

use crate::builder::Unfinished;
use crate::digest;
use crate::error::ImageError;
use crate::ext4;
use crate::layers::{Layer, LayerCache, MergedTree, write_tree};
use crate::oci::{Cancellable, OciError, OciImage, RunConfig, refused, service_of};
use crate::plan::BuildPlan;
use crate::progress::BuildStage;
use crate::recipe::LoadedRecipe;
use crate::registry::replace_directory;
use crate::reporter::Reporter;
use crate::rootfs::RootfsEntry;
use crate::source::{KernelFile, Origin, RootSource};
use crate::state_dir::{Scratch, StateDir, UNFINISHED};
use crate::tarball::{ArchiveError, Limits, read_entries};
use crate::tool::ToolRun;
use crate::tree::Tree;
use crate::vmlinux;

/// What the first stage found.
struct Found {
    origin: Origin,
    plan: BuildPlan,
    content: Content,
}

enum Content {
    /// Made before.
    Cached(RootfsEntry),
    /// Layers of an image; none of its program if it is a tar.
    Layers(Vec<Layer>, Option<(String, RunConfig)>),
    Ext4(PathBuf),
}

/// The root of a foreign source.
pub(crate) fn rootfs(
    loaded: &LoadedRecipe,
    plan: &BuildPlan,
    state: &StateDir,
    refresh: bool,
    reporter: &mut Reporter<'_>,
) -> Result<(RootfsEntry, Origin), ImageError> {
    let scratch = state.scratch()?;
    let found = reporter.stage(BuildStage::Source, |reporter| {
        let found = find(loaded, plan, state, &scratch, refresh, reporter)?;
        let reused = matches!(found.content, Content::Cached(_));
        Ok((found, reused))
    })?;
    let Found { origin, plan, content } = found;
    let dir = state.cache().join(&plan.rootfs_entry);
    let unfinished = Unfinished::create(state.cache().join(format!("{UNFINISHED}{}", plan.rootfs_entry)))?;
    match content {
        Content::Cached(entry) => {
            for stage in [BuildStage::Customize, BuildStage::RootImage] {
                reporter.stage(stage, |_| Ok(((), true)))?;
            }
            return Ok((entry, origin));
        }
        Content::Layers(layers, program) => {
            let root = scratch.join("root");
            let is_image = program.is_some();
            let refuse = |source| match &program {
                Some((reference, _)) => refused(reference, OciError::Archive(source)),
                None => refused_tar(loaded, source),
            };
            reporter.stage(BuildStage::Customize, |reporter| {
                let tree = merge(&layers, is_image).map_err(refuse)?;
                let plain: Vec<PathBuf> = layers.iter().map(|layer| layer.plain.clone()).collect();
                write_tree(&tree, &plain, &root, reporter.cancel())?;
                Ok(((), false))
            })?;
            let service = |tree: &Tree<'_>| -> Result<Option<Service>, ImageError> {
                program.as_ref().map_or(Ok(None), |(reference, run)| service_of(reference, run, tree))
            };
            reporter.stage(BuildStage::RootImage, |reporter| {
                RootfsEntry::build_foreign(loaded, &plan, &root, service, &unfinished.path, reporter)?;
                Ok(((), false))
            })?;
        }
        Content::Ext4(path) => {
            reporter.stage(BuildStage::RootImage, |_| Ok((RootfsEntry::take_over(&path, &unfinished.path)?, false)))?;
        }
    }
    replace_directory(&unfinished.path, &dir)?;
    let entry = RootfsEntry::open(&dir).ok_or_else(|| ImageError::ImageCorrupt {
        image: loaded.recipe.name.clone(),
        file: plan.rootfs_entry.clone(),
        wanted: "the root filesystem that was just written".to_owned(),
        actual: "something else".to_owned(),
    })?;
    Ok((entry, origin))
}

fn refused_tar(loaded: &LoadedRecipe, source: ArchiveError) -> ImageError {
    let archive = match &loaded.source {
        RootSource::Tar(path) | RootSource::Ext4(path) => path.display().to_string(),
        RootSource::Oci(reference) => reference.clone(),
        RootSource::Packages => loaded.recipe.name.clone(),
    };
    ImageError::Archive { archive, source }
}

fn find(
    loaded: &LoadedRecipe,
    plan: &BuildPlan,
    state: &StateDir,
    scratch: &Scratch,
    refresh: bool,
    reporter: &mut Reporter<'_>,
) -> Result<Found, ImageError> {
    let layers = LayerCache::of(state);
    let planned = |origin: &Origin| -> Result<(BuildPlan, Option<RootfsEntry>), ImageError> {
        let plan = plan.clone().with_root(loaded, origin)?;
        let cached = RootfsEntry::open(&state.cache().join(&plan.rootfs_entry)).filter(|_| !refresh);
        Ok((plan, cached))
    };
    let (origin, (plan, cached), content) = match &loaded.source {
        RootSource::Oci(reference) => {
            let image = OciImage::open(reference, scratch.path())?;
            let origin = Origin::Oci { reference: reference.clone(), image: image.id().to_owned() };
            reporter.line(&format!("image sha256:{}", image.id()));
            let planned = planned(&origin)?;
            let content = match &planned.1 {
                Some(_) => Content::Layers(Vec::new(), None),
                None => {
                    let program = Some((reference.clone(), image.run_config().clone()));
                    Content::Layers(image.layers(&layers, reporter)?, program)
                }
            };
            (origin, planned, content)
        }
        RootSource::Tar(path) => {
            let layer = unpack_tar(path, &layers, reporter)?;
            let origin = Origin::RootfsTar { sha256: layer.plain_sha256.clone() };
            let planned = planned(&origin)?;
            (origin, planned, Content::Layers(vec![layer], None))
        }
        RootSource::Ext4(path) => {
            ext4::check(path)?;
            let (sha256, _) = digest::of_file(path).map_err(ImageError::io("read", path))?;
            let origin = Origin::Imported { sha256 };
            let planned = planned(&origin)?;
            (origin, planned, Content::Ext4(path.clone()))
        }
        // Whoever builds from packages does not come here.
        RootSource::Packages => (Origin::Packages, planned(&Origin::Packages)?, Content::Layers(Vec::new(), None)),
    };
    Ok(Found { origin, plan, content: cached.map_or(content, Content::Cached) })
}

fn unpack_tar(path: &Path, cache: &LayerCache, reporter: &mut Reporter<'_>) -> Result<Layer, ImageError> {
    let what = path.display().to_string();
    let unreadable = |source| ImageError::Archive {
        archive: what.clone(),
        source: ArchiveError::Read { what: what.clone(), source },
    };
    let (sha256, size) = digest::of_file(path).map_err(unreadable)?;
    reporter.line(&format!("{what}: sha256:{sha256}, {} KiB", size / 1024));
    if let Some(layer) = cache.find(&sha256) {
        return Ok(layer);
    }
    let packed = Cancellable { inner: File::open(path).map_err(unreadable)?, cancel: reporter.cancel() };
    cache.add(packed, &what, Limits::DEFAULT, |_| Ok(()))
}

fn merge(layers: &[Layer], is_image: bool) -> Result<MergedTree, ArchiveError> {
    let mut tree = MergedTree::new();
    let mut limits = Limits::DEFAULT;
    for (index, layer) in layers.iter().enumerate() {
        let what = if is_image { format!("layer {} of {}", index + 1, layers.len()) } else { "the archive".to_owned() };
        let entries = read_entries(&layer.plain, &what, is_image, limits)?;
        limits.entries = limits.entries.saturating_sub(entries.len() as u64);
        tree.apply(entries)?;
    }
    Ok(tree)
}

/// A kernel file with the modules of its release that the root brings, for an imported filesystem. Read by debugfs: not mounted.
pub(crate) fn with_modules(
    loaded: &LoadedRecipe,
    file: &KernelFile,
    scratch: &Scratch,
    reporter: &mut Reporter<'_>,
) -> Result<KernelFile, ImageError> {
    let (RootSource::Ext4(root), None) = (&loaded.source, &file.modules) else { return Ok(file.clone()) };
    let bytes = fs::read(&file.path).map_err(ImageError::io("read", &file.path))?;
    let Some(release) = vmlinux::release(&bytes) else { return Ok(file.clone()) };
    let target = scratch.join("modules");
    fs::create_dir_all(&target).map_err(ImageError::io("create directory", &target))?;
    for dir in ["/lib/modules", "/usr/lib/modules"] {
        let request = format!("rdump {dir}/{release} {}", target.display());
        let mut run = ToolRun::new("debugfs", ["-R", &request, &root.to_string_lossy()]);
        run.quiet = true;
        run.run(reporter)?;
        let found = target.join(&release);
        if found.join("modules.dep").is_file() {
            reporter.line(&format!("modules of {dir}/{release} in the root"));
            return Ok(KernelFile { path: file.path.clone(), modules: Some(found) });
        }
    }
    Ok(file.clone())
}
