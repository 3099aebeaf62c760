//! What there is: apps, installations, repositories, tokens, and what time it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::key::Key;

/// Names of permissions and their levels.
pub(super) type Permissions = BTreeMap<String, String>;

/// The levels of a permission, each of which holds those before it.
pub(super) const LEVELS: [&str; 3] = ["read", "write", "admin"];

/// A registered app.
#[derive(Clone, Debug)]
pub struct App {
    /// Its id, one of the two things that `iss` may be.
    pub id: u64,
    /// Its client id, the other one.
    pub client_id: String,
    /// The name in its address.
    pub slug: String,
    /// Its private key, as PEM in PKCS #1.
    pub private_key: String,
}

/// Why calls are refused for their number.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// So many calls an hour for each app and each installation.
    Primary(u64),
    /// None for so long, whatever is left of the hour.
    Secondary(Duration),
}

pub(super) struct Registered {
    pub(super) id: u64,
    pub(super) client_id: String,
    pub(super) slug: String,
    pub(super) permissions: Permissions,
    pub(super) public_key: Vec<u8>,
    pub(super) created: i64,
}

pub(super) struct Installation {
    pub(super) id: u64,
    pub(super) app: u64,
    pub(super) organisation: String,
    pub(super) permissions: Permissions,
    /// None is all of them.
    pub(super) selected: Option<BTreeSet<u64>>,
    pub(super) created: i64,
    pub(super) suspended: Option<i64>,
}

pub(super) struct Repository {
    pub(super) id: u64,
    pub(super) organisation: String,
    pub(super) name: String,
    pub(super) created: i64,
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone)]
pub(super) struct Token {
    pub(super) installation: u64,
    pub(super) permissions: Permissions,
    /// None is whatever the installation has.
    pub(super) repositories: Option<BTreeSet<u64>>,
    pub(super) expires: i64,
}

#[derive(Default)]
pub(super) struct World {
    /// Seconds that its clock is ahead of the machine's.
    pub(super) ahead: i64,
    pub(super) apps: BTreeMap<u64, Registered>,
    pub(super) installations: BTreeMap<u64, Installation>,
    pub(super) repositories: BTreeMap<u64, Repository>,
    /// Those that were not revoked.
    pub(super) tokens: HashMap<String, Token>,
    pub(super) issued: Vec<String>,
    pub(super) long_tokens: bool,
    pub(super) limit: Option<Limit>,
    /// Who made how many calls in the hour that ends then.
    pub(super) calls: HashMap<String, (u64, i64)>,
    pub(super) requests: Vec<String>,
    pub(super) user_agents: BTreeSet<String>,
    made: u64,
}

impl World {
    /// Returns the seconds since 1970 by its own clock.
    pub(super) fn now(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        i64::try_from(since.as_secs()).expect("not that late") + self.ahead
    }

    fn next(&mut self, kind: u64) -> u64 {
        self.made += 1;
        kind + self.made
    }

    pub(super) fn register(&mut self, slug: &str, permissions: &[(&str, &str)], key: Key) -> App {
        let (id, created) = (self.next(1_200_000), self.now());
        let client_id = format!("Iv23li{}", &random(1)[..14]);
        let (permissions, slug) = (with_metadata(permissions), slug.to_owned());
        let known = Registered {
            id,
            client_id: client_id.clone(),
            slug: slug.clone(),
            permissions,
            public_key: key.public,
            created,
        };
        self.apps.insert(id, known);
        App { id, client_id, slug, private_key: key.private }
    }

    pub(super) fn rotate_key(&mut self, app: &App, key: Key) -> App {
        self.apps.get_mut(&app.id).expect("the app is registered").public_key = key.public;
        App { private_key: key.private, ..app.clone() }
    }

    pub(super) fn install(&mut self, app: u64, organisation: &str, selected: Option<BTreeSet<u64>>) -> u64 {
        let (id, created) = (self.next(50_000_000), self.now());
        let permissions = self.apps.get(&app).expect("the app is registered").permissions.clone();
        let organisation = organisation.to_owned();
        let known = Installation { id, app, organisation, permissions, selected, created, suspended: None };
        self.installations.insert(id, known);
        id
    }

    pub(super) fn grant(&mut self, installation: u64, permissions: &[(&str, &str)]) {
        self.installed(installation).permissions = with_metadata(permissions);
    }

    pub(super) fn deselect(&mut self, installation: u64, organisation: &str, repository: &str) {
        let id = self.repository(organisation, repository);
        let selected = self.installed(installation).selected.as_mut().expect("its repositories are selected");
        selected.remove(&id);
    }

    pub(super) fn suspend(&mut self, installation: u64, suspended: bool) {
        let now = self.now();
        self.installed(installation).suspended = suspended.then_some(now);
    }

    pub(super) fn uninstall(&mut self, installation: u64) {
        self.installations.remove(&installation);
        self.tokens.retain(|_, token| token.installation != installation);
    }

    /// Returns the id of a repository, which is made where needed.
    pub(super) fn repository(&mut self, organisation: &str, name: &str) -> u64 {
        if let Some(known) = self.find(organisation, name) {
            return known.id;
        }
        let (id, created) = (self.next(800_000_000), self.now());
        let (organisation, name) = (organisation.to_owned(), name.to_owned());
        self.repositories.insert(id, Repository { id, organisation, name, created, files: BTreeMap::new() });
        id
    }

    pub(super) fn put(&mut self, organisation: &str, repository: &str, path: &str, content: &[u8]) {
        let id = self.repository(organisation, repository);
        let repository = self.repositories.get_mut(&id).expect("it was just made");
        repository.files.insert(path.to_owned(), content.to_vec());
    }

    /// Finds a repository; case counts in no name.
    pub(super) fn find(&self, organisation: &str, name: &str) -> Option<&Repository> {
        let is = |known: &&Repository| {
            known.organisation.eq_ignore_ascii_case(organisation) && known.name.eq_ignore_ascii_case(name)
        };
        self.repositories.values().find(is)
    }

    pub(super) fn is_alive(&self, token: &str) -> bool {
        self.tokens.get(token).is_some_and(|known| self.now() < known.expires)
    }

    pub(super) fn alive_tokens(&self) -> Vec<String> {
        self.issued.iter().filter(|token| self.is_alive(token)).cloned().collect()
    }

    /// Returns the repositories that an installation has.
    pub(super) fn repositories_of(&self, installation: &Installation) -> Vec<&Repository> {
        let has = |repository: &&Repository| {
            repository.organisation.eq_ignore_ascii_case(&installation.organisation)
                && installation.selected.as_ref().is_none_or(|selected| selected.contains(&repository.id))
        };
        self.repositories.values().filter(has).collect()
    }

    fn installed(&mut self, installation: u64) -> &mut Installation {
        self.installations.get_mut(&installation).expect("it is installed")
    }
}

/// Reads permissions; whoever has one of a repository's may read what the repository is.
pub(super) fn with_metadata(permissions: &[(&str, &str)]) -> Permissions {
    let named = permissions.iter().map(|(name, level)| ((*name).to_owned(), (*level).to_owned()));
    named.chain([("metadata".to_owned(), "read".to_owned())]).collect()
}

/// Tells whether permissions hold this one at this level.
pub(super) fn holds(permissions: &Permissions, name: &str, level: &str) -> bool {
    let rank = |level: &str| LEVELS.iter().position(|known| *known == level);
    let has = permissions.get(name).and_then(|level| rank(level));
    rank(level).is_some_and(|needed| has.is_some_and(|has| has >= needed))
}

/// Returns random letters and digits, 32 for each of `parts`.
pub(super) fn random(parts: usize) -> String {
    let uuid = |_| fs::read_to_string("/proc/sys/kernel/random/uuid").expect("the kernel makes ids");
    (0..parts).map(uuid).map(|uuid| uuid.trim().replace('-', "")).collect()
}
