//! A person who signs in at the demo provider elsewhere than in the machine: carries the code that its page shows, or types the
//! code that the tool shows.

use std::io::Write;
use std::process::{Command, Stdio};

use super::person::{PASSWORD, USER};
use super::support::Daemon;

/// Fills the form of the page; returns the code that is shown then.
pub fn code_of(daemon: &Daemon, page: &str) -> String {
    let url = reqwest::Url::parse(page).unwrap();
    let mut fields: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    fields.push(("decision".into(), "allow".into()));
    let answer = submit(daemon, page.split('?').next().unwrap(), fields);
    let shown = answer.split_once("class=\"code\">").and_then(|(_, rest)| rest.split_once("</p>"));
    shown.unwrap_or_else(|| panic!("the page shows no code: {answer}")).0.to_owned()
}

/// Types the tool's code at the provider, and `allow` or `deny`.
pub fn decide(daemon: &Daemon, code: &str, decision: &str) {
    let fields = vec![("user_code".into(), code.into()), ("decision".into(), decision.into())];
    let answer = submit(daemon, "http://192.168.100.1:4080/device", fields);
    let said = if decision == "allow" { "Signed in" } else { "Denied" };
    assert!(answer.contains(said), "{answer}");
}

fn submit(daemon: &Daemon, page: &str, mut fields: Vec<(String, String)>) -> String {
    fields
        .extend([("username", USER), ("password", PASSWORD)].map(|(name, value)| (name.to_owned(), value.to_owned())));
    // Not as arguments: they are secrets as long as the sign-in lasts.
    let mut config = format!("url = \"{page}\"\n");
    for (name, value) in fields {
        config.push_str(&format!("data-urlencode = \"{name}={value}\"\n"));
    }
    let mut curl = Command::new("ip")
        .args(["netns", "exec", &daemon.at.namespace, "curl", "--silent", "--show-error", "--max-time", "20"])
        .args(["--config", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    curl.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
    String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap()
}
