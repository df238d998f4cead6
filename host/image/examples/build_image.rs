//! Builds one image and prints what happens: `build_image RECIPE STATE_DIR`. The tests kill it half way.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use airlock_image::{BuildEvent, BuildOptions, ImageError, LoadedRecipe, build};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(recipe), Some(state_dir)) = (args.next(), args.next()) else {
        eprintln!("usage: build_image RECIPE STATE_DIR");
        return ExitCode::from(2);
    };
    match build_image(&recipe, PathBuf::from(state_dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("{}: {err}\n{}", err.code(), err.remedy());
            ExitCode::FAILURE
        }
    }
}

fn build_image(recipe: &str, state_dir: PathBuf) -> Result<(), ImageError> {
    let loaded = LoadedRecipe::load(recipe)?;
    let image = build(&loaded, &BuildOptions::at(state_dir), &mut |event| {
        let text = match event {
            BuildEvent::Started { stage } => format!("{stage} ..."),
            BuildEvent::Log { line, .. } => format!("    {line}"),
            BuildEvent::Finished { stage, elapsed, .. } => format!("{stage} {} ms", elapsed.as_millis()),
        };
        // Whoever reads may be gone.
        let _ = writeln!(std::io::stdout(), "{text}");
    })?;
    println!("{}", image.reference());
    Ok(())
}
