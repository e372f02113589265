//! Bodies and queries that handlers write or read as plain JSON, described for the document. Nothing here is ever made:
//! a test holds every description to what the routes really answer. Fields that are left out when there is nothing to
//! say are `nullable = false`; every other field is always there.

#![expect(dead_code, reason = "these types describe JSON that is written and read field by field")]

pub(super) mod alerts;
pub(super) mod fleet;
pub(super) mod metrics;
pub(super) mod outages;
pub(super) mod services;
pub(super) mod settings;
pub(super) mod windows;

use chrono::{DateTime, Utc};
use utoipa::{IntoParams, ToSchema};

use crate::api::document::vocabulary::Anything;
use crate::domain::time::Stamp;

/// A page of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Paging {
    /// Items left out at the beginning
    #[param(minimum = 0, default = 0)]
    skip: Option<u64>,
    /// Items shown at most
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
}

/// A page of a list that is shown whole unless a limit is asked for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Part {
    /// Items left out at the beginning
    #[param(minimum = 0, default = 0)]
    skip: Option<u64>,
    /// Items shown at most; all without it
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
}

/// A range of time, both ends included.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Range {
    /// Not before this instant; without an offset it is UTC
    start_time: Option<DateTime<Utc>>,
    /// Not after this instant
    end_time: Option<DateTime<Utc>>,
}

/// A refused request.
#[derive(ToSchema)]
pub(super) struct Refusal {
    /// The sentence, as clients of 001 to 004 look for it
    detail: String,
    success: bool,
    message: String,
    /// Stable, for programs
    error: String,
    /// Id of the request, as in `x-request-id`
    instance: String,
    timestamp: Stamp,
}

/// A request that breaks a rule.
#[derive(ToSchema)]
pub(super) struct InvalidRefusal {
    detail: Vec<BrokenRule>,
    success: bool,
    message: String,
    error: String,
    instance: String,
    timestamp: Stamp,
}

#[derive(ToSchema)]
struct BrokenRule {
    /// Name of the rule
    #[schema(rename = "type")]
    kind: String,
    /// Where: `body`, `query` or `path`, then the field
    loc: Vec<String>,
    msg: String,
    /// What was sent; left out where it may be secret
    #[schema(required = false)]
    input: Anything,
}

/// What has been done, in a sentence.
#[derive(ToSchema)]
pub(super) struct Done {
    message: String,
}
