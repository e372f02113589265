//! The one integration binary: features through the front door. `support` holds what they share.

mod alerts;
mod api;
mod architecture;
mod binary;
mod config;
mod day;
mod probes;
mod records;
mod redis;
mod support;
