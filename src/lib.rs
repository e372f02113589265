//! Health monitoring of internal services.
pub mod clock;
pub mod domain;
pub mod engine;
pub mod events;
pub mod notify;
pub mod probes;
pub mod store;
