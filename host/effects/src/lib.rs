//! The only host crate that touches Linux: network, process, VMM drivers, control channel, probes.
