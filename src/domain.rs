//! The vocabulary of the service: values in, values out. Pure: no I/O, no async, no clock; time comes in as `now`.
//! The only module everyone may import.

pub mod alert;
pub mod assertion;
pub mod check;
pub mod classify;
pub mod definitions;
pub mod dependency;
pub mod egress;
pub mod ess;
pub mod event;
pub mod histogram;
pub mod host;
pub mod impairment;
pub mod judge;
pub mod maintenance;
pub mod notification;
pub mod observation;
pub mod outage;
pub mod policy;
pub mod probe;
pub mod recovery;
pub mod registration;
pub mod registry;
pub mod ring;
pub mod rollup;
pub mod routing;
pub mod schedule;
pub mod service;
pub mod spec;
pub mod state;
pub mod status;
pub mod system;
pub mod time;
pub mod window;
pub mod words;
