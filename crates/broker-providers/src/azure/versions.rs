//! Which version of a secret is current and which was before it.
//!
//! A vault lists versions in no order and knows their times to the second only. Where two of them share the second that
//! matters, nothing is guessed.

use std::time::SystemTime;

use crate::azure::answer::{Item, time};
use crate::provider::{Described, DescribedVersion, Stage};

/// What the times of a secret's versions say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Which is which.
    Clear {
        /// The newest.
        current: String,
        /// The one before it.
        previous: Option<String>,
    },
    /// Versions of the same second.
    Tied,
}

/// Says how `versions` stand.
pub(crate) fn standing(versions: &[Item]) -> Standing {
    let Some(Ok(current)) = newest(versions.iter()) else { return Standing::Tied };
    match newest(versions.iter().filter(|item| item.version() != Some(current))) {
        None => Standing::Clear { current: current.to_owned(), previous: None },
        Some(Ok(previous)) => Standing::Clear { current: current.to_owned(), previous: Some(previous.to_owned()) },
        Some(Err(())) => Standing::Tied,
    }
}

/// Returns the id of the newest of `items`, an error where several are, nothing where there is none.
pub(crate) fn newest<'a>(items: impl Iterator<Item = &'a Item>) -> Option<Result<&'a str, ()>> {
    let mut best: Option<(Option<u64>, Result<&str, ()>)> = None;
    for item in items {
        let (created, id) = (item.attributes.created, item.version().ok_or(()));
        best = Some(match best {
            Some((at, known)) if at > created => (at, known),
            Some((at, _)) if at == created => (at, Err(())),
            _ => (created, id),
        });
    }
    best.map(|(_, id)| id)
}

/// Describes a secret by its versions, of which there is at least one.
pub(crate) fn described(mut versions: Vec<Item>, now: SystemTime) -> Described {
    let newest_of_all = newest(versions.iter()).and_then(Result::ok).map(str::to_owned);
    let before = match standing(&versions) {
        Standing::Clear { previous, .. } => previous,
        Standing::Tied => None,
    };
    versions.sort_by_key(|item| std::cmp::Reverse(item.attributes.created));
    let stages = |id: &str| {
        let stands = |of: &Option<String>, stage| (of.as_deref() == Some(id)).then_some(stage);
        [stands(&newest_of_all, Stage::Current), stands(&before, Stage::Previous)].into_iter().flatten().collect()
    };
    let tags = versions.first().and_then(|item| item.tags.clone()).unwrap_or_default();
    Described {
        created: time(versions.iter().filter_map(|item| item.attributes.created).min()),
        changed: time(versions.iter().filter_map(|item| item.attributes.updated).max()),
        tags: tags.into_iter().collect(),
        versions: versions
            .iter()
            .filter_map(|item| {
                let id = item.version()?.to_owned();
                let created = time(item.attributes.created);
                Some(DescribedVersion { stages: stages(&id), id, created, usable: item.attributes.is_usable(now) })
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id(number: usize) -> String {
        format!("{number:032x}")
    }

    fn items(times: &[u64]) -> Vec<Item> {
        let item = |(number, created): (usize, &u64)| {
            let id = format!("https://shop.vault.azure.net/secrets/a/{}", id(number));
            serde_json::from_value(json!({ "id": id, "attributes": { "created": created } })).unwrap()
        };
        times.iter().enumerate().map(item).collect()
    }

    #[test]
    fn the_times_say_which_was_before_and_a_tie_is_not_guessed() {
        let clear = |current: usize, previous: Option<usize>| Standing::Clear {
            current: id(current),
            previous: previous.map(id),
        };
        assert_eq!(standing(&items(&[5])), clear(0, None));
        assert_eq!(standing(&items(&[3, 9, 5])), clear(1, Some(2)));
        assert_eq!(standing(&items(&[3, 3, 5])), Standing::Tied);
        assert_eq!(standing(&items(&[5, 5])), Standing::Tied);
        assert_eq!(standing(&items(&[2, 2, 5, 9])), clear(3, Some(2)));
    }

    #[test]
    fn a_description_is_ordered_and_marks_what_is_clear() {
        let told = described(items(&[3, 9, 5]), SystemTime::now());
        let stages: Vec<_> = told.versions.iter().map(|v| (v.id.clone(), v.stages.clone())).collect();
        assert_eq!(stages, [(id(1), vec![Stage::Current]), (id(2), vec![Stage::Previous]), (id(0), vec![])]);
        let tied = described(items(&[3, 3, 5]), SystemTime::now());
        assert_eq!(tied.versions.iter().map(|v| v.stages.len()).collect::<Vec<_>>(), [1, 0, 0]);
    }
}
