#!/usr/bin/env python3
"""Prints the rows of DST_TABLE in src/domain/maintenance/tests.rs: whether a recurring maintenance window is in force.

An independent source of truth: it shares no code and no library with the service. It reads cron expressions itself,
and takes the clock changes from Python's zoneinfo, that is from the tz database of this machine. The rules
(CONTRACT.md 9.8):

- cron fields are matched against the clock on the wall of the zone; five fields mean second 0;
- a wall time that a clock change skips moves to the first instant after what is skipped, at full length;
- a wall time that comes twice counts the first time only;
- each occurrence is in force from its beginning to its beginning plus the duration, both included.

Each case below is looked at between two dates. Every stretch in force gives four rows: the last second before it, its
first, its last, and the first second after it. Further instants can be named by hand.

Run `python3 tests/dst_table.py` and paste what it prints over the rows of the table. Needs nothing but Python 3.9 and a
tz database; written against 2025b.
"""

from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

UTC = timezone.utc
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)

# zone, cron, duration in minutes, first and last local date, further instants
CASES = [
    # the hour from 02:00 is skipped on 29 March, the hour from 02:00 comes twice on 25 October
    ("Europe/Berlin", "0 30 2 * * *", 60, "2026-03-28", "2026-03-30", []),
    ("Europe/Berlin", "30 2 * * Sun", 10, "2026-03-23", "2026-03-29", ["2026-03-29T00:30:00Z"]),
    ("Europe/Berlin", "0 0,10,20,30,40,50 2 29 3 *", 5, "2026-03-29", "2026-03-29", ["2026-03-29T01:10:00Z"]),
    ("Europe/Berlin", "0 59 1,2 29 3 *", 1, "2026-03-29", "2026-03-29", []),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-03-28", "2026-03-29", ["2026-03-28T23:00:00Z"]),
    ("Europe/Berlin", "0 30 2 * * *", 20, "2026-10-24", "2026-10-25", ["2026-10-25T01:30:00Z"]),
    ("Europe/Berlin", "0 0 1-3 25 10 *", 30, "2026-10-25", "2026-10-25", ["2026-10-25T01:15:00Z"]),
    ("Europe/Berlin", "* * * 25 10 *", 15, "2026-10-25", "2026-10-25", ["2026-10-25T01:20:00Z"]),
    ("Europe/Berlin", "0 0 0 * * *", 1440, "2026-10-25", "2026-10-26", ["2026-10-25T22:30:00Z"]),
    ("America/New_York", "0 15 2 * * *", 30, "2026-03-07", "2026-03-09", []),
    ("America/New_York", "0 */30 1-3 8 3 *", 15, "2026-03-08", "2026-03-08", []),
    ("America/New_York", "0 30 1 * * *", 45, "2026-10-31", "2026-11-02", ["2026-11-01T06:30:00Z"]),
    # half an hour is skipped from 02:00 on 4 October, half an hour comes twice from 01:30 on 5 April
    ("Australia/Lord_Howe", "0 10 2 * * *", 20, "2026-10-03", "2026-10-05", []),
    ("Australia/Lord_Howe", "0 45 1 * * *", 10, "2026-04-04", "2026-04-06", ["2026-04-04T15:15:00Z"]),
    # midnight itself is skipped on 6 September; the hour before midnight comes twice on 4 April
    ("America/Santiago", "0 0 0 * * *", 60, "2026-09-05", "2026-09-07", []),
    ("America/Santiago", "0 30 23 * * *", 15, "2026-04-03", "2026-04-05", ["2026-04-05T03:30:00Z"]),
    ("Asia/Beirut", "0 20 0 * * Sun", 30, "2026-03-23", "2026-03-29", ["2026-03-28T22:20:00Z"]),
    ("Asia/Beirut", "0 0 0 * * *", 30, "2026-10-24", "2026-10-25", ["2026-10-24T21:00:00Z"]),
    # 30 December 2011 did not take place
    ("Pacific/Apia", "0 0 12 30 12 *", 60, "2011-12-28", "2012-01-01", []),
    ("Pacific/Apia", "0 0 6,18 * * *", 30, "2011-12-29", "2011-12-31", []),
    # an hour behind during Ramadan: twice from 02:00 on 15 February, skipped from 02:00 on 22 March
    ("Africa/Casablanca", "0 30 2 * * *", 15, "2026-02-14", "2026-02-15", ["2026-02-15T02:30:00Z"]),
    ("Africa/Casablanca", "0 45 2 * * *", 15, "2026-03-21", "2026-03-22", []),
    # no change at all; the fields for days joined by "or"
    ("UTC", "0 0 3 * * Sun", 60, "2026-03-27", "2026-03-30", ["2026-03-30T03:30:00Z"]),
    ("UTC", "15 30 2 1 * Mon", 5, "2026-05-30", "2026-06-08", []),
    ("Asia/Kolkata", "0 0 9-17/4 * 6 Mon-Fri", 30, "2026-06-05", "2026-06-08", ["2026-06-06T03:45:00Z"]),
    ("UTC", "0 0 12 1 1,7 *", 10080, "2026-06-30", "2026-07-01", []),
]

NAMES = {name: number for names in (
    zip("SUN MON TUE WED THU FRI SAT".split(), range(7)),
    zip("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split(), range(1, 13)),
) for name, number in names}


def numbers(field, low, high):
    """The numbers that one cron field names."""
    found = set()
    for part in field.upper().split(","):
        part, _, step = part.partition("/")
        if part == "*":
            first, last = low, high
        else:
            ends = [NAMES[end] if end in NAMES else int(end) for end in part.split("-")]
            first, last = ends[0], ends[-1] if len(ends) == 2 or not step else high
        found.update(range(first, last + 1, int(step or 1)))
    return found


def wall_times(cron, day):
    """The wall times of one date that a cron expression names."""
    fields = cron.split()
    seconds, minutes, hours, days, months, weekdays = fields if len(fields) == 6 else ["0"] + fields
    by_day = day.day in numbers(days, 1, 31)
    by_weekday = day.isoweekday() % 7 in {number % 7 for number in numbers(weekdays, 0, 7)}
    either = days != "*" and weekdays != "*"
    if day.month not in numbers(months, 1, 12) or not ((by_day or by_weekday) if either else (by_day and by_weekday)):
        return
    for hour in sorted(numbers(hours, 0, 23)):
        for minute in sorted(numbers(minutes, 0, 59)):
            for second in sorted(numbers(seconds, 0, 59)):
                yield datetime(day.year, day.month, day.day, hour, minute, second)


def shown(instant, zone):
    """What the clock on the wall shows."""
    return instant.astimezone(zone).replace(tzinfo=None)


def first_instant(wall, zone):
    """When the clock on the wall shows `wall` for the first time, or the first instant after the gap that skips it."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if shown(first, zone) == wall:
        return first
    instant = wall.replace(tzinfo=UTC) - DAY
    while shown(instant, zone) < wall:
        instant += timedelta(minutes=1)
    # the minute is now the first one after the gap: clocks change at whole minutes of UTC
    return instant.replace(second=0)


def beginnings(zone, cron, first, last):
    """The instants at which occurrences begin, from one local date to another."""
    found = set()
    while first <= last:
        found.update(first_instant(wall, zone) for wall in wall_times(cron, first))
        first += DAY
    return sorted(found)


def text(instant):
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def rows():
    for zone, cron, minutes, first, last, further in CASES:
        length, clock = timedelta(minutes=minutes), ZoneInfo(zone)
        first, last = date.fromisoformat(first), date.fromisoformat(last)
        # occurrences that are still in force at the edges count too: a week is the longest
        begun = beginnings(clock, cron, first - 9 * DAY, last + 9 * DAY)
        instants = {datetime.fromisoformat(instant.replace("Z", "+00:00")) for instant in further}
        spans = []
        for begin in beginnings(clock, cron, first, last):
            if spans and begin <= spans[-1][1]:
                spans[-1][1] = begin + length
            else:
                spans.append([begin, begin + length])
        for begin, end in spans:
            instants.update([begin - SECOND, begin, end, end + SECOND])
        for instant in sorted(instants):
            inside = any(begin <= instant <= begin + length for begin in begun)
            yield f'    ("{zone}", "{cron}", {minutes}, "{text(instant)}", {str(inside).lower()}),'


if __name__ == "__main__":
    for row in rows():
        print(row)
