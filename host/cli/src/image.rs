//! `airlock image`: golden images of a state directory. A local tool; building needs root.

mod build;
mod keep;
mod source;

use std::path::{Path, PathBuf};

use airlock_image::{GoldenImage, ImageError, LoadedRecipe, Registry};
use clap::Subcommand;
use serde_json::{Value, json};

pub use self::build::{How, build_loaded, build_one};
use crate::args::Global;
use crate::config;
use crate::failure::{FAILED, Failure, Outcome, USAGE};
use crate::output::{facts, line, result, table};
use crate::progress::stage_line;

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build images, boot them and publish them: from recipes (names of the shipped ones, or TOML files), an OCI image, or a tar
    Build {
        #[arg(required_unless_present_any = ["oci", "rootfs_tar"], conflicts_with_all = ["oci", "rootfs_tar"])]
        recipes: Vec<String>,
        #[command(flatten)]
        source: Box<source::Source>,
        /// Fetch kernel and packages anew
        #[arg(long)]
        refresh: bool,
        /// Publish without booting; the image is then unverified
        #[arg(long)]
        no_boot_test: bool,
        /// Refuse instead of waiting while another build runs in this state directory
        #[arg(long)]
        no_wait: bool,
        /// Let the daemon build, and do not wait for it
        #[arg(long)]
        detach: bool,
    },
    /// Take over the images of another system: a directory with golden-rootfs.ext4 and vmlinux
    Import {
        dir: PathBuf,
        /// Name of the image
        #[arg(long)]
        name: String,
        #[command(flatten)]
        room: source::Room,
        /// Publish without booting; the image is then unverified
        #[arg(long)]
        no_boot_test: bool,
        /// Refuse instead of waiting while another build runs in this state directory
        #[arg(long)]
        no_wait: bool,
    },
    /// Show the latest build of each image
    Builds,
    /// Print the log of an image's latest build
    Log {
        name: String,
        /// Until that build is over
        #[arg(short, long)]
        follow: bool,
    },
    /// List published images
    Ls,
    /// Show an image
    Show { image: String },
    /// Print an image's bill of materials (SPDX 2.3, JSON)
    Sbom { image: String },
    /// Show what is different between two images
    Diff { from: String, to: String },
    /// Hash every file of images and compare; all of them without arguments
    Verify { images: Vec<String> },
    /// Remove images that nothing uses
    Rm {
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Remove what nobody needs: old images and the cache they were made of. Never what is in use or the newest of a name
    Gc {
        /// Only say what would go and what stays
        #[arg(long)]
        plan: bool,
    },
}

pub async fn run(global: &Global, command: ImageCommand) -> Outcome {
    let json = global.json;
    let config = config::load(global, None)?;
    match command {
        ImageCommand::Import { dir, name, room, no_boot_test, no_wait } => {
            let how = How { refresh: false, boot_test: !no_boot_test, wait: !no_wait, quiet: json };
            let image = build_loaded(&config, room.apply(LoadedRecipe::import(&dir, &name)?), how).await?;
            Ok(result(json, &json!({ "images": [view(&image)] }), || {}))
        }
        ImageCommand::Build { recipes, source, refresh, no_boot_test, no_wait, detach } => {
            let how = How { refresh, boot_test: !no_boot_test, wait: !no_wait, quiet: json };
            if detach && source.changes_something() {
                return Err(Failure::new(
                    USAGE,
                    "usage",
                    "the daemon builds recipes as they are",
                    "leave --detach out",
                ));
            }
            if detach {
                let mut begun = Vec::new();
                for recipe in &recipes {
                    begun.push(build::detach(global, recipe, how).await?);
                }
                return Ok(result(json, &json!({ "builds": begun }), || {}));
            }
            let mut built = Vec::new();
            for loaded in source.recipes(&recipes)? {
                built.push(view(&build_loaded(&config, loaded, how).await?));
            }
            Ok(result(json, &json!({ "images": built }), || {}))
        }
        ImageCommand::Gc { plan } => keep::collect(&config, plan, json).await,
        ImageCommand::Rm { images } => keep::remove(&config, images, json).await,
        other => blocking(move || run_blocking(&config.state_dir, other, json)).await,
    }
}

/// The image library blocks; it gets a thread of its own.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Outcome<T> + Send + 'static) -> Outcome<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Failure::new(FAILED, "internal", "work on images", "").because(&error)))
}

fn run_blocking(state_dir: &Path, command: ImageCommand, json: bool) -> Outcome {
    let registry = Registry::open(state_dir)?;
    match command {
        ImageCommand::Builds => build::builds(state_dir, json),
        ImageCommand::Log { name, follow } => build::log(state_dir, &name, follow),
        ImageCommand::Sbom { image } => keep::bill(&registry.find(&image)?, json),
        ImageCommand::Diff { from, to } => keep::compare(&registry.find(&from)?, &registry.find(&to)?, json),
        ImageCommand::Show { image } => show(&registry.find(&image)?, json),
        ImageCommand::Verify { images } => verify(&registry, images, json),
        _ => list(&registry, json),
    }
}

fn list(registry: &Registry, json: bool) -> Outcome {
    let all = registry.all()?;
    let views = all.iter().filter_map(|(_, image)| image.as_ref().ok().map(view));
    let unreadable = all.iter().filter_map(|(reference, image)| {
        image
            .as_ref()
            .err()
            .map(|error| json!({ "reference": reference, "code": error.code(), "message": error.to_string() }))
    });
    let whole = json!({ "images": views.collect::<Vec<_>>(), "unreadable": unreadable.collect::<Vec<_>>() });
    Ok(result(json, &whole, || {
        let rows = all.iter().map(|(reference, image)| {
            let (name, digest) = reference.split_once("@sha256:").unwrap_or((reference, ""));
            let digest = digest.chars().take(12).collect();
            match image {
                Ok(image) => vec![
                    if registry.is_current(image) { "*" } else { "" }.to_owned(),
                    name.to_owned(),
                    digest,
                    image.manifest.kernel.release.clone(),
                    format!("{} MiB", size(image) >> 20),
                    state(image).to_owned(),
                ],
                Err(error) => {
                    vec![String::new(), name.to_owned(), digest, String::new(), String::new(), error.code().to_owned()]
                }
            }
        });
        table(&["", "name", "digest", "kernel", "size", "state"], rows.collect());
    }))
}

/// Every one is looked at; the first that is not what was published is the failure.
fn verify(registry: &Registry, images: Vec<String>, json: bool) -> Outcome {
    let found: Vec<(String, Result<GoldenImage, ImageError>)> = if images.is_empty() {
        registry.all()?
    } else {
        images.into_iter().map(|image| (image.clone(), registry.find(&image))).collect()
    };
    let (mut verified, mut failed) = (Vec::new(), Vec::new());
    for (reference, image) in found {
        let checked = image.and_then(|image| registry.verify(&image).map(|()| image));
        match checked {
            Ok(image) => {
                if !json {
                    line(format!("{} is what was published", image.reference()));
                }
                verified.push(image.reference());
            }
            Err(error) => {
                if !json {
                    line(format!("{reference} is NOT what was published: {error}"));
                }
                failed.push(error);
            }
        }
    }
    let count = failed.len();
    match failed.into_iter().next() {
        None => Ok(result(json, &json!({ "verified": verified }), || {})),
        Some(first) => {
            let mut failure: Box<Failure> = first.into();
            if count > 1 {
                failure.detail.message = format!("{} (and {} more)", failure.detail.message, count - 1);
            }
            Err(failure)
        }
    }
}

fn size(image: &GoldenImage) -> u64 {
    image.manifest.files.all().iter().map(|file| file.size).sum()
}

fn state(image: &GoldenImage) -> &'static str {
    if image.boot_record().is_some() { "verified" } else { "unverified" }
}

fn view(image: &GoldenImage) -> Value {
    json!({
        "name": image.name,
        "digest": format!("sha256:{}", image.digest),
        "reference": image.reference(),
        "kernelRelease": image.manifest.kernel.release,
        "sizeBytes": size(image),
        "path": image.dir,
        "state": state(image),
    })
}

fn show(image: &GoldenImage, json: bool) -> Outcome {
    let booted = image.boot_record();
    let full = json!({ "image": view(image), "manifest": image.manifest, "bootTest": booted });
    Ok(result(json, &full, || {
        let manifest = &image.manifest;
        let names = |names: Vec<&str>| Some(names.join(", ")).filter(|names| !names.is_empty());
        facts(&[
            ("image", Some(image.reference())),
            ("path", Some(image.dir.display().to_string())),
            ("state", Some(state(image).to_owned())),
            ("kernel", Some(format!("{} ({})", manifest.kernel.release, manifest.kernel.package))),
            ("suite", Some(manifest.suite.clone())),
            ("memory", Some(format!("{} MiB", manifest.memory_mib))),
            ("cpus", Some(manifest.vcpus.to_string())),
            ("network", Some(manifest.network_owner.name().to_owned())),
            ("readiness", names(manifest.readiness.iter().map(|stage| stage.name()).collect())),
            ("packages", Some(format!("{} (airlock image sbom {})", manifest.packages.len(), image.name))),
            ("services", names(manifest.services.iter().map(|service| service.name.as_str()).collect())),
            ("agent", Some(manifest.build_id.clone())),
        ]);
        for file in manifest.files.all() {
            line(format!("{:>12}  {}  {}", file.size, file.sha256, file.name));
        }
        if let Some(booted) = booted {
            line(format!("booted with {} before it was published:", booted.driver));
            for entry in &booted.timeline {
                let entry = airlock_api::session::StageView {
                    stage: entry.stage,
                    ok: entry.ok,
                    at_ms: entry.at_ms,
                    errno: entry.errno.clone(),
                    detail: entry.detail.clone(),
                };
                line(stage_line(&entry));
            }
        }
    }))
}
