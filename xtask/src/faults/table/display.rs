//! Faults of display and browser. Each boot to the browser takes long, so there are a few only.

use std::borrow::Cow;

use airlock_protocol::paths::GUEST_VNC_PASSWORD;
use airlock_protocol::{Sensitive, Stage, vnc_auth};
use anyhow::Result;
use serde_json::json;

use crate::faults::fault::{Fault, Since, fault, live};
use crate::faults::image::{BIN, GUEST_BIN, Image};
use crate::faults::site::Special;

const SLOW: Special = Special { config: "boot_deadline_s = 120\n", network: Cow::Borrowed(""), mounts: "", path: None };

pub fn faults() -> Vec<Fault> {
    let of = |fault: Fault| fault.of("browser").daemon(SLOW);
    let says = |fault: Fault, text| of(fault).shows(Since::Sign(text), 3000);
    vec![
        says(fault("display-server-missing", "display_failed", Stage::DisplayUp), "service xvnc not started")
            .how("the X server's program is not in the image")
            .image(|image| image.change_service("xvnc", |service| service["command"][0] = json!("/usr/bin/Xnone"))),
        says(fault("display-server-exits", "display_failed", Stage::DisplayUp), "service xvnc exited")
            .how("the X server ends at once, again and again")
            .image(|image| image.change_service("xvnc", |service| service["command"] = json!(["/bin/false"]))),
        says(fault("browser-missing", "browser_missing", Stage::BrowserUp), "service firefox not started")
            .how("the browser's program is not in the image")
            .image(|image| image.change_service("firefox", |service| service["command"][0] = json!("/usr/bin/none"))),
        says(fault("browser-exits", "browser_crashed", Stage::BrowserUp), "service firefox exited")
            .how("the browser ends at once, again and again")
            .image(|image| image.change_service("firefox", |service| service["command"] = json!(["/bin/false"]))),
        of(fault("browser-wrong-display", "browser_wrong_display", Stage::BrowserUp))
            .shows(Since::Sign("cannot open display"), 10_000)
            .how("the browser's `DISPLAY` names no server")
            .image(|image| image.change_service("firefox", |service| service["env"]["DISPLAY"] = json!(":9"))),
        of(live("rfb-on-loopback", "vnc_bound_to_loopback"))
            .at(Stage::DisplayUp)
            .how("the RFB server listens on loopback only")
            .image(|image| image.change_service("xvnc", |service| replace(service, "-localhost=0", "-localhost=1")))
            .on_host(Stage::Ready, "true"),
        of(live("rfb-on-other-port", "vnc_refused"))
            .at(Stage::DisplayUp)
            .how("the RFB server listens on another port")
            .image(|image| image.change_service("xvnc", |service| replace(service, "5901", "5999")))
            .on_host(Stage::Ready, "true"),
        of(fault("browser-out-of-memory", "browser_oom", Stage::BrowserUp))
            // It is given up when it was killed for the fourth time.
            .shows(Since::Sign("Out of memory: Killed process"), 15_000)
            .how("what is started as the browser takes more memory than the machine has, again and again")
            .image(greedy_browser),
        of(live("rfb-with-other-password", "vnc_auth_mismatch"))
            .at(Stage::DisplayUp)
            .how("the RFB server has another password than the daemon drew")
            .image(|image| {
                let password = vnc_auth::password_file(&Sensitive::new("another"));
                image.initramfs.put(&format!("{BIN}/other.passwd"), 0o644, &password);
                let other = format!("{GUEST_BIN}/other.passwd");
                image.change_service("xvnc", |service| replace(service, GUEST_VNC_PASSWORD, &other))
            })
            .on_host(Stage::Ready, "true"),
        of(fault("screen-black", "screen_black", Stage::PagePainted))
            .how("the browser shows a page that is black all over")
            .image(|image| {
                image.change_service("firefox", |service| {
                    replace(service, "--new-window", "--kiosk");
                    replace(service, "http://127.0.0.1:8081/", "data:text/html,<body style='background:black'>");
                })
            })
            .shows(Since::Asked, 121_500),
    ]
}

/// A script of the browser's name that takes all memory there is.
fn greedy_browser(image: &mut Image) -> Result<()> {
    image.with_busybox()?;
    image.manifest.insert("memory_mib".into(), toml::Value::Integer(300));
    let script = format!("#!{GUEST_BIN}/busybox sh\ntaken=everything\nwhile :; do taken=$taken$taken; done\n");
    image.initramfs.put(&format!("{BIN}/firefox-esr"), 0o755, script.as_bytes());
    image.change_service("firefox", |service| service["command"] = json!([format!("{GUEST_BIN}/firefox-esr")]))
}

fn replace(service: &mut serde_json::Value, from: &str, to: &str) {
    for word in service["command"].as_array_mut().into_iter().flatten() {
        if word == from {
            *word = json!(to);
        }
    }
}
