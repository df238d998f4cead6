//! A person who signs in at the demo provider elsewhere than in the machine, and carries the code that its page shows.

use std::io::Write;
use std::process::{Command, Stdio};

use super::person::{PASSWORD, USER};
use super::support::Daemon;

/// Fills the form of the page; returns the code that is shown then.
pub fn code_of(daemon: &Daemon, page: &str) -> String {
    let page = reqwest::Url::parse(page).unwrap();
    let mut fields: Vec<(String, String)> = page.query_pairs().into_owned().collect();
    let own = [("username", USER), ("password", PASSWORD), ("decision", "allow")];
    fields.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    // Not as arguments: they are secrets as long as the sign-in lasts.
    let mut config = format!("url = \"{}\"\n", page.as_str().split('?').next().unwrap());
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
    let answer = String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
    let shown = answer.split_once("class=\"code\">").and_then(|(_, rest)| rest.split_once("</p>"));
    shown.unwrap_or_else(|| panic!("the page shows no code: {answer}")).0.to_owned()
}
