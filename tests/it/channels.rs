//! Channels against real peers where there are any: a mail server, an Alertmanager; recording receivers for the rest. Each
//! when all is well, when the peer stalls, refuses, drips or never ends, and when its settings hold secrets.

use std::io::Write;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use as_infrastructure_service::app::install_crypto_provider;
use as_infrastructure_service::config::{Settings, Sources};
use as_infrastructure_service::domain::alert::{Alert, AlertStatus, AlertType, Severity};
use as_infrastructure_service::domain::judge::sample_alert;
use as_infrastructure_service::domain::notification::{Digest, DigestItem, Notice, NoticeKind, Notification};
use as_infrastructure_service::domain::service::ServiceName;
use as_infrastructure_service::domain::status::Status;
use as_infrastructure_service::domain::time::from_ms;
use as_infrastructure_service::notify::{self, DeliveryError, Message, NotifyConfig, Receiver};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};

use crate::support::{LIMIT, Recorder, Script, Stub, T0, eventually, free_port, variables};

/// Settings of `[notify]` from variables and the text of a file.
fn settings(more: &[(&str, &str)], file: &str) -> NotifyConfig {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("local.toml"), file).unwrap();
    let sources = Sources::new(variables(folder.path(), more), Some(folder.path().to_owned()));
    Settings::load(&sources).unwrap().engine.notify
}

/// The one receiver beside the log.
fn receiver(more: &[(&str, &str)], file: &str) -> Receiver {
    install_crypto_provider();
    let mut receivers = notify::receivers(&settings(more, file)).unwrap();
    assert_eq!((receivers.len(), receivers[0].name.as_str()), (2, "log"));
    receivers.pop().unwrap()
}

/// A receiver of one table.
fn of_table(channel: &str, url: &str, more: &str) -> Receiver {
    let table = format!("[[notify.receiver]]\nname = \"team\"\nchannel = \"{channel}\"\nurl = \"{url}\"\n{more}");
    receiver(&[], &table)
}

fn alert(component: &str, severity: Severity, resolved: bool) -> Alert {
    let status = if resolved { AlertStatus::Resolved } else { AlertStatus::Active };
    let resolved_at = resolved.then(|| from_ms(T0 + 60_000));
    Alert { triggered_at: from_ms(T0), status, resolved_at, ..sample_alert(component, severity) }
}

fn message(kind: NoticeKind, alert: Alert) -> Message {
    let (from, to) = (Status::Healthy, Status::Unhealthy);
    let (url, protocol) = (Some("http://localhost:1/health".to_owned()), Some("HTTP".to_owned()));
    let notice = Notice { kind, alert, outage: None, from, to, url, protocol, at: from_ms(T0) };
    Message { notification: Notification::new(notice, "team", from_ms(T0)), attempt: 1, merged: 1 }
}

fn raise(component: &str) -> Message {
    message(NoticeKind::AlertRaised, alert(component, Severity::Critical, false))
}

fn digest(components: &[&str]) -> Message {
    let items = components.iter().map(|component| {
        let alert = alert(component, Severity::High, false);
        DigestItem {
            alert_id: alert.id,
            outage_id: None,
            component: (*component).to_owned(),
            kind: NoticeKind::AlertRaised,
            alert_kind: alert.kind,
            severity: alert.severity,
            title: alert.title,
            at: from_ms(T0),
            started: from_ms(T0),
            impacted: 0,
            merged: 1,
        }
    });
    let mut message = raise(components[0]);
    message.notification.digest = Some(Digest { items: items.collect(), note: None });
    message
}

fn away(detail: &str, unreachable: bool) -> Result<(), DeliveryError> {
    Err(DeliveryError::Away { detail: detail.to_owned(), retry_after: None, unreachable })
}

fn refused(detail: &str) -> Result<(), DeliveryError> {
    Err(DeliveryError::Refused { detail: detail.to_owned() })
}

// ---- HTTP, the same for each channel ----

#[tokio::test]
async fn an_answer_is_judged_by_its_status_alone() {
    let recorder = Recorder::start().await;
    let team = of_table("slack", &recorder.url(), "timeout_ms = 2000");
    let raise = raise("auth");
    for code in [200, 202, 204] {
        recorder.answer_with(code);
        assert_eq!(team.deliver(&raise).await, Ok(()), "{code}");
    }
    for code in [408, 425, 429, 500, 503] {
        recorder.answer_with(code);
        assert_eq!(team.deliver(&raise).await, away(&format!("HTTP {code}"), false));
    }
    for code in [400, 401, 404, 410] {
        recorder.answer_with(code);
        assert_eq!(team.deliver(&raise).await, refused(&format!("HTTP {code}")));
    }
    recorder.answer_with_lines(429, "retry-after: 7\r\n");
    let Err(DeliveryError::Away { retry_after, .. }) = team.deliver(&raise).await else { panic!("not away") };
    assert_eq!(retry_after, Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Stub::start(Script::ok()).await;
    let location: &'static str = format!("location: {}/\r\n", elsewhere.url()).leak();
    let recorder = Recorder::start().await;
    let team = of_table("teams", &recorder.url(), "");
    for code in [301, 302, 307, 308] {
        recorder.answer_with_lines(code, location);
        assert_eq!(team.deliver(&raise("auth")).await, refused(&format!("HTTP {code}, a redirect: not followed")));
    }
    assert_eq!(elsewhere.requests(), 0);
}

#[tokio::test]
async fn a_receiver_that_hangs_drips_or_never_ends_takes_no_more_than_its_time() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n".to_vec();
    let stub = Stub::start(Script::Hang).await;
    for channel in ["webhook", "slack", "discord", "teams", "alertmanager"] {
        let team = of_table(channel, &stub.url(), "timeout_ms = 200");
        for script in [Script::Hang, Script::Drip(head.clone(), Duration::from_millis(20))] {
            stub.set(script);
            let started = Instant::now();
            assert_eq!(team.deliver(&raise("auth")).await, away("no answer in time", false), "{channel}");
            assert!(started.elapsed() < Duration::from_secs(2), "{channel}");
        }
    }
    stub.set(Script::Endless(head, vec![b'x'; 65_536]));
    let team = of_table("slack", &stub.url(), "");
    assert_eq!(team.deliver(&raise("auth")).await, Ok(()));
    let before = stub.sent.load(std::sync::atomic::Ordering::Relaxed);
    assert!(before < 16 << 20, "{before} bytes of an endless answer were taken");
    let nobody = of_table("discord", &format!("http://127.0.0.1:{}", free_port()), "");
    assert_eq!(nobody.deliver(&raise("auth")).await, away("no connection", true));
    assert!(!nobody.channel.is_reachable().await && team.channel.is_reachable().await);
}

// ---- bodies ----

#[tokio::test]
async fn slack_gets_its_text_with_markup_disarmed() {
    let recorder = Recorder::start().await;
    let more = [("SLACK_WEBHOOK_URL", recorder.url()), ("SLACK_CHANNEL", "#noc".to_owned())];
    let slack = receiver(&more.each_ref().map(|(name, value)| (*name, value.as_str())), "");
    assert_eq!((slack.name.as_str(), slack.channel.recipients()), ("slack", vec![recorder.url().replace("/hook", "")]));
    let mut hostile = raise("auth");
    hostile.notification.notice.alert.description = "<!channel> & <http://evil|bank>".to_owned();
    slack.deliver(&hostile).await.unwrap();
    let body = &recorder.wait_for(1).await[0].body;
    assert_eq!((&body["channel"], &body["username"]), (&json!("#noc"), &json!("health-monitor")));
    let text = body["text"].as_str().unwrap();
    assert!(text.starts_with("SERVICE OUTAGE: auth\n"), "{text}");
    assert!(text.contains("&lt;!channel&gt; &amp; &lt;http://evil|bank&gt;"), "{text}");
}

#[tokio::test]
async fn discord_mentions_nobody_and_takes_two_thousand_characters() {
    let recorder = Recorder::start().await;
    let discord = receiver(&[("DISCORD_WEBHOOK_URL", &recorder.url())], "");
    let mut hostile = raise("auth");
    hostile.notification.notice.alert.description = "@everyone [bank](http://evil) ".repeat(200);
    discord.deliver(&hostile).await.unwrap();
    let body = &recorder.wait_for(1).await[0].body;
    assert_eq!(body["allowed_mentions"], json!({"parse": []}));
    let content = body["content"].as_str().unwrap();
    assert!(content.chars().count() <= 2000 && content.contains("\\[bank\\]"), "{content}");
}

#[tokio::test]
async fn teams_gets_a_card_within_its_size() {
    let recorder = Recorder::start().await;
    let teams = receiver(&[("TEAMS_WEBHOOK_URL", &recorder.url())], "");
    teams.deliver(&raise("auth")).await.unwrap();
    let names: Vec<String> = (0..3000).map(|number| format!("service-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    teams.deliver(&digest(&names)).await.unwrap();
    let bodies: Vec<Value> = recorder.wait_for(2).await.into_iter().map(|received| received.body).collect();
    let card = &bodies[0]["attachments"][0];
    assert_eq!(card["contentType"], "application/vnd.microsoft.card.adaptive");
    let first = &card["content"]["body"][0]["inlines"][0];
    assert_eq!((&first["text"], &first["weight"]), (&json!("SERVICE OUTAGE: auth"), &json!("Bolder")));
    let last = bodies[1]["attachments"][0]["content"]["body"].as_array().unwrap().last().unwrap().clone();
    assert!(bodies[1].to_string().len() <= 28_000);
    assert!(last["inlines"][0]["text"].as_str().unwrap().contains("more; see /alerts/active"), "{last}");
}

#[tokio::test]
async fn pagerduty_follows_an_incident_by_the_id_of_its_alert() {
    let recorder = Recorder::start().await;
    let pagerduty = of_table("pagerduty", &recorder.url(), "routing_key = \"R0UTE\"");
    assert!(!pagerduty.takes_digests());
    for told in [
        raise("auth"),
        message(NoticeKind::AlertReminder, alert("auth", Severity::High, false)),
        message(NoticeKind::AlertResolved, alert("auth", Severity::Critical, true)),
        message(NoticeKind::Test, alert("auth", Severity::Critical, false)),
    ] {
        pagerduty.deliver(&told).await.unwrap();
    }
    let bodies: Vec<Value> = recorder.wait_for(5).await.into_iter().map(|received| received.body).collect();
    let actions: Vec<&str> = bodies.iter().map(|body| body["event_action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["trigger", "trigger", "resolve", "trigger", "resolve"]);
    let severities: Vec<&str> = bodies.iter().map(|body| body["payload"]["severity"].as_str().unwrap()).collect();
    assert_eq!(severities, ["critical", "error", "critical", "info", "info"]);
    for body in &bodies {
        assert_eq!((&body["routing_key"], &body["dedup_key"]), (&json!("R0UTE"), &bodies[0]["dedup_key"]));
    }
    assert_eq!(bodies[0]["payload"]["summary"], "SERVICE OUTAGE: auth");
    assert_eq!(bodies[0]["payload"]["source"], "auth");
}

#[tokio::test]
async fn a_webhook_digest_names_what_fits_and_counts_the_rest() {
    let recorder = Recorder::start().await;
    let webhook = receiver(&[("ALERT_WEBHOOK_URL", &recorder.url())], "");
    webhook.deliver(&digest(&["auth", "call"])).await.unwrap();
    let names: Vec<String> = (0..5000).map(|number| format!("service-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    webhook.deliver(&digest(&names)).await.unwrap();
    let mut impacting = raise("root");
    let impacted = names.iter().map(|name| ServiceName::new(name).unwrap()).collect();
    impacting.notification.notice.alert.details.impacted = impacted;
    webhook.deliver(&impacting).await.unwrap();
    let received = recorder.wait_for(3).await;
    let (small, large, root) = (&received[0].body, &received[1].body, &received[2].body);
    assert_eq!((&small["type"], small.get("subject")), (&json!("infra.digest"), None));
    assert_eq!((&small["data"]["id"], &small["data"]["omitted"]), (&small["id"], &json!(0)));
    let expected = json!({
        "alert_id": alert("call", Severity::High, false).id, "service": "call", "kind": "alert_raised",
        "severity": "high", "timestamp": "2026-01-31T10:30:00.000Z", "title": "Service DOWN: call", "impacted": 0,
    });
    assert_eq!(small["data"]["items"][1], expected);
    assert!(small["data"]["text"].as_str().unwrap().starts_with("2 ALERTS\n"));
    let listed = large["data"]["items"].as_array().unwrap().len();
    assert_eq!(large["data"]["omitted"], 5000 - listed);
    for (body, least) in [(large, 250_000), (root, 30_000)] {
        let length = body.to_string().len();
        assert!(length <= 262_144 && length > least, "{length}");
    }
    assert_eq!(
        (&root["data"]["impacted_omitted"], &root["data"]["impacted"][999]),
        (&json!(4000), &json!("service-999"))
    );
}

#[tokio::test]
async fn a_template_is_the_text_of_its_receiver_alone() {
    let recorder = Recorder::start().await;
    let team = of_table("slack", &recorder.url(), "template = '{{ severity | upper }} *{{ service }}* ({{ kind }})'");
    team.deliver(&raise("auth")).await.unwrap();
    team.deliver(&digest(&["auth", "call"])).await.unwrap();
    let texts: Vec<Value> =
        recorder.wait_for(2).await.into_iter().map(|received| received.body["text"].clone()).collect();
    assert_eq!(texts, ["CRITICAL *auth* (alert_raised)", "CRITICAL *auth* (digest)"]);
    assert_eq!(team.template_failures(), 0);
}

// ---- mail ----

/// Debian's aiosmtpd with a certificate of its own for localhost.
struct MailServer {
    port: u16,
    mails: Lines<BufReader<ChildStdout>>,
    folder: TempDir,
    _child: Child,
}

impl MailServer {
    async fn start(mode: &str, password: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        write("cert.pem", certified.cert.pem());
        write("key.pem", certified.signing_key.serialize_pem());
        // Debian's, whose package it is.
        let mut child = Command::new("/usr/bin/python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mail_server.py"))
            .args([mode, "cert.pem", "key.pem", password])
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            // It warns of logins in the clear.
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("/usr/bin/python3");
        let mut mails = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = tokio::time::timeout(LIMIT, mails.next_line()).await.unwrap().unwrap();
        let port = port.expect("aiosmtpd, which tests/run installs").parse().unwrap();
        Self { port, mails, folder, _child: child }
    }

    async fn next(&mut self) -> Value {
        let line = tokio::time::timeout(LIMIT, self.mails.next_line()).await.unwrap().unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn receiver(&self, tls: &str, to: &str, more: &[(&str, &str)]) -> Receiver {
        let (port, ca) = (self.port.to_string(), self.folder.path().join("cert.pem").display().to_string());
        let mut all = vec![("SMTP_HOST", "localhost"), ("SMTP_PORT", &port), ("SMTP_TLS", tls), ("ALERT_EMAIL", to)];
        if tls != "none" {
            all.push(("SMTP_CA_FILE", &ca));
        }
        all.extend(more);
        receiver(&all, "")
    }
}

const LOGIN: [(&str, &str); 2] = [("SMTP_USER", "monitor"), ("SMTP_PASSWORD", "canary-4711")];

#[tokio::test]
async fn one_plain_text_mail_goes_to_all_recipients() {
    let mut server = MailServer::start("plain", "").await;
    let to = "noc@example.com,Duty <duty@example.com>";
    let email = server.receiver("none", to, &[("SMTP_FROM", "monitor@example.com")]);
    assert_eq!(email.channel.recipients(), ["noc@example.com", "duty@example.com"]);
    let mut told = raise("auth");
    told.notification.notice.alert.title = "Fake\r\nBcc: evil@example.com".to_owned();
    told.notification.notice.alert.kind = AlertType::HighErrorRate;
    email.deliver(&told).await.unwrap();
    let mail = server.next().await;
    assert_eq!((&mail["from"], &mail["encrypted"]), (&json!("monitor@example.com"), &json!(false)));
    assert_eq!(mail["to"], json!(["noc@example.com", "duty@example.com"]));
    let data = mail["data"].as_str().unwrap();
    let (head, body) = data.split_once("\r\n\r\n").unwrap();
    let id = told.notification.id.replace(':', ".");
    for line in [
        "Subject: FakeBcc: evil@example.com",
        "From: monitor@example.com",
        &format!("Message-ID: <{id}@as-infrastructure-service>"),
        "Auto-Submitted: auto-generated",
        "Content-Type: text/plain; charset=utf-8",
    ] {
        assert!(head.lines().any(|found| found == line), "{line} is not in\n{head}");
    }
    assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
    assert!(body.contains("Severity: CRITICAL"), "{body}");
}

#[tokio::test]
async fn mail_is_encrypted_and_logged_in_as_asked() {
    for mode in ["starttls", "tls"] {
        let mut server = MailServer::start(mode, "canary-4711").await;
        let email = server.receiver(mode, "noc@example.com", &LOGIN);
        assert_eq!(email.deliver(&raise("auth")).await, Ok(()), "{mode}");
        let mail = server.next().await;
        assert_eq!((&mail["encrypted"], &mail["authenticated"]), (&json!(true), &json!(true)), "{mode}");
        let wrong = server.receiver(mode, "noc@example.com", &[LOGIN[0], ("SMTP_PASSWORD", "guess")]);
        assert_eq!(wrong.deliver(&raise("auth")).await, refused("SMTP 535"), "{mode}");
        // A certificate nobody vouches for.
        let stranger = server.receiver(mode, "noc@example.com", &[LOGIN[0], LOGIN[1], ("SMTP_CA_FILE", "")]);
        assert_eq!(stranger.deliver(&raise("auth")).await, away("TLS failed", false), "{mode}");
    }
    let clear = MailServer::start("plain", "").await;
    let email = clear.receiver("starttls", "noc@example.com", &[]);
    assert_eq!(email.deliver(&raise("auth")).await, away("does not offer the TLS or login asked for", false));
}

#[tokio::test]
async fn a_mail_server_may_refuse_for_now_or_for_good() {
    let server = MailServer::start("plain", "").await;
    let full = server.receiver("none", "full@example.com", &[]);
    assert_eq!(full.deliver(&raise("auth")).await, away("SMTP 452", false));
    let nobody = server.receiver("none", "nobody@example.com", &[]);
    assert_eq!(nobody.deliver(&raise("auth")).await, refused("SMTP 550"));
    let port = free_port().to_string();
    let gone = receiver(&[("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", &port), ("SMTP_TLS", "none")], "");
    assert_eq!(gone.deliver(&raise("auth")).await, away("no connection", true));
    assert!(!gone.channel.is_reachable().await && full.channel.is_reachable().await);
}

/// Says the first so many of its lines, each in its turn, then `rest` for ever.
async fn scripted_mail_server(says: usize, rest: &'static [u8]) -> u16 {
    const LINES: [&str; 6] = ["220 hello", "250 hello", "250 ok", "250 ok", "354 go on", "250 taken"];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        for (turn, line) in LINES.iter().enumerate().take(says) {
            let mut heard = String::new();
            // It greets unasked, and hears the whole mail before its last word.
            while turn > 0 && stream.read_line(&mut heard).await.is_ok_and(|read| read > 0) {
                if turn < 5 || heard == ".\r\n" {
                    break;
                }
                heard.clear();
            }
            stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        }
        while !rest.is_empty() && stream.get_mut().write_all(rest).await.is_ok() {}
        std::future::pending::<()>().await;
    });
    port
}

fn to_port(port: u16) -> Receiver {
    let table = format!(
        "[[notify.receiver]]\nname = \"noc\"\nchannel = \"email\"\nto = [\"noc@example.com\"]\ntimeout_ms = 300\n\
         smtp_host = \"127.0.0.1\"\nsmtp_port = {port}\nsmtp_tls = \"none\"\n"
    );
    receiver(&[], &table)
}

#[tokio::test]
async fn a_mail_server_that_stalls_at_any_step_takes_no_more_than_its_time() {
    for says in 0..=5 {
        let email = to_port(scripted_mail_server(says, b"").await);
        let started = Instant::now();
        assert_eq!(email.deliver(&raise("auth")).await, away("no answer in time", false), "after {says} lines");
        assert!(started.elapsed() < Duration::from_secs(2), "after {says} lines");
    }
    // It has said yes: that it says no goodbye changes nothing.
    assert_eq!(to_port(scripted_mail_server(6, b"").await).deliver(&raise("auth")).await, Ok(()));
}

#[tokio::test]
async fn a_mail_server_that_never_ends_a_line_is_left() {
    for says in [0, 1, 4] {
        let email = to_port(scripted_mail_server(says, &[b'2'; 8192]).await);
        let started = Instant::now();
        assert_eq!(email.deliver(&raise("auth")).await, away("broke off, or does not speak SMTP", false));
        assert!(started.elapsed() < Duration::from_millis(250), "left by the limit of bytes, not of time");
    }
}

// ---- Alertmanager ----

/// Debian's Alertmanager on free ports.
struct AlertmanagerServer {
    url: String,
    client: reqwest::Client,
    _folder: TempDir,
    _child: Child,
}

impl AlertmanagerServer {
    async fn start() -> Self {
        install_crypto_provider();
        let folder = tempfile::tempdir().unwrap();
        let config = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n";
        std::fs::write(folder.path().join("alertmanager.yml"), config).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let child = Command::new("prometheus-alertmanager")
            .args(["--config.file=alertmanager.yml", "--storage.path=data", "--cluster.listen-address="])
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus-alertmanager, which tests/run installs");
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let server = Self { url: format!("http://{address}"), client, _folder: folder, _child: child };
        eventually("Alertmanager", async || server.ask("/-/ready").await).await;
        server
    }

    async fn ask(&self, path: &str) -> Option<String> {
        let answer = self.client.get(format!("{}{path}", self.url)).send().await.ok()?;
        answer.error_for_status().ok()?.text().await.ok()
    }

    /// What fires there: name, service and severity of each, and when it would end by itself.
    async fn firing(&self) -> Vec<(String, String)> {
        let alerts: Vec<Value> = serde_json::from_str(&self.ask("/api/v2/alerts").await.unwrap()).unwrap();
        let mut firing: Vec<_> = alerts
            .iter()
            .map(|alert| {
                let label = |name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
                let what = format!("{} {} {}", label("alertname"), label("service"), label("severity"));
                assert_eq!(label("job"), "as-infrastructure-service");
                assert_eq!(alert["startsAt"], "2026-01-31T10:30:00.000Z", "{alert}");
                (what, alert["endsAt"].as_str().unwrap().to_owned())
            })
            .collect();
        firing.sort();
        firing
    }

    async fn names(&self) -> Vec<String> {
        self.firing().await.into_iter().map(|(what, _)| what).collect()
    }
}

#[tokio::test]
async fn alertmanager_sees_alerts_begin_rise_go_on_and_end() {
    let server = AlertmanagerServer::start().await;
    let team = receiver(&[("ALERTMANAGER_URL", &format!("{}/", server.url))], "");
    assert_eq!(team.channel.resend_every(), Some(Duration::from_secs(60)));
    team.deliver(&message(NoticeKind::AlertRaised, alert("auth", Severity::Medium, false))).await.unwrap();
    team.deliver(&digest(&["call", "web"])).await.unwrap();
    let many = ["service_down auth medium", "service_down call high", "service_down web high"];
    assert_eq!(server.names().await, many);

    let risen = alert("auth", Severity::Critical, false);
    team.deliver(&message(NoticeKind::AlertSeverityRaised, risen.clone())).await.unwrap();
    let before = server.firing().await;
    assert_eq!(before[0].0, "service_down auth critical");
    assert_eq!(before.len(), 3, "the milder one has ended: {before:?}");

    let living = [Arc::new(risen), Arc::new(alert("call", Severity::High, false))];
    team.channel.resend(&living).await.unwrap();
    let after = server.firing().await;
    assert_eq!(after.len(), 3);
    assert!(after[0].1 > before[0].1 && after[1].1 > before[1].1, "they end later: {before:?} {after:?}");

    team.deliver(&message(NoticeKind::AlertResolved, alert("auth", Severity::Critical, true))).await.unwrap();
    assert_eq!(server.names().await, ["service_down call high", "service_down web high"]);
    let mut ends = digest(&["call", "web"]);
    for item in &mut ends.notification.digest.as_mut().unwrap().items {
        (item.kind, item.at) = (NoticeKind::AlertResolved, from_ms(T0 + 60_000));
    }
    team.deliver(&ends).await.unwrap();
    assert_eq!(server.names().await, Vec::<String>::new());
}

// ---- secrets ----

/// Log text of this thread.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_in_any_debug_text_error_or_log_line() {
    install_crypto_provider();
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    let dead = format!("127.0.0.1:{}", free_port());
    let stub = Stub::start(Script::Reply(400, "canary-echo".to_owned())).await;
    let file = format!(
        "[[notify.receiver]]\nname = \"a\"\nchannel = \"webhook\"\nurl = \"http://u:canary-pw@{dead}/canary-path?t=canary-q\"\n\
         headers = {{ X-Token = \"canary-header\" }}\nsecrets = [\"canary-signing\"]\n\
         [[notify.receiver]]\nname = \"b\"\nchannel = \"pagerduty\"\nurl = \"http://{dead}/canary-b\"\nrouting_key = \"canary-route\"\n\
         [[notify.receiver]]\nname = \"c\"\nchannel = \"email\"\nto = [\"noc@example.com\"]\nsmtp_host = \"127.0.0.1\"\n\
         smtp_port = {port}\nsmtp_user = \"monitor\"\nsmtp_password = \"canary-mail\"\n\
         [[notify.receiver]]\nname = \"d\"\nchannel = \"slack\"\nurl = \"{stub}/canary-slack\"\n",
        port = free_port(),
        stub = stub.url(),
    );
    let config =
        settings(&[("ALERT_WEBHOOK_SECRETS", "canary-s"), ("TEAMS_WEBHOOK_URL", "http://[::1]:1/canary-t")], &file);
    let receivers = notify::receivers(&config).unwrap();
    assert_eq!(receivers.len(), 6);
    let mut said = format!("{config:?} {receivers:?}");
    for receiver in &receivers {
        let result = receiver.deliver(&raise("auth")).await;
        assert!(result.is_err() || receiver.name == "log", "{}", receiver.name);
        if let Err(error) = result {
            said.push_str(&format!("{error} {error:?}"));
        }
        said.push_str(&receiver.channel.recipients().join(" "));
    }
    said.push_str(&String::from_utf8_lossy(&captured.0.lock().unwrap()));
    assert!(said.contains("ALERT Service DOWN: auth"), "the log was captured");
    assert!(!said.contains("canary"), "{}", said.split_whitespace().find(|word| word.contains("canary")).unwrap());
}
