//! The one integration binary: features through the front door. `support` holds what they share.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by ending")]

mod access;
mod alerts;
mod api;
mod architecture;
mod binary;
mod channels;
mod cli;
mod config;
mod day;
mod documents;
mod elastic;
mod events;
mod export;
mod grafana;
mod kibana;
mod kills;
mod life;
mod maintenance;
mod outages;
mod outbox;
mod probes;
mod prometheus;
mod promql;
mod protocols;
mod records;
mod redis;
mod registry;
mod secrets;
mod secured;
mod settings;
mod storms;
mod support;
mod system;
mod traces;
