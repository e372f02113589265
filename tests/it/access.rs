//! Who may do what, for every operation of the document: no key, a wrong key, a reader's key, a full key.

use serde_json::Value;

use crate::support::{Answer, KEY, TestApp};

const READER: &str = "a-reader-key-of-24-letters";
const WRONG: &str = "a-wrong-key-of-some-length";

/// The classes of CONTRACT.md section 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Open,
    Public,
    Read,
    Write,
}

/// The table of CONTRACT.md section 2, read once more.
fn class(method: &str, path: &str) -> Class {
    let beneath = |beginning: &str| path == beginning || path.starts_with(&format!("{beginning}/"));
    match path {
        _ if method != "GET" => Class::Write,
        "/livez" | "/readyz" | "/health/live" => Class::Open,
        "/" | "/openapi.json" => Class::Public,
        // CONTRACT.md section 20.
        "/api/v1/sd" => Class::Read,
        _ if ["/health", "/status", "/api", "/docs", "/redoc"].into_iter().any(beneath) => Class::Public,
        _ => Class::Read,
    }
}

/// Asks as somebody new each time: guessing is limited by address.
struct Callers {
    app: TestApp,
    count: u16,
}

impl Callers {
    async fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.count += 1;
        let [high, low] = self.count.to_be_bytes();
        self.app.ask_from([127, 1, high, low].into(), method, path, headers, "").await
    }
}

async fn callers(scope: &str) -> (Callers, Vec<(String, String)>) {
    let keys = [("AUTH_SCOPE", scope), ("INTERNAL_SERVICE_KEY", KEY), ("READONLY_SERVICE_KEYS", READER)];
    let app = TestApp::with(&keys).await;
    let document = app.get("/openapi.json").await.json;
    let paths = document["paths"].as_object().unwrap().clone();
    let operations = paths.into_iter().flat_map(|(path, item)| {
        let path =
            ["{id}", "{name}", "{receiver}", "{file}"].iter().fold(path, |path, place| path.replace(place, "web-ui"));
        let methods: Vec<String> = item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        methods.into_iter().map(move |method| (method, path.clone()))
    });
    let operations: Vec<(String, String)> = operations.collect();
    assert!(operations.len() > 70, "{}", operations.len());
    (Callers { app, count: 0 }, operations)
}

#[tokio::test]
async fn every_operation_is_as_open_as_its_class_and_no_more() {
    for scope in ["all", "internal", "writes"] {
        let (mut callers, operations) = callers(scope).await;
        for (method, path) in &operations {
            let class = class(method, path);
            let open = match class {
                Class::Open => true,
                Class::Public => scope != "all",
                Class::Read => scope == "writes",
                Class::Write => false,
            };
            let name = format!("{method} {path} ({class:?}) under {scope}");
            // A stream that is let in never ends: its head says enough.
            let without_end = path == "/events";
            let none = callers.ask(if without_end && open { "HEAD" } else { method }, path, &[]).await;
            assert_eq!(none.status != 401, open, "{name} without a key: {}", none.status);
            if !open {
                assert_eq!(none.json["detail"], "Internal service authentication required", "{name}");
            }
            for headers in
                [&[("x-service-key", WRONG)][..], &[("x-api-key", "")], &[("x-service-key", KEY), ("x-api-key", KEY)]]
            {
                let wrong = callers.ask(method, path, headers).await;
                assert_eq!(wrong.status == 401, class != Class::Open, "{name} with {headers:?}: {}", wrong.status);
            }
            if without_end {
                continue;
            }
            let reader = callers.ask(method, path, &[("authorization", &format!("Bearer {READER}"))]).await;
            assert_eq!(reader.status == 403, class == Class::Write, "{name} with a reader's key: {}", reader.status);
            assert_ne!(reader.status, 401, "{name} with a reader's key");
        }
    }
}

#[tokio::test]
async fn every_operation_knows_a_full_key_in_each_of_its_three_ways() {
    let (mut callers, operations) = callers("all").await;
    let bearer = format!("Bearer {KEY}");
    for (method, path) in operations.iter().filter(|(_, path)| path != "/events" && path != "/monitoring/stop") {
        for header in [("x-service-key", KEY), ("x-api-key", KEY), ("authorization", bearer.as_str())] {
            let answer = callers.ask(method, path, &[header]).await;
            assert!(![401, 403].contains(&answer.status.as_u16()), "{method} {path} {header:?}: {}", answer.status);
        }
    }
}

#[tokio::test]
async fn no_spelling_of_a_path_gets_in_without_a_key_and_refusals_are_alike() {
    let (mut callers, operations) = callers("all").await;
    let mut bodies = std::collections::BTreeSet::new();
    let paths: std::collections::BTreeSet<String> = operations.into_iter().map(|(_, path)| path).collect();
    for path in paths.into_iter().chain(["/nope".to_owned()]) {
        let spelled = [
            format!("{path}/"),
            format!("/{path}"),
            format!("/.{path}"),
            path.replacen('e', "%65", 1),
            path.to_uppercase(),
            format!("{path};x"),
        ];
        for spelled in spelled.iter().filter(|spelled| {
            let plain = spelled.strip_suffix('/').unwrap_or(spelled);
            class("GET", plain) != Class::Open && !spelled.is_empty()
        }) {
            for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
                for headers in [&[][..], &[("x-service-key", "")], &[("x-service-key", WRONG)]] {
                    let answer = callers.ask(method, spelled, headers).await;
                    assert_eq!(answer.status, 401, "{method} {spelled} {headers:?}");
                    if method != "HEAD" {
                        let mut body = answer.json;
                        body["instance"] = Value::Null;
                        bodies.insert((headers.is_empty(), body.to_string()));
                    }
                }
            }
        }
    }
    assert_eq!(bodies.len(), 2, "{bodies:?}");
}
