//! `airlock diagnose`: why a machine is not reachable. Of a machine of the daemon, or, without any daemon, of a serial log of whatever
//! origin.
//!
//! The exit code says whether there is a verdict, not what it is.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use airlock_api::diagnosis::{DiagnosisEvidence, DiagnosisView};
use airlock_api::session::SessionView;
use airlock_domain::diagnosis::{Case, Classifier, ConsoleFacts, diagnose};
use clap::Args;

use crate::args::Global;
use crate::client::{Client, segment};
use crate::failure::{FAILED, Failure, NOT_FOUND, Outcome};
use crate::output::{line, printable, result};

#[derive(Debug, Args)]
pub struct DiagnoseArgs {
    /// Id of a machine or of its session
    #[arg(value_name = "VM_OR_SESSION", required_unless_present = "console", conflicts_with_all = ["console", "cmdline"])]
    id: Option<String>,
    /// Serial log of any guest, - for standard input; needs no daemon
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
    /// The guest's kernel command line, where it is known
    #[arg(long, value_name = "STRING", requires = "console")]
    cmdline: Option<String>,
}

pub async fn run(global: &Global, args: DiagnoseArgs) -> Outcome {
    let view = match (&args.console, &args.id) {
        (Some(path), _) => {
            let console = read(path)?;
            let case = Case { console: Some(&console), cmdline: args.cmdline.as_deref(), ..Case::default() };
            let verdict = diagnose(&case);
            // One shape for both: the API's.
            let value = serde_json::to_value(&verdict).and_then(serde_json::from_value::<DiagnosisView>);
            value.map_err(|error| Failure::new(FAILED, "unexpected_verdict", "show the verdict", "").because(&error))?
        }
        (None, Some(id)) => of_machine(&Client::open(global)?, id).await?,
        (None, None) => return Ok(ExitCode::SUCCESS),
    };
    Ok(result(global.json, &view, || show(&view)))
}

/// The diagnosis of a machine; of a session, of its machine.
pub async fn of_machine(client: &Client, id: &str) -> Outcome<DiagnosisView> {
    let path = |id: &str| format!("/api/vms/{}/diagnosis", segment(id));
    match client.get(&path(id)).await {
        Err(failure) if failure.exit == NOT_FOUND => {
            let session: Outcome<SessionView> = client.get(&format!("/api/auth/session/{}", segment(id))).await;
            // Neither is there: the machine is what was asked for first.
            let Ok(session) = session else { return Err(failure) };
            client.get(&path(&session.vm_id)).await
        }
        answered => answered,
    }
}

fn read(path: &Path) -> Outcome<ConsoleFacts> {
    let classify = || -> io::Result<ConsoleFacts> {
        let mut input: Box<dyn Read> =
            if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
        let (mut classifier, mut buffer) = (Classifier::new(), vec![0; 256 * 1024]);
        loop {
            match input.read(&mut buffer) {
                Ok(0) => return Ok(classifier.finish()),
                Ok(count) => classifier.feed(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    };
    classify().map_err(|error| {
        let exit = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { FAILED };
        let remedy = "give --console FILE that can be read, such as a VM's console.log";
        Failure::new(exit, "console_unreadable", format!("read the console {}", path.display()), remedy).because(&error)
    })
}

/// A verdict for people.
pub fn show(view: &DiagnosisView) {
    let seen = |seen: &DiagnosisEvidence| {
        let place = match (seen.line, &seen.source) {
            (Some(number), None) => format!("line {number}"),
            (Some(number), Some(source)) => format!("{source} line {number}"),
            (None, Some(source)) => source.clone(),
            (None, None) => "console".to_owned(),
        };
        format!("{place:>12}  {}", printable(&seen.text))
    };
    line(format!("verdict      {}", view.verdict));
    if let Some(stage) = view.stage {
        line(format!("stage        {stage}"));
    }
    line(format!("summary      {}", printable(&view.summary)));
    view.evidence.iter().for_each(|evidence| line(seen(evidence)));
    line(format!("remedy       {}", printable(&view.remedy)));
    if !view.also.is_empty() {
        line(format!("also         {}", view.also.join(", ")));
    }
    for note in &view.notes {
        line(format!("note         {}: {}", note.cause, note.remedy));
        line(seen(&note.evidence));
    }
}
