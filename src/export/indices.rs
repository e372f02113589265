//! What must be there before the first document is: templates, so that fields get the types the dashboards count on, and
//! a policy that deletes old indices. What an operator has put there already stays as it is.

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::{Elasticsearch, ExportError};

const SERVICES: &str = include_str!("../../config/elasticsearch/isp-services.template.json");
const WINDOWS: &str = include_str!("../../config/elasticsearch/isp-maintenance-windows.template.json");
const ILM: &str = include_str!("../../config/elasticsearch/isp-monitoring-policy.ilm.json");
const ISM: &str = include_str!("../../config/elasticsearch/isp-monitoring-policy.ism.json");

/// Elasticsearch knows composable templates since then.
const LEAST_VERSION: (u64, u64) = (7, 8);

impl Elasticsearch {
    /// Puts templates and the policy in place where there are none of their names.
    ///
    /// # Errors
    /// The server does not answer, is too old, or refuses them.
    pub async fn prepare(&self) -> Result<(), ExportError> {
        let is_open_search = self.look().await?;
        let config = self.config();
        let days = format!("{}d", config.retention_days);
        let (path, mut policy) = if is_open_search {
            ("_plugins/_ism/policies/isp-monitoring-policy", parsed(ISM)?)
        } else {
            ("_ilm/policy/isp-monitoring-policy", parsed(ILM)?)
        };
        let place = if is_open_search {
            policy.pointer_mut("/policy/states/0/transitions/0/conditions/min_index_age")
        } else {
            policy.pointer_mut("/policy/phases/delete/min_age")
        };
        if let Some(place) = place {
            *place = days.into();
        }
        if let Err(error) = self.put_if_absent(path, &policy).await {
            // Documents are safe without it: somebody else must delete them.
            tracing::warn!(%error, "old indices will not be deleted by themselves: no lifecycle policy");
        }
        for (name, text) in [("isp-services", SERVICES), ("isp-maintenance-windows", WINDOWS)] {
            let mut template = parsed(text)?;
            if let Some(settings) = template.pointer_mut("/template/settings/index").and_then(Value::as_object_mut) {
                settings.insert("number_of_shards".to_owned(), config.shards.into());
                settings.insert("number_of_replicas".to_owned(), config.replicas.into());
                if is_open_search {
                    // Its policy finds the indices by itself, and the setting is unknown to it.
                    settings.remove("lifecycle");
                }
            }
            self.put_if_absent(&format!("_index_template/{name}"), &template).await?;
        }
        Ok(())
    }

    /// Whether it is OpenSearch; one that may not be asked counts as Elasticsearch.
    async fn look(&self) -> Result<bool, ExportError> {
        let (status, answer) = self.ask(Method::GET, "", HeaderMap::new(), None).await?;
        match status {
            StatusCode::FORBIDDEN => return Ok(false),
            _ if !status.is_success() => return Err(self.refusal(status, &answer)),
            _ => {}
        }
        let about: Value = serde_json::from_slice(&answer).unwrap_or(Value::Null);
        let number = about.pointer("/version/number").and_then(Value::as_str);
        let number = number
            .ok_or_else(|| ExportError("what answers is not Elasticsearch; check ELASTICSEARCH_HOSTS".to_owned()))?;
        if about.pointer("/version/distribution").and_then(Value::as_str) == Some("opensearch") {
            return Ok(true);
        }
        let mut parts = number.split('.').map(|part| part.parse::<u64>().unwrap_or(0));
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if version < LEAST_VERSION {
            return Err(ExportError(format!("Elasticsearch {number} is too old: 7.8 or later is needed")));
        }
        Ok(false)
    }

    async fn put_if_absent(&self, path: &str, body: &Value) -> Result<(), ExportError> {
        let (status, _) = self.ask(Method::GET, path, HeaderMap::new(), None).await?;
        match status {
            StatusCode::NOT_FOUND => {}
            // One who may only write documents: whoever runs the server has put it there.
            StatusCode::FORBIDDEN => {
                tracing::warn!("Elasticsearch does not say whether {path} is there: it is taken to be");
                return Ok(());
            }
            _ if status.is_success() => return Ok(()),
            _ => return Err(ExportError(format!("{path}: HTTP {}", status.as_u16()))),
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let (status, answer) = self.ask(Method::PUT, path, headers, Some(body.to_string().into_bytes())).await?;
        if status.is_success() {
            tracing::info!("put in place at Elasticsearch: {path}");
            return Ok(());
        }
        Err(ExportError(format!("{path}: {}", self.refusal(status, &answer))))
    }
}

fn parsed(text: &str) -> Result<Value, ExportError> {
    serde_json::from_str(text).map_err(|error| ExportError(error.to_string()))
}
