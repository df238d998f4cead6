//! Guests without machines, and an internet of two namespaces.
//!
//! ```text
//! guest's TAP -- br0 [installation] uplink0 -- alk-... [isp] isp0 192.0.2.1 -- 192.0.2.2 inet0 [inet] lo: 203.0.113.10, 10.1.0.10, ...
//! ```
//! `inet` has no route back to guests or transit: what it answers was translated.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use airlock_domain::VmId;
use airlock_domain::firewall::GuardSpec;
use airlock_domain::network::{EgressSpec, NetworkSpec, TapSpec, Uplink};
use airlock_protocol::MacAddr;
use nix::sys::socket::{LinkAddr, recvfrom};
use tokio::io::unix::AsyncFd;

use super::frame;
use crate::netns::Netns;
use crate::network::Network;
use crate::sys;
use crate::testing::TestNetns;

/// What an event that must come may take at most.
const PATIENCE: Duration = Duration::from_secs(5);
const ARP_RETRY: Duration = Duration::from_millis(50);
/// `struct virtio_net_hdr`: plain frames have it all zero.
const VNET_HEADER: [u8; 10] = [0; 10];

pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);
/// A public address, in `inet`.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The uplink's own address at its provider.
pub const ISP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The address of guest number `n`.
pub fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 100, n)
}

pub fn vm(n: u8) -> VmId {
    format!("{n:08x}-89ab-4def-8123-456789abcdef").parse().unwrap()
}

pub fn tap(n: u8) -> TapSpec {
    TapSpec::of_vm(vm(n), 0)
}

/// The guard that guest number `n` must have.
pub fn guard(n: u8) -> GuardSpec {
    GuardSpec::of_vm(vm(n), address(n))
}

/// What a VMM would hold: the other side of a TAP, guarded and up.
pub struct Guest {
    tun: File,
    readable: AsyncFd<OwnedFd>,
    pub mac: MacAddr,
    pub address: Ipv4Addr,
    pub tap: String,
}

impl Guest {
    pub async fn start(network: &Network, n: u8) -> Self {
        network.create_tap_port(&tap(n)).await.unwrap();
        network.guard_tap(&guard(n)).await.unwrap();
        let guest = Self::attach(network.netns(), n);
        guest.await_port().await;
        guest
    }

    /// The kernel opens a bridge port some time after its carrier came, and what is sent before is lost. So this asks again, as
    /// any guest does, until the gateway answers.
    pub async fn await_port(&self) {
        let greeted = async { while tokio::time::timeout(ARP_RETRY, self.greet()).await.is_err() {} };
        tokio::time::timeout(PATIENCE, greeted).await.unwrap_or_else(|_| panic!("{} is no open port", self.tap));
    }

    /// Takes the TAP as QEMU does.
    pub fn attach(netns: &Netns, n: u8) -> Self {
        let name = tap(n).name;
        let attach = {
            let name = name.clone();
            move || {
                let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
                let tun = tun.unwrap();
                sys::tun_attach(&tun, &name, libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR).unwrap();
                tun
            }
        };
        let tun = netns.run(attach).unwrap();
        let readable = sys::readable(tun.as_fd().try_clone_to_owned().unwrap()).unwrap();
        Self { tun, readable, mac: guard(n).mac, address: address(n), tap: name }
    }

    pub fn send(&self, frame: &[u8]) {
        let written = (&self.tun).write(&[&VNET_HEADER, frame].concat()).unwrap();
        assert_eq!(written, VNET_HEADER.len() + frame.len());
    }

    /// A packet to whoever is behind the gateway.
    pub fn send_ip(&self, packet: &[u8]) {
        self.send(&frame::ethernet(self.mac, MacAddr::from_lease(GATEWAY), frame::IPV4, packet));
    }

    /// The next frame; none if there is none now.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        let length = (&self.tun).read(&mut buffer).ok()?;
        Some(buffer[VNET_HEADER.len()..length].to_vec())
    }

    /// The next frame that `wanted` says something of; others are skipped.
    pub async fn await_frame<T>(&self, what: &str, wanted: impl Fn(&[u8]) -> Option<T>) -> T {
        await_some(what, &self.readable, || self.receive(), wanted).await
    }

    /// Asks the gateway for its MAC and waits for the answer: then the gateway knows ours, and whatever was sent before has been
    /// dealt with.
    pub async fn greet(&self) {
        self.send(&frame::ethernet(
            self.mac,
            frame::BROADCAST,
            frame::ARP,
            &frame::arp(1, self.mac, self.address, GATEWAY),
        ));
        self.await_frame("the gateway's ARP reply", |frame| frame::is_arp_reply(frame).then_some(())).await;
    }

    /// Sends a SYN and waits for the SYN-ACK.
    pub async fn connect(&self, port: u16, to: (Ipv4Addr, u16)) -> frame::Segment {
        let from = (self.address, port);
        self.send_ip(&frame::syn(from, to));
        self.await_frame(&format!("SYN-ACK of {to:?}"), |frame| {
            frame::segment_of(frame)
                .filter(|segment| segment.from == to && segment.to == from && segment.flags == frame::SYN | frame::ACK)
        })
        .await
    }
}

async fn await_some<T>(
    what: &str,
    readable: &AsyncFd<OwnedFd>,
    mut next: impl FnMut() -> Option<Vec<u8>>,
    wanted: impl Fn(&[u8]) -> Option<T>,
) -> T {
    let look = async {
        loop {
            while let Some(frame) = next() {
                if let Some(found) = wanted(&frame) {
                    return found;
                }
            }
            readable.readable().await.unwrap().clear_ready();
            // Something may have come between the last look and the clearing.
            while let Some(frame) = next() {
                if let Some(found) = wanted(&frame) {
                    return found;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("no {what}"))
}

/// A tap on the wire of one link: every frame that passes it in either direction.
pub struct Wire {
    socket: AsyncFd<OwnedFd>,
    index: usize,
}

impl Wire {
    pub fn of(netns: &Netns, link: &str) -> Self {
        let link = link.to_owned();
        let open = move || {
            // Not bound to a link: it hears every link of the namespace it is made in.
            let every = i32::from(u16::try_from(libc::ETH_P_ALL).unwrap().to_be());
            let socket =
                socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, Some(socket2::Protocol::from(every)))
                    .unwrap();
            socket.set_nonblocking(true).unwrap();
            let index = nix::net::if_::if_nametoindex(link.as_str()).unwrap();
            (OwnedFd::from(socket), usize::try_from(index).unwrap())
        };
        let (socket, index) = netns.run(open).unwrap();
        Self { socket: sys::readable(socket).unwrap(), index }
    }

    /// The next frame; none if there is none now.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        loop {
            let (length, from) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer).ok()?;
            if from.is_some_and(|from| from.ifindex() == self.index) {
                return Some(buffer[..length].to_vec());
            }
        }
    }

    pub async fn await_frame<T>(&self, what: &str, wanted: impl Fn(&[u8]) -> Option<T>) -> T {
        await_some(what, &self.socket, || self.receive(), wanted).await
    }

    /// Everything that passed until now.
    pub fn passed(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.receive()).collect()
    }
}

/// iproute2 and nft inside a namespace: independent witnesses, and hands that make and break things.
pub fn run(netns: &str, program: &str, args: &[&str]) -> String {
    let output = std::process::Command::new("ip").args(["netns", "exec", netns, program]).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Two namespaces that stand for a provider and the internet.
pub struct Internet {
    pub isp: TestNetns,
    pub inet: TestNetns,
}

impl Internet {
    /// `addresses` are those that machines in `inet` have.
    pub fn new(addresses: &[&str]) -> Self {
        let world = Self { isp: TestNetns::new(), inet: TestNetns::new() };
        let (isp, inet) = (world.isp.name(), world.inet.name());
        for name in [isp, inet] {
            Netns::create(name).unwrap();
            run(name, "ip", &["link", "set", "lo", "up"]);
        }
        run(isp, "ip", &["link", "add", "isp0", "type", "veth", "peer", "name", "inet0", "netns", inet]);
        for (name, link, address) in [(isp, "isp0", "192.0.2.1/24"), (inet, "inet0", "192.0.2.2/24")] {
            run(name, "ip", &["addr", "add", address, "dev", link]);
            run(name, "ip", &["link", "set", link, "up"]);
        }
        for address in addresses {
            run(inet, "ip", &["addr", "add", &format!("{address}/32"), "dev", "lo"]);
        }
        run(isp, "ip", &["route", "add", "default", "via", "192.0.2.2"]);
        run(isp, "sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
        world
    }

    /// The specification of an installation whose uplink is `isp`.
    pub fn spec(&self, installation: &TestNetns, allow: &[&str]) -> NetworkSpec {
        let egress = EgressSpec {
            uplink: Uplink::Namespace(self.isp.name().to_owned()),
            allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
            ..EgressSpec::default()
        };
        NetworkSpec { egress, ..installation.spec() }
    }

    pub fn netns(&self, of: &TestNetns) -> Netns {
        Netns::open(of.name()).unwrap()
    }
}

/// A listener inside a namespace, for use with tokio.
pub async fn listen(netns: &Netns, address: Ipv4Addr, port: u16) -> tokio::net::TcpListener {
    let runtime = tokio::runtime::Handle::current();
    let listen = move || {
        let _entered = runtime.enter();
        let listener = std::net::TcpListener::bind((address, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        tokio::net::TcpListener::from_std(listener).unwrap()
    };
    netns.run(listen).unwrap()
}
