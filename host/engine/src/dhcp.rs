//! The DHCP server as the engine runs it: what it hands out is what is recorded now.

use std::sync::Arc;

use airlock_domain::Cause;
use airlock_domain::boot::Failure;
use airlock_domain::config::Config;
use airlock_domain::network::dhcp::Terms;
use airlock_effects::network::Network;
use airlock_effects::network::dhcp::{BoxFuture, DhcpServer, DhcpStatus};
use airlock_protocol::Stage;
use airlock_protocol::guest_config::Addressing;

use crate::context::Context;
use crate::engine::Engine;
use crate::error::chain;
use crate::store::Store;

/// Starts it. One that cannot serve yet goes on trying; machines that need it fail meanwhile, the others do not.
pub(crate) async fn serve(network: &Network, config: &Config, store: &Store) -> DhcpServer {
    let terms = Terms::of(&config.network, config.session_max_s);
    let store = store.clone();
    let holder = move |address| {
        let store = store.clone();
        let asked = async move { store.lease_holder(address).await.map_err(Into::into) };
        Box::pin(asked) as BoxFuture<'static, _>
    };
    network.serve_dhcp(terms, Arc::new(holder)).await
}

impl Engine {
    /// How the DHCP server is.
    pub fn dhcp(&self) -> DhcpStatus {
        self.ctx().dhcp.status()
    }
}

impl Context {
    /// Refuses to boot a machine that would ask for its address in vain.
    pub(crate) fn check_dhcp(&self, addressing: Addressing) -> Result<(), Failure> {
        match self.dhcp.status().failure.filter(|_| addressing == Addressing::Dhcp) {
            Some(error) => Err(Failure::new(Cause::DhcpTimeout, Some(Stage::Planned), chain(&*error))),
            None => Ok(()),
        }
    }
}
