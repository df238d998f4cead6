//! Builds that this daemon runs, each on a thread of its own, and what is known of those of others.
//!
//! ```text
//! start ─> running ─┬─> published | failed
//!                   └─ cancel, or the daemon ends ─> cancelled
//! ```
//!
//! One after the other: they share the state directory's build lock. The records of ended ones are on the disk; a daemon that
//! was killed takes its builds with it, and the next build removes what they left.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use airlock_image::job::{self, BuildRecord};
use airlock_image::{BuildEvent, BuildOptions, BuildStage, Cancel, LoadedRecipe, build};
use tokio::sync::{broadcast, oneshot, watch};

use crate::engine::{Engine, cut};
use crate::error::{Error, chain};
use crate::images::boot_test;

/// Lines that wait for a slow reader; it then misses some, never a change of the record.
const BUFFER: usize = 1024;

/// A build as it was asked for.
#[derive(Debug, Clone)]
pub struct StartBuild {
    /// Name of an embedded recipe.
    pub recipe: String,
    /// Fetch kernel and packages anew.
    pub refresh: bool,
    /// Boot the image before it is published.
    pub boot_test: bool,
    /// Wait for another build; without it that build is a refusal.
    pub wait: bool,
}

/// What happened in a build.
#[derive(Debug, Clone)]
pub enum BuildNews {
    /// It stands somewhere else now.
    Record(Box<BuildRecord>),
    /// A line of its log.
    Line {
        /// The stage it belongs to.
        stage: BuildStage,
        /// Without line end.
        line: String,
    },
}

/// A build as it is, and what happens next; closed when it is over.
#[derive(Debug)]
pub struct BuildWatch {
    /// Where it stands.
    pub record: BuildRecord,
    /// What happens next. May repeat what `record` holds already.
    pub news: broadcast::Receiver<BuildNews>,
}

#[derive(Debug)]
struct Job {
    record: BuildRecord,
    news: broadcast::Sender<BuildNews>,
    cancel: Cancel,
    /// Turns true when nothing of it runs any more.
    over: watch::Receiver<bool>,
}

/// The jobs of this process, by id.
#[derive(Debug, Default)]
pub(crate) struct Builds {
    jobs: Mutex<BTreeMap<String, Job>>,
}

impl Builds {
    /// The map is whole after every statement that holds the lock.
    fn jobs(&self) -> MutexGuard<'_, BTreeMap<String, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the new record of a build; one that is over lives on on the disk only.
    fn on(&self, record: &BuildRecord, news: &broadcast::Sender<BuildNews>) {
        if let Some(job) = self.jobs().get_mut(&record.id) {
            job.record = record.clone();
        }
        let _ = news.send(BuildNews::Record(Box::new(record.clone())));
    }

    /// Cancels every build and waits until none runs.
    pub(crate) async fn close(&self) {
        let running: Vec<_> = self.jobs().values().map(|job| (job.cancel.clone(), job.over.clone())).collect();
        for (cancel, mut over) in running {
            cancel.cancel();
            // An error means that its thread is gone: over as well.
            let _ = over.wait_for(|over| *over).await;
        }
    }
}

impl Engine {
    /// Begins a build and answers at once.
    pub async fn start_build(&self, request: StartBuild) -> Result<BuildRecord, Error> {
        let failed = |source| Error::Build { name: cut(&request.recipe), source: Box::new(source) };
        if request.recipe.contains('/') || request.recipe.ends_with(".toml") {
            // A caller of the API names what the program ships, not files of this host.
            let known = airlock_image::recipe::embedded_names();
            return Err(failed(airlock_image::ImageError::RecipeUnknown { name: cut(&request.recipe), known }));
        }
        if self.tasks().closing {
            return Err(Error::ShuttingDown);
        }
        let loaded = LoadedRecipe::load(&request.recipe).map_err(failed)?;
        let config = self.config().clone();
        let options = BuildOptions {
            refresh: request.refresh,
            wait: request.wait,
            boot_test: request.boot_test.then(|| boot_test(&config)),
            ..BuildOptions::at(&config.state_dir)
        };
        let (begun, first) = oneshot::channel();
        let (over, is_over) = watch::channel(false);
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || {
            let news = broadcast::channel(BUFFER).0;
            let mut begun = Some(begun);
            let mut tell = |record: &BuildRecord, event: Option<BuildEvent>| {
                if let Some(begun) = begun.take() {
                    let job = Job {
                        record: record.clone(),
                        news: news.clone(),
                        cancel: options.cancel.clone(),
                        over: is_over.clone(),
                    };
                    inner.builds.jobs().insert(record.id.clone(), job);
                    // Who asked may be gone; the build goes on.
                    let _ = begun.send(record.clone());
                }
                match event {
                    Some(BuildEvent::Log { stage, line }) => drop(news.send(BuildNews::Line { stage, line })),
                    _ => inner.builds.on(record, &news),
                }
            };
            let name = loaded.recipe.name.clone();
            let outcome =
                job::recorded(&config.state_dir, &name, &mut tell, |observe| build(&loaded, &options, observe));
            match &outcome {
                Ok(image) => tracing::info!(image = image.reference(), "image built"),
                Err(error) => tracing::warn!(name, error = chain(error), "image not built"),
            }
            inner.builds.retire(&name);
            let _ = over.send(true);
        });
        first.await.map_err(|_| Error::ShuttingDown)
    }

    /// Builds that run here, and the latest one of each name, the newest first.
    pub async fn builds(&self) -> Result<Vec<BuildRecord>, Error> {
        let state_dir = self.config().state_dir.clone();
        let kept = blocking(move || job::builds(&state_dir)).await?;
        let mut found: Vec<_> = self.inner.builds.jobs().values().map(|job| job.record.clone()).collect();
        let others: Vec<_> = kept.into_iter().filter(|kept| found.iter().all(|own| own.id != kept.id)).collect();
        found.extend(others);
        found.sort_by_key(|record| std::cmp::Reverse(record.started_ms));
        Ok(found)
    }

    /// One build.
    pub async fn build(&self, id: &str) -> Result<BuildRecord, Error> {
        let found = self.builds().await?.into_iter().find(|record| record.id == id);
        found.ok_or_else(|| Error::NoBuild { id: cut(id) })
    }

    /// One build with what happens next. Of one that this daemon does not run nothing more is told.
    pub async fn watch_build(&self, id: &str) -> Result<BuildWatch, Error> {
        let own = self.inner.builds.jobs().get(id).map(|job| (job.record.clone(), job.news.subscribe()));
        Ok(match own {
            Some((record, news)) => BuildWatch { record, news },
            None => BuildWatch { record: self.build(id).await?, news: broadcast::channel(1).1 },
        })
    }

    /// Cancels a build of this daemon; returns when nothing of it runs. One that ended already is left as it is.
    pub async fn cancel_build(&self, id: &str) -> Result<BuildRecord, Error> {
        let own = self.inner.builds.jobs().get(id).map(|job| (job.cancel.clone(), job.over.clone()));
        let Some((cancel, mut over)) = own else {
            let record = self.build(id).await?;
            let elsewhere = Error::BuildElsewhere { id: record.id.clone(), pid: record.pid };
            return if record.state.is_over() { Ok(record) } else { Err(elsewhere) };
        };
        cancel.cancel();
        let _ = over.wait_for(|over| *over).await;
        self.build(id).await
    }

    /// Where the log of the latest build of `name` is.
    pub fn build_log(&self, name: &str) -> PathBuf {
        job::build_log(&self.config().state_dir, name)
    }
}

impl Builds {
    /// Forgets ended builds of `name` but the last one: that may never have held the lock, and is then on no disk.
    fn retire(&self, name: &str) {
        let mut jobs = self.jobs();
        let mut over: Vec<_> = jobs
            .values()
            .filter(|job| job.record.name == name && job.record.state.is_over())
            .map(|job| (job.record.started_ms, job.record.id.clone()))
            .collect();
        over.sort();
        over.pop();
        for (_, id) in over {
            jobs.remove(&id);
        }
    }
}

/// The image library touches the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, airlock_image::ImageError> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| Error::ShuttingDown)?;
    done.map_err(|source| Error::Build { name: "images".to_owned(), source: Box::new(source) })
}
