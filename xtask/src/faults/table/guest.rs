//! Faults of programs in the guest.

use airlock_protocol::Stage;

use crate::faults::fault::{Fault, Since, fault, live};
use crate::faults::image::Image;

pub fn faults() -> Vec<Fault> {
    let mut all = ends();
    all.extend(agent());
    all
}

fn ends() -> Vec<Fault> {
    vec![
        live("guest-panics", "kernel_panic")
            .how("`echo c > /proc/sysrq-trigger` in the ready guest")
            .in_guest("echo c > /proc/sysrq-trigger")
            .fails()
            .shows(Since::Sign("Kernel panic"), 1000)
            .quick(),
        live("guest-reboots", "vmm_exited")
            .how("`echo b > /proc/sysrq-trigger` in the ready guest")
            .in_guest("echo b > /proc/sysrq-trigger")
            .fails()
            .shows(Since::Exit, 1000),
        live("guest-powers-off", "vmm_exited")
            .how("`echo o > /proc/sysrq-trigger` in the ready guest")
            .in_guest("echo o > /proc/sysrq-trigger")
            .fails()
            .shows(Since::Exit, 1000),
        live("guest-out-of-memory", "guest_oom")
            .how("the ready guest panics when its memory is used up (`vm.panic_on_oom`)")
            .in_guest("echo 2 > /proc/sys/vm/panic_on_oom; busybox tail /dev/zero >/dev/null 2>&1 &")
            .fails()
            .shows(Since::Sign("Kernel panic"), 1000),
        live("vmm-killed", "vmm_exited")
            .how("`kill -9` of the VMM of a ready machine")
            .on_host(Stage::Ready, "kill -9 $PID")
            .fails()
            .shows(Since::Exit, 1000),
    ]
}

fn agent() -> Vec<Fault> {
    vec![
        fault("agent-other-build", "agent_build_mismatch", Stage::Reachable)
            .how("the manifest names another build of the agent than the image holds")
            .image(|image| {
                image.manifest.insert("build_id".into(), "0123456789abcdef".into());
                Ok(())
            })
            .shows(Since::Sign("agent_up"), 2000),
        fault("agent-on-loopback", "ipv6_only_bind", Stage::Reachable)
            .how("the agent's port is bound to 127.0.0.1 (its `bind` is rewritten while it runs)")
            .image(Image::agent_on_loopback)
            .shows(Since::Asked, 27_500),
        fault("agent-port-taken", "agent_port_conflict", Stage::AgentUp)
            .how("another program listens on port 8080 before the agent does")
            .image(|image| {
                image.wrap_agent(
                    "$bb nc -ll -p 8080 -e $bb true & \
                     until $bb netstat -ltn | $bb grep -q :8080; do $bb usleep 20000; done; exec airlock-agent.real",
                )
            }),
        fault("agent-crash-loop", "agent_crashed", Stage::AgentUp)
            .how("the agent ends with code 3 at every start")
            .image(|image| image.wrap_agent("echo agent: cannot go on; exit 3"))
            .shows(Since::Sign("service agent exited"), 2500),
        fault("agent-illegal-instruction", "agent_crashed", Stage::AgentUp)
            .how("the agent is killed by SIGILL")
            .image(|image| image.wrap_agent("kill -ILL $$"))
            .shows(Since::Sign("service agent exited"), 2500),
        fault("agent-missing", "agent_not_installed", Stage::AgentUp)
            .how("the image holds no agent")
            .image(|image| image.initramfs.remove("/airlock/bin/airlock-agent"))
            .shows(Since::Sign("service agent not started"), 2500),
        fault("agent-without-interpreter", "agent_not_installed", Stage::AgentUp)
            .how("the agent is a script for `node`, which the image does not have (exit code 127)")
            .image(|image| {
                image.initramfs.put("/airlock/bin/airlock-agent", 0o755, b"#!/usr/bin/env node\n");
                Ok(())
            })
            .shows(Since::Sign("service agent exited"), 2500),
    ]
}
