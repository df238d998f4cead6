//! What the real tools print, as it was recorded, against the patterns of their providers' files: on each the agent must see the
//! URL, the code, the question and the outcome that a person would.
//!
//! The bytes are fed in pieces of several sizes: a terminal's reader never knows where a line is cut.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use airlock_agent::login::terminal::Terminal;
use airlock_agent::login::url::Wanted;
use airlock_agent::login::words::Words;
use airlock_protocol::login;
use regex_lite::Regex;

/// The parts of a provider's file that are about output; the host reads the whole of it.
struct Rules {
    login: toml::Table,
    flow: toml::Table,
}

impl Rules {
    fn of(provider: &str, flow: &str) -> Self {
        let path = format!("{}/../../providers/{provider}.toml", env!("CARGO_MANIFEST_DIR"));
        let file: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
        let login = file["login"].as_table().unwrap().clone();
        let flow = login.get("flow").and_then(|flows| flows.get(flow)?.as_table()).cloned().unwrap_or_default();
        Self { login, flow }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.flow.get(key).or_else(|| self.login.get(key))?.as_str()
    }

    fn prefixes(&self) -> Vec<String> {
        let given = self.flow.get("url_prefixes").or_else(|| self.login.get("url_prefixes"));
        given.unwrap().as_array().unwrap().iter().map(|prefix| prefix.as_str().unwrap().to_owned()).collect()
    }

    /// Pattern and what it stands for: `ask`, an answer, or an outcome.
    fn patterns(&self) -> Vec<(String, String)> {
        let list = |key: &str| self.login.get(key).and_then(|list| list.as_array()).cloned().unwrap_or_default();
        let means = |rule: &toml::Value| {
            let value = |key: &str| rule.get(key).and_then(|value| value.as_str()).map(str::to_owned);
            value("outcome").or_else(|| value("ask")).or_else(|| value("answer")).unwrap()
        };
        let rules = list("prompts").into_iter().chain(list("outcomes"));
        rules.map(|rule| (rule["pattern"].as_str().unwrap().to_owned(), means(&rule))).collect()
    }
}

/// What is seen in a transcript: URL, user code, and what was asked and said, each once.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    url: Option<String>,
    code: Option<String>,
    said: Vec<String>,
}

fn see(name: &str, provider: &str, flow: &str, piece: usize) -> Seen {
    let bytes = std::fs::read(format!("{}/tests/transcripts/{name}.raw", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let rules = Rules::of(provider, flow);
    let pipes = name.contains("-pipes-");
    let streams = if pipes { login::Terminal::Pipes } else { login::Terminal::Pty { columns: 500 } };
    let (mut terminal, patterns) = (Terminal::of(streams), rules.patterns());
    let wanted = Wanted::new(&rules.prefixes(), rules.text("url_pattern"));
    let code = rules.text("user_code_pattern").map(|pattern| Regex::new(pattern).unwrap());
    let mut words = Words::new(patterns.iter().map(|(pattern, _)| pattern.as_str()));
    let mut seen = Seen { url: None, code: None, said: Vec::new() };
    for piece in bytes.chunks(piece) {
        terminal.write(piece);
        let expose = |found: airlock_protocol::Sensitive| found.expose().to_owned();
        seen.url = terminal.url(&wanted).map(expose).or(seen.url);
        seen.code = code.as_ref().and_then(|code| terminal.user_code(code)).map(expose).or(seen.code);
        seen.said.extend(words.write(piece).into_iter().map(|number| patterns[number].1.clone()));
    }
    seen
}

#[test]
fn what_real_tools_print_is_understood() {
    let claude = "https://claude.ai/oauth/authorize?z-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-EXA";
    let codex = "https://auth.openai.com/codex/device";
    let github = "https://github.com/login/device";
    for (name, provider, flow, url, code, said) in [
        ("claude-login-completed", "claude_code", "paste_code", claude, None, &["code"][..]),
        (
            "claude-login-wrong-code",
            "claude_code",
            "paste_code",
            claude,
            None,
            &["code", "invalid_code", "invalid_code"],
        ),
        ("claude-login-no-network", "claude_code", "paste_code", claude, None, &["code", "no_egress"]),
        (
            "claude-pipes-wrong-code",
            "claude_code",
            "paste_code",
            claude,
            None,
            &["code", "invalid_code", "invalid_code"],
        ),
        ("codex-device", "codex", "device_code", codex, Some("ABCD-EFGHI"), &[]),
        ("codex-device-not-enabled", "codex", "device_code", "", None, &["device_flow_not_enabled"]),
        ("codex-login-completed", "codex", "loopback", "*state=EXAMPLE-", None, &[]),
        ("codex-login-port-busy", "codex", "loopback", "*127.0.0.1%3A1457%2F", None, &[]),
        ("copilot-device", "copilot", "device_code", github, Some("WDJB-MJHT"), &[]),
        ("copilot-device-completed", "copilot", "device_code", github, Some("WDJB-MJHT"), &["y"]),
        ("gemini-paste", "gemini_cli", "paste_code", "*&state=EXAMPLE-", None, &["code"]),
        ("gemini-paste-wrong-code", "gemini_cli", "paste_code", "*&state=EXAMPLE-", None, &["code", "invalid_code"]),
        ("gh-pipes-completed", "gh", "device_code", github, Some("WDJB-MJHT"), &[]),
    ] {
        for piece in [23, 400] {
            let seen = see(name, provider, flow, piece);
            let found = seen.url.clone().unwrap_or_default();
            match url.strip_prefix('*') {
                Some(part) => {
                    assert!(found.contains(part) && found.ends_with(|c: char| c.is_alphanumeric()), "{name}: {seen:?}")
                }
                None => assert_eq!(found, url, "{name} in pieces of {piece}: {seen:?}"),
            }
            assert_eq!(seen.code.as_deref(), code, "{name} in pieces of {piece}");
            assert_eq!(seen.said, said, "{name} in pieces of {piece}");
        }
    }
}
