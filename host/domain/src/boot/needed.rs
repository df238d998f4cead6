//! Services without which an image's machine cannot become ready, found in what its manifest says of them: no name of a service
//! means anything by itself.
//!
//! * the X server is given the number of the image's display (`:1`) as an argument
//! * the browser runs the program that opens pages in it
//!
//! An image in which neither is found is waited for until its deadline.

use airlock_protocol::Stage;
use airlock_protocol::guest_config::{Display, Service};

/// A service, and the stage that is not reached without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededService {
    /// Its name on the console.
    pub name: String,
    /// The stage.
    pub stage: Stage,
}

/// Those of an image that has this display. The agent, which no image lists, is not among them.
pub fn needed_services(services: &[Service], display: Option<&Display>) -> Vec<NeededService> {
    let Some(display) = display else { return Vec::new() };
    let number = format!(":{}", display.number);
    let opens = program(&display.open_command);
    let stage = |service: &Service| match program(&service.command) {
        Some(_) if service.command.contains(&number) => Some(Stage::DisplayUp),
        Some(runs) if Some(runs) == opens => Some(Stage::BrowserUp),
        _ => None,
    };
    services
        .iter()
        .filter_map(|service| Some(NeededService { name: service.name.clone(), stage: stage(service)? }))
        .collect()
}

/// The program that a command runs in the end: `env` and its assignments come before it.
fn program(command: &[String]) -> Option<&str> {
    let mut words = command.iter().map(String::as_str);
    let first = words.next()?;
    match first.rsplit('/').next() {
        Some("env") => words.find(|word| !word.contains('=') && !word.starts_with('-')),
        _ => Some(first),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use airlock_protocol::guest_config::Restart;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn service(name: &str, command: &str) -> Service {
        Service {
            name: name.into(),
            command: words(command),
            user: None,
            env: BTreeMap::from([("DISPLAY".into(), ":4".into())]),
            working_dir: None,
            ports: Vec::new(),
            wait_for_socket: None,
            restart: Restart::Always,
        }
    }

    #[test]
    fn server_and_browser_are_known_by_what_they_run() {
        let services = [
            service("bus", "/usr/bin/dbus-daemon --session"),
            service("picture", "/usr/bin/Xtigervnc :4 -rfbport 5901"),
            service("wm", "/usr/bin/matchbox-window-manager"),
            service("window", "/usr/bin/env LANG=C /usr/bin/firefox-esr --new-window http://127.0.0.1/"),
        ];
        let display = Display {
            number: 4,
            browser_class: "firefox-esr".into(),
            user: "user".into(),
            open_command: words("/usr/bin/env DISPLAY=:4 /usr/bin/firefox-esr --new-tab"),
        };
        let needed = |name: &str, stage| NeededService { name: name.into(), stage };
        assert_eq!(
            needed_services(&services, Some(&display)),
            [needed("picture", Stage::DisplayUp), needed("window", Stage::BrowserUp)]
        );
        assert_eq!(needed_services(&services, None), []);
        assert_eq!(needed_services(&services[..1], Some(&display)), []);
        let none = Display { open_command: Vec::new(), ..display };
        assert_eq!(needed_services(&services, Some(&none)), [needed("picture", Stage::DisplayUp)]);
    }
}
