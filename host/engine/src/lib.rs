//! VM task, executor, login flow, vault, evidence, store.
