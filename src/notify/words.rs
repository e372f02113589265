//! The text of a message: the built-in one, or that of the receiver's template, fit for its channel and within its limit.
//!
//! Templates are minijinja. Each is rendered for every kind of message when it is read, so that a typo stops the start and
//! not the page at night; one that fails all the same gives way to the built-in text, is counted, and says so in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use chrono::DateTime;
use minijinja::value::Serde;
use minijinja::{Environment, Error, UndefinedBehavior, Value};
use serde_json::json;

use super::{ChannelKind, Message, discord, item, slack};
use crate::domain::alert::{AlertStatus, Severity};
use crate::domain::judge::sample_alert;
use crate::domain::notification::{Digest, DigestItem, Notice, NoticeKind, Notification};
use crate::domain::status::Status;
use crate::domain::time::Stamp;

/// Steps a template may take: our choice, a loop over 10,000 items with a few steps each.
const FUEL: u64 = 200_000;
/// Every kind a template must stand.
const KINDS: [NoticeKind; 7] = [
    NoticeKind::AlertRaised,
    NoticeKind::AlertSeverityRaised,
    NoticeKind::AlertEscalated,
    NoticeKind::AlertReminder,
    NoticeKind::AlertResolved,
    NoticeKind::Digest,
    NoticeKind::Test,
];

/// Makes text harmless in the markup of a channel.
type Escape = fn(&str) -> String;

/// What a channel understands as markup in values; the template itself may use it.
fn escape_of(kind: ChannelKind) -> Escape {
    match kind {
        ChannelKind::Slack => slack::escape,
        ChannelKind::Discord => discord::escape,
        _ => str::to_owned,
    }
}

/// A template that has been tried on every kind of message.
#[derive(Debug, Clone)]
pub struct Template {
    source: Arc<str>,
    escape: Escape,
}

impl Template {
    /// # Errors
    /// What is wrong with it, for which kind of message and in which line.
    pub fn new(source: &str, channel: ChannelKind) -> Result<Self, String> {
        let template = Self { source: source.into(), escape: escape_of(channel) };
        for kind in KINDS {
            template.render(&sample(kind)).map_err(|error| format!("fails for {}: {error}", kind.as_str()))?;
        }
        Ok(template)
    }

    fn render(&self, message: &Message) -> Result<String, Error> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        let escape = self.escape;
        environment.set_formatter(move |out, _, value| match value.is_none() {
            true => Ok(()),
            false => Ok(out.write_str(&escape(&value.to_string()))?),
        });
        environment.render_named_str("template", &self.source, facts(message))
    }
}

/// What a template may name: documented in `config/default.toml`.
fn facts(message: &Message) -> Value {
    let Message { notification, merged, .. } = message;
    let notice = &notification.notice;
    let alert = &notice.alert;
    let started = notice.outage.as_ref().map_or(alert.triggered_at, |outage| outage.started);
    let items: Vec<_> = notification.digest.iter().flat_map(|digest| digest.items.iter().map(item)).collect();
    Value::from(Serde(json!({
        "kind": message.kind(),
        "title": notification.title(),
        "text": notification.text(),
        "alert": alert.record(),
        "service": alert.component.as_str(),
        "severity": alert.severity,
        "from": notice.from,
        "to": notice.to,
        "started_at": Stamp(started),
        "resolved_at": alert.resolved_at.map(Stamp),
        "impacted": alert.details.impacted,
        "items": items,
        "merged": merged,
    })))
}

/// A message of each kind, to try templates on.
fn sample(kind: NoticeKind) -> Message {
    let mut alert = sample_alert("example-service", Severity::Critical);
    let at = DateTime::UNIX_EPOCH;
    if kind.is_end() {
        (alert.status, alert.resolved_at) = (AlertStatus::Resolved, Some(at));
    }
    let item = DigestItem {
        alert_id: alert.id.clone(),
        outage_id: None,
        component: alert.component.as_str().to_owned(),
        kind: NoticeKind::AlertRaised,
        alert_kind: alert.kind,
        severity: alert.severity,
        title: alert.title.clone(),
        at,
        started: at,
        impacted: 0,
        merged: 1,
    };
    let digest = (kind == NoticeKind::Digest).then(|| Digest { items: vec![item], note: None });
    let (from, to) = (Status::Healthy, Status::Unhealthy);
    let notice = Notice { kind, alert, outage: None, from, to, url: None, protocol: None, at };
    Message { notification: Notification { digest, ..Notification::new(notice, "example", at) }, attempt: 1, merged: 1 }
}

/// How one receiver is spoken to.
#[derive(Debug, Clone)]
pub(super) struct Words {
    receiver: Arc<str>,
    template: Option<Template>,
    escape: Escape,
    failures: Arc<AtomicU64>,
}

impl Words {
    pub fn new(receiver: &str, channel: ChannelKind, template: Option<Template>) -> Self {
        Self { receiver: receiver.into(), template, escape: escape_of(channel), failures: Arc::default() }
    }

    /// Without a template, for a channel without markup.
    pub fn plain(receiver: &str) -> Self {
        Self::new(receiver, ChannelKind::Webhook, None)
    }

    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// The text of `message` in at most so many bytes, escaped for the channel.
    pub fn text(&self, message: &Message, most_bytes: usize) -> String {
        if let Some(text) = self.template.as_ref().and_then(|template| self.render(template, message)) {
            return cut(text, most_bytes);
        }
        // Escaping makes it longer, by how much depends on the text.
        let built_in = |most| (self.escape)(&message.notification.text_within(most));
        fitting(most_bytes, most_bytes, built_in, String::len)
    }

    /// The title of `message`, or what `template` makes of it, on one line.
    pub fn title(&self, template: Option<&Template>, message: &Message) -> String {
        let line = template.and_then(|template| self.render(template, message));
        let line = line.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
        line.filter(|line| !line.is_empty()).unwrap_or_else(|| message.notification.title())
    }

    fn render(&self, template: &Template, message: &Message) -> Option<String> {
        let rendered = template.render(message).inspect_err(|error| {
            self.failures.fetch_add(1, Relaxed);
            // Not its whole text, which may quote the message.
            let (receiver, problem, line) = (&*self.receiver, error.kind(), error.line());
            tracing::warn!(receiver, line, "template of receiver {receiver} fails, sent without it: {problem}");
        });
        rendered.ok()
    }
}

/// What `make` gives for the largest budget, halved as often as needed, that measures at most `most`.
pub(super) fn fitting<T>(most: usize, budget: usize, make: impl Fn(usize) -> T, measure: impl Fn(&T) -> usize) -> T {
    let mut budget = budget;
    loop {
        let made = make(budget);
        if measure(&made) <= most || budget == 0 {
            return made;
        }
        budget /= 2;
    }
}

/// At most so many bytes of `text`.
fn cut(mut text: String, most_bytes: usize) -> String {
    if text.len() > most_bytes {
        text.truncate(text.floor_char_boundary(most_bytes.saturating_sub('…'.len_utf8())));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: NoticeKind, description: &str) -> Message {
        let mut message = sample(kind);
        message.notification.notice.alert.description = description.to_owned();
        message
    }

    fn rendered(source: &str, channel: ChannelKind, message: &Message) -> String {
        let template = Template::new(source, channel).unwrap();
        Words::new("team", channel, Some(template)).text(message, 1000)
    }

    #[test]
    fn a_template_names_what_it_was_told() {
        let raise = message(NoticeKind::AlertRaised, "");
        let check = |source: &str, expected: &str| {
            assert_eq!(rendered(source, ChannelKind::Webhook, &raise), expected, "{source}");
        };
        check("{{ kind }} {{ service }} {{ severity }}", "alert_raised example-service critical");
        check("{{ title }}", "SERVICE OUTAGE: example-service");
        check("{{ from }} -> {{ to }} since {{ started_at }}", "healthy -> unhealthy since 1970-01-01T00:00:00.000Z");
        check("{{ alert.type }} {{ alert.id }}", "service_down example-service-service-down-0");
        check("[{{ resolved_at }}] {{ impacted | length }} {{ items | length }} {{ merged }}", "[] 0 0 1");
        let digest = message(NoticeKind::Digest, "");
        let list = "{% for item in items %}{{ item.severity }} {{ item.title }}{% endfor %}";
        assert_eq!(rendered(list, ChannelKind::Webhook, &digest), "critical Service DOWN: example-service");
    }

    #[test]
    fn a_template_is_refused_for_what_it_would_do_later() {
        let check = |source: &str, part: &str| {
            let problem = Template::new(source, ChannelKind::Webhook).unwrap_err();
            assert!(problem.contains(part), "{source}: {problem}");
        };
        check("{{ titel }}", "fails for alert_raised: undefined value");
        check("{{ alert.colour }}", "undefined value");
        check("{% if kind == 'digest' %}{{ itmes }}{% endif %}", "fails for digest");
        check("{{ title", "syntax error");
        check("{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}", "fuel");
        check("{{ title | shout }}", "unknown filter");
    }

    #[test]
    fn a_template_that_fails_later_gives_way_and_is_counted() {
        // Nothing in the samples is as long as this loop is patient.
        let source = "{% for a in range(description_length) %}x{% endfor %}"
            .replace("description_length", "(alert.description | length) * 1000");
        let template = Template::new(&source, ChannelKind::Webhook).unwrap();
        let words = Words::new("team", ChannelKind::Webhook, Some(template));
        let long = message(NoticeKind::AlertRaised, &"y".repeat(5000));
        assert!(words.text(&long, 10_000).starts_with("SERVICE OUTAGE: example-service\n"));
        assert_eq!(words.failures(), 1);
        assert!(words.text(&message(NoticeKind::AlertRaised, "y"), 10_000).starts_with("xxx"));
        assert_eq!(words.failures(), 1);
    }

    #[test]
    fn values_are_escaped_for_their_channel_and_templates_are_not() {
        let hostile = message(NoticeKind::AlertRaised, "<!channel> & *co*");
        let check = |channel, expected: &str| {
            assert_eq!(rendered("*{{ alert.description }}*", channel, &hostile), expected);
        };
        check(ChannelKind::Slack, "*&lt;!channel&gt; &amp; *co**");
        check(ChannelKind::Discord, "*\\<!channel\\> & \\*co\\**");
        check(ChannelKind::Email, "*<!channel> & *co**");
    }

    #[test]
    fn no_text_is_longer_than_its_channel_takes() {
        let long = message(NoticeKind::AlertRaised, &"<é".repeat(4000));
        let plain = Words::plain("team").text(&long, 500);
        assert!(plain.len() <= 500 && plain.ends_with('…'), "{plain}");
        let escaped = Words::new("team", ChannelKind::Slack, None).text(&long, 500);
        assert!(escaped.len() <= 500 && escaped.len() > 200 && escaped.ends_with('…'), "{escaped}");
        let template = Template::new("{{ alert.description }}", ChannelKind::Slack).unwrap();
        let cut = Words::new("team", ChannelKind::Slack, Some(template)).text(&long, 500);
        assert!(cut.len() <= 500 && cut.ends_with('…'), "{cut}");
    }
}
