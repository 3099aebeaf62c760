//! What is known of secrets besides their values, and the stages of their versions.
//!
//! A stage is a label that stands on one version. Moving `AWSCURRENT` is what a rotation ends with; AWS itself then puts
//! `AWSPREVIOUS` on the version that was current. Source: `DescribeSecret`, `ListSecretVersionIds`, `ListSecrets` and
//! `UpdateSecretVersionStage` in the Secrets Manager API Reference.

use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType, SecretVersionsListEntry};
use broker_core::reference::Version;
use tokio::time::Instant;

use crate::aws::answer::{Action, persist};
use crate::aws::sm::{AwsSecretsManager, MAX_PAGES, Place};
use crate::fault::Fault;
use crate::provider::{Described, DescribedVersion, ErrorKind, ListOptions, Listed, Stage};

const CURRENT: &str = "AWSCURRENT";
const PREVIOUS: &str = "AWSPREVIOUS";
pub(crate) const PENDING: &str = "AWSPENDING";

impl AwsSecretsManager {
    /// Lists what `options` selects, ordered by path.
    pub(crate) async fn list_in(
        &self,
        place: &Place,
        options: ListOptions<'_>,
        deadline: Instant,
    ) -> Result<Vec<Listed>, Fault> {
        let mut listed = Vec::new();
        let mut page: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let sent = self.read(deadline, || {
                let request = place.client.list_secrets().max_results(100);
                request.set_filters(filters(options)).set_next_token(page.clone()).send()
            });
            let answer = sent.await?;
            listed.extend(answer.secret_list.unwrap_or_default().into_iter().filter_map(|entry| {
                // The filters ignore case and match beginnings; what is asked for means its very characters.
                let tags = entry.tags.unwrap_or_default();
                let has = |(name, value): &(String, String)| {
                    tags.iter().any(|tag| tag.key() == Some(name) && tag.value() == Some(value))
                };
                let path = entry.name.filter(|name| name.starts_with(options.prefix))?;
                if !options.tags.iter().all(has) {
                    return None;
                }
                let stages = entry.secret_versions_to_stages.unwrap_or_default();
                let current = stages.into_iter().find(|(_, stages)| stages.iter().any(|stage| stage == CURRENT));
                let changed = entry.last_changed_date.and_then(|date| date.try_into().ok());
                Some(Listed { path, version: current.map(|(version, _)| version), changed })
            }));
            page = answer.next_token.filter(|token| !token.is_empty());
            if page.is_none() {
                break;
            }
        }
        listed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        listed.dedup_by(|a, b| a.path == b.path);
        Ok(listed)
    }

    /// Says what is known of a secret besides its value.
    pub(crate) async fn describe_in(&self, place: &Place, id: &str, deadline: Instant) -> Result<Described, Fault> {
        let about = self.read(deadline, || place.client.describe_secret().secret_id(id).send());
        let (about, versions) = futures_util::future::join(about, self.versions(place, id, deadline)).await;
        let about = about?;
        let mut versions = match versions {
            Ok(versions) => versions.into_iter().filter_map(described).collect(),
            // Without that permission the versions that stand in a stage are known all the same.
            Err(fault) if fault.kind == ErrorKind::Denied => {
                let known = about.version_ids_to_stages.unwrap_or_default().into_iter();
                let version = |(id, stages): (String, Vec<String>)| DescribedVersion {
                    id,
                    stages: stages_of(&stages),
                    created: None,
                    usable: true,
                };
                known.map(version).collect::<Vec<_>>()
            }
            Err(fault) => return Err(fault),
        };
        // Some servers know seconds only: of two versions of one second the current one is the newer.
        versions.sort_by_key(|version| {
            (std::cmp::Reverse(version.created), version.stages.first().copied().unwrap_or(Stage::Pending))
        });
        let mut tags: Vec<_> =
            about.tags.unwrap_or_default().into_iter().filter_map(|tag| Some((tag.key?, tag.value?))).collect();
        tags.sort_unstable();
        Ok(Described {
            versions,
            created: about.created_date.and_then(|date| date.try_into().ok()),
            changed: about.last_changed_date.and_then(|date| date.try_into().ok()),
            tags,
        })
    }

    /// Makes a version the current one; one that was pending is pending no more.
    pub(crate) async fn promote_in(
        &self,
        place: &Place,
        id: &str,
        version: &Version,
        deadline: Instant,
    ) -> Result<(), Fault> {
        let versions = self.versions(place, id, deadline).await?;
        let staged = |stage: &str| {
            let is_it = |known: &&SecretVersionsListEntry| known.version_stages().iter().any(|known| known == stage);
            versions.iter().find(is_it).and_then(|known| known.version_id())
        };
        let target = match version {
            Version::Current => {
                return Err(Fault::new(ErrorKind::Unsupported, "the current version is current already"));
            }
            Version::Previous => staged(PREVIOUS),
            Version::Pending => staged(PENDING),
            Version::Id(wanted) => versions.iter().filter_map(|known| known.version_id()).find(|known| known == wanted),
        };
        let target = target.ok_or_else(|| Fault::new(ErrorKind::NotFound, "it has no such version"))?;
        let current = staged(CURRENT);
        if current != Some(target) {
            self.move_stage(place, id, CURRENT, Some(target), current, deadline).await?;
        }
        if staged(PENDING) == Some(target) {
            self.move_stage(place, id, PENDING, None, Some(target), deadline).await?;
        }
        Ok(())
    }

    /// Gives the pending version up.
    pub(crate) async fn abandon_in(&self, place: &Place, id: &str, deadline: Instant) -> Result<(), Fault> {
        let versions = self.versions(place, id, deadline).await?;
        let is_pending = |known: &&SecretVersionsListEntry| known.version_stages().iter().any(|stage| stage == PENDING);
        let pending = versions.iter().find(is_pending).and_then(|known| known.version_id());
        let pending = pending.ok_or_else(|| Fault::new(ErrorKind::NotFound, "no version of it is pending"))?;
        self.move_stage(place, id, PENDING, None, Some(pending), deadline).await
    }

    async fn move_stage(
        &self,
        place: &Place,
        id: &str,
        stage: &str,
        to: Option<&str>,
        from: Option<&str>,
        deadline: Instant,
    ) -> Result<(), Fault> {
        let sent = persist(deadline, Action::Write, || {
            let request = place.client.update_secret_version_stage().secret_id(id).version_stage(stage);
            let request = request.set_move_to_version_id(to.map(str::to_owned));
            request.set_remove_from_version_id(from.map(str::to_owned)).send()
        });
        sent.await.map(|_| ())
    }

    /// Returns every version, those without a stage too.
    async fn versions(
        &self,
        place: &Place,
        id: &str,
        deadline: Instant,
    ) -> Result<Vec<SecretVersionsListEntry>, Fault> {
        let mut versions = Vec::new();
        let mut page: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let sent = self.read(deadline, || {
                let request = place.client.list_secret_version_ids().secret_id(id).include_deprecated(true);
                request.max_results(100).set_next_token(page.clone()).send()
            });
            let answer = sent.await?;
            versions.extend(answer.versions.unwrap_or_default());
            page = answer.next_token.filter(|token| !token.is_empty());
            if page.is_none() {
                break;
            }
        }
        Ok(versions)
    }
}

fn described(known: SecretVersionsListEntry) -> Option<DescribedVersion> {
    Some(DescribedVersion {
        id: known.version_id?,
        stages: stages_of(&known.version_stages.unwrap_or_default()),
        created: known.created_date.and_then(|date| date.try_into().ok()),
        usable: true,
    })
}

fn stages_of(names: &[String]) -> Vec<Stage> {
    let stage = |name: &String| match name.as_str() {
        CURRENT => Some(Stage::Current),
        PREVIOUS => Some(Stage::Previous),
        PENDING => Some(Stage::Pending),
        _ => None,
    };
    let mut stages: Vec<_> = names.iter().filter_map(stage).collect();
    stages.sort_unstable();
    stages
}

/// Returns AWS's filters for a listing, leaving out those that would not mean what was asked: `!` negates, and other
/// characters never stand in a name.
fn filters(options: ListOptions<'_>) -> Option<Vec<Filter>> {
    let is_plain =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+=.@-".contains(&b));
    let filter = |key, value: &str| is_plain(value).then(|| Filter::builder().key(key).values(value).build());
    let mut filters: Vec<Filter> = filter(FilterNameStringType::Name, options.prefix).into_iter().collect();
    for (name, value) in options.tags {
        filters.extend(filter(FilterNameStringType::TagKey, name));
        filters.extend(filter(FilterNameStringType::TagValue, value));
    }
    (!filters.is_empty()).then_some(filters)
}
