//! Builds one image and prints what happens: `build_image RECIPE STATE_DIR [EVENT]`. The tests kill it half way; with EVENT it
//! kills itself, as `kill -9` does, when so many events were told.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use airlock_image::{BuildEvent, BuildOptions, ImageError, LoadedRecipe, build};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(recipe), Some(state_dir)) = (args.next(), args.next()) else {
        eprintln!("usage: build_image RECIPE STATE_DIR");
        return ExitCode::from(2);
    };
    let dies_at = args.next().and_then(|count| count.parse().ok());
    match build_image(&recipe, PathBuf::from(state_dir), dies_at) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("{}: {err}\n{}", err.code(), err.remedy());
            ExitCode::FAILURE
        }
    }
}

fn build_image(recipe: &str, state_dir: PathBuf, dies_at: Option<u32>) -> Result<(), ImageError> {
    let loaded = LoadedRecipe::load(recipe)?;
    let mut events = 0;
    let image = build(&loaded, &BuildOptions::at(state_dir), &mut |event| {
        events += 1;
        if Some(events) == dies_at {
            let _ = kill(Pid::this(), Signal::SIGKILL);
        }
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
