//! What a provider's file may say, and what the agent is told of it.

use airlock_protocol::login::{FieldType, FileFormat, InstantUnit, Outcome, Terminal};

use super::*;

const DEMO: &str = include_str!("../../../../providers/demo.toml");
const SHELL: &str = include_str!("../../../../providers/shell.toml");
const PLACE: Place = Place { gateway: Ipv4Addr::new(10, 1, 0, 1), demo_port: 4080 };
const HEAD: &str = "id = \"d\"\nname = \"x\"\nimage = \"base\"\n";
const TAIL: &str = "[[login.credentials]]\npath = \"c\"\n";

/// Every field at once.
const WHOLE: &str = r#"
id = "codex"
name = "Codex"
image = "codex"
terms = "for the account's own owner"
packages = [{ source = "npm", name = "@openai/codex", version = "0.169.0" }]
egress = ["auth.openai.com", "*.example.com"]

[versions]
range = ">=0.150, <1"
checked = ["0.169.0"]
command = ["codex", "--version"]

[login]
command = ["codex", "login"]
env = { A = "{gateway}" }
unset_env = ["OPENAI_API_KEY"]
terminal = "pipes"
columns = 300
flows = ["loopback", "device_code", "paste_code"]
url_prefixes = ["https://auth.openai.com/"]
url_pattern = "client_id="
user_code_pattern = "([A-Z0-9]{4}-[A-Z0-9]{5})"
status_command = { args = ["codex", "login", "status"], output = "Logged in", exit_code = 0, offline = true }
callback = { port = 1455, path = "/auth/callback", never_probe = true }

[login.flow.device_code]
command = ["codex", "login", "--device-auth"]
env = { NO_BROWSER = "true" }
terminal = "pty"
url_prefixes = ["https://auth.openai.com/codex/device"]

[[login.prompts]]
pattern = "Paste code"
ask = "code"
flows = ["paste_code"]

[[login.prompts]]
pattern = "Continue\\?"
answer = "y"

[[login.outcomes]]
pattern = "not enabled"
outcome = "device_flow_not_enabled"
final = true

[[login.files]]
path = ".codex/config.toml"
content = 'cli_auth_credentials_store = "file"'

[[login.credentials]]
path = ".codex/auth.json"
format = "json"
required = ["/tokens/access_token"]
schema = { "/tokens" = "object" }
expires = { pointer = "/tokens/access_token", unit = "jwt" }
fresh = { pointer = "/last_refresh", unit = "rfc3339" }
"#;

fn session() -> SessionId {
    SessionId::from_uuid(uuid::Uuid::nil())
}

#[test]
fn the_shipped_files_are_valid() {
    let demo = Provider::parse("demo.toml", DEMO).unwrap();
    let spec = demo.login_spec(session(), 1, demo.preferred_flow().unwrap(), PLACE).unwrap();
    assert_eq!(spec.env["AIRLOCK_DEMO_ISSUER"], "http://10.1.0.1:4080");
    assert!(Provider::parse("shell.toml", SHELL).unwrap().login.is_none());
}

#[test]
fn a_whole_file_becomes_what_the_agent_needs_in_each_flow() {
    let provider = Provider::parse("codex.toml", WHOLE).unwrap();
    assert_eq!(provider.preferred_flow(), Some(Flow::Loopback));
    let spec = |flow| provider.login_spec(session(), 3, flow, PLACE).unwrap();
    let loopback = spec(Flow::Loopback);
    assert_eq!((loopback.attempt, loopback.command.len(), loopback.terminal), (3, 2, Terminal::Pipes));
    assert_eq!((loopback.prompts.len(), &loopback.user_code_pattern), (1, &None));
    assert_eq!((loopback.env["A"].as_str(), loopback.files[0].mode), ("10.1.0.1", 0o600));
    assert_eq!(loopback.outcomes[0].outcome, Outcome::DeviceFlowNotEnabled);
    let file = &loopback.credentials[0];
    assert_eq!((file.format, file.schema["/tokens"]), (FileFormat::Json, FieldType::Object));
    assert_eq!(file.expires.as_ref().unwrap().unit, InstantUnit::Jwt);

    let device = spec(Flow::DeviceCode);
    assert_eq!((device.command[2].as_str(), device.terminal), ("--device-auth", Terminal::Pty { columns: 300 }));
    assert_eq!(device.env["NO_BROWSER"], "true");
    assert_eq!(device.url_prefixes, ["https://auth.openai.com/codex/device"]);
    assert!(device.user_code_pattern.is_some());

    let paste = spec(Flow::PasteCode);
    assert!(paste.prompts[0].reply == Reply::Code && paste.prompts[0].secret, "{:?}", paste.prompts);
}

#[test]
fn a_status_command_that_needs_the_network_is_not_for_the_agent() {
    let text = WHOLE.replace("offline = true", "offline = false");
    let provider = Provider::parse("codex.toml", &text).unwrap();
    assert_eq!(provider.login_spec(session(), 1, Flow::Loopback, PLACE).unwrap().status_command, None);
    let demo = Provider::parse("demo.toml", DEMO).unwrap();
    assert!(demo.login_spec(session(), 1, Flow::Loopback, PLACE).unwrap().status_command.is_some());
}

#[test]
fn another_image_is_chosen_for_a_provider_that_exists() {
    let mut providers = [Provider::parse("shell.toml", SHELL).unwrap()];
    let chosen = |id: &str| BTreeMap::from([(id.to_owned(), "net-dhcpcd".to_owned())]);
    let unknown = Provider::choose_images(&mut providers, &chosen("shel")).unwrap_err().to_string();
    assert!(unknown.contains("shel") && unknown.contains("shell"), "{unknown}");
    assert_eq!(providers[0].image, "base");
    Provider::choose_images(&mut providers, &chosen("shell")).unwrap();
    assert_eq!(providers[0].image, "net-dhcpcd");
}

#[test]
fn refusals_name_file_and_field() {
    let login = |more: &str| format!("{HEAD}[login]\ncommand = [\"t\"]\n{more}\n{TAIL}");
    let credential = |more: &str| format!("{}{more}\n", login(""));
    for (text, field) in [
        (HEAD.replace("\"d\"", "\"Demo\""), "id"),
        (format!("{HEAD}egress = [\"https://x/\"]"), "egress"),
        (format!("{HEAD}[versions]\nrange = \"newest\""), "versions.range"),
        (format!("{HEAD}[versions]\nrange = \"<1\"\nchecked = [\"2.0.0\"]"), "versions.checked"),
        (format!("{HEAD}[login]\ncommand = []\ncredentials = []"), "login.command"),
        (format!("{HEAD}[login]\ncommand = [\"t\"]\ncredentials = []"), "login.credentials"),
        (login("columns = 7"), "login.columns"),
        (login("url_timeout_s = 0"), "login.url_timeout_s"),
        (login("unset_env = [\"A=B\"]"), "login.unset_env"),
        (login("flows = []"), "login.flows"),
        (login("flows = [\"loopback\", \"loopback\"]"), "login.flows"),
        (login("flows = [\"device_code\"]"), "login.user_code_pattern"),
        (login("flows = [\"paste_code\"]"), "login.prompts"),
        (login("[login.flow.device_code]\ncommand = [\"t\"]"), "login.flow.device_code"),
        (login("url_pattern = \"(\""), "login.url_pattern"),
        (login("user_code_pattern = \"x*\""), "login.user_code_pattern"),
        (login("[[login.prompts]]\npattern = \"[\"\nanswer = \"y\""), "login.prompts.pattern"),
        (login("[[login.prompts]]\npattern = \"a\""), "login.prompts.answer"),
        (login("[[login.outcomes]]\npattern = \"(\"\noutcome = \"denied\""), "login.outcomes.pattern"),
        (login("callback = { never_probe = false }"), "login.callback.never_probe"),
        (login("callback = { port_env = \"P\" }"), "login.callback.port"),
        (login("[[login.files]]\npath = \"/etc/x\"\ncontent = \"\""), "login.files.path"),
        (login("[[login.files]]\npath = \"x\"\nmode = \"rw\"\ncontent = \"\""), "login.files.mode"),
        (login("status_command = []"), "login.status_command"),
        (login("status_command = { args = [\"t\"], output = \"(\" }"), "login.status_command.output"),
        (login("").replace("\"c\"", "\"../x\""), "login.credentials.path"),
        (credential("required = [\"a\"]"), "login.credentials.required"),
        (credential("schema = { a = \"string\" }"), "login.credentials.schema"),
        (credential("expires = { pointer = \"a\", unit = \"s\" }"), "login.credentials.expires.pointer"),
        (credential("format = \"text\"\nrequired = [\"/a\"]"), "login.credentials.format"),
        (credential("optional = true"), "login.credentials.optional"),
    ] {
        match Provider::parse("p.toml", &text) {
            Err(ProviderError::Value { field: named, file, .. }) => {
                assert_eq!((named.as_str(), file.as_str()), (field, "p.toml"));
            }
            other => panic!("{field}: {text}: {other:?}"),
        }
    }
    for text in
        ["idd = 1".to_owned(), login("outcomes = [{ pattern = \"x\", outcome = \"gone\" }]"), login("statuss = 1")]
    {
        assert!(matches!(Provider::parse("p.toml", &text), Err(ProviderError::Toml { .. })), "{text}");
    }
}
