//! `airlock image gc`, `rm`, `diff` and `sbom`.

use std::collections::BTreeSet;
use std::path::Path;

use airlock_domain::config::Config;
use airlock_engine::images::{clear_boot_test, images_in_use};
use airlock_image::diff::{Changes, diff};
use airlock_image::{GoldenImage, Registry, gc, sbom};
use serde_json::json;
use tokio::runtime::Handle;

use super::blocking;
use crate::failure::{FAILED, Failure, Outcome};
use crate::output::{json_line, line, result};

/// What the records of the installation name; asked from a thread that may block.
fn in_use(state_dir: &Path, runtime: &Handle) -> Outcome<BTreeSet<String>> {
    runtime.block_on(images_in_use(state_dir)).map_err(|error| {
        let remedy = error.remedy().unwrap_or_else(|| "nothing is removed while that is not known".to_owned());
        Failure::new(FAILED, error.code(), "find out which images are in use", remedy).because(&error)
    })
}

/// Removes what nobody needs, or says what that is.
pub async fn collect(config: &Config, plan: bool, json: bool) -> Outcome {
    let (state_dir, runtime) = (config.state_dir.clone(), Handle::current());
    if plan {
        return blocking(move || {
            let plan = gc::plan_now(&state_dir, &in_use(&state_dir, &runtime)?)?;
            Ok(result(json, &plan, || {
                plan.remove.iter().for_each(|image| line(format!("remove  {image}")));
                plan.remove_cache.iter().for_each(|entry| line(format!("remove  cache {entry}")));
                for (image, why) in &plan.keep {
                    line(format!("keep    {image}  ({})", reason(*why)));
                }
            }))
        })
        .await;
    }
    if let Err(error) = clear_boot_test(config).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "an earlier boot test left something");
    }
    blocking(move || {
        let done = gc::collect(&state_dir, || in_use(&state_dir, &runtime))?;
        Ok(result(json, &done, || {
            done.images.iter().for_each(|image| line(format!("removed {image}")));
            done.cache.iter().for_each(|entry| line(format!("removed cache {entry}")));
            done.put_back.iter().for_each(|image| line(format!("kept    {image}  (its use began meanwhile)")));
            line(format!("{} MiB are free again", done.freed_bytes >> 20));
        }))
    })
    .await
}

fn reason(why: gc::Kept) -> &'static str {
    match why {
        gc::Kept::InUse => "in use",
        gc::Kept::Current => "the current one of its name",
        gc::Kept::Newest => "the newest of its name",
    }
}

/// Removes images by name or digest.
pub async fn remove(config: &Config, images: Vec<String>, json: bool) -> Outcome {
    let (state_dir, runtime) = (config.state_dir.clone(), Handle::current());
    blocking(move || {
        let registry = Registry::open(&state_dir)?;
        let mut removed = Vec::new();
        for image in &images {
            let reference = registry.resolve(image)?;
            gc::remove_image(&state_dir, &reference, || in_use(&state_dir, &runtime))?;
            if !json {
                line(format!("removed {reference}"));
            }
            removed.push(reference);
        }
        Ok(result(json, &json!({ "removed": removed }), || {}))
    })
    .await
}

/// Prints what is different between two images.
pub fn compare(first: &GoldenImage, second: &GoldenImage, json: bool) -> Outcome {
    let found = diff(first, second);
    let whole = json!({ "from": first.reference(), "to": second.reference(), "diff": found });
    Ok(result(json, &whole, || {
        line(format!("from {}\nto   {}", first.reference(), second.reference()));
        for (what, changes) in [
            ("facts", &found.facts),
            ("packages", &found.packages),
            ("kernel config", &found.kernel_config),
            ("modules", &found.modules),
            ("services", &found.services),
            ("files", &found.files),
        ] {
            print_changes(what, changes);
        }
        match &found.root {
            Some(changes) => print_changes("root", changes),
            None => line("root: not compared, one of the two has no list of its files"),
        }
        line(format!("size {:+} bytes", found.grown_bytes));
    }))
}

fn print_changes(what: &str, changes: &Changes) {
    if changes.is_empty() {
        return;
    }
    line(format!("{what}:"));
    changes.removed.iter().for_each(|(name, value)| line(format!("  - {name} {value}").trim_end()));
    changes.added.iter().for_each(|(name, value)| line(format!("  + {name} {value}").trim_end()));
    changes.changed.iter().for_each(|(name, (was, is))| line(format!("  ~ {name} {was} -> {is}")));
}

/// Prints the bill of materials, SPDX 2.3 as JSON.
pub fn bill(image: &GoldenImage, json: bool) -> Outcome {
    let document = sbom::sbom(image);
    if json {
        json_line(&document);
    } else {
        line(serde_json::to_string_pretty(&document).unwrap_or_default());
    }
    Ok(std::process::ExitCode::SUCCESS)
}
