//! What must hold of an initramfs: init and agent are there and run as they are; every module is there, after those it depends
//! on, and of the kernel's release.

use std::collections::BTreeSet;

use airlock_protocol::Stage;

use super::{Facts, InitramfsSeen, Problem};
use crate::guest_programs::{AGENT, INIT};
use crate::modules::normalize;

const BUILD_AGAIN: &str = "build the image again: airlock puts kernel and modules of one package into it";

/// Everything wrong with the initramfs.
pub(super) fn problems(facts: &Facts) -> Vec<Problem> {
    let file = &facts.manifest.files.initramfs.name;
    match &facts.initramfs {
        Err(why) => {
            let what = format!("{file} cannot be unpacked: {why}");
            vec![Problem::new("kernel_panic", Stage::InitStarted, what, "build the image again")]
        }
        Ok(seen) => {
            let mut problems = program_problems(seen);
            problems.extend(module_problems(facts, seen));
            problems
        }
    }
}

fn program_problems(seen: &InitramfsSeen) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, stage, code) in
        [(INIT, Stage::InitStarted, "init_missing"), (AGENT, Stage::AgentUp, "agent_not_installed")]
    {
        let remedy = "build airlock again with its own guest programs";
        match seen.programs.get(name) {
            None => problems.push(Problem::new(code, stage, format!("the initramfs lacks {name}"), remedy)),
            Some(program) => {
                if !program.executable {
                    problems.push(Problem::new(
                        code,
                        stage,
                        format!("{name} in the initramfs is not executable"),
                        remedy,
                    ));
                }
                if let Some(fault) = &program.fault {
                    problems.push(Problem::new("guest_program_invalid", stage, format!("{name} {fault}"), remedy));
                }
            }
        }
    }
    problems
}

fn module_problems(facts: &Facts, seen: &InitramfsSeen) -> Vec<Problem> {
    let mismatch = |what: String| Problem::new("modules_mismatch", Stage::ModulesLoaded, what, BUILD_AGAIN);
    let release = &facts.manifest.kernel.release;
    let mut problems = Vec::new();
    for wanted in &facts.manifest.modules {
        if !seen.modules.iter().any(|module| normalize(&module.name) == normalize(wanted)) {
            problems.push(mismatch(format!("the initramfs lacks the module {wanted}")));
        }
    }
    let listed: BTreeSet<String> = seen.load_order.iter().map(|name| normalize(name)).collect();
    let mut loaded: BTreeSet<String> = BTreeSet::new();
    for name in &seen.load_order {
        let Some(module) = seen.modules.iter().find(|module| normalize(&module.name) == normalize(name)) else {
            problems.push(mismatch(format!("init is to load {name}, which the initramfs lacks")));
            continue;
        };
        match &module.vermagic {
            None => problems.push(mismatch(format!("{name} is no kernel module"))),
            Some(vermagic) if vermagic.split(' ').next() != Some(release) => {
                let of = vermagic.split(' ').next().unwrap_or_default();
                problems.push(mismatch(format!("{name} is of kernel {of}, the image's kernel is {release}")));
            }
            Some(_) => {}
        }
        for dependency in module.depends.iter().map(|name| normalize(name)) {
            // What is in no list is built into the kernel, or the load says so by its name.
            if listed.contains(&dependency) && !loaded.contains(&dependency) {
                problems.push(mismatch(format!("{name} is loaded before {dependency}, which it depends on")));
            }
        }
        loaded.insert(normalize(name));
    }
    problems
}
