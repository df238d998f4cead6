//! The handshake with whatever listens on the guest's RFB port, with a password and without.

#![no_main]

use std::sync::OnceLock;

use airlock_effects::rfb::handshake;
use airlock_protocol::Sensitive;
use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};

/// More than any handshake says.
const PIPE: usize = 64 << 10;

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| match Builder::new_current_thread().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("make a runtime: {error}"),
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Some((what, bytes)) = bytes.split_first() else { return };
    let bytes = bytes.get(..PIPE).unwrap_or(bytes);
    let password = (what % 2 == 1).then(|| Sensitive::new("password"));
    runtime().block_on(async {
        let (mut ours, mut theirs) = tokio::io::duplex(PIPE);
        // It says all it has to say, hears nothing, and goes.
        let said = theirs.write_all(bytes).await.and(theirs.shutdown().await);
        assert!(said.is_ok());
        if let Err(error) = handshake(&mut ours, password.as_ref()).await {
            assert!(error.to_string().len() < 2000);
        }
    });
});
