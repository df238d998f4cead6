//! Diagnoses a serial log and says how fast it was read: `cargo run --release -p airlock-domain --example diagnose -- FILE [--repeat MIB]`.
//!
//! With `--repeat` the file is read again and again up to that many MiB, in pieces, as from a console.

use std::time::Instant;

use airlock_domain::diagnosis::{Case, Classifier, diagnose};

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(file) = args.first() else {
        println!("usage: diagnose FILE [--repeat MIB]");
        return Ok(());
    };
    let log = std::fs::read(file)?;
    let wanted = match (args.get(1).map(String::as_str), args.get(2)) {
        (Some("--repeat"), Some(mib)) => mib.parse::<usize>().map_err(std::io::Error::other)? << 20,
        _ => log.len(),
    };
    let began = Instant::now();
    let mut classifier = Classifier::new();
    let mut read = 0;
    while read < wanted {
        for piece in log.chunks(64 << 10) {
            classifier.feed(piece);
        }
        read += log.len().max(1);
    }
    let facts = classifier.finish();
    let seconds = began.elapsed().as_secs_f64();
    let verdict = diagnose(&Case { console: Some(&facts), ..Case::default() });
    println!("{}", serde_json::to_string_pretty(&verdict).unwrap_or_default());
    #[allow(clippy::cast_precision_loss, reason = "bytes of a log are far below 2^52")]
    let mb = read as f64 / 1e6;
    println!("{mb:.1} MB, {} lines, {} boots in {seconds:.3} s: {:.0} MB/s", facts.lines, facts.boots, mb / seconds);
    Ok(())
}
