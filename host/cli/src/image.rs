//! `airlock image`: golden images of a state directory. A local tool; building needs root.

use std::path::Path;

use airlock_image::{BuildEvent, BuildOptions, GoldenImage, LoadedRecipe, Registry, build};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::args::Global;
use crate::config;
use crate::failure::{FAILED, Failure, Outcome};
use crate::output::{facts, line, result, table};
use crate::progress::Progress;

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build images from recipes: names of the shipped ones, or TOML files
    Build {
        #[arg(required = true)]
        recipes: Vec<String>,
        /// Fetch kernel and packages anew
        #[arg(long)]
        refresh: bool,
    },
    /// List published images
    Ls,
    /// Show an image
    Show { image: String },
    /// Hash every file of images and compare; all of them without arguments
    Verify { images: Vec<String> },
}

pub async fn run(global: &Global, command: ImageCommand) -> Outcome {
    let (state_dir, json) = (config::state_dir(global)?, global.json);
    blocking(move || run_blocking(&state_dir, command, json)).await
}

/// The image library blocks; it gets a thread of its own.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Outcome<T> + Send + 'static) -> Outcome<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Failure::new(FAILED, "internal", "work on images", "").because(&error)))
}

fn run_blocking(state_dir: &Path, command: ImageCommand, json: bool) -> Outcome {
    Ok(match command {
        ImageCommand::Build { recipes, refresh } => {
            let mut built = Vec::new();
            for recipe in &recipes {
                built.push(build_one(state_dir, recipe, refresh, json)?);
            }
            let views: Vec<Value> = built.iter().map(view).collect();
            result(json, &json!({ "images": views }), || {})
        }
        ImageCommand::Ls => {
            let registry = Registry::open(state_dir)?;
            let images = registry.list()?;
            let views: Vec<Value> = images.iter().map(view).collect();
            result(json, &json!({ "images": views }), || {
                let rows = images.iter().map(|image| {
                    let current = if registry.is_current(image) { "*" } else { "" };
                    vec![
                        current.to_owned(),
                        image.name.clone(),
                        image.digest.chars().take(12).collect(),
                        image.manifest.kernel.release.clone(),
                        format!("{} MiB", size(image) >> 20),
                    ]
                });
                table(&["", "name", "digest", "kernel", "size"], rows.collect());
            })
        }
        ImageCommand::Show { image } => {
            let image = Registry::open(state_dir)?.find(&image)?;
            let full = json!({ "image": view(&image), "manifest": image.manifest });
            result(json, &full, || show(&image))
        }
        ImageCommand::Verify { images } => {
            let registry = Registry::open(state_dir)?;
            let found: Vec<GoldenImage> = if images.is_empty() {
                registry.list()?
            } else {
                images.iter().map(|image| registry.find(image)).collect::<Result<_, _>>()?
            };
            for image in &found {
                registry.verify(image)?;
                if !json {
                    line(format!("{} is what was published", image.reference()));
                }
            }
            let names: Vec<String> = found.iter().map(GoldenImage::reference).collect();
            result(json, &json!({ "verified": names }), || {})
        }
    })
}

/// Builds one image, its stages on screen.
pub fn build_one(state_dir: &Path, recipe: &str, refresh: bool, quiet: bool) -> Outcome<GoldenImage> {
    let loaded = LoadedRecipe::load(recipe)?;
    let name = loaded.recipe.name.clone();
    let options = BuildOptions { refresh, ..BuildOptions::at(state_dir) };
    let progress = (!quiet).then(|| Progress::new(&format!("image {name}")));
    let image = build(&loaded, &options, &mut |event| {
        let Some(progress) = &progress else { return };
        match event {
            BuildEvent::Started { stage } => progress.waiting(&format!("image {name}: {stage}")),
            BuildEvent::Log { stage, line } => progress.detail(&format!("image {name}: {stage}: {line}")),
            BuildEvent::Finished { stage, elapsed, reused } => {
                let how = if reused { "  (from the cache)" } else { "" };
                progress.line(&format!("image {name}   {:<12} {:>7.1} s{how}", stage.name(), elapsed.as_secs_f64()));
            }
        }
    })?;
    if let Some(progress) = progress {
        progress.line(&format!("image {name}   published as {}", image.reference()));
    }
    Ok(image)
}

fn size(image: &GoldenImage) -> u64 {
    image.manifest.files.all().iter().map(|file| file.size).sum()
}

fn view(image: &GoldenImage) -> Value {
    json!({
        "name": image.name,
        "digest": format!("sha256:{}", image.digest),
        "reference": image.reference(),
        "kernelRelease": image.manifest.kernel.release,
        "sizeBytes": size(image),
        "path": image.dir,
    })
}

fn show(image: &GoldenImage) {
    let manifest = &image.manifest;
    facts(&[
        ("image", Some(image.reference())),
        ("path", Some(image.dir.display().to_string())),
        ("kernel", Some(format!("{} ({})", manifest.kernel.release, manifest.kernel.package))),
        ("suite", Some(manifest.suite.clone())),
        ("memory", Some(format!("{} MiB", manifest.memory_mib))),
        ("cpus", Some(manifest.vcpus.to_string())),
        ("packages", Some(manifest.packages.len().to_string())),
        (
            "services",
            Some(manifest.services.iter().map(|service| service.name.as_str()).collect::<Vec<_>>().join(", ")),
        ),
        ("agent", Some(manifest.build_id.clone())),
    ]);
    for file in manifest.files.all() {
        line(format!("{:>12}  {}  {}", file.size, file.sha256, file.name));
    }
}
