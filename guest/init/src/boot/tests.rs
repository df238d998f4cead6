//! The boot order as a table: every verb failing gives the right stage and errno, and what does not need it still happens.

use super::*;
use crate::fake::FakeKernel;
use crate::handover::FoundInit;
use airlock_protocol::StageReport;
use airlock_protocol::guest_config::{Handover, NetworkOwner, RootFs};
use nix::errno::Errno;

const CMDLINE: &str =
    "quiet ip=192.168.100.8::192.168.100.1:255.255.255.0:vm-8:eth0:off airlock.vm=v8 airlock.mac=06:00:c0:a8:64:08";

fn config() -> GuestConfig {
    GuestConfig {
        build_id: "b1".into(),
        kernel_release: "6.1".into(),
        modules: vec!["virtio.ko".into(), "virtio_net.ko".into()],
        later_modules: vec!["erofs.ko".into()],
        root_fs: RootFs::Erofs,
        handover: Handover::Supervise,
        network_owner: NetworkOwner::Airlock,
        network_addressing: Default::default(),
        on_address_conflict: Default::default(),
        services: vec![Service { name: "xvnc".into(), command: vec!["/usr/bin/Xvnc".into()], ..agent_service() }],
        display: None,
    }
}

fn booted(fails: Option<(&'static str, Errno)>) -> (FakeKernel, Booted) {
    let mut kernel = FakeKernel::new(CMDLINE, config());
    kernel.fails = fails;
    let booted = boot(&mut kernel);
    (kernel, booted)
}

fn stages(reports: &[StageReport]) -> Vec<(Stage, bool)> {
    reports.iter().map(|report| (report.stage, report.ok)).collect()
}

const INIT_STAGES: [Stage; 10] = [
    Stage::InitStarted,
    Stage::ConfigRead,
    Stage::ModulesLoaded,
    Stage::LinkFound,
    Stage::LinkUp,
    Stage::AddressSet,
    Stage::RouteSet,
    Stage::GatewayReachable,
    Stage::RootMounted,
    Stage::HandedOver,
];

#[test]
fn a_good_boot_reports_every_stage_in_order() {
    let (kernel, booted) = booted(None);
    assert_eq!(stages(&kernel.reports), INIT_STAGES.map(|stage| (stage, true)).to_vec());
    assert!(kernel.reports.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq && pair[0].t_us <= pair[1].t_us));
    assert_eq!(kernel.alive.modules, ["virtio.ko", "virtio_net.ko", "erofs.ko"]);
    assert_eq!(kernel.alive.address, Some(("192.168.100.8".parse().unwrap(), 24)));
    assert_eq!(kernel.alive.identity.as_ref().map(|id| id.hostname.as_str()), Some("vm-8"));
    assert!(kernel.alive.switched && booted.root);
    let roster = roster_of(&booted);
    assert_eq!(roster.due(0).len(), 2);
}

/// verb, errno, stages that fail, stages that are not reported at all, whether the root is `/` in the end
#[test]
fn each_failing_verb_is_reported_and_costs_only_what_needs_it() {
    use Stage::*;
    let no_network_no_root = [LinkFound, LinkUp, AddressSet, RouteSet, GatewayReachable, RootMounted];
    type Row<'a> = (&'static str, Errno, &'a [Stage], &'a [Stage], bool);
    let table: &[Row<'_>] = &[
        ("mount_early", Errno::EPERM, &[InitStarted], &[], true),
        ("cmdline", Errno::EIO, &[ConfigRead, HandedOver], &no_network_no_root, false),
        ("guest_config", Errno::ENOENT, &[ConfigRead, HandedOver], &[ModulesLoaded, RootMounted], false),
        ("load_module", Errno::ENOEXEC, &[ModulesLoaded, ModulesLoaded, RootMounted], &[], true),
        ("find_link", Errno::ENODEV, &[LinkFound], &[LinkUp, AddressSet, RouteSet, GatewayReachable], true),
        ("set_link_up", Errno::ENETDOWN, &[LinkUp], &[], true),
        ("set_address", Errno::EPERM, &[AddressSet], &[], true),
        ("set_default_route", Errno::ENETUNREACH, &[RouteSet], &[], true),
        ("probe_gateway", Errno::EHOSTUNREACH, &[GatewayReachable], &[], true),
        ("mount_root", Errno::ENODEV, &[RootMounted, HandedOver], &[], false),
        ("write_identity", Errno::EROFS, &[RootMounted], &[], true),
        ("install_programs", Errno::ENOENT, &[HandedOver], &[], false),
        ("switch_root", Errno::EINVAL, &[HandedOver], &[], false),
    ];
    for (verb, errno, failing, missing, root) in table {
        let (kernel, booted) = booted(Some((verb, *errno)));
        let failed: Vec<&StageReport> = kernel.reports.iter().filter(|report| !report.ok).collect();
        assert_eq!(failed.iter().map(|report| report.stage).collect::<Vec<_>>(), *failing, "{verb}");
        assert_eq!(failed[0].errno, Some(format!("{errno:?}")), "{verb}");
        assert!(failed[0].detail.as_ref().is_some_and(|detail| detail.contains(verb)), "{verb}: {:?}", failed[0]);
        let reached: Vec<Stage> = kernel.reports.iter().filter(|report| report.ok).map(|report| report.stage).collect();
        let expected: Vec<Stage> =
            INIT_STAGES.into_iter().filter(|stage| !failing.contains(stage) && !missing.contains(stage)).collect();
        assert_eq!(reached, expected, "{verb}");
        assert_eq!(booted.root, *root, "{verb}");
        // Whatever failed, the agent is started; the image's services only if their root is there.
        assert_eq!(roster_of(&booted).due(0).len(), if *root { 2 } else { 1 }, "{verb}");
        assert!(kernel.alive.programs || *verb == "install_programs", "{verb}");
    }
}

#[test]
fn a_bad_command_line_names_its_cause() {
    for (cmdline, cause) in [
        ("quiet", "cmdline_ip_missing"),
        ("ip=10.0.0.300", "cmdline_ip_malformed"),
        ("ip=10.0.0.2 airlock.mac=06", "cmdline_ip_malformed"),
    ] {
        let mut kernel = FakeKernel::new(cmdline, config());
        boot(&mut kernel);
        let report = kernel.reports.iter().find(|report| report.stage == Stage::ConfigRead).unwrap();
        assert!(!report.ok && report.facts["cause"] == cause, "{report:?}");
        // The modules are loaded all the same: the control channel needs them.
        assert_eq!(kernel.alive.modules.len(), 3);
    }
}

#[test]
fn the_link_is_looked_for_by_mac_then_name_then_alone() {
    for (cmdline, wanted) in [
        (CMDLINE, WantedLink::Mac("06:00:c0:a8:64:08".parse().unwrap())),
        ("ip=10.0.0.2::10.0.0.1::vm:ens3:off", WantedLink::Name("ens3".into())),
        ("ip=10.0.0.2", WantedLink::Only),
    ] {
        let mut kernel = FakeKernel::new(cmdline, config());
        boot(&mut kernel);
        assert_eq!(kernel.wanted, Some(wanted), "{cmdline}");
    }
}

#[test]
fn keys_beside_ip_reach_the_link_and_a_wrong_one_costs_only_itself() {
    let mut kernel = FakeKernel::new(&format!("{CMDLINE} airlock.mtu=1400 airlock.search=x.example"), config());
    boot(&mut kernel);
    assert_eq!(kernel.alive.mtu, Some(1400));
    assert!(kernel.alive.identity.unwrap().resolv_conf.starts_with("search x.example\n"));

    let mut kernel = FakeKernel::new(&format!("{CMDLINE} airlock.mtu=none"), config());
    boot(&mut kernel);
    let failed: Vec<&StageReport> = kernel.reports.iter().filter(|report| !report.ok).collect();
    assert!(matches!(failed[..], [report] if report.stage == Stage::ConfigRead), "{failed:?}");
    assert!(failed[0].detail.as_ref().unwrap().contains("airlock.mtu"), "{failed:?}");
    assert_eq!((kernel.alive.mtu, kernel.alive.gateway.is_some()), (None, true));

    let mut kernel = FakeKernel::new(&format!("{CMDLINE} airlock.mtu=9000"), config());
    kernel.fails = Some(("set_mtu", Errno::EINVAL));
    boot(&mut kernel);
    assert!(stages(&kernel.reports).contains(&(Stage::LinkUp, false)));
    assert!(kernel.alive.link_up && kernel.alive.address.is_some());
}

/// A guest whose root has systemd.
fn handed_over(fails: Option<(&'static str, Errno)>, change: impl FnOnce(&mut FakeKernel)) -> (FakeKernel, Booted) {
    let mut kernel = FakeKernel::new(CMDLINE, GuestConfig { handover: Handover::Init, ..config() });
    let found = FoundInit { path: "/sbin/init".into(), real: "/usr/lib/systemd/systemd".into() };
    kernel.root_facts.inits = vec![found];
    kernel.fails = fails;
    change(&mut kernel);
    let booted = boot(&mut kernel);
    (kernel, booted)
}

#[test]
fn the_image_s_own_init_becomes_pid_1() {
    let (kernel, _) = handed_over(None, |_| {});
    assert_eq!(stages(&kernel.reports), INIT_STAGES.map(|stage| (stage, true)).to_vec());
    let facts = &kernel.reports.last().unwrap().facts;
    let fact = |key: &str| facts[key].as_str().unwrap();
    assert_eq!((fact("init"), fact("kind"), fact("mode")), ("/sbin/init", "systemd", "unit"));
    assert!(kernel.alive.switched && kernel.alive.programs);
    assert_eq!(kernel.alive.executed.as_ref().and_then(|init| init.init.as_deref()), Some("/sbin/init"));
    assert!(kernel.alive.placed.iter().any(|placed| placed.path == "/run/systemd/system/airlock.service"));
    assert_eq!(kernel.alive.identity.as_ref().map(|id| id.hostname.as_str()), Some("vm-8"));

    let (kernel, _) = handed_over(None, |kernel| kernel.cmdline += " init=/opt/my-init");
    assert_eq!(kernel.wanted_init.as_deref(), Some("/opt/my-init"));
}

#[test]
fn a_hand_over_that_fails_leaves_a_guest_that_answers() {
    for (verb, root) in [
        ("install_programs", false),
        ("switch_root", false),
        ("place", true),
        ("execute_init", true),
        ("mount_root", false),
    ] {
        let (kernel, booted) = handed_over(Some((verb, Errno::EACCES)), |_| {});
        let failed: Vec<&StageReport> = kernel.reports.iter().filter(|report| !report.ok).collect();
        assert!(failed.iter().any(|report| report.stage == Stage::HandedOver), "{verb}: {failed:?}");
        assert_eq!(failed[0].errno.as_deref(), Some("EACCES"), "{verb}");
        assert_eq!(booted.root, root, "{verb}");
        assert_eq!(kernel.alive.executed.is_some(), verb == "place", "{verb}");
        assert!(!roster_of(&booted).due(0).is_empty(), "{verb}: the agent runs");
    }
}

#[test]
fn a_root_without_an_init_is_supervised() {
    let (kernel, booted) = handed_over(None, |kernel| kernel.root_facts.inits.clear());
    assert_eq!(stages(&kernel.reports), INIT_STAGES.map(|stage| (stage, true)).to_vec());
    assert_eq!(kernel.reports.last().unwrap().facts["mode"].as_str(), Some("pid1"));
    assert!(kernel.alive.executed.is_none() && booted.root);
    assert_eq!(roster_of(&booted).due(0).len(), 2);
}

#[test]
fn an_interface_that_somebody_else_owns_is_found_and_left_alone() {
    let owned = |kernel: &mut FakeKernel| kernel.config.network_owner = NetworkOwner::SystemdNetworkd;
    let (kernel, _) = handed_over(None, owned);
    let reached: Vec<Stage> = kernel.reports.iter().map(|report| report.stage).collect();
    use Stage::*;
    assert_eq!(reached, [InitStarted, ConfigRead, ModulesLoaded, LinkFound, RootMounted, HandedOver]);
    assert!(kernel.reports.iter().all(|report| report.ok));
    assert_eq!((kernel.alive.address, kernel.alive.gateway, kernel.alive.link_up), (None, None, false));
    assert!(kernel.alive.placed.iter().any(|placed| placed.path == "/run/systemd/network/00-airlock.network"));

    let (kernel, _) = handed_over(None, |kernel| {
        owned(kernel);
        kernel.root_facts.inits.clear();
    });
    let failed = kernel.reports.iter().find(|report| !report.ok).unwrap();
    assert_eq!((failed.stage, failed.errno.as_deref()), (HandedOver, Some("ENOENT")));
}

#[test]
fn who_reads_ip_itself_finds_the_interface_under_the_name_that_stands_there() {
    let named = |owner, fails| {
        let mut kernel = FakeKernel::new(&CMDLINE.replace("eth0", "ens3"), config());
        (kernel.config.network_owner, kernel.config.handover, kernel.fails) = (owner, Handover::Init, fails);
        boot(&mut kernel);
        let link = kernel.reports.iter().find(|report| report.stage == Stage::LinkFound).cloned();
        (kernel.alive.name, link.unwrap())
    };
    let (name, link) = named(NetworkOwner::Script, None);
    assert_eq!((name.as_deref(), link.facts["dev"].as_str()), (Some("ens3"), Some("ens3")));
    assert_eq!(named(NetworkOwner::Dhcpcd, None).0, None);
    let (_, link) = named(NetworkOwner::Script, Some(("rename_link", Errno::EBUSY)));
    assert_eq!((link.ok, link.errno.as_deref()), (false, Some("EBUSY")));
}

#[test]
fn another_name_than_asked_for_is_a_fact() {
    let mut kernel = FakeKernel::new(&CMDLINE.replace("eth0", "ens3"), config());
    boot(&mut kernel);
    let found = kernel.reports.iter().find(|report| report.stage == Stage::LinkFound).unwrap();
    assert_eq!((found.facts["dev"].as_str(), found.facts["asked"].as_str()), (Some("eth0"), Some("ens3")));
}

#[test]
fn without_netmask_and_gateway_the_kernel_s_defaults_hold() {
    for (addr, prefix) in [("10.0.0.2", 8), ("172.16.0.2", 16), ("192.168.0.2", 24)] {
        let mut kernel = FakeKernel::new(&format!("ip={addr}"), config());
        boot(&mut kernel);
        assert_eq!(kernel.alive.address, Some((addr.parse().unwrap(), prefix)));
        assert_eq!(kernel.alive.gateway, None);
        assert!(stages(&kernel.reports).contains(&(Stage::GatewayReachable, true)));
    }
}

#[test]
fn an_address_that_a_server_would_give_is_refused_and_the_rest_goes_on() {
    let mut kernel = FakeKernel::new("ip=dhcp", config());
    let booted = boot(&mut kernel);
    assert!(stages(&kernel.reports).contains(&(Stage::AddressSet, false)));
    assert!(booted.root);
}
