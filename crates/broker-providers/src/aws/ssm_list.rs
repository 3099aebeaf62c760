//! What is known of parameters besides their values: listings, versions, tags.
//!
//! `DescribeParameters` tells the most and can only be allowed for all parameters at once. Where it is denied a listing
//! below a path is made by `GetParametersByPath`, which can be allowed path by path; the values in its answer are left
//! encrypted, never read and wiped.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::aws::json::Signer;
use crate::aws::ssm::AwsParameterStore;
use crate::fault::Fault;
use crate::provider::{Described, DescribedVersion, ErrorKind, ListOptions, Listed, Stage};

/// Most pages that are followed; more is a server gone wrong.
const MAX_PAGES: usize = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    parameters: Vec<Known>,
    next_token: Option<String>,
}

/// One parameter, or one version of it, without its value.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Known {
    pub(crate) name: String,
    #[serde(rename = "Type", default)]
    pub(crate) kind: String,
    pub(crate) key_id: Option<String>,
    pub(crate) tier: Option<String>,
    #[serde(default)]
    version: u64,
    last_modified_date: Option<f64>,
}

impl Known {
    fn changed(&self) -> Option<SystemTime> {
        let seconds = self.last_modified_date.filter(|seconds| (0.0..1e11).contains(seconds))?;
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds))
    }
}

/// Finds one parameter by its very name.
pub(crate) async fn find(
    store: &AwsParameterStore,
    signer: Signer<'_>,
    name: &str,
    deadline: Instant,
) -> Result<Option<Known>, Fault> {
    let filters = json!([{ "Key": "Name", "Option": "Equals", "Values": [name] }]);
    let found = pages(store, signer, "DescribeParameters", &json!({ "ParameterFilters": filters }), deadline).await?;
    Ok(found.into_iter().find(|known| known.name == name))
}

/// Lists what `options` selects, ordered by path.
pub(crate) async fn list(
    store: &AwsParameterStore,
    signer: Signer<'_>,
    options: ListOptions<'_>,
    deadline: Instant,
) -> Result<Vec<Listed>, Fault> {
    let prefix = options.prefix;
    if !prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b)) {
        // No name begins like that, and the filter would not mean these characters.
        return Ok(Vec::new());
    }
    let mut filters: Vec<Value> = Vec::new();
    if !prefix.is_empty() {
        filters.push(json!({ "Key": "Name", "Option": "BeginsWith", "Values": [prefix] }));
    }
    filters.extend(options.tags.iter().map(|(name, value)| json!({ "Key": format!("tag:{name}"), "Values": [value] })));
    let input = json!({ "ParameterFilters": filters, "MaxResults": 50 });
    let found = match pages(store, signer, "DescribeParameters", &input, deadline).await {
        Err(fault) if fault.kind == ErrorKind::Denied && options.tags.is_empty() && prefix.starts_with('/') => {
            let path = prefix.rsplit_once('/').map_or("/", |(path, _)| if path.is_empty() { "/" } else { path });
            let input = json!({ "Path": path, "Recursive": true, "WithDecryption": false, "MaxResults": 10 });
            pages(store, signer, "GetParametersByPath", &input, deadline).await?
        }
        found => found?,
    };
    // A prefix means its very characters, whatever the filter means by it.
    let mut listed: Vec<Listed> = found
        .into_iter()
        .filter(|known| known.name.starts_with(prefix))
        .map(|known| Listed { version: Some(known.version.to_string()), changed: known.changed(), path: known.name })
        .collect();
    listed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    listed.dedup_by(|a, b| a.path == b.path);
    Ok(listed)
}

/// Tells the versions of a parameter, newest first.
pub(crate) async fn history(
    store: &AwsParameterStore,
    signer: Signer<'_>,
    name: &str,
    deadline: Instant,
) -> Result<Described, Fault> {
    let input = json!({ "Name": name, "WithDecryption": false, "MaxResults": 50 });
    let mut found = pages(store, signer, "GetParameterHistory", &input, deadline).await?;
    found.sort_unstable_by_key(|known| std::cmp::Reverse(known.version));
    let stages = |at| match at {
        0 => vec![Stage::Current],
        1 => vec![Stage::Previous],
        _ => Vec::new(),
    };
    let version = |(at, known): (usize, &Known)| DescribedVersion {
        id: known.version.to_string(),
        stages: stages(at),
        created: known.changed(),
        usable: true,
    };
    Ok(Described {
        versions: found.iter().enumerate().map(version).collect(),
        // AWS keeps the newest hundred versions; before that nobody knows.
        created: found.last().filter(|known| known.version == 1).and_then(Known::changed),
        changed: found.first().and_then(Known::changed),
        tags: Vec::new(),
    })
}

/// Tells the tags of a parameter, ordered by name; none where they may not be read.
pub(crate) async fn tags(
    store: &AwsParameterStore,
    signer: Signer<'_>,
    name: &str,
    deadline: Instant,
) -> Vec<(String, String)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Tags {
        #[serde(default)]
        tag_list: Vec<Tag>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Tag {
        key: String,
        value: String,
    }
    let input = json!({ "ResourceType": "Parameter", "ResourceId": name });
    let found: Result<Tags, Fault> = store.read(signer, "ListTagsForResource", &input, deadline).await;
    let mut tags: Vec<_> =
        found.map(|found| found.tag_list).unwrap_or_default().into_iter().map(|tag| (tag.key, tag.value)).collect();
    tags.sort_unstable();
    tags
}

/// Makes a call and follows its pages.
async fn pages(
    store: &AwsParameterStore,
    signer: Signer<'_>,
    operation: &str,
    input: &Value,
    deadline: Instant,
) -> Result<Vec<Known>, Fault> {
    let (mut input, mut all) = (input.clone(), Vec::new());
    for _ in 0..MAX_PAGES {
        let page: Page = store.read(signer, operation, &input, deadline).await?;
        all.extend(page.parameters);
        match page.next_token.filter(|token| !token.is_empty()) {
            Some(token) => input["NextToken"] = Value::String(token),
            None => break,
        }
    }
    Ok(all)
}
