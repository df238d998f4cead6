//! What the tests of this crate share: private namespaces that are removed on every exit, error chains, honest skips.

use std::error::Error;

use std::sync::atomic::{AtomicU32, Ordering};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A namespace name of this test alone; whatever has that name is removed at the end.
pub struct TestNetns {
    name: String,
}

impl TestNetns {
    pub fn new() -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        Self { name: format!("alk-eff-{}-{number}", std::process::id()) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn spec(&self) -> airlock_domain::network::NetworkSpec {
        airlock_domain::network::NetworkSpec {
            namespace: self.name.clone(),
            bridge: "br0".into(),
            subnet: "192.168.100.1/24".parse().unwrap(),
            ..Default::default()
        }
    }
}

impl Drop for TestNetns {
    fn drop(&mut self) {
        let _ = crate::netns::Netns::delete(&self.name);
    }
}

/// Prints why and returns true when the test cannot run here.
pub fn skip_unless_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: {} needs root", std::thread::current().name().unwrap_or("test"));
    }
    !root
}

/// An error and its sources, outermost first.
pub fn chain(error: &dyn Error) -> Vec<String> {
    std::iter::successors(Some(error), |e| (*e).source()).map(ToString::to_string).collect()
}
