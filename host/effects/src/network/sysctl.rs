//! Kernel settings below `/proc/sys/net`. They are those of the calling thread's namespace.

use std::io;

use super::error::NetworkError;

/// Settings of the namespace that no device has yet. Devices made later copy `default`; of `all` and the device's own value the
/// stricter one counts.
///
/// Guests have no IPv6 here, so the host must not speak it to them either. A packet is taken only from where its answer would
/// go, and the bridge answers ARP for its own address only, not for that of the uplink.
pub(super) const OF_NAMESPACE: [(&str, &str); 5] = [
    ("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"),
    ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
    ("/proc/sys/net/ipv4/conf/all/rp_filter", "1"),
    ("/proc/sys/net/ipv4/conf/default/rp_filter", "1"),
    ("/proc/sys/net/ipv4/conf/all/arp_ignore", "1"),
];

/// The bridge's own filter. It may have copied a looser `default` of the host (2), which `all` would not tighten.
pub(super) fn of_bridge(bridge: &str) -> (String, &'static str) {
    (format!("/proc/sys/net/ipv4/conf/{bridge}/rp_filter"), "1")
}

pub(super) fn write(path: &str, value: &'static str) -> Result<(), NetworkError> {
    match std::fs::write(path, value) {
        // A kernel without IPv6 has nothing to switch off.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.contains("/ipv6/") => Ok(()),
        Err(source) => Err(NetworkError::Sysctl { path: path.to_owned(), value, source }),
        Ok(()) => Ok(()),
    }
}

pub(super) fn read(path: &str) -> io::Result<String> {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned())
}
