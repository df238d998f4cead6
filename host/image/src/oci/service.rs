//! The program of an image as a service: what its configuration says, in terms of its root.
//!
//! Source: OCI image specification, `config.md`. A program that is not in the root and a user that its `/etc/passwd` does not
//! know are refused: the machine would boot and do nothing.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use airlock_protocol::guest_config::{Restart, Service};

use super::document::RunConfig;
use super::error::OciError;
use super::refused;
use crate::error::ImageError;
use crate::tree::Tree;

/// Where a runtime looks for a program when the image does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What an image offers when it has nothing to run. Without a person in front they end at once.
const SHELLS: [&str; 6] = ["sh", "bash", "ash", "dash", "zsh", "busybox"];

/// The service of an image's program; none if it has none but a shell.
pub(crate) fn service_of(reference: &str, run: &RunConfig, tree: &Tree<'_>) -> Result<Option<Service>, ImageError> {
    let words = [&run.entrypoint, &run.cmd].into_iter().flatten().flatten().cloned();
    let mut command: Vec<String> = words.collect();
    let Some(program) = command.first().cloned() else { return Ok(None) };
    let name = program.rsplit('/').next().unwrap_or_default().to_owned();
    if command.len() == 1 && SHELLS.contains(&name.as_str()) {
        return Ok(None);
    }
    let env: BTreeMap<String, String> = run.env.iter().flatten().filter_map(|line| pair(line)).collect();
    let working_dir = run.working_dir.clone().filter(|dir| !dir.is_empty());
    let path = env.get("PATH").map_or(PATH, String::as_str);
    let found = find(&program, path, working_dir.as_deref().unwrap_or("/"), tree);
    let found = found.ok_or_else(|| ImageError::ServiceProgramMissing { service: name.clone(), program })?;
    command[0] = found;
    Ok(Some(Service {
        name,
        command,
        user: user(run.user.as_deref().unwrap_or_default(), tree).map_err(|source| refused(reference, source))?,
        env,
        working_dir,
        ports: run.exposed_ports.iter().flat_map(BTreeMap::keys).filter_map(|port| tcp(port)).collect(),
        wait_for_socket: None,
        restart: Restart::Always,
    }))
}

fn pair(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once('=')?;
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

/// `80` and `80/tcp`, not `53/udp`.
fn tcp(port: &str) -> Option<u16> {
    port.strip_suffix("/tcp").unwrap_or(port).parse().ok()
}

/// The program as an absolute path of the image.
fn find(program: &str, path: &str, working_dir: &str, tree: &Tree<'_>) -> Option<String> {
    let candidates: Vec<String> = if program.starts_with('/') {
        vec![program.to_owned()]
    } else if program.contains('/') {
        vec![format!("{}/{program}", working_dir.trim_end_matches('/'))]
    } else {
        path.split(':').filter(|dir| dir.starts_with('/')).map(|dir| format!("{dir}/{program}")).collect()
    };
    candidates.into_iter().find(|candidate| {
        let meta = tree.resolve(candidate).and_then(std::fs::symlink_metadata);
        meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// The user as the guest's supervisor takes it: a name, or numbers.
fn user(wanted: &str, tree: &Tree<'_>) -> Result<Option<String>, OciError> {
    let (name, group) = wanted.split_once(':').unwrap_or((wanted, ""));
    if matches!(name, "" | "root" | "0") && matches!(group, "" | "root" | "0") {
        return Ok(None);
    }
    let unknown = || OciError::User { user: wanted.to_owned() };
    // Third field of both files is the number (passwd(5), group(5)).
    let number = |file: &str, name: &str| -> Result<u32, OciError> {
        if let Ok(number) = name.parse() {
            return Ok(number);
        }
        let text = tree.resolve(file).and_then(std::fs::read_to_string).unwrap_or_default();
        let line =
            text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|line| line.first() == Some(&name));
        line.and_then(|line| line.get(2)?.parse().ok()).ok_or_else(unknown)
    };
    let uid = number("/etc/passwd", if name.is_empty() { "root" } else { name })?;
    if group.is_empty() {
        return Ok(Some(if name.parse::<u32>().is_ok() { uid.to_string() } else { name.to_owned() }));
    }
    Ok(Some(format!("{uid}:{}", number("/etc/group", group)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str, mode: u32| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("usr/local/bin/server", "", 0o755);
        write("app/run.sh", "", 0o755);
        write("app/data", "", 0o644);
        write("etc/passwd", "root:x:0:0::/:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n", 0o644);
        write("etc/group", "www:x:33:\n", 0o644);
        dir
    }

    fn run(words: &[&str]) -> RunConfig {
        RunConfig { entrypoint: Some(words.iter().map(|word| (*word).to_owned()).collect()), ..RunConfig::default() }
    }

    fn service(run: &RunConfig, root: &Path) -> Result<Option<Service>, ImageError> {
        service_of("x", run, &Tree::new(root))
    }

    #[test]
    fn entrypoint_and_arguments_are_one_command_and_the_program_is_found() {
        let root = root();
        let config = RunConfig {
            entrypoint: Some(vec!["server".into()]),
            cmd: Some(vec!["--port".into(), "80".into()]),
            env: Some(vec!["A=b=c".into(), "odd".into()]),
            exposed_ports: Some(
                [("80/tcp", ()), ("53/udp", ()), ("8443", ())]
                    .map(|(port, ())| (port.to_owned(), super::super::document::Empty {}))
                    .into(),
            ),
            working_dir: Some("/app".into()),
            ..RunConfig::default()
        };
        let found = service(&config, root.path()).unwrap().unwrap();
        assert_eq!(found.command, ["/usr/local/bin/server", "--port", "80"]);
        assert_eq!(
            (found.name.as_str(), found.user.as_deref(), found.working_dir.as_deref()),
            ("server", None, Some("/app"))
        );
        assert_eq!(found.ports, [80, 8443]);
        assert_eq!(found.env, BTreeMap::from([("A".to_owned(), "b=c".to_owned())]));
        let relative = RunConfig { working_dir: Some("/app/".into()), ..run(&["./run.sh"]) };
        assert_eq!(service(&relative, root.path()).unwrap().unwrap().command, ["/app/./run.sh"]);
    }

    #[test]
    fn a_shell_alone_is_nothing_to_run_and_a_missing_program_is_refused() {
        let root = root();
        assert_eq!(service(&RunConfig::default(), root.path()).unwrap(), None);
        assert_eq!(service(&run(&["/bin/sh"]), root.path()).unwrap(), None);
        for words in [&["gone"][..], &["/app/data"], &["/bin/sh", "-c", "x"]] {
            assert_eq!(service(&run(words), root.path()).unwrap_err().code(), "service_program_missing", "{words:?}");
        }
    }

    #[test]
    fn users_are_names_or_numbers() {
        let root = root();
        let user = |wanted: &str| {
            let config = RunConfig { user: Some(wanted.to_owned()), ..run(&["server"]) };
            service(&config, root.path()).map(|service| service.unwrap().user)
        };
        for (wanted, found) in [("", None), ("root", None), ("0:0", None), ("web", Some("web")), ("1000", Some("1000"))]
        {
            assert_eq!(user(wanted).unwrap().as_deref(), found, "{wanted}");
        }
        assert_eq!(user("web:www").unwrap().unwrap(), "101:33");
        assert_eq!(user("5:6").unwrap().unwrap(), "5:6");
        assert_eq!(user("nobody-here").unwrap_err().code(), "oci_user_unknown");
        assert_eq!(user("web:gone").unwrap_err().code(), "oci_user_unknown");
    }
}
