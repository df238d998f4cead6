//! A machine that gets out, which something outside of it is broken for.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::cell::{Diagnosis, World, destroy, diagnosis, ms, ready_machine};
use super::fault::Said;
use super::outside::{FAR, Outside};
use super::site::{Site, Special};

/// A machine that gets out, on a daemon whose guests may.
#[derive(Debug)]
pub struct Lent {
    site: Site,
    vm_id: String,
    /// Where it gets to. Behind the daemon, which goes first.
    pub outside: Outside,
}

impl Lent {
    /// Makes an outside, a daemon with a way there, and a machine that is ready.
    pub fn open(world: &World) -> Result<Self> {
        let outside = Outside::open()?;
        let network = format!(
            "[network.egress]\nuplink = \"namespace:{}\"\n[network.guest]\ndns = [\"{FAR}\"]\n",
            outside.lender
        );
        let site = Site::open(&world.places, &Special { network: network.into(), ..Special::default() })?;
        site.offer("base", None)?;
        let ready = ready_machine(&site)?;
        Ok(Self { site, vm_id: ready.vm_id, outside })
    }

    /// Runs a shell script in the daemon's network namespace.
    pub fn on_host(&self, script: &str) -> Result<()> {
        self.site.on_host(script, &[]).map(drop)
    }

    /// What the machine is judged to be. What is wrong beyond a healthy machine counts as what was said.
    pub fn ask(&self) -> Result<Said> {
        let asked = Instant::now();
        let diagnosis = diagnosis(&self.site, &self.vm_id)?;
        diagnosis.check()?;
        let Diagnosis { verdict, stage, summary, also, .. } = diagnosis;
        let beyond = also.into_iter().find(|cause| verdict == "healthy" && cause == "egress_blocked");
        Ok(Said { cause: beyond.unwrap_or(verdict), stage, detail: summary, ms: ms(asked.elapsed()) })
    }

    /// Destroys the machine, ends the daemon, and fails if something of either is left.
    pub fn close(self) -> Result<()> {
        destroy(&self.site, &self.vm_id)?;
        self.site.close()
    }

    /// Asks until it is not healthy any more, for some seconds; the time is that since the first question.
    pub fn ask_until_broken(&self) -> Result<Said> {
        let since = Instant::now();
        loop {
            let said = self.ask()?;
            if said.cause != "healthy" || since.elapsed() > Duration::from_secs(8) {
                return Ok(Said { ms: ms(since.elapsed()), ..said });
            }
        }
    }
}
