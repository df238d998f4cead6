//! What a Firecracker takes when: before its guest runs, only then, or always; what needs something else before it.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::openapi::Operation;

const BEFORE: &[&str] = &[
    "putGuestBootSource",
    "putCpuConfiguration",
    "putGuestDriveByID",
    "putGuestPmemByID",
    "putLogger",
    "putMachineConfiguration",
    "patchMachineConfiguration",
    "putMetrics",
    "putMmdsConfig",
    "putEntropyDevice",
    "putSerialDevice",
    "putMemoryHotplug",
    "putGuestNetworkInterfaceByID",
    "loadSnapshot",
    "putGuestVsock",
    "putBalloon",
];
const AFTER: &[&str] = &[
    "patchBalloon",
    "describeBalloonStats",
    "patchBalloonStatsInterval",
    "startBalloonHinting",
    "describeBalloonHinting",
    "stopBalloonHinting",
    "patchGuestDriveByID",
    "patchGuestPmemByID",
    "patchMemoryHotplug",
    "getMemoryHotplug",
    "patchGuestNetworkInterfaceByID",
    "createSnapshot",
    "patchVm",
];
const ALWAYS: &[&str] = &[
    "describeInstance",
    "createSyncAction",
    "describeBalloonConfig",
    "getMachineConfiguration",
    "putMmds",
    "patchMmds",
    "getMmds",
    "getFirecrackerVersion",
    "getExportVmConfig",
];
/// What a restore forgives before it: nothing else may be configured.
const BESIDE_A_RESTORE: &[&str] = &["putLogger", "putMetrics", "putSerialDevice"];

/// Whether the table knows an operation.
pub fn is_known(id: &str) -> bool {
    [BEFORE, AFTER, ALWAYS].iter().filter(|list| list.contains(&id)).count() == 1
}

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stand {
    #[default]
    NotStarted,
    Running,
    Paused,
}

/// What a server has taken so far.
#[derive(Debug, Default)]
pub struct Instance {
    pub stand: Stand,
    /// Operations that were taken.
    done: BTreeSet<String>,
    statistics: bool,
    mmds: Option<Value>,
    machine: Option<Value>,
    balloon: Option<Value>,
    pub console: Option<String>,
    pub taps: Vec<String>,
    pub vsock: Option<String>,
}

/// An answer: status and body.
pub type Answer = (u16, Value);

impl Instance {
    /// Takes a request whose body is right; the error is the documented refusal.
    pub fn take(&mut self, operation: &Operation, body: &Value) -> Result<Answer, String> {
        let id = operation.id.as_str();
        let started = self.stand != Stand::NotStarted;
        if started && BEFORE.contains(&id) {
            return Err("The requested operation is not supported after starting the microVM.".into());
        }
        if !started && AFTER.contains(&id) {
            return Err("The requested operation is not supported before starting the microVM.".into());
        }
        let answer = self.perform(id, body)?;
        self.done.insert(id.to_owned());
        Ok(answer)
    }

    fn perform(&mut self, id: &str, body: &Value) -> Result<Answer, String> {
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        match id {
            "describeInstance" => return Ok((200, self.describe())),
            "getFirecrackerVersion" => return Ok((200, json!({"firecracker_version": "1.16.1"}))),
            "getMachineConfiguration" => {
                let default = json!({"vcpu_count": 1, "mem_size_mib": 128, "smt": false});
                return Ok((200, self.machine.clone().unwrap_or(default)));
            }
            "getExportVmConfig" => return Ok((200, json!({"machine-config": self.machine}))),
            "putMachineConfiguration" => {
                let vcpus = body["vcpu_count"].as_u64().unwrap_or_default();
                if body["smt"] == true && vcpus != 1 && vcpus % 2 == 1 {
                    return Err("the number of vCPUs must be 1 or even if SMT is enabled".into());
                }
                if body["mem_size_mib"].as_u64().unwrap_or_default() == 0 {
                    return Err("the memory size (MiB) is invalid".into());
                }
                self.machine = Some(body.clone());
            }
            "putGuestBootSource" => exists(&text("kernel_image_path"), "The kernel file cannot be opened")?,
            "putGuestDriveByID" => exists(&text("path_on_host"), "Unable to open the block device")?,
            "putGuestNetworkInterfaceByID" => self.taps.push(text("host_dev_name")),
            "putGuestVsock" => self.vsock = Some(text("uds_path")),
            "putSerialDevice" => self.console = Some(text("serial_out_path")),
            "putBalloon" => {
                self.statistics = body["stats_polling_interval_s"].as_u64().unwrap_or_default() > 0;
                self.balloon = Some(body.clone());
            }
            "describeBalloonConfig" => {
                return self.balloon.clone().map(|balloon| (200, balloon)).ok_or_else(|| "no balloon device".into());
            }
            "describeBalloonStats" | "patchBalloonStatsInterval" if !self.statistics => {
                return Err("balloon statistics are not enabled".into());
            }
            "describeBalloonStats" => {
                let pages = json!({"target_pages": 0, "actual_pages": 0, "target_mib": 0, "actual_mib": 0});
                return Ok((200, pages));
            }
            "patchBalloon" | "startBalloonHinting" | "describeBalloonHinting" | "stopBalloonHinting"
                if self.balloon.is_none() =>
            {
                return Err("no balloon device".into());
            }
            "putMmdsConfig" => {
                let networks = body["network_interfaces"].as_array().map_or(0, Vec::len);
                if networks == 0 || networks > self.taps.len() {
                    return Err("the list of network interface IDs provided contains an unknown one or is empty".into());
                }
                self.mmds = Some(Value::Null);
            }
            "putMmds" | "patchMmds" => self.mmds = Some(body.clone()),
            "getMmds" => return Ok((200, self.mmds.clone().unwrap_or(Value::Null))),
            "loadSnapshot" => return self.load(body),
            "createSnapshot" if self.stand != Stand::Paused => {
                return Err("the microVM must be paused".into());
            }
            "patchVm" => self.stand = if body["state"] == "Paused" { Stand::Paused } else { Stand::Running },
            "createSyncAction" => self.act(&text("action_type"))?,
            _ => {}
        }
        Ok((204, Value::Null))
    }

    fn describe(&self) -> Value {
        let state = match self.stand {
            Stand::NotStarted => "Not started",
            Stand::Running => "Running",
            Stand::Paused => "Paused",
        };
        json!({"app_name": "Firecracker", "id": "contract", "state": state, "vmm_version": "1.16.1"})
    }

    fn act(&mut self, action: &str) -> Result<(), String> {
        let started = self.stand != Stand::NotStarted;
        match (action, started) {
            ("InstanceStart", true) => {
                Err("The requested operation is not supported after starting the microVM.".into())
            }
            ("InstanceStart", false) if !self.done.contains("putGuestBootSource") => {
                Err("Cannot start microvm without kernel configuration.".into())
            }
            ("InstanceStart", false) => {
                self.stand = Stand::Running;
                Ok(())
            }
            (_, true) => Ok(()),
            (_, false) => Err("The requested operation is not supported before starting the microVM.".into()),
        }
    }

    fn load(&mut self, body: &Value) -> Result<Answer, String> {
        if self.done.iter().any(|id| BEFORE.contains(&id.as_str()) && !BESIDE_A_RESTORE.contains(&id.as_str())) {
            return Err("Loading a microVM snapshot not allowed after configuring boot-specific resources.".into());
        }
        if body.get("mem_backend").is_some() == body.get("mem_file_path").is_some() {
            return Err("exactly one of mem_backend and mem_file_path must be there".into());
        }
        exists(body["snapshot_path"].as_str().unwrap_or_default(), "Failed to open the snapshot file")?;
        self.stand = if body["resume_vm"] == true { Stand::Running } else { Stand::Paused };
        Ok((204, Value::Null))
    }
}

fn exists(path: &str, what: &str) -> Result<(), String> {
    if Path::new(path).exists() { Ok(()) } else { Err(format!("{what}: No such file or directory (os error 2)")) }
}
