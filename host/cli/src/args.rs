//! The command line. Each subcommand's own arguments stand in its file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{
    audit, credentials, demo_idp, diagnose, evidence, image, login, net, provider, reconcile, serve, session, token,
    up, vault, vm,
};

/// Sign-ins inside disposable machines.
#[derive(Debug, Parser)]
#[command(name = "airlock", version, propagate_version = true, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every subcommand takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Address of the daemon, for its clients
    #[arg(long, global = true, env = "AIRLOCK_SERVER", default_value = "http://127.0.0.1:4000", value_name = "URL")]
    pub server: String,
    /// State directory [default: /var/lib/airlock]
    #[arg(long, global = true, env = "AIRLOCK_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Configuration file (TOML); flags override it
    #[arg(long, global = true, env = "AIRLOCK_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object as the last line
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Everything at once: check the host, build missing images, serve, start a demo sign-in
    Up(up::UpArgs),
    /// Run the daemon
    Serve(serve::ServeArgs),
    /// Say what this host can and cannot do; exit 1 if a start would fail
    Doctor,
    /// Say why a machine is not reachable: the first broken stage, the cause, what proves it, what to do
    Diagnose(diagnose::DiagnoseArgs),
    /// Start a sign-in, show its boot, print the viewer link, wait for the outcome
    Login(login::LoginArgs),
    /// Sign-ins
    #[command(subcommand)]
    Session(session::SessionCommand),
    /// Tools that can be signed in
    #[command(subcommand)]
    Provider(provider::ProviderCommand),
    /// Machines
    #[command(subcommand)]
    Vm(vm::VmCommand),
    /// Compare records and host, and look after the difference
    Reconcile(reconcile::ReconcileArgs),
    /// Golden images (local, needs no daemon)
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Captured credentials
    #[command(subcommand)]
    Credentials(credentials::CredentialsCommand),
    /// What is kept of machines that failed
    #[command(subcommand)]
    Evidence(evidence::EvidenceCommand),
    /// API tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// The keys that seal credentials
    #[command(subcommand)]
    Vault(vault::VaultCommand),
    /// What was done with secrets and machines, by whom
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// The private network
    #[command(subcommand)]
    Net(net::NetCommand),
    /// Run the demo identity provider alone
    DemoIdp(demo_idp::DemoIdpArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn reads_the_documented_commands() {
        for line in [
            "airlock up --no-demo",
            "airlock serve --config F --state-dir D --listen 127.0.0.1:4000 --check-config",
            "airlock doctor --json",
            "airlock diagnose 1 --json",
            "airlock diagnose --console F --cmdline ip=dhcp --json",
            "airlock login demo --user u --open --json",
            "airlock login demo --user u --until reachable",
            "airlock session ls --user u",
            "airlock session cancel 1",
            "airlock session url 1",
            "airlock session code 1",
            "airlock session retry 1 --flow device_code",
            "airlock provider ls --json",
            "airlock provider check F --run --user u",
            "airlock vm console 1 -f",
            "airlock vm destroy 1 2",
            "airlock image build base browser",
            "airlock image build --oci registry.example/a/app:1 -o app --memory 512",
            "airlock image build --rootfs-tar root.tar.zst --format ext4 --size 8G --kernel vmlinux",
            "airlock image import DIR --name seed",
            "airlock image build base --no-boot-test --no-wait --detach --refresh",
            "airlock image builds --json",
            "airlock image log base --follow",
            "airlock image sbom base",
            "airlock image diff base browser",
            "airlock image gc --plan",
            "airlock image rm base",
            "airlock image verify base",
            "airlock credentials export u demo --to D",
            "airlock credentials export u demo --to D --force",
            "airlock session receipt 1",
            "airlock vault status --json",
            "airlock vault rotate --forget",
            "airlock vault forget 0123456789abcdef",
            "airlock audit ls --after 3 --action credential_read --subject u/demo",
            "airlock audit export --to F",
            "airlock audit verify F --key 00 --head 3:ab --json",
            "airlock evidence ls --json",
            "airlock evidence export ev-1 --to -",
            "airlock evidence rm ev-1 ev-2",
            "airlock token create ci --scope sessions:write --scope credentials:read",
            "airlock reconcile --plan --json",
            "airlock net exec -- curl -s http://192.168.100.8:8080/health",
            "airlock demo-idp --listen 127.0.0.1:4080",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "airlock",
            "airlock image build",
            "airlock image build base --oci x.tar",
            "airlock image build --oci x.tar --rootfs-tar y.tar",
            "airlock image import DIR",
            "airlock login",
            "airlock login demo",
            "airlock login demo --user u --until soon",
            "airlock login demo --user u --until ready --open",
            "airlock net exec",
            "airlock diagnose",
            "airlock diagnose 1 --console F",
            "airlock diagnose 1 --cmdline x",
            "airlock audit verify",
            "airlock vault forget",
            "airlock evidence rm",
            "airlock provider check",
            "airlock session retry 1 --flow soon",
            "airlock image rm",
            "airlock image diff base",
            "airlock serve --nope",
            "airlock token create x",
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
