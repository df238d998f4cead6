//! `ip=` against the kernel's documentation, against the mistakes of real operators, and against any text.

use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Result<IpParam, IpParamError> {
    text.parse()
}

#[test]
fn reads_the_line_we_write() {
    let ip = parse("192.168.100.8::192.168.100.1:255.255.255.0:vm-8:eth0:off:192.168.100.1").unwrap();
    assert_eq!(ip.client, Some(Ipv4Addr::new(192, 168, 100, 8)));
    assert_eq!(ip.netmask.map(Netmask::prefix), Some(24));
    assert_eq!(ip.hostname.as_deref(), Some("vm-8"));
    assert_eq!(ip.autoconf, Some(Autoconf::Off));
    assert_eq!(ip.dns0, Some(Ipv4Addr::new(192, 168, 100, 1)));
    assert_eq!(ip.to_string(), "192.168.100.8::192.168.100.1:255.255.255.0:vm-8:eth0:off:192.168.100.1");
}

#[test]
fn takes_every_bare_word() {
    for (word, value) in Autoconf::ALL {
        let ip = parse(word).unwrap();
        assert_eq!(ip, IpParam { autoconf: Some(value), ..IpParam::default() });
        assert_eq!(ip.to_string(), word);
    }
    assert_eq!(parse("::::::dhcp").unwrap(), parse("dhcp").unwrap());
    assert_eq!(parse("10.0.0.1").unwrap().client, Some(Ipv4Addr::new(10, 0, 0, 1)));
}

#[test]
fn errors_name_the_field() {
    for (text, field) in [
        ("300.1.1.1::::::off", "client-ip"),
        ("10.0.0.2:nfs:10.0.0.1", "server-ip"),
        ("10.0.0.2::gateway", "gw-ip"),
        ("10.0.0.2::10.0.0.1:24", "netmask"),
        ("10.0.0.2::10.0.0.1:255.0.255.0", "netmask"),
        ("10.0.0.2::10.0.0.1:255.255.255.0:-bad-", "hostname"),
        ("10.0.0.2::10.0.0.1:255.255.255.0:vm_8", "hostname"),
        ("10.0.0.2::10.0.0.1:255.255.255.0:vm:a-name-longer-than-15", "device"),
        ("10.0.0.2::10.0.0.1:255.255.255.0:vm:eth/0", "device"),
        ("10.0.0.2::10.0.0.1:255.255.255.0:vm:10.0.0.9", "device"),
        ("10.0.0.2::10.0.0.1:255.255.255.0:vm:eth0:static", "autoconf"),
        ("dhpc", "autoconf"),
        ("10.0.0.2::10.0.0.1:255.255.255.0:vm:eth0:off:dns", "dns0-ip"),
        ("10.0.0.2::10.0.0.1:255.255.255.0:vm:eth0:off::8.8.8", "dns1-ip"),
        ("10.0.0.2::10.0.0.1:255.255.255.0:vm:eth0:off:::ntp", "ntp0-ip"),
    ] {
        assert_eq!(parse(text).unwrap_err().field(), Some(field), "{text}");
    }
    assert_eq!(parse("").unwrap_err(), IpParamError::Empty);
    assert_eq!(parse(":::::::::::").unwrap_err(), IpParamError::TooManyFields { count: 12 });
}

/// What a value comes to: the fields that init acts on, or the field that is refused.
fn outcome(text: &str) -> Result<String, &'static str> {
    let ip = parse(text).map_err(|error| {
        error.field().unwrap_or(match error {
            IpParamError::Empty => "empty",
            IpParamError::Ipv6 { .. } => "ipv6",
            _ => "fields",
        })
    })?;
    let addr = |addr: Option<Ipv4Addr>| addr.map_or("-".to_owned(), |addr| addr.to_string());
    Ok(format!(
        "{}/{} gw {} host {} dev {} {}",
        addr(ip.client),
        ip.netmask.map_or("-".to_owned(), |mask| mask.prefix().to_string()),
        addr(ip.gateway),
        ip.hostname.as_deref().unwrap_or("-"),
        ip.device.as_deref().unwrap_or("-"),
        ip.autoconf.map_or("-".to_owned(), |autoconf| autoconf.to_string()),
    ))
}

/// From the kernel's nfsroot document and ipconfig.c.
const DOCUMENTED: &[(&str, Result<&str, &str>)] = &[
    // "ip=<client-ip>:<server-ip>:<gw-ip>:<netmask>:<hostname>:<device>:<autoconf>:<dns0-ip>:<dns1-ip>:<ntp0-ip>"
    (
        "10.0.0.2:10.0.0.9:10.0.0.1:255.255.255.0:vm:eth0:off:1.1.1.1:9.9.9.9:10.0.0.3",
        Ok("10.0.0.2/24 gw 10.0.0.1 host vm dev eth0 off"),
    ),
    (
        "10.0.0.2:10.0.0.9:10.0.0.1:255.255.255.0:vm:eth0:off:1.1.1.1:9.9.9.9",
        Ok("10.0.0.2/24 gw 10.0.0.1 host vm dev eth0 off"),
    ),
    ("10.0.0.2::10.0.0.1:255.255.255.0:vm:eth0:off", Ok("10.0.0.2/24 gw 10.0.0.1 host vm dev eth0 off")),
    ("10.0.0.2::10.0.0.1:255.255.255.0:vm:eth0", Ok("10.0.0.2/24 gw 10.0.0.1 host vm dev eth0 -")),
    ("10.0.0.2::10.0.0.1:255.255.255.0:vm", Ok("10.0.0.2/24 gw 10.0.0.1 host vm dev - -")),
    ("10.0.0.2::10.0.0.1:255.255.255.0", Ok("10.0.0.2/24 gw 10.0.0.1 host - dev - -")),
    // "Default: netmask is derived from the client address by its class": left to who sets the address.
    ("10.0.0.2::10.0.0.1", Ok("10.0.0.2/- gw 10.0.0.1 host - dev - -")),
    ("10.0.0.2", Ok("10.0.0.2/- gw - host - dev - -")),
    ("10.0.0.2:", Ok("10.0.0.2/- gw - host - dev - -")),
    ("10.0.0.2:::::::::", Ok("10.0.0.2/- gw - host - dev - -")),
    // "the value can be abbreviated to only the autoconf word"
    ("off", Ok("-/- gw - host - dev - off")),
    ("none", Ok("-/- gw - host - dev - none")),
    ("on", Ok("-/- gw - host - dev - on")),
    ("any", Ok("-/- gw - host - dev - any")),
    ("dhcp", Ok("-/- gw - host - dev - dhcp")),
    ("bootp", Ok("-/- gw - host - dev - bootp")),
    ("rarp", Ok("-/- gw - host - dev - rarp")),
    ("both", Ok("-/- gw - host - dev - both")),
    ("::::::dhcp", Ok("-/- gw - host - dev - dhcp")),
    (":::::eth1:dhcp", Ok("-/- gw - host - dev eth1 dhcp")),
    ("::::vm::dhcp", Ok("-/- gw - host vm dev - dhcp")),
    ("::::vm:eth0:on", Ok("-/- gw - host vm dev eth0 on")),
    // "0.0.0.0 addresses from the command line are ignored"
    ("10.0.0.2:0.0.0.0:0.0.0.0:255.0.0.0:vm:eth0:off:0.0.0.0", Ok("10.0.0.2/8 gw - host vm dev eth0 off")),
    ("0.0.0.0::10.0.0.1:255.255.255.0::eth0:dhcp", Ok("-/24 gw 10.0.0.1 host - dev eth0 dhcp")),
    ("10.0.0.2::10.0.0.1:0.0.0.0", Ok("10.0.0.2/- gw 10.0.0.1 host - dev - -")),
    ("10.0.0.2::10.0.0.1:255.255.255.255::eth0:off", Ok("10.0.0.2/32 gw 10.0.0.1 host - dev eth0 off")),
    // What stands before the first dot is the host's name, the rest its domain.
    (
        "10.0.0.2::10.0.0.1:255.255.255.0:vm.example.org:eth0:off",
        Ok("10.0.0.2/24 gw 10.0.0.1 host vm.example.org dev eth0 off"),
    ),
    // The interface may have any name, or none here.
    ("10.0.0.2::10.0.0.1:255.255.255.0::ens3:off", Ok("10.0.0.2/24 gw 10.0.0.1 host - dev ens3 off")),
    ("10.0.0.2::10.0.0.1:255.255.255.0::enp0s3:off", Ok("10.0.0.2/24 gw 10.0.0.1 host - dev enp0s3 off")),
    ("10.0.0.2::10.0.0.1:255.255.255.0::eth0.100:off", Ok("10.0.0.2/24 gw 10.0.0.1 host - dev eth0.100 off")),
    ("10.0.0.2::10.0.0.1:255.255.255.0:::off", Ok("10.0.0.2/24 gw 10.0.0.1 host - dev - off")),
];

/// From the mistakes of real operators: values that were pasted together, shifted, or of another program's syntax.
const MISTAKEN: &[(&str, Result<&str, &str>)] = &[
    // The last field was flipped again and again: with an address of its own all of these are the same network.
    ("192.168.100.8::192.168.100.1:255.255.255.0::eth0:on", Ok("192.168.100.8/24 gw 192.168.100.1 host - dev eth0 on")),
    (
        "192.168.100.8::192.168.100.1:255.255.255.0::eth0:none",
        Ok("192.168.100.8/24 gw 192.168.100.1 host - dev eth0 none"),
    ),
    (
        "192.168.100.8::192.168.100.1:255.255.255.0::eth0:dhcp",
        Ok("192.168.100.8/24 gw 192.168.100.1 host - dev eth0 dhcp"),
    ),
    ("", Err("empty")),
    ("yes", Err("autoconf")),
    ("DHCP", Err("autoconf")),
    ("eth0:dhcp", Err("client-ip")),
    ("eth0", Err("autoconf")),
    // A field too few: everything behind it stands one to the left.
    ("192.168.100.8:192.168.100.1:255.255.255.0::eth0:off", Err("gw-ip")),
    ("192.168.100.8:192.168.100.1:255.255.255.0:vm:eth0:off", Err("gw-ip")),
    ("192.168.100.8::192.168.100.1:255.255.255.0:eth0:off", Err("device")),
    ("192.168.100.8::255.255.255.0::eth0:off", Err("gw-ip")),
    // A field too many: everything behind it stands one to the right.
    ("192.168.100.8:::192.168.100.1:255.255.255.0::eth0:off", Err("netmask")),
    ("192.168.100.8::192.168.100.1:255.255.255.0:::eth0:off", Err("autoconf")),
    ("192.168.100.8::192.168.100.1:255.255.255.0::eth0:off::1.1.1.1:::", Err("fields")),
    // The host's name in the device field is a name like any other; the MAC or the list of links tells.
    (
        "192.168.100.8::192.168.100.1:255.255.255.0:eth0:ubuntu-vm:off",
        Ok("192.168.100.8/24 gw 192.168.100.1 host eth0 dev ubuntu-vm off"),
    ),
    ("192.168.100.8::192.168.100.1:255.255.255.0:vm:ubuntu-desktop-golden:off", Err("device")),
    // Other notations.
    ("192.168.100.8/24::192.168.100.1::vm:eth0:off", Err("client-ip")),
    ("192.168.100.8::192.168.100.1:24:vm:eth0:off", Err("netmask")),
    ("192.168.100.8::192.168.100.1:/24:vm:eth0:off", Err("netmask")),
    ("192.168.100.8::192.168.100.1:0xffffff00:vm:eth0:off", Err("netmask")),
    ("192.168.100.8::192.168.100.1:255.255.0.255:vm:eth0:off", Err("netmask")),
    ("192.168.100.8::192.168.100.1:0.0.0.255:vm:eth0:off", Err("netmask")),
    ("192.168.100.8::192.168.100.1:255.255.255.0:vm:eth0:off:1.1.1.1,9.9.9.9", Err("dns0-ip")),
    ("192.168.100.8::192.168.100.1:255.255.255.0:vm:eth0:off:dns.example", Err("dns0-ip")),
    ("192.168.100.8,192.168.100.1,255.255.255.0", Err("client-ip")),
    ("192.168.100.008", Err("client-ip")),
    ("192.168.100", Err("client-ip")),
    ("192.168.100.256::192.168.100.1", Err("client-ip")),
    ("255.255.255.255", Err("client-ip")),
    ("224.0.0.1::192.168.100.1:255.255.255.0", Err("client-ip")),
    ("192.168.100.8::192.168.100.255.1", Err("gw-ip")),
    // Variables that were empty, null or not replaced.
    ("::192.168.100.1:255.255.255.0::eth0:off", Ok("-/24 gw 192.168.100.1 host - dev eth0 off")),
    ("undefined::192.168.100.1:255.255.255.0::eth0:off", Err("client-ip")),
    ("192.168.100.8::null:255.255.255.0::eth0:off", Err("gw-ip")),
    ("${IP}::192.168.100.1:255.255.255.0::eth0:off", Err("client-ip")),
    ("192.168.100.8::192.168.100.1:255.255.255.0:${HOST}:eth0:off", Err("hostname")),
    // IPv6 has no form in this parameter.
    ("[2001:db8::8]::[2001:db8::1]:64::eth0:off", Err("ipv6")),
    ("2001:db8::8", Err("ipv6")),
    ("fe80::1", Err("ipv6")),
];

#[test]
fn every_value_comes_to_what_is_written_beside_it() {
    let table = DOCUMENTED.iter().chain(MISTAKEN);
    assert!(table.clone().count() >= 40);
    for (text, expected) in table {
        assert_eq!(outcome(text), expected.map(str::to_owned), "ip={text}");
    }
}

#[test]
fn servers_behind_the_autoconf_word_are_read() {
    let ip = parse("10.0.0.2:10.0.0.9:10.0.0.1:255.255.255.0:vm:eth0:off:1.1.1.1:9.9.9.9:10.0.0.3").unwrap();
    let addr = |text: &str| Some(text.parse::<Ipv4Addr>().unwrap());
    assert_eq!(
        (ip.server, ip.dns0, ip.dns1, ip.ntp0),
        (addr("10.0.0.9"), addr("1.1.1.1"), addr("9.9.9.9"), addr("10.0.0.3"))
    );
    assert_eq!(parse("10.0.0.2::::::off::9.9.9.9").unwrap().dns1, addr("9.9.9.9"));
}

fn any_param() -> impl Strategy<Value = IpParam> {
    let addr = || proptest::option::of((1..0xe000_0000u32).prop_map(Ipv4Addr::from));
    (
        (addr(), addr(), addr(), proptest::option::of((1u8..=32).prop_map(Netmask))),
        proptest::option::of("[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z]{1,8})?"),
        proptest::option::of("[a-z][a-z0-9]{0,13}[0-9]"),
        proptest::option::of((0..Autoconf::ALL.len()).prop_map(|i| Autoconf::ALL[i].1)),
        (addr(), addr(), addr()),
    )
        .prop_map(|((client, server, gateway, netmask), hostname, device, autoconf, (dns0, dns1, ntp0))| IpParam {
            client,
            server,
            gateway,
            netmask,
            hostname,
            device,
            autoconf,
            dns0,
            dns1,
            ntp0,
        })
        .prop_filter("an empty value has no text", |ip| *ip != IpParam::default())
}

proptest! {
    #[test]
    fn round_trips(ip in any_param()) {
        prop_assert_eq!(ip.to_string().parse::<IpParam>(), Ok(ip));
    }

    #[test]
    fn no_text_breaks_it(text in "\\PC{0,200}", fields in "[0-9a-z.:]{0,80}") {
        let _ = parse(&text);
        let _ = parse(&fields);
    }
}
