//! Health monitoring of internal services: probes them on a schedule, judges what comes back, keeps state and rolling
//! numbers, opens and closes outages, raises alerts once and resolves them, and serves it all as JSON.
//!
//! Facts, then judgement, then effects: [`probes`] see, [`domain`] judges and is pure, [`engine`] makes it durable and
//! visible. Imports point down this list only; `tests/it/architecture.rs` holds the sources to it.
//!
//! | module | imports |
//! | --- | --- |
//! | [`cli`], [`config`], [`telemetry`], [`app`], [`admin`], [`demo`], [`systemd`], [`watchdog`] | everything below |
//! | [`api`] | `engine`, `store`, `events`, `clock`, `domain` |
//! | [`engine`] | `probes`, `host`, `remedy`, `store`, `export`, `notify`, `events`, `clock`, `domain` |
//! | [`probes`], [`host`], [`remedy`], [`store`], [`export`], [`notify`], [`events`], [`clock`] | `domain` only, never each other |
//! | [`domain`] | nothing of ours; no I/O, no async, no clock |

pub mod admin;
pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod domain;
pub mod engine;
pub mod events;
pub mod export;
pub mod host;
pub mod notify;
pub mod probes;
pub mod remedy;
pub mod store;
pub mod systemd;
pub mod telemetry;
pub mod watchdog;
