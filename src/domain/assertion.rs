//! What the owner of an HTTP service expects of its answer beside the code: a pattern, header values, conditions on a
//! JSON body (CONTRACT.md 5.1, section 20 "HTTP assertions"). Pure: bytes in, what was missing out.

use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json_path::JsonPath;

use super::observation::clean;

/// How a selected value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Matches,
    Exists,
}

impl Op {
    fn words(self) -> &'static str {
        match self {
            Self::Eq => "is not",
            Self::Ne => "is",
            Self::Lt => "is not below",
            Self::Le => "is above",
            Self::Gt => "is not above",
            Self::Ge => "is below",
            Self::Matches => "does not match",
            Self::Exists => "is missing",
        }
    }
}

/// One condition on a JSON body: some value at `path` compares as asked; with `exists`, there is one (or none, when the
/// value to compare with is `false`).
#[derive(Debug, Clone)]
pub struct JsonCondition {
    pub path: JsonPath,
    pub op: Op,
    pub value: Value,
    /// The value as a pattern, with [`Op::Matches`].
    pub pattern: Option<Regex>,
}

impl JsonCondition {
    fn holds(&self, body: &Value) -> bool {
        let mut found = self.path.query(body).into_iter();
        if self.op == Op::Exists {
            return found.next().is_some() == self.value.as_bool().unwrap_or(true);
        }
        found.any(|value| self.compares(value))
    }

    fn compares(&self, found: &Value) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = match (found, &self.value) {
            (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            _ => None,
        };
        match self.op {
            Op::Eq => order == Some(Equal) || (order.is_none() && found == &self.value),
            Op::Ne => order != Some(Equal) && found != &self.value,
            Op::Lt => order == Some(Less),
            Op::Le => matches!(order, Some(Less | Equal)),
            Op::Gt => order == Some(Greater),
            Op::Ge => matches!(order, Some(Greater | Equal)),
            Op::Matches => {
                let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
                self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(&text))
            }
            Op::Exists => true,
        }
    }

    fn miss(&self) -> String {
        let value = if self.op == Op::Exists { String::new() } else { format!(" {}", self.value) };
        clean(&format!("Expected JSON: {} {}{value}", self.path, self.op.words()))
    }
}

/// Everything an answer is held against.
#[derive(Debug, Clone, Default)]
pub struct Assertions {
    /// Searched in the first 64 KiB of the decoded body.
    pub pattern: Option<Regex>,
    /// Header name in lower case, and what one of its values must match.
    pub headers: Vec<(String, Regex)>,
    pub json: Vec<JsonCondition>,
    /// A miss is unhealthy rather than degraded.
    pub unhealthy: bool,
}

impl Assertions {
    /// Whether the body must be read to its end, or to its cap.
    pub fn need_body(&self) -> bool {
        self.pattern.is_some() || !self.json.is_empty()
    }

    /// The first header that is not as expected, told as a sentence.
    pub fn header_miss<'a>(&self, mut values: impl FnMut(&str) -> Vec<&'a str>) -> Option<String> {
        let missed = |(name, pattern): &&(String, Regex)| !values(name).iter().any(|value| pattern.is_match(value));
        self.headers.iter().find(missed).map(|(name, _)| format!("Expected header not found: {name}"))
    }

    /// What the body lacks, told as a sentence.
    pub fn body_miss(&self, body: &[u8]) -> Option<String> {
        if let Some(pattern) = &self.pattern
            && !pattern.is_match(&String::from_utf8_lossy(body))
        {
            return Some("Expected response pattern not found".to_owned());
        }
        if self.json.is_empty() {
            return None;
        }
        let Ok(value) = serde_json::from_slice::<Value>(body) else {
            return Some("Expected JSON: the body is not JSON".to_owned());
        };
        self.json.iter().find(|condition| !condition.holds(&value)).map(JsonCondition::miss)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(path: &str, op: Op, value: Value, body: &Value, holds: bool) {
        let pattern = (op == Op::Matches).then(|| Regex::new(value.as_str().unwrap()).unwrap());
        let condition = JsonCondition { path: JsonPath::parse(path).unwrap(), op, value, pattern };
        assert_eq!(condition.holds(body), holds, "{condition:?} on {body}");
    }

    #[test]
    fn conditions_compare_like_with_like() {
        let body =
            json!({"status": "UP", "queue": {"depth": 12}, "nodes": [{"ok": true}, {"ok": false}], "none": null});
        check("$.status", Op::Eq, json!("UP"), &body, true);
        check("$.status", Op::Eq, json!("up"), &body, false);
        check("$.status", Op::Ne, json!("DOWN"), &body, true);
        check("$.status", Op::Matches, json!("^U"), &body, true);
        check("$.queue.depth", Op::Lt, json!(12), &body, false);
        check("$.queue.depth", Op::Le, json!(12.0), &body, true);
        check("$.queue.depth", Op::Gt, json!(11), &body, true);
        check("$.queue.depth", Op::Ge, json!(13), &body, false);
        check("$.queue.depth", Op::Eq, json!(12.0), &body, true);
        check("$.queue.depth", Op::Lt, json!("13"), &body, false);
        check("$.nodes[*].ok", Op::Eq, json!(false), &body, true);
        check("$.nodes[*].ok", Op::Eq, json!(null), &body, false);
        check("$.none", Op::Exists, json!(true), &body, true);
        check("$.gone", Op::Exists, json!(true), &body, false);
        check("$.gone", Op::Exists, json!(false), &body, true);
        check("$.gone", Op::Ne, json!(1), &body, false);
    }

    #[test]
    fn the_first_miss_is_told() {
        let assertions = Assertions {
            pattern: Some(Regex::new("UP").unwrap()),
            headers: vec![("x-version".to_owned(), Regex::new("^2").unwrap())],
            json: vec![JsonCondition {
                path: JsonPath::parse("$.queue").unwrap(),
                op: Op::Lt,
                value: json!(5),
                pattern: None,
            }],
            unhealthy: false,
        };
        assert_eq!(assertions.body_miss(b"{}").as_deref(), Some("Expected response pattern not found"));
        assert_eq!(assertions.body_miss(b"UP").as_deref(), Some("Expected JSON: the body is not JSON"));
        let told = assertions.body_miss(br#"{"status":"UP","queue":7}"#);
        assert_eq!(told.as_deref(), Some("Expected JSON: $.queue is not below 5"));
        assert_eq!(assertions.body_miss(br#"{"status":"UP","queue":4}"#), None);
        assert_eq!(assertions.header_miss(|_| vec!["1.0", "2.0"]), None);
        assert_eq!(assertions.header_miss(|_| vec![]).as_deref(), Some("Expected header not found: x-version"));
    }
}
