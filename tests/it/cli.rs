//! The commands that ask a running service, as they are typed: the built binary against a running instance of it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Binary, KEY, LIMIT, Script, Stub, command, eventually, free_port};

/// What a command came to.
#[derive(Debug)]
pub struct Came {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Came {
    fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }

    /// The cells of the row that begins with `name`, if there is one.
    fn row(&self, name: &str) -> Option<Vec<String>> {
        let rows = self.out.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()));
        rows.map(|cells| cells.map(str::to_owned).collect::<Vec<_>>()).find(|cells| cells[0] == name)
    }
}

/// Runs the command in `folder` with these variables.
pub async fn run_in(folder: &std::path::Path, variables: &[(&str, &str)], arguments: &[&str]) -> Came {
    let output = command(folder).envs(variables.iter().copied()).args(arguments).output();
    let output = tokio::time::timeout(LIMIT, output).await.unwrap().unwrap();
    Came {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the command beside the running service, which it finds by the PORT of the settings.
async fn run(binary: &Binary, arguments: &[&str]) -> Came {
    let port = binary.port.to_string();
    let variables = [("PORT", port.as_str()), ("SERVICES_FILE", "services.toml")];
    run_in(binary.folder.path(), &variables, arguments).await
}

fn service(name: &str, stub: &Stub) -> String {
    format!("[[service]]\nname = \"{name}\"\nurl = \"{}\"\n", stub.url())
}

/// Checks by hand; when the service asks to wait between two of them, again after what it asks for.
async fn check(binary: &Binary, name: &str, more: &[&str]) -> Came {
    let arguments = [&["check", name], more].concat();
    loop {
        let came = run(binary, &arguments).await;
        match came.err.split_once("try again in ").and_then(|(_, wait)| wait.split(' ').next()?.parse().ok()) {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => return came,
        }
    }
}

#[tokio::test]
async fn a_service_is_added_listed_checked_and_removed() {
    let (auth, web) = (Stub::start(Script::ok()).await, Stub::start(Script::ok()).await);
    let binary = Binary::start(&service("auth", &auth), &[]).await;
    let own = format!("http://127.0.0.1:{}/", binary.port);
    let address = format!("{}/state", web.url());
    let add = [
        "services",
        "add",
        "web",
        &address,
        "--interval",
        "1m",
        "--timeout",
        "1500ms",
        "--critical",
        "--category",
        "edge",
        "--depends-on",
        "auth",
        "--tag",
        "eu",
        "--tag",
        "green",
        "--field",
        "retries=0",
        "--field",
        "description=\"the shop\"",
        "--url",
        &own,
    ];
    let came = run(&binary, &[&add[..], &["--json"]].concat()).await;
    assert_eq!((came.code, came.err.as_str()), (0, ""), "{came:?}");
    let record = came.json();
    let expected = json!({
        "id": "web", "url": address, "protocol": "HTTP", "check_interval": 60, "timeout": 1.5, "critical": true,
        "category": "edge", "tags": ["eu", "green"], "retries": 0, "description": "the shop", "depends_on": ["auth"],
        "source": "api",
    });
    for (field, value) in expected.as_object().unwrap() {
        let same = match (value.as_f64(), record[field].as_f64()) {
            (Some(one), Some(other)) => one == other,
            _ => *value == record[field],
        };
        assert!(same, "{field}: {}", record[field]);
    }
    let again = run(&binary, &add).await;
    assert_eq!(again.code, 1);
    assert_eq!(again.err, "error: Service endpoint with ID web already exists\n");
    let came = run(&binary, &["services", "add", "web2", &address, "--protocol", "http"]).await;
    assert_eq!(came.code, 0, "{came:?}");
    assert_eq!(came.out.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(), ["NAME", "STATUS", "URL"]);
    assert_eq!(came.row("web2").unwrap()[2], address);

    // New ones get their first check within their interval, which is long.
    for name in ["auth", "web", "web2"] {
        assert_eq!(check(&binary, name, &[]).await.code, 0);
    }
    let list = run(&binary, &["services", "list", "--url", &own]).await;
    assert_eq!(list.row("web").unwrap(), ["web", "healthy", "yes", "edge", &address]);
    assert!(list.row("auth").is_some());
    let names = async |more: &[&str]| {
        let arguments = [&["services", "list", "--json"], more].concat();
        let rows = run(&binary, &arguments).await.json();
        rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["--url", &own, "--category", "edge"]).await, ["web"]);
    assert_eq!(names(&["--url", &own, "--protocol", "http"]).await, ["auth", "web", "web2"]);
    assert_eq!(names(&["--url", &own, "--protocol", "tcp"]).await, Vec::<String>::new());
    // The file knows its own only.
    assert_eq!(names(&["--protocol", "HTTP"]).await, ["auth"]);
    assert_eq!(run(&binary, &["services", "list", "--category", "edge"]).await.out, "no services\n");

    let came = check(&binary, "web", &[]).await;
    assert_eq!((came.code, &came.row("web").unwrap()[1]), (0, &"UP".to_owned()), "{came:?}");
    assert!(came.out.contains("  response time  ") && came.out.contains(" ms\n"), "{came:?}");
    web.set(Script::Reply(404, String::new()));
    let came = check(&binary, "web", &["--json"]).await;
    assert_eq!((came.code, &came.json()["status"]), (0, &json!("DEGRADED")));
    web.set(Script::Reply(500, String::new()));
    let came = check(&binary, "web", &[]).await;
    assert_eq!((came.code, &came.row("web").unwrap()[1]), (1, &"DOWN".to_owned()), "{came:?}");
    let came = run(&binary, &["check", "nobody/at all"]).await;
    assert_eq!((came.code, came.out.as_str()), (1, ""));
    assert!(came.err.starts_with("error: ") && came.err.contains("not found"), "{came:?}");

    let came = run(&binary, &["services", "remove", "web", "--if-match", "\"1\""]).await;
    assert_eq!(came.code, 1, "{came:?}");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let record = client.get(format!("{own}services/web")).header("x-service-key", KEY).send().await.unwrap();
    let tag = record.headers()["etag"].to_str().unwrap().to_owned();
    // A shell takes the quotes off.
    let came = run(&binary, &["services", "remove", "web", "--if-match", tag.trim_matches('"')]).await;
    assert_eq!((came.code, came.out.as_str()), (0, "removed web\n"), "{came:?}");
    assert_eq!(run(&binary, &["services", "remove", "web"]).await.code, 1);
    let came = run(&binary, &["services", "remove", "web2", "--json"]).await;
    assert_eq!((came.code, came.out.as_str()), (0, ""));
    let came = run(&binary, &["services", "remove", "auth"]).await;
    assert!(came.code == 1 && came.err.contains("defined in the services file"), "{came:?}");
}

#[tokio::test]
async fn outages_are_listed_shown_and_resolved() {
    let (auth, web) = (Stub::start(Script::Close).await, Stub::start(Script::ok()).await);
    let binary = Binary::start(&(service("auth", &auth) + &service("web", &web)), &[]).await;
    assert_eq!(run(&binary, &["outages", "--service", "web"]).await.out, "no outages\n");
    let open = eventually("an outage", async || {
        let came = run(&binary, &["outages", "--active", "--json"]).await;
        (came.json()["total"] == 1).then_some(came)
    })
    .await;
    let id = open.json()["items"][0]["id"].as_str().unwrap().to_owned();
    for more in [&["--active"][..], &["--service", "auth"], &["--severity", "major", "--since", "1h", "--limit", "1"]] {
        let came = run(&binary, &[&["outages"], more].concat()).await;
        let row = came.row(&id).unwrap_or_else(|| panic!("{more:?}: {came:?}"));
        assert_eq!((row[1].as_str(), row[2].as_str(), row[4].as_str()), ("auth", "MAJOR", "open"));
        assert!(came.out.contains("Service outage detected: "), "{came:?}");
    }
    for other in [["--service", "web"], ["--severity", "critical"], ["--since", "2100-01-01T00:00:00Z"]] {
        let came = run(&binary, &[&["outages", "list"], &other[..]].concat()).await;
        assert_eq!((came.code, came.out.as_str()), (0, "no outages\n"), "{other:?}");
    }
    let came = run(&binary, &["outages", "show", &id]).await;
    assert!(came.code == 0 && came.out.starts_with(&format!("outage {id}\n")), "{came:?}");
    assert!(came.out.contains("first failed check: ") && came.out.contains("confirmed: "), "{came:?}");
    assert!(!came.out.contains("resolved"), "{came:?}");

    let came = run(&binary, &["outages", "resolve", &id, "--notes", "cable put back"]).await;
    assert_eq!(came.code, 0, "{came:?}");
    assert!(came.row(&id).unwrap()[4].ends_with('Z'), "{came:?}");
    let shown = run(&binary, &["outages", "show", &id]).await.out;
    assert!(shown.lines().last().unwrap().contains("cable put back"), "{shown}");
    assert_eq!(run(&binary, &["outages", "show", &id, "--json"]).await.json()["resolution_notes"], "cable put back");
    let came = run(&binary, &["outages", "resolve", &id]).await;
    assert_eq!(came.code, 1);
    assert_eq!(came.err, format!("error: Service outage with ID {id} not found or already resolved\n"));
    let came = run(&binary, &["outages", "show", "../../livez"]).await;
    assert!(came.code == 1 && came.err.contains("not found"), "{came:?}");
}

#[tokio::test]
async fn maintenance_is_announced_ended_and_removed() {
    let auth = Stub::start(Script::ok()).await;
    let binary = Binary::start(&service("auth", &auth), &[]).await;
    assert_eq!(run(&binary, &["maintenance", "list"]).await.out, "no maintenance windows\n");
    let came = run(
        &binary,
        &[
            "maintenance",
            "add",
            "--start",
            "now",
            "--end",
            "+2h",
            "--service",
            "auth",
            "--description",
            "new disk",
            "--json",
        ],
    )
    .await;
    assert_eq!(came.code, 0, "{came:?}");
    let window = came.json();
    let id = window["id"].as_str().unwrap();
    let at = |field: &str| window[field].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert_eq!((at("end_time") - at("start_time")).num_minutes(), 120);
    assert_eq!((&window["is_active"], &window["endpoint_ids"]), (&json!(true), &json!(["auth"])));
    let list = run(&binary, &["maintenance", "list"]).await;
    let row = list.row(id).unwrap();
    assert_eq!((row[1].as_str(), row[4].as_str(), row[5].as_str()), ("yes", "auth", "new disk"), "{list:?}");
    binary.wait_until("/health/service/auth", |body| body["service"]["inMaintenance"] == true).await;
    let checked = check(&binary, "auth", &[]).await;
    assert_eq!((checked.code, &checked.row("auth").unwrap()[1]), (1, &"UNKNOWN".to_owned()), "{checked:?}");
    assert!(checked.out.contains("observed       healthy"), "{checked:?}");

    let came = run(&binary, &["maintenance", "end", id]).await;
    assert_eq!(came.code, 0, "{came:?}");
    eventually("its end", async || {
        (run(&binary, &["maintenance", "list"]).await.out == "no maintenance windows\n").then_some(())
    })
    .await;
    assert_eq!(run(&binary, &["maintenance", "list", "--past"]).await.row(id).unwrap()[1], "no");
    let came = run(&binary, &["maintenance", "remove", id]).await;
    assert_eq!((came.code, came.out), (0, format!("removed {id}\n")));
    let came = run(&binary, &["maintenance", "remove", id]).await;
    assert_eq!((came.code, came.err), (1, format!("error: Maintenance window with ID {id} not found\n")));

    let nightly = [
        "maintenance",
        "add",
        "--start",
        "2026-01-01T00:00:00+01:00",
        "--end",
        "2099-01-01T00:00:00Z",
        "--tag",
        "eu",
        "--category",
        "core",
        "--name",
        "nightly",
        "--cron",
        "0 0 3 * * Sun",
        "--duration-minutes",
        "60",
        "--timezone",
        "Europe/Berlin",
    ];
    let came = run(&binary, &nightly).await;
    assert_eq!(came.code, 0, "{came:?}");
    for part in
        ["0 0 3 * * Sun (Europe/Berlin), 60 min", "tag eu, category core", "nightly", "2025-12-31T23:00:00.000Z"]
    {
        assert!(came.out.contains(part), "{part}: {came:?}");
    }
    let came = run(&binary, &["maintenance", "add", "--start", "+1h", "--end", "now", "--service", "gone"]).await;
    assert_eq!((came.code, came.out.as_str()), (1, ""));
    assert!(came.err.contains("error: endpoint_ids: ") && came.err.contains("error: end_time: "), "{came:?}");
    for wrong in [
        &["--end", "+1h"][..],
        &["--start", "soon", "--end", "+1h"],
        &["--start", "now", "--end", "+1h", "--cron", "0 0 3 * * Sun"],
    ] {
        assert_eq!(run(&binary, &[&["maintenance", "add"], wrong].concat()).await.code, 2, "{wrong:?}");
    }
}

#[tokio::test]
async fn a_refusal_says_every_field_and_its_rule() {
    let auth = Stub::start(Script::ok()).await;
    let binary = Binary::start(&service("auth", &auth), &[("READONLY_SERVICE_KEYS", "only-for-reading-things")]).await;
    let came = run(&binary, &["services", "add", "a b", "http://h:1/", "--timeout", "2m", "--category", "NO"]).await;
    assert_eq!((came.code, came.out.as_str()), (1, ""));
    let lines: Vec<&str> = came.err.lines().collect();
    for field in ["timeout", "category"] {
        assert!(lines.iter().any(|line| line.starts_with(&format!("error: {field}"))), "{field}: {lines:?}");
    }
    assert!(lines.len() >= 3, "{lines:?}");
    let port = binary.port.to_string();
    let with_key = async |key: &str, arguments: &[&str]| {
        run_in(binary.folder.path(), &[("PORT", &port), ("INTERNAL_SERVICE_KEY", key)], arguments).await
    };
    let came = with_key("a-wrong-key-of-length,another-wrong-one", &["outages"]).await;
    assert_eq!(came.err, "error: Invalid internal service key; see INTERNAL_SERVICE_KEY\n");
    assert_eq!(came.code, 1);
    let came = with_key(&format!("{KEY},another-wrong-one"), &["outages"]).await;
    assert_eq!(came.code, 0, "{came:?}");
    assert_eq!(with_key("only-for-reading-things", &["outages"]).await.code, 0);
    let came = with_key("only-for-reading-things", &["services", "remove", "auth"]).await;
    assert_eq!((came.code, came.err.as_str()), (1, "error: Not enough permissions; see INTERNAL_SERVICE_KEY\n"));
}

#[tokio::test]
async fn wrong_arguments_and_settings_are_told_apart_from_refusals() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://127.0.0.1:{}", free_port());
    for arguments in [
        &["outages"][..],
        &["outages", "show", "x"],
        &["check", "x"],
        &["services", "list"],
        &["services", "add", "x", "http://h/"],
        &["maintenance", "list"],
    ] {
        let came = run_in(folder.path(), &[], &[arguments, &["--url", &url]].concat()).await;
        let expected = format!("error: no answer from {url}; is the service running there?\n");
        assert_eq!((came.code, came.out.as_str(), came.err), (1, "", expected), "{arguments:?}");
    }
    for wrong in [
        &["outages", "--severity", "bad"][..],
        &["outages", "--since", "yesterday"],
        &["outages", "--limit", "0"],
        &["outages", "--active", "show", "x"],
        &["outages", "show", ".."],
        &["services", "add", "x", "http://h/", "--interval", "30"],
        &["services", "add", "x", "http://h/", "--field", "description=plain"],
        &["services", "add", "x", "http://h/", "--field", "url=\"http://i/\"", "--url", "http://127.0.0.1:1"],
        &["services", "list", "--protocol", "gopher"],
        &["check"],
        &["check", "x", "--url", "localhost:3106"],
        &["maintenance", "end"],
    ] {
        let came = run_in(folder.path(), &[], wrong).await;
        assert!(came.code == 2 && came.out.is_empty() && came.err.starts_with("error: "), "{wrong:?}: {came:?}");
    }
    let came = run_in(folder.path(), &[("ENVIRONMENT", "production")], &["outages", "--url", &url]).await;
    assert!(came.code == 2 && came.err.contains("INTERNAL_SERVICE_KEY"), "{came:?}");
    let came = run_in(folder.path(), &[("PORT", "x")], &["outages"]).await;
    assert_eq!(came.code, 2, "{came:?}");
}

#[tokio::test]
async fn what_a_stranger_answers_reaches_no_terminal_and_fills_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let hostile = "\\u001b[2Jgone\\r\\n\u{9b}31m\u{202e}\\u0007".to_owned() + &"x".repeat(500);
    let outage = format!("{{\"items\":[{{\"id\":\"1\",\"description\":\"{hostile}\"}}],\n \"total\":7}}");
    let stub = Stub::start(Script::Reply(200, outage)).await;
    let url = stub.url();
    let obeyed = |text: &str| text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');
    let ask = async |more: &[&str]| run_in(folder.path(), &[], &[&["outages", "--url", &url], more].concat()).await;
    let came = ask(&[]).await;
    assert!(came.code == 0 && !obeyed(&came.out), "{came:?}");
    assert!(came.out.contains("\\u{1b}[2Jgone") && came.out.contains(&"x".repeat(500)), "{came:?}");
    assert!(came.err.starts_with("1 of 7 are shown"), "{came:?}");
    let came = ask(&["--json"]).await;
    assert!(!obeyed(&came.out), "{came:?}");
    let kept = came.json()["items"][0]["description"].as_str().unwrap().to_owned();
    assert!(kept.starts_with("\u{1b}[2Jgone\r\n\u{9b}31m\u{202e}\u{7}"), "{kept:?}");

    let refused = |script: Script, expected: String| {
        stub.set(script);
        let asked = ask(&[]);
        async move {
            let came = asked.await;
            assert_eq!((came.code, came.out.as_str()), (1, ""), "{expected}");
            assert!(came.err.contains(&expected) && !obeyed(&came.err), "{expected}: {came:?}");
        }
    };
    refused(Script::Reply(418, format!("{{\"message\":\"{hostile}\"}}")), "error: \\u{1b}[2Jgone".to_owned()).await;
    refused(Script::Reply(502, "<html>".to_owned()), format!("{url} answered HTTP 502; is it this service?")).await;
    refused(Script::Reply(200, "<html>".to_owned()), "something else than JSON".to_owned()).await;
    let elsewhere = format!("HTTP/1.1 302 X\r\nlocation: {url}/\r\ncontent-length: 0\r\n\r\n");
    refused(Script::Raw(elsewhere.into_bytes()), "HTTP 302".to_owned()).await;
    let cut = b"HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\n{".to_vec();
    refused(Script::Raw(cut), "broke off".to_owned()).await;
    refused(Script::Close, "no answer from ".to_owned()).await;
    let endless = Script::Endless(b"HTTP/1.1 200 X\r\n\r\n".to_vec(), vec![b' '; 64 * 1024]);
    refused(endless, "is over 16 MiB".to_owned()).await;
    let asked = stub.requests();
    assert!(asked >= 9, "{asked}");
    let heads = stub.heads.lock().unwrap().clone();
    assert!(heads.iter().all(|head| head.contains(&format!("x-service-key: {KEY}\r\n"))), "{heads:?}");
}

#[tokio::test]
async fn an_address_of_any_protocol_is_probed() {
    let stub = Stub::start(Script::ok()).await;
    let folder = tempfile::tempdir().unwrap();
    let probe = async |target: &str| run_in(folder.path(), &[], &["probe", target]).await;
    for target in [
        format!("tcp://{}", stub.address),
        format!("{}/a?b=c", stub.url()),
        stub.url(),
        format!("filesystem://{}", folder.path().display()),
    ] {
        let came = probe(&target).await;
        assert!(came.code == 0 && came.out.contains(": healthy (ok)"), "{target}: {came:?}");
        assert!(came.out.starts_with(target.trim_end_matches('/')), "{target}: {came:?}");
    }
    let heads = stub.heads.lock().unwrap().clone();
    assert!(heads.iter().any(|head| head.starts_with("GET /a?b=c ")), "{heads:?}");
    assert!(heads.iter().any(|head| head.starts_with("GET / ")), "{heads:?}");
    for scheme in ["tcp", "redis", "rediss", "postgres", "amqp", "grpc", "tls"] {
        let came = probe(&format!("{scheme}://127.0.0.1:{}", free_port())).await;
        assert!(came.code == 1 && came.out.contains("connect_refused"), "{scheme}: {came:?}");
    }
    let came = probe("filesystem:///not/there").await;
    assert!(came.code == 1 && came.out.starts_with("filesystem:///not/there: unhealthy"), "{came:?}");
    for wrong in ["gopher://h", "tcp://h", "http://", "nobody", "tcp://"] {
        let came = probe(wrong).await;
        assert!(came.code == 2 && came.err.starts_with("error: "), "{wrong}: {came:?}");
    }
}
