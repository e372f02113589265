//! The dashboards of Grafana as files: what an import and a provisioning need, panels that explain themselves, a grid
//! without holes in it. What their expressions name is judged in `promql`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::promql::{Expression, config};

/// Panels that every Grafana has; the file says so by naming no other.
const CORE: [&str; 7] = ["heatmap", "row", "stat", "state-timeline", "status-history", "table", "timeseries"];

fn dashboards() -> Vec<(String, Value)> {
    let mut found: Vec<_> = std::fs::read_dir(config("grafana"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
        })
        .collect();
    found.sort_by(|one: &(String, Value), other| one.0.cmp(&other.0));
    found
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The expressions of every panel and every variable.
pub fn expressions() -> Vec<Expression> {
    let legend = regex::Regex::new(r"\{\{\s*(\w+)\s*\}\}").unwrap();
    let values = regex::Regex::new(r"^label_values\((\w+), (\w+)\)$").unwrap();
    let mut found = Vec::new();
    for (file, board) in dashboards() {
        for panel in list(&board["panels"]).iter().filter(|panel| panel["type"] != "row") {
            for target in list(&panel["targets"]) {
                let shown = legend.captures_iter(text(&target["legendFormat"])).map(|label| label[1].to_owned());
                found.push(Expression {
                    place: format!("{file}, {}", text(&panel["title"])),
                    text: text(&target["expr"]).to_owned(),
                    shown: shown.collect(),
                });
            }
        }
        for variable in list(&board["templating"]["list"]).iter().filter(|variable| variable["type"] == "query") {
            let query = values.captures(text(&variable["query"]["query"])).unwrap();
            found.push(Expression {
                place: format!("{file}, variable {}", text(&variable["name"])),
                text: query[1].to_owned(),
                shown: vec![query[2].to_owned()],
            });
        }
    }
    found
}

#[test]
fn each_dashboard_has_its_own_place_and_is_found_from_the_others() {
    let boards = dashboards();
    let uids: BTreeSet<&str> = boards.iter().map(|(_, board)| text(&board["uid"])).collect();
    assert_eq!(uids, BTreeSet::from(["as-infra-fleet", "as-infra-monitor", "as-infra-service"]));
    let titles: BTreeSet<&str> = boards.iter().map(|(_, board)| text(&board["title"])).collect();
    assert_eq!(titles.len(), boards.len());
    for (file, board) in &boards {
        // A number of another Grafana would take the place of one there.
        assert!(board["id"].is_null(), "{file}");
        assert_eq!(board["tags"][0], "as-infrastructure-service", "{file}");
        assert_eq!(board["links"][0]["tags"], board["tags"], "{file}");
        assert!(!text(&board["description"]).is_empty(), "{file}");
    }
}

#[test]
fn an_import_asks_for_the_data_source_and_a_provisioning_finds_it() {
    for (file, board) in dashboards() {
        let [input] = list(&board["__inputs"]) else { panic!("{file}") };
        assert_eq!((text(&input["name"]), text(&input["pluginId"])), ("DS_PROMETHEUS", "prometheus"));
        // What an import fills in is a variable of the same name where nobody fills it in.
        let variables = list(&board["templating"]["list"]);
        assert_eq!((text(&variables[0]["name"]), text(&variables[0]["type"])), ("DS_PROMETHEUS", "datasource"));
        let source = std::fs::read_to_string(config("grafana/provisioning/datasources/prometheus.yaml")).unwrap();
        for part in ["name", "uid"].map(|part| (part, if part == "name" { "text" } else { "value" })) {
            let said = text(&variables[0]["current"][part.1]);
            assert!(source.contains(&format!("{}: {said}\n", part.0)), "{file}: {said}");
        }
        let mut sources: Vec<&Value> = variables[1..].iter().map(|variable| &variable["datasource"]).collect();
        for panel in list(&board["panels"]).iter().filter(|panel| panel["type"] != "row") {
            sources.push(&panel["datasource"]);
            sources.extend(list(&panel["targets"]).iter().map(|target| &target["datasource"]));
        }
        for source in sources {
            assert_eq!((text(&source["type"]), text(&source["uid"])), ("prometheus", "${DS_PROMETHEUS}"), "{file}");
        }
    }
    let provider = std::fs::read_to_string(config("grafana/provisioning/dashboards/as-infrastructure-service.yaml"));
    assert!(provider.unwrap().contains("    type: file\n"));
}

#[test]
fn every_panel_explains_itself() {
    let used = regex::Regex::new(r"\$\{?(\w+)").unwrap();
    for (file, board) in dashboards() {
        let mut ids = BTreeSet::new();
        let mut titles = BTreeSet::new();
        let names: BTreeSet<&str> =
            list(&board["templating"]["list"]).iter().map(|variable| text(&variable["name"])).collect();
        for panel in list(&board["panels"]) {
            let (kind, title) = (text(&panel["type"]), text(&panel["title"]));
            assert!(CORE.contains(&kind), "{file}, {title}: {kind} is not in every Grafana");
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{file}, {title}: its id is taken");
            assert!(!title.is_empty(), "{file}: a panel without a title");
            if kind == "row" {
                continue;
            }
            let required = list(&board["__requires"]).iter().any(|one| one["type"] == "panel" && one["id"] == kind);
            assert!(required, "{file}: {kind} is not among __requires");
            assert!(titles.insert(title), "{file}: two panels are called {title}");
            assert!(!text(&panel["description"]).is_empty(), "{file}, {title}: no description");
            assert!(!text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(), "{file}, {title}: no unit");
            let mut references = BTreeSet::new();
            assert!(!list(&panel["targets"]).is_empty(), "{file}, {title}: no query");
            for target in list(&panel["targets"]) {
                assert!(references.insert(text(&target["refId"])), "{file}, {title}: two queries of one name");
                for variable in used.captures_iter(text(&target["expr"])) {
                    let known = names.contains(&variable[1]) || variable[1].starts_with("__");
                    assert!(known, "{file}, {title}: no variable {}", &variable[1]);
                }
            }
        }
    }
}

#[test]
fn no_panel_lies_on_another_or_beside_the_grid() {
    for (file, board) in dashboards() {
        let mut taken = BTreeSet::new();
        for panel in list(&board["panels"]) {
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
            assert!(w > 0 && h > 0 && x + w <= 24, "{file}, {}", panel["title"]);
            for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(taken.insert(place), "{file}, {} lies on another panel", panel["title"]);
            }
        }
        // No line of the grid is empty: Grafana would move what is below it.
        let lines: BTreeSet<u64> = taken.iter().map(|(_, y)| *y).collect();
        assert_eq!(lines.len() as u64, lines.last().unwrap() + 1, "{file}");
    }
}

#[test]
fn the_contract_s_four_views_are_there() {
    let (_, fleet) = dashboards().into_iter().find(|(file, _)| file == "fleet.json").unwrap();
    let shown = |title: &str| {
        let panels = list(&fleet["panels"]);
        let panel = panels.iter().find(|panel| panel["title"] == title).unwrap_or_else(|| panic!("no {title}"));
        format!("{} {}", text(&panel["type"]), text(&panel["targets"][0]["expr"]))
    };
    assert!(shown("Services by status").contains("infra_services"));
    assert!(shown("Availability by service").starts_with("status-history avg by (service)"));
    assert!(shown("Response times").contains("histogram_quantile"));
    assert!(shown("Alerts raised").contains("infra_alerts_raised_total"));
}
