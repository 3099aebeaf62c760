//! Names of resources: `projects/P/secrets/S/versions/V`, with `locations/L` in between for a regional secret.

/// Where a secret lives, by its project's number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) project: String,
    pub(super) location: Option<String>,
    pub(super) secret: String,
}

/// What a path names, before its method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) project: String,
    pub(super) location: Option<String>,
    pub(super) secret: Option<String>,
    pub(super) version: Option<String>,
    /// `secrets`, `versions` or `locations` at the end: a collection.
    pub(super) collection: Option<&'static str>,
    /// What follows a colon.
    pub(super) verb: Option<String>,
}

impl Name {
    /// Takes the part of a path after `/v1/` apart; none when no method has such a path.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (text, verb) = match text.rsplit_once('/') {
            Some((_, last)) if last.contains(':') => {
                let (text, verb) = text.rsplit_once(':')?;
                (text, Some(verb.to_owned()))
            }
            _ => (text, None),
        };
        let mut parts = text.split('/').peekable();
        if parts.next() != Some("projects") {
            return None;
        }
        let mut name = Self {
            project: parts.next().filter(|part| !part.is_empty())?.to_owned(),
            location: None,
            secret: None,
            version: None,
            collection: None,
            verb,
        };
        for (word, field) in
            [("locations", &mut name.location), ("secrets", &mut name.secret), ("versions", &mut name.version)]
        {
            if parts.peek() != Some(&word) {
                continue;
            }
            parts.next();
            match parts.next() {
                Some("") => return None,
                Some(part) => *field = Some(part.to_owned()),
                None => name.collection = Some(word),
            }
        }
        let orphan = name.version.is_some() && name.secret.is_none();
        (parts.next().is_none() && !orphan).then_some(name)
    }
}

impl Place {
    /// Returns the name of the parent: `projects/N` or `projects/N/locations/L`.
    pub(super) fn parent(&self) -> String {
        match &self.location {
            None => format!("projects/{}", self.project),
            Some(location) => format!("projects/{}/locations/{location}", self.project),
        }
    }

    /// Returns the name of the secret.
    pub(super) fn name(&self) -> String {
        format!("{}/secrets/{}", self.parent(), self.secret)
    }

    /// Returns the name of one of its versions.
    pub(super) fn version(&self, version: &str) -> String {
        format!("{}/versions/{version}", self.name())
    }
}
