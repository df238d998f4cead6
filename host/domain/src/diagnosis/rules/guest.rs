//! What the guest's services say: its init, the agent, the display, the browser.

use airlock_protocol::Stage;

use super::From::{Any, Start};
use super::Grade::{Hard, Note, Soft, Weak};
use super::{Rule, rule};
use crate::cause::Cause;

const INIT: Option<Stage> = Some(Stage::HandedOver);
const AGENT: Option<Stage> = Some(Stage::AgentUp);
const DISPLAY: Option<Stage> = Some(Stage::DisplayUp);
const BROWSER: Option<Stage> = Some(Stage::BrowserUp);

// A table: one row is one rule and its example.
#[rustfmt::skip]
pub(super) const RULES: &[Rule] = &[
    rule(Cause::SystemdEmergency, INIT, Any, Hard, &["You are in emergency mode"],
        "You are in emergency mode. After logging in, type \"journalctl -xb\" to view"),
    rule(Cause::SystemdEmergency, INIT, Any, Hard, &["Reached target ", "Emergency Mode"],
        "[  OK  ] Reached target emergency.target - Emergency Mode."),
    rule(Cause::SystemdEmergency, INIT, Any, Hard, &["Entering emergency mode"], "Entering emergency mode. Exit the shell to continue."),
    rule(Cause::SystemdEmergency, INIT, Any, Hard, &["Dependency failed for ", "Local File Systems"],
        "[DEPEND] Dependency failed for local-fs.target - Local File Systems."),
    rule(Cause::SystemdEmergency, INIT, Any, Hard, &["Dependency failed for /"],
        "[DEPEND] Dependency failed for /data."),
    rule(Cause::ClockWrong, Some(Stage::Reachable), Any, Weak, &["certificate is not yet valid"],
        "curl: (60) SSL certificate problem: certificate is not yet valid"),
    rule(Cause::ClockWrong, Some(Stage::Reachable), Any, Weak, &["certificate has expired or is not yet valid"],
        "x509: certificate has expired or is not yet valid: current time 2024-01-01T00:00:00Z is before 2026-01-01T00:00:00Z"),
    rule(Cause::AgentNotInstalled, AGENT, Any, Hard, &["node: not found"],
        "/opt/agent/start.sh: 3: exec: node: not found"),
    rule(Cause::AgentNotInstalled, AGENT, Any, Hard, &["node: command not found"],
        "/opt/agent/start.sh: line 3: node: command not found"),
    rule(Cause::AgentNotInstalled, AGENT, Any, Hard, &["'node': No such file or directory"],
        "env: 'node': No such file or directory"),
    rule(Cause::AgentNotInstalled, AGENT, Any, Hard, &["airlock-init: service agent not started: ", "ENOENT"],
        "airlock-init: service agent not started: execve /run/airlock/bin/airlock-agent: ENOENT (restart in 100 ms)"),
    rule(Cause::AgentNotInstalled, AGENT, Any, Hard, &["airlock-init: service agent not started: ", "No such file or directory"],
        "airlock-init: service agent not started: No such file or directory (os error 2) (restart in 100 ms)"),
    rule(Cause::AgentCrashed, AGENT, Any, Soft, &["airlock-init: service agent exited "],
        "airlock-init: service agent exited code=- signal=SIGILL (restart in 100 ms)"),
    rule(Cause::AgentCrashed, AGENT, Any, Soft, &["traps: node[", "trap invalid opcode"],
        "[    9.120000] traps: node[402] trap invalid opcode ip:55d0c8 sp:7ffd90 error:0 in node[400000+2b00000]"),
    rule(Cause::AgentRestarting, AGENT, Any, Hard, &["respawning too fast: disabled"],
        "INIT: Id \"ag\" respawning too fast: disabled for 5 minutes"),
    rule(Cause::AgentPortConflict, AGENT, Any, Hard, &["EADDRINUSE", ":8080"],
        "Error: listen EADDRINUSE: address already in use :::8080"),
    rule(Cause::AgentPortConflict, AGENT, Any, Hard, &["8080", "Address already in use"],
        "agent: bind 0.0.0.0:8080: Address already in use (os error 98)"),
    rule(Cause::DisplayFailed, DISPLAY, Any, Soft, &["Cannot open display"],
        "matchbox-window-manager: Cannot open display"),
    rule(Cause::DisplayFailed, DISPLAY, Any, Soft, &["Server is already active for display "],
        "(EE) Server is already active for display 1"),
    rule(Cause::DisplayFailed, DISPLAY, Any, Soft, &["Cannot establish any listening sockets"],
        "(EE) Cannot establish any listening sockets - Make sure an X server isn't already running(EE)"),
    rule(Cause::DisplayFailed, DISPLAY, Any, Soft, &["could not open default font"],
        "(EE) could not open default font 'fixed'"),
    rule(Cause::DisplayFailed, DISPLAY, Any, Soft, &["airlock-init: service xvnc exited "],
        "airlock-init: service xvnc exited code=1 signal=- (restart in 100 ms): (EE)"),
    rule(Cause::DisplayFailed, DISPLAY, Any, Soft, &["airlock-init: service xvnc not started: "],
        "airlock-init: service xvnc not started: No such file or directory (os error 2) (restart in 100 ms)"),
    rule(Cause::BrowserMissing, BROWSER, Any, Soft, &["airlock-init: service firefox not started: ", "No such file or directory"],
        "airlock-init: service firefox not started: No such file or directory (os error 2) (restart in 100 ms)"),
    rule(Cause::BrowserWrongDisplay, BROWSER, Any, Soft, &["cannot open display: "],
        "Error: cannot open display: :99"),
    rule(Cause::BrowserWrongDisplay, BROWSER, Any, Soft, &["Missing X server or $DISPLAY"],
        "ERROR:ozone_platform_x11.cc(240)] Missing X server or $DISPLAY"),
    rule(Cause::BrowserWrongDisplay, BROWSER, Any, Soft, &["Authorization required, but no authorization protocol specified"],
        "Authorization required, but no authorization protocol specified"),
    rule(Cause::BrowserSandbox, BROWSER, Any, Soft, &["Running as root without --no-sandbox"],
        "[412:412:1123/160000.1:ERROR:zygote_host_impl_linux.cc(100)] Running as root without --no-sandbox is not supported."),
    rule(Cause::BrowserMissing, BROWSER, Any, Soft, &["requires the firefox snap to be installed"],
        "Command '/usr/bin/firefox' requires the firefox snap to be installed."),
    rule(Cause::BrowserMissing, BROWSER, Any, Soft, &["requires the chromium snap to be installed"],
        "Command '/usr/bin/chromium-browser' requires the chromium snap to be installed."),
    rule(Cause::BrowserMissing, BROWSER, Any, Soft, &["firefox: not found"], "sh: 1: firefox: not found"),
    rule(Cause::BrowserMissing, BROWSER, Any, Soft, &["firefox-esr: not found"], "sh: 1: firefox-esr: not found"),
    rule(Cause::BrowserMissing, BROWSER, Any, Soft, &["chromium: not found"], "sh: 1: chromium: not found"),
    rule(Cause::BrowserCrashed, BROWSER, Any, Soft, &["airlock-init: service firefox exited "],
        "airlock-init: service firefox exited code=- signal=SIGSEGV (restart in 100 ms)"),
    rule(Cause::EgressBlocked, Some(Stage::Reachable), Any, Note, &["Failed to connect to ", " port 443"],
        "curl: (28) Failed to connect to example.org port 443 after 130000 ms: Connection timed out"),
    rule(Cause::UnitFailed, INIT, Start, Note, &["ERROR: ", " failed to start"],
        "ERROR: networking failed to start"),
];
