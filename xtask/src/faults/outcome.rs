//! What came of one fault, and the last outcome of each: a run of some leaves those of the others as they were.

use std::collections::BTreeMap;
use std::path::Path;

use airlock_protocol::Stage;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::fault::{Fault, Said, Since};
use super::table;

/// What came of one fault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// How it was produced.
    #[serde(skip)]
    pub how: String,
    /// The cause that had to come out.
    pub expected: String,
    /// The one that did.
    pub said: Option<String>,
    /// The stage that had to come out.
    pub expected_stage: Option<Stage>,
    /// The one that did.
    pub stage: Option<Stage>,
    /// Time to the verdict, in milliseconds.
    pub ms: Option<u64>,
    /// The longest that it may be.
    pub within_ms: u64,
    /// From when it counts.
    #[serde(skip)]
    pub since: Option<Since>,
    /// Whether all of it is right.
    pub ok: bool,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong: Option<String>,
}

impl Outcome {
    /// What came of a fault.
    pub fn of(fault: &Fault, said: Option<Said>, wrong: Option<String>) -> Self {
        Self {
            name: fault.name.to_owned(),
            how: fault.how.clone(),
            expected: fault.cause.to_owned(),
            expected_stage: fault.stage,
            stage: said.as_ref().and_then(|said| said.stage),
            ms: said.as_ref().map(|said| said.ms),
            said: said.map(|said| said.cause),
            within_ms: fault.within_ms,
            since: Some(fault.since),
            ok: wrong.is_none(),
            wrong,
        }
    }

    /// For a person.
    pub fn line(&self) -> String {
        let said = self.said.as_deref().unwrap_or("-");
        let stage = self.stage.map_or("-", Stage::name);
        let ms = self.ms.map_or_else(|| "-".to_owned(), |ms| ms.to_string());
        let end =
            if self.ok { "ok".to_owned() } else { format!("WRONG {}", self.wrong.as_deref().unwrap_or_default()) };
        format!("{:<30} {:<26} {said:<26} {stage:<18} {ms:>6} ms  {end}", self.name, self.expected)
    }
}

/// Notes outcomes in a file, and returns the last one of every fault of the table that was ever produced.
pub fn merge(path: &Path, new: &[Outcome]) -> Result<Vec<Outcome>> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|_| "[]".to_owned());
    let old: Vec<Outcome> = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    let mut all: BTreeMap<String, Outcome> =
        old.into_iter().chain(new.iter().cloned()).map(|outcome| (outcome.name.clone(), outcome)).collect();
    let mut last = Vec::new();
    for fault in table::all() {
        let Some(outcome) = all.remove(fault.name) else { continue };
        last.push(Outcome { how: fault.how, since: Some(fault.since), ..outcome });
    }
    std::fs::write(path, serde_json::to_string_pretty(&last)?).with_context(|| format!("write {}", path.display()))?;
    Ok(last)
}
