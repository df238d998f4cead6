//! What cloud-init is told on its seed drive: data source NoCloud, network configuration version 2. Pure: a lease in, texts out.
//!
//! Formats: cloud-init's documentation, "NoCloud" and "Networking config Version 2". The network configuration is JSON, which
//! is YAML too and needs no quoting of our own. The same lease gives the same texts.

use std::net::IpAddr;

use airlock_protocol::BootConfig;
use airlock_protocol::boot_config::NetworkKeys;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Label by which cloud-init finds the drive.
pub const LABEL: &str = "cidata";

/// The files of a seed drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// Who the instance is.
    pub meta_data: String,
    /// What it is to do; nothing.
    pub user_data: String,
    /// How its network is.
    pub network_config: String,
}

impl Seed {
    /// The seed of a lease; none if the lease lacks its address, mask or MAC.
    pub fn of(boot: &BootConfig, keys: &NetworkKeys) -> Option<Self> {
        let (client, mask, mac) = (boot.ip.client?, boot.ip.netmask?, boot.mac?);
        let host = boot.ip.hostname.as_deref().unwrap_or("airlock");
        // By MAC: the name is what the interface gets, whatever the kernel or udev called it.
        let name = boot.ip.device.as_deref().unwrap_or("eth0");
        let mut link = json!({
            "match": {"macaddress": mac.to_string()},
            "set-name": name,
            "addresses": [format!("{client}/{}", mask.prefix())],
        });
        // Routes would become calls of route(8), which a small image lacks; this becomes ifupdown's own word.
        set(&mut link, "gateway4", boot.ip.gateway.map(|via| json!(via.to_string())));
        set(&mut link, "mtu", keys.mtu.map(|mtu| json!(mtu)));
        let of_ip = [boot.ip.dns0, boot.ip.dns1].into_iter().flatten().map(IpAddr::from);
        let servers: Vec<String> = keys.dns.iter().copied().chain(of_ip).map(|server| server.to_string()).collect();
        let names = (!servers.is_empty() || !keys.search.is_empty())
            .then(|| json!({"addresses": servers, "search": keys.search}));
        set(&mut link, "nameservers", names);
        Some(Self {
            meta_data: format!("instance-id: {}\nlocal-hostname: {host}\n", boot.vm_id),
            user_data: "#cloud-config\n{}\n".to_owned(),
            network_config: format!("{:#}\n", json!({"version": 2, "ethernets": {name: link}})),
        })
    }

    /// Names and contents of the files.
    pub fn files(&self) -> [(&'static str, &str); 3] {
        [("meta-data", &self.meta_data), ("user-data", &self.user_data), ("network-config", &self.network_config)]
    }
}

fn set(object: &mut Value, key: &str, value: Option<Value>) {
    if let (Some(object), Some(value)) = (object.as_object_mut(), value) {
        object.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "ip=192.168.100.8::192.168.100.1:255.255.255.0:airlock-0123:eth0:off airlock.vm=0123 \
                        airlock.mac=06:00:c0:a8:64:08";

    fn seed(keys: &NetworkKeys) -> (Seed, Value) {
        let seed = Seed::of(&BootConfig::parse(LINE).unwrap(), keys).unwrap();
        let network = serde_json::from_str(&seed.network_config).unwrap();
        (seed, network)
    }

    #[test]
    fn the_lease_is_told_by_mac() {
        let (seed, network) = seed(&NetworkKeys::default());
        assert_eq!(seed.meta_data, "instance-id: 0123\nlocal-hostname: airlock-0123\n");
        assert!(seed.user_data.starts_with("#cloud-config\n"));
        let link = json!({
            "match": {"macaddress": "06:00:c0:a8:64:08"},
            "set-name": "eth0",
            "addresses": ["192.168.100.8/24"],
            "gateway4": "192.168.100.1",
        });
        assert_eq!(network, json!({"version": 2, "ethernets": {"eth0": link}}));
    }

    #[test]
    fn servers_domains_and_mtu_are_told_if_there_are_any() {
        let keys = NetworkKeys {
            dns: vec!["10.0.0.1".parse().unwrap(), "2001:db8::53".parse().unwrap()],
            search: vec!["a.example".into()],
            mtu: Some(1400),
        };
        let link = &seed(&keys).1["ethernets"]["eth0"];
        assert_eq!((&link["mtu"], &link["nameservers"]["search"]), (&json!(1400), &json!(["a.example"])));
        assert_eq!(link["nameservers"]["addresses"], json!(["10.0.0.1", "2001:db8::53"]));
    }

    #[test]
    fn without_a_whole_lease_there_is_no_seed() {
        let boot = BootConfig::parse("ip=192.168.100.8::192.168.100.1").unwrap();
        assert_eq!(Seed::of(&boot, &NetworkKeys::default()), None);
    }
}
