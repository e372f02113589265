//! Maintenance windows.

use chrono::{DateTime, Utc};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::domain::maintenance::WindowSource;
use crate::domain::service::ServiceName;
use crate::domain::time::Stamp;

/// Of `GET /maintenance`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct WindowsQuery {
    #[param(default = false)]
    include_past: Option<bool>,
    #[param(default = true)]
    include_future: Option<bool>,
}

#[derive(ToSchema)]
pub(in crate::api) struct WindowPage {
    /// By start
    items: Vec<WindowBody>,
    total: u64,
}

#[derive(ToSchema)]
struct CoveredService {
    id: ServiceName,
    name: String,
}

#[derive(ToSchema)]
pub(in crate::api) struct WindowBody {
    id: Uuid,
    name: Option<String>,
    description: Option<String>,
    start_time: Stamp,
    end_time: Stamp,
    created_by: Option<String>,
    created_at: Stamp,
    updated_at: Stamp,
    /// In force now
    is_active: bool,
    endpoint_ids: Vec<ServiceName>,
    /// The same, as a comma list
    affected_services: String,
    endpoints: Vec<CoveredService>,
    tags: Vec<String>,
    categories: Vec<String>,
    recurrence: Option<RecurrenceBody>,
    next_start: Option<Stamp>,
    source: WindowSource,
}

#[derive(ToSchema)]
struct RecurrenceBody {
    cron: String,
    duration_minutes: u32,
    timezone: String,
}

/// In force for so many minutes from each cron time between the window's start and end.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct RecurrenceFields {
    /// Six fields, or five without seconds
    #[schema(max_length = 100)]
    cron: String,
    #[schema(minimum = 1)]
    duration_minutes: u32,
    /// An IANA name; `UTC` without one
    timezone: Option<String>,
}

/// Whom a window covers: the services, tags and categories it names, or everyone when it names none.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct WindowFields {
    start_time: DateTime<Utc>,
    end_time: DateTime<Utc>,
    #[schema(max_length = 200)]
    name: Option<String>,
    #[schema(max_length = 2000)]
    description: Option<String>,
    #[schema(max_length = 100)]
    created_by: Option<String>,
    #[schema(max_items = 1000)]
    endpoint_ids: Option<Vec<ServiceName>>,
    /// The same, as a comma list
    affected_services: Option<String>,
    #[schema(max_items = 32)]
    tags: Option<Vec<String>>,
    #[schema(max_items = 32)]
    categories: Option<Vec<String>>,
    recurrence: Option<RecurrenceFields>,
}

/// Any of the fields of a window; its own `id` may be repeated.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct WindowChange {
    #[schema(nullable = false)]
    id: Option<Uuid>,
    #[schema(nullable = false)]
    start_time: Option<DateTime<Utc>>,
    /// Now, to end it early
    #[schema(nullable = false)]
    end_time: Option<DateTime<Utc>>,
    #[schema(max_length = 200)]
    name: Option<String>,
    #[schema(max_length = 2000)]
    description: Option<String>,
    #[schema(max_length = 100)]
    created_by: Option<String>,
    #[schema(max_items = 1000)]
    endpoint_ids: Option<Vec<ServiceName>>,
    affected_services: Option<String>,
    #[schema(max_items = 32)]
    tags: Option<Vec<String>>,
    #[schema(max_items = 32)]
    categories: Option<Vec<String>>,
    recurrence: Option<RecurrenceFields>,
}
