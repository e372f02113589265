//! Health monitoring of internal services.
pub mod domain;
