//! TAPs: made with their virtio-net header, marked with their owner, attached, isolated, in that order.
//!
//! A TAP becomes persistent only after its alias is set: a crash in between takes it away with the descriptor, so a TAP
//! without an owner cannot be left behind. Everything after that is repeated by the next [`Network::create_tap_port`]. A new TAP is
//! down and forwards nothing until [`Network::guard_tap`] has given it its guard.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use airlock_domain::network::TapSpec;

use super::error::NetworkError;
use super::link::{self, Link};
use super::{Network, TapSeen};
use crate::{Removed, sys};

const WANTED_FLAGS: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// A link in the terms of a TAP. `links` are all of its namespace.
pub(super) fn tap_seen(tap: &Link, links: &[Link]) -> TapSeen {
    let name_of = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
    TapSeen {
        name: tap.name.clone(),
        alias: tap.alias.clone(),
        up: tap.up,
        carrier: tap.carrier,
        master: tap.master.and_then(name_of),
        isolated: tap.isolated,
        vnet_hdr: tap.vnet_hdr,
        // The TAP receives what the guest sends.
        from_guest_packets: tap.rx_packets,
        to_guest_packets: tap.tx_packets,
    }
}

impl Network {
    /// Makes the TAP with [`Network::create_tap_port`] and sets it up, with no guard before it.
    pub async fn ensure_tap(&self, spec: &TapSpec) -> Result<(), NetworkError> {
        self.create_tap_port(spec).await?;
        self.set_up(&spec.name).await
    }

    /// Makes the TAP, or makes it right again: owner, alias, bridge port, isolated. A new one is down, one that exists stays up or
    /// down as it is. Idempotent while the alias is ours.
    pub async fn create_tap_port(&self, spec: &TapSpec) -> Result<(), NetworkError> {
        let seen = self.link(&spec.name).await?;
        let tap = match seen {
            Some(tap) => {
                self.check_ours(spec, &tap)?;
                if tap.vnet_hdr == Some(false) {
                    return Err(NetworkError::NoVnetHdr {
                        tap: spec.name.clone(),
                        flags: WANTED_FLAGS & !libc::IFF_VNET_HDR,
                    });
                }
                tap
            }
            None => self.create_tap(spec).await?,
        };
        let bridge = self.bridge_link().await?;
        if tap.master != Some(bridge.index) {
            link::set_master(self.netlink(), tap.index, bridge.index).await.map_err(|source| {
                NetworkError::AttachToBridge { tap: spec.name.clone(), bridge: bridge.name.clone(), source }
            })?;
        }
        // Before it is up, so that it never forwards to another guest.
        if !tap.isolated || tap.master != Some(bridge.index) {
            link::isolate(self.netlink(), tap.index)
                .await
                .map_err(|source| NetworkError::Isolate { tap: spec.name.clone(), source })?;
        }
        Ok(())
    }

    /// Deletes the TAP if its alias is ours. Another owner's TAP is left alone and is an error.
    pub async fn delete_tap(&self, spec: &TapSpec) -> Result<Removed, NetworkError> {
        let Some(tap) = self.link(&spec.name).await? else { return Ok(Removed::WasAbsent) };
        self.check_ours(spec, &tap)?;
        match link::delete(self.netlink(), tap.index).await {
            Ok(true) => Ok(Removed::Yes),
            Ok(false) => Ok(Removed::WasAbsent),
            Err(source) => Err(NetworkError::DeleteTap { tap: spec.name.clone(), source }),
        }
    }

    /// Every TAP of the namespace, whoever owns it.
    pub async fn taps(&self) -> Result<Vec<TapSeen>, NetworkError> {
        let links = link::all(self.netlink()).await.map_err(|source| self.read_error("all links", source))?;
        Ok(links.iter().filter(|link| link.kind == "tun").map(|tap| tap_seen(tap, &links)).collect())
    }

    /// Whether a TAP of that name exists. A VMM with enough rights would silently make another one, without bridge or owner.
    pub async fn has_tap(&self, name: &str) -> Result<bool, NetworkError> {
        Ok(self.link(name).await?.is_some_and(|link| link.kind == "tun"))
    }

    /// Whether a process is attached to the TAP of that name and it is a bridge port: one that a VMM made by itself is none.
    pub async fn is_attached_port(&self, name: &str) -> Result<bool, NetworkError> {
        Ok(self.link(name).await?.is_some_and(|link| link.kind == "tun" && link.carrier && link.master.is_some()))
    }

    /// Whether something that is not this TAP has its name.
    pub async fn is_foreign(&self, spec: &TapSpec) -> Result<bool, NetworkError> {
        Ok(self.link(&spec.name).await?.is_some_and(|link| self.check_ours(spec, &link).is_err()))
    }

    fn check_ours(&self, spec: &TapSpec, tap: &Link) -> Result<(), NetworkError> {
        if tap.kind != "tun" {
            let namespace = self.namespace().to_owned();
            return Err(NetworkError::NotA { name: spec.name.clone(), namespace, wanted: "TAP" });
        }
        if tap.alias != spec.alias {
            let (tap, owner, wanted) = (spec.name.clone(), tap.alias.clone(), spec.alias.clone());
            return Err(NetworkError::TapNameCollision { tap, owner, wanted });
        }
        Ok(())
    }

    async fn create_tap(&self, spec: &TapSpec) -> Result<Link, NetworkError> {
        let open_error = |source| NetworkError::OpenTun { tap: spec.name.clone(), source };
        // Opened inside: the device belongs to the namespace in which /dev/net/tun was opened.
        let tun: File = self
            .netns()
            .call(|| OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun"))
            .await
            .map_err(|source| self.namespace_error(source))?
            .map_err(open_error)?;
        let tun_error = |request| move |source| NetworkError::Tun { request, tap: spec.name.clone(), source };
        sys::tun_attach(&tun, &spec.name, WANTED_FLAGS).map_err(tun_error("TUNSETIFF"))?;
        let flags = sys::tun_flags(&tun).map_err(tun_error("TUNGETIFF"))?;
        if flags & libc::IFF_VNET_HDR == 0 {
            return Err(NetworkError::NoVnetHdr { tap: spec.name.clone(), flags });
        }
        sys::tun_set_owner(&tun, spec.owner_uid).map_err(tun_error("TUNSETOWNER"))?;
        let tap = self.link(&spec.name).await?.unwrap_or_default();
        if !tap.alias.is_empty() {
            // Made by somebody else between our look and TUNSETIFF.
            self.check_ours(spec, &tap)?;
        }
        link::set_alias(self.netlink(), tap.index, &spec.alias).await.map_err(|source| NetworkError::SetAlias {
            tap: spec.name.clone(),
            alias: spec.alias.clone(),
            source,
        })?;
        sys::tun_set_persist(&tun).map_err(tun_error("TUNSETPERSIST"))?;
        Ok(tap)
    }
}
