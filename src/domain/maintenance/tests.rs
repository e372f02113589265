//! The table of clock changes, and properties over windows of every kind.

use std::iter::successors;

use chrono::{NaiveDateTime, TimeZone};
use croner::Cron;
use proptest::prelude::*;

use super::super::service::tests::service;
use super::*;

/// A window that recurs: 2000 to 2040, unless the test sets other ends.
fn recurring(cron: &str, duration_minutes: u32, timezone: &str) -> MaintenanceWindow {
    let recurrence = Recurrence { cron: cron.to_owned(), duration_minutes, timezone: timezone.to_owned() };
    MaintenanceWindow { recurrence: Some(recurrence), ..once("2000-01-01T00:00:00Z", "2040-01-01T00:00:00Z") }
}

fn once(start: &str, end: &str) -> MaintenanceWindow {
    MaintenanceWindow {
        id: Uuid::nil(),
        name: None,
        description: None,
        created_by: None,
        start: at(start),
        end: at(end),
        scope: Scope { everyone: true, ..Scope::default() },
        recurrence: None,
        source: WindowSource::Api,
        changed_in_force: None,
        created_at: at(start),
        updated_at: at(start),
    }
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn span(from: &str, to: &str) -> Span {
    Span { from: at(from), to: at(to) }
}

fn named(names: &[&str]) -> Scope {
    Scope { services: names.iter().map(|name| ServiceName::new(name).unwrap()).collect(), ..Scope::default() }
}

fn calendar(windows: impl IntoIterator<Item = MaintenanceWindow>) -> Calendar {
    Calendar::new(windows.into_iter().map(Arc::new).collect())
}

fn ms(count: i64) -> TimeDelta {
    TimeDelta::milliseconds(count)
}

fn broken_fields(window: &MaintenanceWindow) -> Vec<&'static str> {
    window.check().into_iter().map(|(field, _)| field).collect()
}

/// The rows come from `tests/dst_table.py`, which applies the rules by its own arithmetic on Python's zoneinfo; run it
/// and paste what it prints to make them again.
#[test]
fn windows_keep_to_the_clock_on_the_wall_when_it_is_changed() {
    for &(zone, cron, minutes, instant, inside) in DST_TABLE {
        let window = recurring(cron, minutes, zone);
        assert_eq!(window.check(), []);
        assert_eq!(window.is_in_force(at(instant)), inside, "{zone} {cron:?} for {minutes} minutes at {instant}");
    }
}

#[test]
fn the_table_covers_many_zones_and_both_outcomes() {
    let zones: std::collections::BTreeSet<_> = DST_TABLE.iter().map(|row| row.0).collect();
    assert!(zones.len() >= 8, "{zones:?}");
    assert!(DST_TABLE.len() >= 60);
    assert!(DST_TABLE.iter().filter(|row| row.4).count() >= 30);
    assert!(DST_TABLE.iter().filter(|row| !row.4).count() >= 30);
}

#[test]
fn a_window_without_recurrence_is_in_force_from_start_to_end_both_included() {
    let window = once("2026-03-01T10:00:00Z", "2026-03-01T12:00:00Z");
    assert!(!window.is_in_force(window.start - ms(1)));
    assert!(window.is_in_force(window.start));
    assert!(window.is_in_force(window.end));
    assert!(window.is_in_force(window.end + TimeDelta::microseconds(999)));
    assert!(!window.is_in_force(window.end + ms(1)));
    let whole = [Span { from: window.start, to: window.end }];
    assert_eq!(window.spans(window.end, window.end), whole);
    assert_eq!(window.spans(window.start, window.start), whole);
    assert_eq!(window.spans(window.end + ms(1), window.end + ms(2)), []);
    assert_eq!(window.spans(window.start - ms(2), window.start - ms(1)), []);
    assert_eq!(window.spans(window.end, window.start), []);
}

#[test]
fn an_occurrence_lasts_its_whole_duration_but_not_beyond_the_end() {
    let mut window = recurring("0 0 3 * * *", 60, "UTC");
    let check = |window: &MaintenanceWindow, expected: &[Span]| {
        assert_eq!(window.spans(at("2026-03-01T00:00:00Z"), at("2026-03-02T00:00:00Z")), expected);
    };
    check(&window, &[span("2026-03-01T03:00:00Z", "2026-03-01T04:00:00Z")]);
    window.end = at("2026-03-01T03:20:00Z");
    check(&window, &[span("2026-03-01T03:00:00Z", "2026-03-01T03:20:00Z")]);
    window.end = at("2026-03-01T03:00:00Z");
    check(&window, &[span("2026-03-01T03:00:00Z", "2026-03-01T03:00:00Z")]);
    window.end = at("2026-03-01T02:59:59.999Z");
    check(&window, &[]);
}

#[test]
fn an_occurrence_that_begins_before_the_start_is_none() {
    let mut window = recurring("0 0 3 * * *", 60, "UTC");
    let found = |window: &MaintenanceWindow| window.spans(at("2026-03-01T00:00:00Z"), at("2026-03-01T12:00:00Z"));
    window.start = at("2026-03-01T03:00:00Z");
    assert_eq!(found(&window), [span("2026-03-01T03:00:00Z", "2026-03-01T04:00:00Z")]);
    window.start = at("2026-03-01T03:00:00.001Z");
    assert_eq!(found(&window), []);
    // within a minute that fires every second, the next second is the first
    let mut busy = recurring("* * 3 * * *", 60, "UTC");
    busy.start = at("2026-03-01T03:10:30.500Z");
    assert_eq!(found(&busy), [span("2026-03-01T03:10:31Z", "2026-03-01T04:59:59Z")]);
}

#[test]
fn occurrences_that_overlap_or_touch_are_one_and_a_hole_keeps_them_apart() {
    let spans = |minutes| {
        recurring("0 0 * * * *", minutes, "UTC").spans(at("2026-03-01T05:00:30Z"), at("2026-03-01T06:00:30Z"))
    };
    assert_eq!(
        spans(59),
        [span("2026-03-01T05:00:00Z", "2026-03-01T05:59:00Z"), span("2026-03-01T06:00:00Z", "2026-03-01T06:59:00Z"),],
    );
    assert_eq!(spans(60).len(), 1);
    assert_eq!(spans(61).len(), 1);
    let mut day = recurring("0 0 * * * *", 60, "UTC");
    (day.start, day.end) = (at("2026-03-01T00:00:00Z"), at("2026-03-09T11:30:00Z"));
    assert_eq!(
        day.spans(at("2026-03-05T05:00:30Z"), at("2026-03-05T05:00:31Z")),
        [Span { from: day.start, to: day.end }]
    );
}

#[test]
fn an_occurrence_that_began_days_before_is_still_found_whole() {
    let weekly = recurring("0 0 12 * * Mon", 10_079, "UTC");
    assert_eq!(
        weekly.spans(at("2026-03-08T23:00:00Z"), at("2026-03-08T23:00:00Z")),
        [span("2026-03-02T12:00:00Z", "2026-03-09T11:59:00Z")],
    );
    let always = recurring("0 0 12 * * Mon", 10_080, "UTC");
    let found = always.spans(at("2026-03-08T23:00:00Z"), at("2026-03-08T23:00:00Z"));
    assert_eq!(found.len(), 1);
    assert!(found[0].from <= at("2025-03-15T00:00:00Z") && found[0].to >= at("2027-03-08T00:00:00Z"), "{found:?}");
}

#[test]
fn hostile_expressions_cost_no_more_than_the_bounds_allow() {
    let (from, to) = (at("2005-01-01T00:00:00Z"), at("2035-01-01T00:00:00Z"));
    for (cron, minutes) in [("* * * * * *", 10_080), ("* * * * * *", 1), ("* * * * *", 1_440)] {
        let window = recurring(cron, minutes, "Europe/Berlin");
        assert!(window.spans(from, to).len() <= 60, "{cron}");
        assert!(window.is_in_force(from));
        window.next_start(from);
    }
    assert_eq!(recurring("*/2 * * * *", 1, "UTC").spans(from, to).len(), MOST_SPANS);
    let rare = recurring("0 0 0 29 2 +Mon", 60, "UTC");
    assert_eq!(rare.check(), []);
    assert_eq!(rare.spans(at("2012-01-01T00:00:00Z"), at("2018-01-01T00:00:00Z")).len(), 1);
    assert_eq!(rare.next_start(at("2017-01-01T00:00:00Z")), None);
    let mut endless = recurring("* * * * * *", 10_080, "Asia/Tokyo");
    (endless.start, endless.end) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
    for now in [DateTime::<Utc>::MIN_UTC, DateTime::UNIX_EPOCH, at("4999-12-31T00:00:00Z"), DateTime::<Utc>::MAX_UTC] {
        endless.spans(DateTime::<Utc>::MIN_UTC, now);
        endless.spans(now, DateTime::<Utc>::MAX_UTC);
        endless.next_start(now);
        let found = calendar([endless.clone(), MaintenanceWindow { recurrence: None, ..endless.clone() }]).at(now);
        assert!(found.from <= now && found.until >= now);
    }
}

#[test]
fn the_next_start_comes_out_of_a_time_not_in_force() {
    let check = |window: &MaintenanceWindow, after: &str, expected: Option<&str>| {
        assert_eq!(window.next_start(at(after)), expected.map(at), "after {after}");
    };
    let single = once("2026-03-01T10:00:00Z", "2026-03-01T12:00:00Z");
    check(&single, "2026-03-01T09:59:59.999Z", Some("2026-03-01T10:00:00Z"));
    check(&single, "2026-03-01T10:00:00Z", None);
    let mut daily = recurring("0 0 3 * * *", 60, "UTC");
    daily.end = at("2026-03-03T03:00:00Z");
    check(&daily, "2026-03-01T02:59:59.999Z", Some("2026-03-01T03:00:00Z"));
    check(&daily, "2026-03-01T03:00:00Z", Some("2026-03-02T03:00:00Z"));
    check(&daily, "2026-03-03T02:00:00Z", Some("2026-03-03T03:00:00Z"));
    check(&daily, "2026-03-03T03:00:00Z", None);
    check(&daily, "1990-01-01T00:00:00Z", Some("2000-01-01T03:00:00Z"));
    // hours that touch are one stretch: the next one is tomorrow's
    check(&recurring("0 0 3-5 * * *", 60, "UTC"), "2026-03-01T03:30:00Z", Some("2026-03-02T03:00:00Z"));
    check(&recurring("0 0 * * * *", 60, "UTC"), "2026-03-01T03:30:00Z", None);
    check(&recurring("0 0 0 29 2 *", 60, "UTC"), "2026-03-01T03:30:00Z", Some("2028-02-29T00:00:00Z"));
}

#[test]
fn every_broken_rule_is_named_and_both_sides_of_each_limit_hold() {
    let good = recurring("0 0 3 * * Sun", 60, "Europe/Berlin");
    assert_eq!(good.check(), []);
    let check = |change: &dyn Fn(&mut MaintenanceWindow), expected: &[&str]| {
        let mut window = good.clone();
        change(&mut window);
        assert_eq!(broken_fields(&window), expected, "{window:?}");
    };
    check(&|window| window.end = window.start, &["end_time"]);
    check(&|window| window.end = window.start + TimeDelta::microseconds(999), &["end_time"]);
    check(&|window| window.end = window.start + ms(1), &[]);
    check(&|window| window.description = Some("ä".repeat(2000)), &[]);
    check(&|window| window.description = Some("ä".repeat(2001)), &["description"]);
    check(&|window| window.name = Some("ä".repeat(200)), &[]);
    check(&|window| window.name = Some("ä".repeat(201)), &["name"]);
    check(&|window| window.created_by = Some("ä".repeat(100)), &[]);
    check(&|window| window.created_by = Some("ä".repeat(101)), &["created_by"]);
    let name = ServiceName::new("auth").unwrap();
    check(&|window| window.scope.services = vec![name.clone(); 1000], &[]);
    check(&|window| window.scope.services = vec![name.clone(); 1001], &["endpoint_ids"]);
    check(&|window| window.scope.tags = vec!["db".to_owned(); 32], &[]);
    check(&|window| window.scope.tags = vec!["db".to_owned(); 33], &["tags"]);
    check(&|window| window.scope.categories = vec!["data".to_owned(); 32], &[]);
    check(&|window| window.scope.categories = vec!["data".to_owned(); 33], &["categories"]);
    for (minutes, good) in [(0, false), (1, true), (10_080, true), (10_081, false), (u32::MAX, false)] {
        let expected: &[_] = if good { &[] } else { &["recurrence.duration_minutes"] };
        check(&|window| window.recurrence.as_mut().unwrap().duration_minutes = minutes, expected);
    }
    let worst = MaintenanceWindow {
        end: good.start,
        recurrence: Some(Recurrence { cron: String::new(), duration_minutes: 0, timezone: String::new() }),
        ..good.clone()
    };
    let expected = ["end_time", "recurrence.duration_minutes", "recurrence.cron", "recurrence.timezone"];
    assert_eq!(broken_fields(&worst), expected);
    assert!(!worst.is_in_force(worst.start));
    assert_eq!(worst.next_start(worst.start), None);
}

#[test]
fn cron_expressions_that_say_no_time_are_refused() {
    let padded = |spaces: usize| format!("0 0 3 * *{}0", " ".repeat(spaces));
    let longest = padded(100 - 10);
    for cron in ["0 3 * * *", "0 0 3 * * *", "0 0 3 L * *", "0 0 3 * * MON#1", "0 0 0 29 2 *", "@daily", &longest] {
        assert_eq!(recurring(cron, 60, "UTC").check(), [], "{cron:?}");
    }
    let too_long = padded(100 - 9);
    for cron in [
        "",
        "* * * *",
        "0 0 3 * * * 2026",
        "60 0 3 * * *",
        "0 0 24 * * *",
        "0 0 3 * * Sonntag",
        ", 0 3 * * *",
        "0 , 3 * * *",
        "0 0 , * * *",
        "0 0 3 30 2 *",
        "0 0 3 31 4,6,9,11 *",
        "0 0 3 * * L",
        "0 0 3 * , *",
        "@sometimes",
        &too_long,
    ] {
        let window = recurring(cron, 60, "UTC");
        assert_eq!(broken_fields(&window), ["recurrence.cron"], "{cron:?}");
        assert!(!window.is_in_force(at("2026-03-01T03:00:00Z")));
    }
    let [(_, rule)] = &recurring("60 0 3 * * *", 60, "UTC").check()[..] else { panic!() };
    assert!(rule.starts_with("must be a cron expression of 5 or 6 fields: "), "{rule}");
    assert!(rule.contains("out of bounds"), "{rule}");
}

#[test]
fn an_unknown_time_zone_is_named_without_what_could_forge_a_line() {
    for zone in ["Europe/Berlin", "UTC", "America/Argentina/Buenos_Aires"] {
        assert_eq!(recurring("0 3 * * *", 60, zone).check(), []);
    }
    let [(field, rule)] = &recurring("0 3 * * *", 60, "Mars/\r\nOlympus").check()[..] else { panic!() };
    assert_eq!(*field, "recurrence.timezone");
    assert_eq!(rule, "must be an IANA time zone like Europe/Berlin, not \"Mars/Olympus\"");
}

#[test]
fn a_scope_covers_whom_it_names_and_everyone_only_when_it_names_nobody() {
    let check = |scope: &Scope, expected: bool| {
        let name = ServiceName::new("api").unwrap();
        assert_eq!(scope.covers(&name, "data", &["db".to_owned(), "eu".to_owned()]), expected, "{scope:?}");
    };
    let everyone = Scope { everyone: true, ..Scope::default() };
    check(&everyone, true);
    check(&Scope::default(), false);
    check(&named(&["API"]), true);
    check(&named(&["api-gateway"]), false);
    check(&Scope { everyone: true, ..named(&["api-gateway"]) }, false);
    check(&Scope { tags: vec!["eu".to_owned()], ..Scope::default() }, true);
    check(&Scope { tags: vec!["e".to_owned()], ..Scope::default() }, false);
    check(&Scope { categories: vec!["data".to_owned()], ..Scope::default() }, true);
    check(&Scope { categories: vec!["eu".to_owned()], ..Scope::default() }, false);
    check(&Scope { categories: vec!["data".to_owned()], ..named(&["other"]) }, true);
}

#[test]
fn the_calendar_lists_what_is_in_force_until_the_list_changes() {
    let first = once("2026-03-01T10:00:00Z", "2026-03-01T12:00:00Z");
    let second = MaintenanceWindow { id: Uuid::max(), ..once("2026-03-01T11:00:00Z", "2026-03-01T13:00:00Z") };
    let calendar = calendar([second.clone(), first.clone()]);
    let starts: Vec<_> = calendar.windows().iter().map(|window| window.start).collect();
    assert_eq!(starts, [first.start, second.start]);
    assert_eq!(calendar.find(Uuid::max()).unwrap().start, second.start);
    assert!(calendar.find(Uuid::from_u128(1)).is_none());
    let check = |now: &str, ids: &[Uuid], from: &str, until: &str| {
        let found = calendar.at(at(now));
        let listed: Vec<_> = found.windows.iter().map(|window| window.id).collect();
        assert_eq!((listed.as_slice(), found.from, found.until), (ids, at(from), at(until)), "at {now}");
    };
    let (one, other) = (first.id, second.id);
    check("2026-02-01T00:00:00Z", &[], "2026-01-31T00:00:00Z", "2026-02-02T00:00:00Z");
    check("2026-03-01T09:59:59.999Z", &[], "2026-02-28T09:59:59.999Z", "2026-03-01T10:00:00Z");
    check("2026-03-01T10:00:00Z", &[one], "2026-03-01T10:00:00Z", "2026-03-01T11:00:00Z");
    check("2026-03-01T12:00:00Z", &[one, other], "2026-03-01T11:00:00Z", "2026-03-01T12:00:00.001Z");
    check("2026-03-01T12:00:00.000999Z", &[one, other], "2026-03-01T11:00:00Z", "2026-03-01T12:00:00.001Z");
    check("2026-03-01T12:00:00.001Z", &[other], "2026-03-01T12:00:00.001Z", "2026-03-01T13:00:00.001Z");
    check("2026-03-01T13:00:00.001Z", &[], "2026-03-01T13:00:00.001Z", "2026-03-02T13:00:00.001Z");
}

#[test]
fn a_service_is_covered_by_the_first_window_that_means_it() {
    let windows = [
        MaintenanceWindow { scope: named(&["auth"]), ..once("2026-03-01T10:00:00Z", "2026-03-01T12:00:00Z") },
        MaintenanceWindow { scope: named(&["billing"]), ..once("2026-03-01T09:00:00Z", "2026-03-01T12:00:00Z") },
    ];
    let in_force = calendar(windows).at(at("2026-03-01T11:00:00Z"));
    assert_eq!(in_force.covers(&service("auth")).unwrap().start, at("2026-03-01T10:00:00Z"));
    assert!(in_force.covers(&service("search")).is_none());
}

#[test]
fn the_spans_of_a_service_are_joined_over_its_windows_and_clipped() {
    let calendar = calendar([
        MaintenanceWindow { scope: named(&["auth"]), ..once("2026-03-01T10:00:00Z", "2026-03-01T12:00:00Z") },
        MaintenanceWindow { scope: named(&["billing"]), ..once("2026-03-01T09:00:00Z", "2026-03-01T14:00:00Z") },
        once("2026-03-01T12:00:00Z", "2026-03-01T13:00:00Z"),
        once("2026-03-01T15:00:00Z", "2026-03-01T20:00:00Z"),
    ]);
    let found = calendar.spans_of(&service("auth"), at("2026-03-01T11:00:00Z"), at("2026-03-01T16:00:00Z"));
    let expected =
        [span("2026-03-01T11:00:00Z", "2026-03-01T13:00:00Z"), span("2026-03-01T15:00:00Z", "2026-03-01T16:00:00Z")];
    assert_eq!(found, expected);
    assert_eq!(covered_ms(&found), 3 * 3_600_000);
}

#[test]
fn a_union_counts_time_once() {
    let (ten, eleven, twelve) = ("2026-03-01T10:00:00Z", "2026-03-01T11:00:00Z", "2026-03-01T12:00:00Z");
    assert_eq!(union(Vec::new()), []);
    assert_eq!(union(vec![span(eleven, twelve), span(ten, eleven)]), [span(ten, twelve)]);
    let apart = [span(ten, "2026-03-01T10:59:59.999Z"), span(eleven, twelve)];
    assert_eq!(union(apart.to_vec()), apart);
    assert_eq!(union(vec![span(ten, twelve), span(ten, eleven)]), [span(ten, twelve)]);
    assert_eq!(covered_ms(&[span(ten, twelve), span(eleven, twelve)]), 2 * 3_600_000);
    assert_eq!(covered_ms(&[]), 0);
}

#[test]
fn a_window_survives_being_kept_as_json() {
    let mut window = recurring("0 0 3 * * Sun", 60, "UTC");
    window.scope = named(&["auth"]);
    let kept = serde_json::to_value(&window).unwrap();
    assert_eq!(kept["source"], "api");
    assert_eq!(
        kept["recurrence"],
        serde_json::json!({"cron": "0 0 3 * * Sun", "duration_minutes": 60, "timezone": "UTC"})
    );
    assert_eq!(serde_json::from_value::<MaintenanceWindow>(kept).unwrap(), window);
}

#[test]
fn a_time_of_a_skipped_day_takes_place_at_the_instant_the_window_begins() {
    let mut window = recurring("0 0 12 30 12 *", 60, "Pacific/Apia");
    window.start = at("2011-12-30T10:00:00Z");
    assert!(window.is_in_force(at("2011-12-30T10:30:00Z")));
    window.start += ms(1);
    assert!(!window.is_in_force(at("2011-12-30T10:30:00Z")));
}

/// Occurrences one by one, minute after minute, straight from the rules: what the runs of a day are checked against.
fn in_force_by_the_rules(window: &MaintenanceWindow, now: DateTime<Utc>) -> bool {
    let recurrence = window.recurrence.as_ref().unwrap();
    let cron: Cron = recurrence.cron.parse().unwrap();
    let zone: chrono_tz::Tz = recurrence.timezone.parse().unwrap();
    let length = TimeDelta::minutes(recurrence.duration_minutes.into());
    let begins = |local: NaiveDateTime| {
        let shown = |at: &DateTime<Utc>| at.with_timezone(&zone).naive_local() >= local;
        zone.from_local_datetime(&local).earliest().map_or_else(
            || {
                let minutes =
                    successors(Some(local.and_utc() - TimeDelta::hours(16)), |at| Some(*at + TimeDelta::minutes(1)));
                minutes.into_iter().find(shown).unwrap()
            },
            |at| at.to_utc(),
        )
    };
    let day = now.date_naive().and_hms_opt(0, 0, 0).unwrap().and_utc();
    let minutes = successors(Some(day - length - TimeDelta::days(2)), |at| Some(*at + TimeDelta::minutes(1)));
    minutes
        .take_while(|local| *local < day + TimeDelta::days(3))
        .filter(|local| cron.is_time_matching(local).unwrap())
        .map(|local| begins(local.naive_utc()))
        .filter(|begin| window.start <= *begin && *begin <= window.end)
        .any(|begin| Span { from: begin, to: (begin + length).min(window.end) }.contains(now))
}

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Asia/Beirut",
    "Africa/Casablanca",
    "Asia/Kolkata",
];

/// Expressions that fire in second 0 only, so that the reference above may step by minutes.
const CRONS: [&str; 12] = [
    "* * * * *",
    "*/2 * * * *",
    "*/7 1-4 * * *",
    "0 * * * *",
    "0 0,2,3,23 * * *",
    "0 */6 * * *",
    "30 2 * * *",
    "0 0 0 * * *",
    "0 59 23 * * *",
    "0 15 12 * * Mon",
    "0 0 0 1,15 * Sun",
    "0 30 1 L * *",
];

/// Days on or next to which clocks change in 2026, and some on which they do not.
const DAYS: [&str; 12] = [
    "2026-03-29",
    "2026-10-25",
    "2026-03-08",
    "2026-11-01",
    "2026-04-04",
    "2026-04-05",
    "2026-09-06",
    "2026-10-04",
    "2026-02-15",
    "2026-03-22",
    "2026-07-01",
    "2026-12-31",
];

const DAY_MS: i64 = 86_400_000;

prop_compose! {
    /// A window around one of the days, and an instant near it, often on a whole minute.
    fn window_and_instant()(
        zone in prop::sample::select(&ZONES[..]),
        cron in prop::sample::select(&CRONS[..]),
        minutes in prop_oneof![1u32..200, prop::sample::select(&[60u32, 1_440, 10_080][..]), 1u32..=10_080],
        day in prop::sample::select(&DAYS[..]),
        start in -12 * DAY_MS..DAY_MS,
        length in prop_oneof![1..2 * DAY_MS, DAY_MS..20 * DAY_MS],
        offset in prop_oneof![-DAY_MS..2 * DAY_MS, (-1_440i64..2_880).prop_map(|minute| minute * 60_000)],
        repeats in prop::bool::weighted(0.9),
    ) -> (MaintenanceWindow, DateTime<Utc>) {
        let noon = at(&format!("{day}T00:00:00Z"));
        let mut window = recurring(cron, minutes, zone);
        (window.start, window.end) = (noon + ms(start), noon + ms(start + length));
        if !repeats {
            window.recurrence = None;
        }
        (window, noon + ms(offset))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_recurring_window_is_in_force_as_the_rules_say((window, now) in window_and_instant()) {
        prop_assume!(window.recurrence.is_some());
        prop_assert_eq!(window.is_in_force(now), in_force_by_the_rules(&window, now));
    }

    #[test]
    fn spans_are_the_same_from_wherever_they_are_seen((window, now) in window_and_instant(), days in 0i64..5) {
        let around = window.spans(now - TimeDelta::days(days), now + TimeDelta::days(days));
        let here: Vec<_> = around.iter().copied().filter(|span| span.contains(now)).collect();
        prop_assert_eq!(window.is_in_force(now), !here.is_empty());
        prop_assert_eq!(window.spans(now, now), here);
        for pair in around.windows(2) {
            prop_assert!(pair[0].to < pair[1].from);
        }
        for span in around {
            prop_assert!(window.start <= span.from && span.from <= span.to && span.to <= window.end);
            prop_assert!(window.is_in_force(span.from) && window.is_in_force(span.to));
            prop_assert!(!window.is_in_force(span.from - ms(1)) && !window.is_in_force(span.to + ms(1)));
        }
        let next = window.next_start(now);
        if let Some(next) = next {
            prop_assert!(next > now && window.is_in_force(next) && !window.is_in_force(next - ms(1)));
        }
        let later = window.spans(now, window.end.max(now)).into_iter().map(|span| span.from).find(|from| *from > now);
        prop_assert_eq!(next, later);
    }

    #[test]
    fn the_calendars_list_does_not_change_while_it_is_believed(
        seen in prop::collection::vec(window_and_instant(), 1..4),
        shares in prop::collection::vec(0.0..1.0, 8),
    ) {
        let now = seen[0].1;
        let windows: Vec<_> = seen.into_iter().map(|(window, _)| Arc::new(window)).collect();
        let calendar = Calendar::new(windows);
        let in_force = |at: DateTime<Utc>| -> Vec<bool> {
            calendar.windows().iter().map(|window| window.is_in_force(at)).collect()
        };
        let found = calendar.at(now);
        let listed: Vec<_> =
            calendar.windows().iter().map(|window| found.windows.iter().any(|one| Arc::ptr_eq(one, window))).collect();
        prop_assert_eq!(&listed, &in_force(now));
        prop_assert!(found.from <= now && now < found.until && found.until <= now + TimeDelta::days(1));
        let believed_ms = (found.until - found.from).num_milliseconds();
        let inside = shares.iter().map(|share| found.from + ms((believed_ms as f64 * share) as i64));
        for at in inside.chain([found.from, found.until - ms(1)]) {
            prop_assert_eq!(&listed, &in_force(at), "at {}", at);
        }
        if found.until < now + TimeDelta::days(1) {
            prop_assert_ne!(&listed, &in_force(found.until));
        }
        if found.from > now - TimeDelta::days(1) {
            prop_assert_ne!(&listed, &in_force(found.from - ms(1)));
        }
    }

    #[test]
    fn no_text_breaks_the_reader(cron in "[-0-9*/,LW#?+@a-zA-Zäß ]{0,40}", zone in ".{0,20}", cron_like in
        "[0-9*,/L-]{1,4} [0-9*,/L-]{1,4} [0-9*,/L-]{1,4} [0-9*,/LW?-]{1,4} [0-9*,/L-]{1,4} [0-9*,/L#?+-]{1,5}") {
        recurring(&cron, 60, &zone).check();
        let window = recurring(&cron_like, 1, "Europe/Berlin");
        if window.check().is_empty() {
            window.is_in_force(at("2026-03-29T01:00:00Z"));
        }
    }
}

/// Zone, cron, duration in minutes, instant, and whether the window is in force then.
#[rustfmt::skip]
const DST_TABLE: &[(&str, &str, u32, &str, bool)] = &[
    ("Europe/Berlin", "0 30 2 * * *", 60, "2026-03-28T01:29:59Z", false),
    ("Europe/Berlin", "0 30 2 * * *", 60, "2026-03-28T01:30:00Z", true),
    ("Europe/Berlin", "0 30 2 * * *", 60, "2026-03-28T02:30:00Z", true),
    ("Europe/Berlin", "0 30 2 * * *", 60, "2026-03-28T02:30:01Z", false),
    ("Europe/Berlin", "0 30 2 * * *", 60, "2026-03-29T00:59:59Z", false),
    ("Europe/Berlin", "0 30 2 * * *", 60, "2026-03-29T01:00:00Z", true),
    ("Europe/Berlin", "0 30 2 * * *", 60, "2026-03-29T02:00:00Z", true),
    ("Europe/Berlin", "0 30 2 * * *", 60, "2026-03-29T02:00:01Z", false),
    ("Europe/Berlin", "0 30 2 * * *", 60, "2026-03-30T00:29:59Z", false),
    ("Europe/Berlin", "0 30 2 * * *", 60, "2026-03-30T00:30:00Z", true),
    ("Europe/Berlin", "0 30 2 * * *", 60, "2026-03-30T01:30:00Z", true),
    ("Europe/Berlin", "0 30 2 * * *", 60, "2026-03-30T01:30:01Z", false),
    ("Europe/Berlin", "30 2 * * Sun", 10, "2026-03-29T00:30:00Z", false),
    ("Europe/Berlin", "30 2 * * Sun", 10, "2026-03-29T00:59:59Z", false),
    ("Europe/Berlin", "30 2 * * Sun", 10, "2026-03-29T01:00:00Z", true),
    ("Europe/Berlin", "30 2 * * Sun", 10, "2026-03-29T01:10:00Z", true),
    ("Europe/Berlin", "30 2 * * Sun", 10, "2026-03-29T01:10:01Z", false),
    ("Europe/Berlin", "0 0,10,20,30,40,50 2 29 3 *", 5, "2026-03-29T00:59:59Z", false),
    ("Europe/Berlin", "0 0,10,20,30,40,50 2 29 3 *", 5, "2026-03-29T01:00:00Z", true),
    ("Europe/Berlin", "0 0,10,20,30,40,50 2 29 3 *", 5, "2026-03-29T01:05:00Z", true),
    ("Europe/Berlin", "0 0,10,20,30,40,50 2 29 3 *", 5, "2026-03-29T01:05:01Z", false),
    ("Europe/Berlin", "0 0,10,20,30,40,50 2 29 3 *", 5, "2026-03-29T01:10:00Z", false),
    ("Europe/Berlin", "0 59 1,2 29 3 *", 1, "2026-03-29T00:58:59Z", false),
    ("Europe/Berlin", "0 59 1,2 29 3 *", 1, "2026-03-29T00:59:00Z", true),
    ("Europe/Berlin", "0 59 1,2 29 3 *", 1, "2026-03-29T01:01:00Z", true),
    ("Europe/Berlin", "0 59 1,2 29 3 *", 1, "2026-03-29T01:01:01Z", false),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-03-27T22:59:59Z", true),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-03-27T23:00:00Z", true),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-03-28T23:00:00Z", true),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-03-29T23:00:00Z", true),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-03-29T23:00:01Z", true),
    ("Europe/Berlin", "0 30 2 * * *", 20, "2026-10-24T00:29:59Z", false),
    ("Europe/Berlin", "0 30 2 * * *", 20, "2026-10-24T00:30:00Z", true),
    ("Europe/Berlin", "0 30 2 * * *", 20, "2026-10-24T00:50:00Z", true),
    ("Europe/Berlin", "0 30 2 * * *", 20, "2026-10-24T00:50:01Z", false),
    ("Europe/Berlin", "0 30 2 * * *", 20, "2026-10-25T00:29:59Z", false),
    ("Europe/Berlin", "0 30 2 * * *", 20, "2026-10-25T00:30:00Z", true),
    ("Europe/Berlin", "0 30 2 * * *", 20, "2026-10-25T00:50:00Z", true),
    ("Europe/Berlin", "0 30 2 * * *", 20, "2026-10-25T00:50:01Z", false),
    ("Europe/Berlin", "0 30 2 * * *", 20, "2026-10-25T01:30:00Z", false),
    ("Europe/Berlin", "0 0 1-3 25 10 *", 30, "2026-10-24T22:59:59Z", false),
    ("Europe/Berlin", "0 0 1-3 25 10 *", 30, "2026-10-24T23:00:00Z", true),
    ("Europe/Berlin", "0 0 1-3 25 10 *", 30, "2026-10-24T23:30:00Z", true),
    ("Europe/Berlin", "0 0 1-3 25 10 *", 30, "2026-10-24T23:30:01Z", false),
    ("Europe/Berlin", "0 0 1-3 25 10 *", 30, "2026-10-24T23:59:59Z", false),
    ("Europe/Berlin", "0 0 1-3 25 10 *", 30, "2026-10-25T00:00:00Z", true),
    ("Europe/Berlin", "0 0 1-3 25 10 *", 30, "2026-10-25T00:30:00Z", true),
    ("Europe/Berlin", "0 0 1-3 25 10 *", 30, "2026-10-25T00:30:01Z", false),
    ("Europe/Berlin", "0 0 1-3 25 10 *", 30, "2026-10-25T01:15:00Z", false),
    ("Europe/Berlin", "0 0 1-3 25 10 *", 30, "2026-10-25T01:59:59Z", false),
    ("Europe/Berlin", "0 0 1-3 25 10 *", 30, "2026-10-25T02:00:00Z", true),
    ("Europe/Berlin", "0 0 1-3 25 10 *", 30, "2026-10-25T02:30:00Z", true),
    ("Europe/Berlin", "0 0 1-3 25 10 *", 30, "2026-10-25T02:30:01Z", false),
    ("Europe/Berlin", "* * * 25 10 *", 15, "2026-10-24T21:59:59Z", false),
    ("Europe/Berlin", "* * * 25 10 *", 15, "2026-10-24T22:00:00Z", true),
    ("Europe/Berlin", "* * * 25 10 *", 15, "2026-10-25T01:14:59Z", true),
    ("Europe/Berlin", "* * * 25 10 *", 15, "2026-10-25T01:15:00Z", false),
    ("Europe/Berlin", "* * * 25 10 *", 15, "2026-10-25T01:20:00Z", false),
    ("Europe/Berlin", "* * * 25 10 *", 15, "2026-10-25T01:59:59Z", false),
    ("Europe/Berlin", "* * * 25 10 *", 15, "2026-10-25T02:00:00Z", true),
    ("Europe/Berlin", "* * * 25 10 *", 15, "2026-10-25T23:14:59Z", true),
    ("Europe/Berlin", "* * * 25 10 *", 15, "2026-10-25T23:15:00Z", false),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-10-24T21:59:59Z", true),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-10-24T22:00:00Z", true),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-10-25T22:00:00Z", true),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-10-25T22:00:01Z", false),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-10-25T22:30:00Z", false),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-10-25T22:59:59Z", false),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-10-25T23:00:00Z", true),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-10-26T23:00:00Z", true),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-10-26T23:00:01Z", true),
    ("America/New_York", "0 15 2 * * *", 30, "2026-03-07T07:14:59Z", false),
    ("America/New_York", "0 15 2 * * *", 30, "2026-03-07T07:15:00Z", true),
    ("America/New_York", "0 15 2 * * *", 30, "2026-03-07T07:45:00Z", true),
    ("America/New_York", "0 15 2 * * *", 30, "2026-03-07T07:45:01Z", false),
    ("America/New_York", "0 15 2 * * *", 30, "2026-03-08T06:59:59Z", false),
    ("America/New_York", "0 15 2 * * *", 30, "2026-03-08T07:00:00Z", true),
    ("America/New_York", "0 15 2 * * *", 30, "2026-03-08T07:30:00Z", true),
    ("America/New_York", "0 15 2 * * *", 30, "2026-03-08T07:30:01Z", false),
    ("America/New_York", "0 15 2 * * *", 30, "2026-03-09T06:14:59Z", false),
    ("America/New_York", "0 15 2 * * *", 30, "2026-03-09T06:15:00Z", true),
    ("America/New_York", "0 15 2 * * *", 30, "2026-03-09T06:45:00Z", true),
    ("America/New_York", "0 15 2 * * *", 30, "2026-03-09T06:45:01Z", false),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T05:59:59Z", false),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T06:00:00Z", true),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T06:15:00Z", true),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T06:15:01Z", false),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T06:29:59Z", false),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T06:30:00Z", true),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T06:45:00Z", true),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T06:45:01Z", false),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T06:59:59Z", false),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T07:00:00Z", true),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T07:15:00Z", true),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T07:15:01Z", false),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T07:29:59Z", false),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T07:30:00Z", true),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T07:45:00Z", true),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08T07:45:01Z", false),
    ("America/New_York", "0 30 1 * * *", 45, "2026-10-31T05:29:59Z", false),
    ("America/New_York", "0 30 1 * * *", 45, "2026-10-31T05:30:00Z", true),
    ("America/New_York", "0 30 1 * * *", 45, "2026-10-31T06:15:00Z", true),
    ("America/New_York", "0 30 1 * * *", 45, "2026-10-31T06:15:01Z", false),
    ("America/New_York", "0 30 1 * * *", 45, "2026-11-01T05:29:59Z", false),
    ("America/New_York", "0 30 1 * * *", 45, "2026-11-01T05:30:00Z", true),
    ("America/New_York", "0 30 1 * * *", 45, "2026-11-01T06:15:00Z", true),
    ("America/New_York", "0 30 1 * * *", 45, "2026-11-01T06:15:01Z", false),
    ("America/New_York", "0 30 1 * * *", 45, "2026-11-01T06:30:00Z", false),
    ("America/New_York", "0 30 1 * * *", 45, "2026-11-02T06:29:59Z", false),
    ("America/New_York", "0 30 1 * * *", 45, "2026-11-02T06:30:00Z", true),
    ("America/New_York", "0 30 1 * * *", 45, "2026-11-02T07:15:00Z", true),
    ("America/New_York", "0 30 1 * * *", 45, "2026-11-02T07:15:01Z", false),
    ("Australia/Lord_Howe", "0 10 2 * * *", 20, "2026-10-02T15:39:59Z", false),
    ("Australia/Lord_Howe", "0 10 2 * * *", 20, "2026-10-02T15:40:00Z", true),
    ("Australia/Lord_Howe", "0 10 2 * * *", 20, "2026-10-02T16:00:00Z", true),
    ("Australia/Lord_Howe", "0 10 2 * * *", 20, "2026-10-02T16:00:01Z", false),
    ("Australia/Lord_Howe", "0 10 2 * * *", 20, "2026-10-03T15:29:59Z", false),
    ("Australia/Lord_Howe", "0 10 2 * * *", 20, "2026-10-03T15:30:00Z", true),
    ("Australia/Lord_Howe", "0 10 2 * * *", 20, "2026-10-03T15:50:00Z", true),
    ("Australia/Lord_Howe", "0 10 2 * * *", 20, "2026-10-03T15:50:01Z", false),
    ("Australia/Lord_Howe", "0 10 2 * * *", 20, "2026-10-04T15:09:59Z", false),
    ("Australia/Lord_Howe", "0 10 2 * * *", 20, "2026-10-04T15:10:00Z", true),
    ("Australia/Lord_Howe", "0 10 2 * * *", 20, "2026-10-04T15:30:00Z", true),
    ("Australia/Lord_Howe", "0 10 2 * * *", 20, "2026-10-04T15:30:01Z", false),
    ("Australia/Lord_Howe", "0 45 1 * * *", 10, "2026-04-03T14:44:59Z", false),
    ("Australia/Lord_Howe", "0 45 1 * * *", 10, "2026-04-03T14:45:00Z", true),
    ("Australia/Lord_Howe", "0 45 1 * * *", 10, "2026-04-03T14:55:00Z", true),
    ("Australia/Lord_Howe", "0 45 1 * * *", 10, "2026-04-03T14:55:01Z", false),
    ("Australia/Lord_Howe", "0 45 1 * * *", 10, "2026-04-04T14:44:59Z", false),
    ("Australia/Lord_Howe", "0 45 1 * * *", 10, "2026-04-04T14:45:00Z", true),
    ("Australia/Lord_Howe", "0 45 1 * * *", 10, "2026-04-04T14:55:00Z", true),
    ("Australia/Lord_Howe", "0 45 1 * * *", 10, "2026-04-04T14:55:01Z", false),
    ("Australia/Lord_Howe", "0 45 1 * * *", 10, "2026-04-04T15:15:00Z", false),
    ("Australia/Lord_Howe", "0 45 1 * * *", 10, "2026-04-05T15:14:59Z", false),
    ("Australia/Lord_Howe", "0 45 1 * * *", 10, "2026-04-05T15:15:00Z", true),
    ("Australia/Lord_Howe", "0 45 1 * * *", 10, "2026-04-05T15:25:00Z", true),
    ("Australia/Lord_Howe", "0 45 1 * * *", 10, "2026-04-05T15:25:01Z", false),
    ("America/Santiago", "0 0 0 * * *", 60, "2026-09-05T03:59:59Z", false),
    ("America/Santiago", "0 0 0 * * *", 60, "2026-09-05T04:00:00Z", true),
    ("America/Santiago", "0 0 0 * * *", 60, "2026-09-05T05:00:00Z", true),
    ("America/Santiago", "0 0 0 * * *", 60, "2026-09-05T05:00:01Z", false),
    ("America/Santiago", "0 0 0 * * *", 60, "2026-09-06T03:59:59Z", false),
    ("America/Santiago", "0 0 0 * * *", 60, "2026-09-06T04:00:00Z", true),
    ("America/Santiago", "0 0 0 * * *", 60, "2026-09-06T05:00:00Z", true),
    ("America/Santiago", "0 0 0 * * *", 60, "2026-09-06T05:00:01Z", false),
    ("America/Santiago", "0 0 0 * * *", 60, "2026-09-07T02:59:59Z", false),
    ("America/Santiago", "0 0 0 * * *", 60, "2026-09-07T03:00:00Z", true),
    ("America/Santiago", "0 0 0 * * *", 60, "2026-09-07T04:00:00Z", true),
    ("America/Santiago", "0 0 0 * * *", 60, "2026-09-07T04:00:01Z", false),
    ("America/Santiago", "0 30 23 * * *", 15, "2026-04-04T02:29:59Z", false),
    ("America/Santiago", "0 30 23 * * *", 15, "2026-04-04T02:30:00Z", true),
    ("America/Santiago", "0 30 23 * * *", 15, "2026-04-04T02:45:00Z", true),
    ("America/Santiago", "0 30 23 * * *", 15, "2026-04-04T02:45:01Z", false),
    ("America/Santiago", "0 30 23 * * *", 15, "2026-04-05T02:29:59Z", false),
    ("America/Santiago", "0 30 23 * * *", 15, "2026-04-05T02:30:00Z", true),
    ("America/Santiago", "0 30 23 * * *", 15, "2026-04-05T02:45:00Z", true),
    ("America/Santiago", "0 30 23 * * *", 15, "2026-04-05T02:45:01Z", false),
    ("America/Santiago", "0 30 23 * * *", 15, "2026-04-05T03:30:00Z", false),
    ("America/Santiago", "0 30 23 * * *", 15, "2026-04-06T03:29:59Z", false),
    ("America/Santiago", "0 30 23 * * *", 15, "2026-04-06T03:30:00Z", true),
    ("America/Santiago", "0 30 23 * * *", 15, "2026-04-06T03:45:00Z", true),
    ("America/Santiago", "0 30 23 * * *", 15, "2026-04-06T03:45:01Z", false),
    ("Asia/Beirut", "0 20 0 * * Sun", 30, "2026-03-28T21:59:59Z", false),
    ("Asia/Beirut", "0 20 0 * * Sun", 30, "2026-03-28T22:00:00Z", true),
    ("Asia/Beirut", "0 20 0 * * Sun", 30, "2026-03-28T22:20:00Z", true),
    ("Asia/Beirut", "0 20 0 * * Sun", 30, "2026-03-28T22:30:00Z", true),
    ("Asia/Beirut", "0 20 0 * * Sun", 30, "2026-03-28T22:30:01Z", false),
    ("Asia/Beirut", "0 0 0 * * *", 30, "2026-10-23T20:59:59Z", false),
    ("Asia/Beirut", "0 0 0 * * *", 30, "2026-10-23T21:00:00Z", true),
    ("Asia/Beirut", "0 0 0 * * *", 30, "2026-10-23T21:30:00Z", true),
    ("Asia/Beirut", "0 0 0 * * *", 30, "2026-10-23T21:30:01Z", false),
    ("Asia/Beirut", "0 0 0 * * *", 30, "2026-10-24T21:00:00Z", false),
    ("Asia/Beirut", "0 0 0 * * *", 30, "2026-10-24T21:59:59Z", false),
    ("Asia/Beirut", "0 0 0 * * *", 30, "2026-10-24T22:00:00Z", true),
    ("Asia/Beirut", "0 0 0 * * *", 30, "2026-10-24T22:30:00Z", true),
    ("Asia/Beirut", "0 0 0 * * *", 30, "2026-10-24T22:30:01Z", false),
    ("Pacific/Apia", "0 0 12 30 12 *", 60, "2011-12-30T09:59:59Z", false),
    ("Pacific/Apia", "0 0 12 30 12 *", 60, "2011-12-30T10:00:00Z", true),
    ("Pacific/Apia", "0 0 12 30 12 *", 60, "2011-12-30T11:00:00Z", true),
    ("Pacific/Apia", "0 0 12 30 12 *", 60, "2011-12-30T11:00:01Z", false),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-29T15:59:59Z", false),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-29T16:00:00Z", true),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-29T16:30:00Z", true),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-29T16:30:01Z", false),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-30T03:59:59Z", false),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-30T04:00:00Z", true),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-30T04:30:00Z", true),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-30T04:30:01Z", false),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-30T09:59:59Z", false),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-30T10:00:00Z", true),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-30T10:30:00Z", true),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-30T10:30:01Z", false),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-30T15:59:59Z", false),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-30T16:00:00Z", true),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-30T16:30:00Z", true),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-30T16:30:01Z", false),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-31T03:59:59Z", false),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-31T04:00:00Z", true),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-31T04:30:00Z", true),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-31T04:30:01Z", false),
    ("Africa/Casablanca", "0 30 2 * * *", 15, "2026-02-14T01:29:59Z", false),
    ("Africa/Casablanca", "0 30 2 * * *", 15, "2026-02-14T01:30:00Z", true),
    ("Africa/Casablanca", "0 30 2 * * *", 15, "2026-02-14T01:45:00Z", true),
    ("Africa/Casablanca", "0 30 2 * * *", 15, "2026-02-14T01:45:01Z", false),
    ("Africa/Casablanca", "0 30 2 * * *", 15, "2026-02-15T01:29:59Z", false),
    ("Africa/Casablanca", "0 30 2 * * *", 15, "2026-02-15T01:30:00Z", true),
    ("Africa/Casablanca", "0 30 2 * * *", 15, "2026-02-15T01:45:00Z", true),
    ("Africa/Casablanca", "0 30 2 * * *", 15, "2026-02-15T01:45:01Z", false),
    ("Africa/Casablanca", "0 30 2 * * *", 15, "2026-02-15T02:30:00Z", false),
    ("Africa/Casablanca", "0 45 2 * * *", 15, "2026-03-21T02:44:59Z", false),
    ("Africa/Casablanca", "0 45 2 * * *", 15, "2026-03-21T02:45:00Z", true),
    ("Africa/Casablanca", "0 45 2 * * *", 15, "2026-03-21T03:00:00Z", true),
    ("Africa/Casablanca", "0 45 2 * * *", 15, "2026-03-21T03:00:01Z", false),
    ("Africa/Casablanca", "0 45 2 * * *", 15, "2026-03-22T01:59:59Z", false),
    ("Africa/Casablanca", "0 45 2 * * *", 15, "2026-03-22T02:00:00Z", true),
    ("Africa/Casablanca", "0 45 2 * * *", 15, "2026-03-22T02:15:00Z", true),
    ("Africa/Casablanca", "0 45 2 * * *", 15, "2026-03-22T02:15:01Z", false),
    ("UTC", "0 0 3 * * Sun", 60, "2026-03-29T02:59:59Z", false),
    ("UTC", "0 0 3 * * Sun", 60, "2026-03-29T03:00:00Z", true),
    ("UTC", "0 0 3 * * Sun", 60, "2026-03-29T04:00:00Z", true),
    ("UTC", "0 0 3 * * Sun", 60, "2026-03-29T04:00:01Z", false),
    ("UTC", "0 0 3 * * Sun", 60, "2026-03-30T03:30:00Z", false),
    ("UTC", "15 30 2 1 * Mon", 5, "2026-06-01T02:30:14Z", false),
    ("UTC", "15 30 2 1 * Mon", 5, "2026-06-01T02:30:15Z", true),
    ("UTC", "15 30 2 1 * Mon", 5, "2026-06-01T02:35:15Z", true),
    ("UTC", "15 30 2 1 * Mon", 5, "2026-06-01T02:35:16Z", false),
    ("UTC", "15 30 2 1 * Mon", 5, "2026-06-08T02:30:14Z", false),
    ("UTC", "15 30 2 1 * Mon", 5, "2026-06-08T02:30:15Z", true),
    ("UTC", "15 30 2 1 * Mon", 5, "2026-06-08T02:35:15Z", true),
    ("UTC", "15 30 2 1 * Mon", 5, "2026-06-08T02:35:16Z", false),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-05T03:29:59Z", false),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-05T03:30:00Z", true),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-05T04:00:00Z", true),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-05T04:00:01Z", false),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-05T07:29:59Z", false),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-05T07:30:00Z", true),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-05T08:00:00Z", true),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-05T08:00:01Z", false),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-05T11:29:59Z", false),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-05T11:30:00Z", true),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-05T12:00:00Z", true),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-05T12:00:01Z", false),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-06T03:45:00Z", false),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-08T03:29:59Z", false),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-08T03:30:00Z", true),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-08T04:00:00Z", true),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-08T04:00:01Z", false),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-08T07:29:59Z", false),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-08T07:30:00Z", true),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-08T08:00:00Z", true),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-08T08:00:01Z", false),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-08T11:29:59Z", false),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-08T11:30:00Z", true),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-08T12:00:00Z", true),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-08T12:00:01Z", false),
    ("UTC", "0 0 12 1 1,7 *", 10080, "2026-07-01T11:59:59Z", false),
    ("UTC", "0 0 12 1 1,7 *", 10080, "2026-07-01T12:00:00Z", true),
    ("UTC", "0 0 12 1 1,7 *", 10080, "2026-07-08T12:00:00Z", true),
    ("UTC", "0 0 12 1 1,7 *", 10080, "2026-07-08T12:00:01Z", false),
];
