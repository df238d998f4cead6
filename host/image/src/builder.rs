//! Builds a golden image from a recipe: kernel and root from the cache or anew, initramfs, manifest, publication.
//!
//! ```text
//! lock -> kernel -> packages | source -> customize -> root_image -> initramfs -> preflight -> boot_test -> publish
//!         `-------- each skipped when the cache has it -------'
//! ```
//!
//! One build at a time per state directory. Cache entries and the image itself are made under unfinished names and renamed
//! when complete; a build that fails or is killed publishes nothing, and the next one removes what it left.

use std::fs;
use std::path::{Path, PathBuf};

use airlock_protocol::guest_config::RootFs;

use crate::cancel::Cancel;
use crate::digest;
use crate::downloads::Downloads;
use crate::error::ImageError;
use crate::files;
use crate::foreign;
use crate::gate::BootTest;
use crate::guest_programs::GuestSet;
use crate::initramfs;
use crate::kernel::KernelEntry;
use crate::lock::BuildLock;
use crate::manifest::{FORMAT, FileFacts, Files, KernelFacts, Manifest, config_facts, lacking_for_owner};
use crate::plan::BuildPlan;
use crate::preflight;
use crate::progress::{BuildEvent, BuildStage};
use crate::recipe::LoadedRecipe;
use crate::registry::{self, GoldenImage, Registry, replace_directory};
use crate::reporter::Reporter;
use crate::rootfs::RootfsEntry;
use crate::source::{Origin, RootSource};
use crate::state_dir::{StateDir, UNFINISHED};
use crate::strip;
use crate::tool;

/// File name of the initramfs in an image.
const INITRAMFS_FILE: &str = "initramfs";

/// How to build.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// The state directory.
    pub state_dir: PathBuf,
    /// Fetch kernel and packages anew even if the cache has them (newer packages, security updates).
    pub refresh: bool,
    /// Wait for another build in the same state directory; without it that build is a refusal.
    pub wait: bool,
    /// Init, agent and their companions.
    pub guest: GuestSet,
    /// Boots the image before it is published; without it the image is unverified.
    pub boot_test: Option<BootTest>,
    /// Ends the build from outside.
    pub cancel: Cancel,
}

impl BuildOptions {
    /// A build in `state_dir` that takes what the cache has, waits for others and tests no boot.
    pub fn at(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            refresh: false,
            wait: true,
            guest: GuestSet::embedded(),
            boot_test: None,
            cancel: Cancel::new(),
        }
    }
}

/// Builds the image of `loaded` and makes it the current one of its name. Blocks; `observe` sees the progress.
///
/// If the outcome is an image that exists already, that one is returned.
pub fn build(
    loaded: &LoadedRecipe,
    options: &BuildOptions,
    observe: &mut dyn FnMut(BuildEvent),
) -> Result<GoldenImage, ImageError> {
    let uid = nix::unistd::geteuid();
    if !uid.is_root() {
        return Err(ImageError::NotRoot { uid: uid.as_raw() });
    }
    for program in ["mmdebstrap", "mkfs.erofs", "depmod", "setpriv", "unshare", "mount", "chroot"] {
        tool::find(program)?;
    }
    if loaded.recipe.root_fs == RootFs::Ext4 {
        for program in ["mkfs.ext4", "debugfs"] {
            tool::find(program)?;
        }
    }
    if !loaded.recipe.npm.is_empty() {
        tool::find("npm")?;
    }
    loaded.check()?;
    let mut plan = BuildPlan::new(loaded)?;
    if let Some(kernel) = &loaded.kernel {
        let (sha256, _) = digest::of_file(&kernel.path).map_err(ImageError::io("read", &kernel.path))?;
        plan = plan.with_kernel(loaded, &sha256)?;
    }
    let state = StateDir::open(&options.state_dir)?;
    let mut reporter = Reporter::new(observe, options.cancel.clone());
    let _lock = reporter.stage(BuildStage::Lock, |reporter| {
        let what = format!("build of {}", loaded.recipe.name);
        let lock = BuildLock::take(&state.lock_file(), &what, options.wait, &options.cancel, |other| {
            reporter.line(&format!("waiting for another build in this state directory: {other}"));
        })?;
        // Only now: the log of a build that still runs must not be replaced by one that waits for it.
        reporter.log_to(&state.build_log(&loaded.recipe.name))?;
        state.sweep()?;
        Ok((lock, false))
    })?;

    let kernel =
        reporter.stage(BuildStage::Kernel, |reporter| kernel(loaded, &plan, &state, options.refresh, reporter))?;
    if let Some((option, actual)) = lacking_for_owner(loaded.recipe.network_owner, &config_facts(&kernel.config()?)) {
        return Err(ImageError::KernelOptionMissing { release: kernel.release().to_owned(), option, actual });
    }
    let (rootfs, origin) = match loaded.source {
        RootSource::Packages => (rootfs(loaded, &plan, &state, options.refresh, &mut reporter)?, Origin::Packages),
        _ => foreign::rootfs(loaded, &plan, &state, options.refresh, &mut reporter)?,
    };
    let loaded = &rootfs.complete(loaded);
    let unfinished = Unfinished::create(state.images().join(format!("{UNFINISHED}{}", loaded.recipe.name)))?;
    reporter.stage(BuildStage::Initramfs, |reporter| {
        let bytes = initramfs(loaded, &kernel, options.guest)?;
        reporter.line(&format!("initramfs of {} KiB, build id {}", bytes.len() / 1024, options.guest.build_id));
        let path = unfinished.path.join(INITRAMFS_FILE);
        fs::write(&path, bytes).map_err(ImageError::io("write", &path))?;
        Ok(((), false))
    })?;
    let candidate = reporter.stage(BuildStage::Preflight, |reporter| {
        for file in [kernel.kernel_file()].into_iter().chain(kernel.elf_file()) {
            place(&kernel.path(file), &unfinished.path.join(file))?;
        }
        place(&rootfs.rootfs_path(), &unfinished.path.join(rootfs.file_name()))?;
        let manifest = manifest(loaded, origin, options.guest, &kernel, &rootfs, &unfinished.path)?;
        rootfs.place_inventory(&unfinished.path)?;
        let candidate = registry::prepare(&manifest, &unfinished.path)?;
        reporter.line(&format!("candidate {}", candidate.reference()));
        preflight::check(&candidate, &kernel.config()?, rootfs.root_seen(), reporter)?;
        Ok((candidate, false))
    })?;
    publish(&candidate, options.boot_test.as_ref(), &state, &mut reporter)
}

/// Boots a candidate if that is wanted and was not done before, and makes it the current image of its name.
pub(crate) fn publish(
    candidate: &GoldenImage,
    boot_test: Option<&BootTest>,
    state: &StateDir,
    reporter: &mut Reporter<'_>,
) -> Result<GoldenImage, ImageError> {
    let registry = Registry::at(state.images());
    let published = registry.find(&candidate.reference()).ok().filter(|image| registry.verify(image).is_ok());
    let booted = published.as_ref().and_then(GoldenImage::boot_record);
    let booted = match boot_test {
        None => booted,
        Some(test) => reporter.stage(BuildStage::BootTest, |reporter| {
            if let Some(booted) = booted {
                return Ok((Some(booted), true));
            }
            let cancel = reporter.cancel().clone();
            let booted = test.run(candidate, &cancel, &mut |line| reporter.line(line))?;
            reporter.line(&format!("ready after {:.0} ms with {}", booted.ready_ms, booted.driver));
            Ok((Some(booted), false))
        })?,
    };
    reporter.stage(BuildStage::Publish, |reporter| {
        let image = registry.publish(candidate, published.is_some(), booted.as_ref())?;
        reporter.line(&format!("{} in {}", image.reference(), image.dir.display()));
        Ok((image, false))
    })
}

fn kernel(
    loaded: &LoadedRecipe,
    plan: &BuildPlan,
    state: &StateDir,
    refresh: bool,
    reporter: &mut Reporter<'_>,
) -> Result<(KernelEntry, bool), ImageError> {
    let dir = state.cache().join(&plan.kernel_entry);
    if let Some(entry) = KernelEntry::open(&dir).filter(|_| !refresh) {
        return Ok((entry, true));
    }
    let unfinished = Unfinished::create(state.cache().join(format!("{UNFINISHED}{}", plan.kernel_entry)))?;
    let scratch = state.scratch()?;
    match &loaded.kernel {
        None => KernelEntry::build(loaded, &unfinished.path, &scratch, &Downloads::of(state), reporter)?,
        Some(file) => {
            let file = foreign::with_modules(loaded, file, &scratch, reporter)?;
            KernelEntry::build_from_file(loaded, &file, &unfinished.path, reporter)?;
        }
    }
    replace_directory(&unfinished.path, &dir)?;
    let entry = KernelEntry::open(&dir)
        .ok_or_else(|| ImageError::KernelMissing { package: loaded.recipe.kernel_package.clone() })?;
    Ok((entry, false))
}

fn rootfs(
    loaded: &LoadedRecipe,
    plan: &BuildPlan,
    state: &StateDir,
    refresh: bool,
    reporter: &mut Reporter<'_>,
) -> Result<RootfsEntry, ImageError> {
    let dir = state.cache().join(&plan.rootfs_entry);
    let cached = if refresh { None } else { RootfsEntry::open(&dir) };
    if let Some(entry) = cached {
        for stage in [BuildStage::Packages, BuildStage::Customize, BuildStage::RootImage] {
            reporter.stage(stage, |_| Ok(((), true)))?;
        }
        return Ok(entry);
    }
    let unfinished = Unfinished::create(state.cache().join(format!("{UNFINISHED}{}", plan.rootfs_entry)))?;
    let downloads = Downloads::of(state);
    RootfsEntry::build(loaded, plan, &unfinished.path, &state.scratch()?, &downloads, reporter)?;
    replace_directory(&unfinished.path, &dir)?;
    RootfsEntry::open(&dir).ok_or_else(|| ImageError::ImageCorrupt {
        image: loaded.recipe.name.clone(),
        file: plan.rootfs_entry.clone(),
        wanted: "the root filesystem that was just written".to_owned(),
        actual: "something else".to_owned(),
    })
}

fn initramfs(loaded: &LoadedRecipe, kernel: &KernelEntry, guest: GuestSet) -> Result<Vec<u8>, ImageError> {
    let strips = strip::is_allowed(&kernel.config()?);
    let read = |name: &String| {
        let module = kernel.read_module(name)?;
        Ok((name.clone(), if strips { strip::strip(module) } else { module }))
    };
    let modules = kernel.modules().iter().map(read).collect::<Result<Vec<_>, ImageError>>()?;
    let (first, later) = strip::network_first(modules);
    let names = |modules: &[(String, Vec<u8>)]| modules.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let config =
        initramfs::guest_config(&loaded.recipe, guest.build_id, kernel.release(), &names(&first), &names(&later));
    initramfs::assemble(&config, guest.programs, &[first, later].concat())
}

fn manifest(
    loaded: &LoadedRecipe,
    origin: Origin,
    guest: GuestSet,
    kernel: &KernelEntry,
    rootfs: &RootfsEntry,
    dir: &Path,
) -> Result<Manifest, ImageError> {
    let recipe = &loaded.recipe;
    let facts = |name: &str| {
        let path = dir.join(name);
        let (sha256, size) = digest::of_file(&path).map_err(ImageError::io("read", &path))?;
        Ok::<_, ImageError>(FileFacts { name: name.to_owned(), sha256, size })
    };
    let (sha256, size) = rootfs.facts();
    Ok(Manifest {
        format: FORMAT,
        name: recipe.name.clone(),
        recipe_digest: loaded.digest()?,
        build_id: guest.build_id.to_owned(),
        epoch: recipe.epoch,
        suite: recipe.suite.clone(),
        memory_mib: recipe.memory_mib,
        vcpus: recipe.vcpus,
        network_owner: recipe.network_owner,
        network_addressing: recipe.network_addressing,
        on_address_conflict: recipe.on_address_conflict,
        handover: recipe.handover,
        readiness: recipe.readiness.clone(),
        root_fs: recipe.root_fs,
        modules: kernel.modules().to_vec(),
        kernel: KernelFacts {
            package: recipe.kernel_package.clone(),
            release: kernel.release().to_owned(),
            format: kernel.format(),
            config: config_facts(&kernel.config()?),
        },
        files: Files {
            kernel: facts(kernel.kernel_file())?,
            vmlinux: kernel.elf_file().map(facts).transpose()?,
            initramfs: facts(INITRAMFS_FILE)?,
            rootfs: FileFacts { name: rootfs.file_name().to_owned(), sha256, size },
        },
        display: recipe.display.clone(),
        services: recipe.services.clone(),
        packages: rootfs.packages().clone(),
        npm: rootfs.npm().clone(),
        origin,
    })
}

/// Links a file of the cache into the image; copies it where the file system cannot link.
fn place(from: &Path, to: &Path) -> Result<(), ImageError> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    files::copy_sparse(from, to).map_err(ImageError::io("copy into", to))
}

/// A directory that is removed unless it was published under another name.
pub(crate) struct Unfinished {
    pub(crate) path: PathBuf,
}

impl Unfinished {
    pub(crate) fn create(path: PathBuf) -> Result<Self, ImageError> {
        fs::create_dir(&path).map_err(ImageError::io("create directory", &path))?;
        Ok(Self { path })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // What stays is swept by the next build.
        let _ = fs::remove_dir_all(&self.path);
    }
}
