//! What a test puts into place without asking for it over the wire.

use std::collections::BTreeMap;

use serde_json::json;

use super::World;
use super::names::Place;
use super::secrets::{Secret, SecretVersion, State};

impl World {
    /// Adds a version as if somebody had done so before.
    pub(super) fn put(&mut self, secret: &str, payload: &[u8]) -> usize {
        let (created, etag) = (self.now(), self.etag());
        let nth = self.etags;
        let fresh = Secret {
            created,
            nth,
            etag: etag.clone(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            aliases: BTreeMap::new(),
            replication: Some(json!({ "automatic": {} })),
            versions: Vec::new(),
        };
        let secret = self.secrets.entry(self.shop(secret)).or_insert(fresh);
        let (payload, state) = (payload.to_vec(), State::Enabled);
        secret.versions.push(SecretVersion { created, destroyed: None, etag, state, payload, checked: false });
        secret.versions.len()
    }

    pub(super) fn disable(&mut self, secret: &str, version: usize) {
        self.secret(secret).versions[version - 1].state = State::Disabled;
    }

    pub(super) fn label(&mut self, secret: &str, name: &str, value: &str) {
        self.secret(secret).labels.insert(name.to_owned(), value.to_owned());
    }

    pub(super) fn was_checked(&mut self, secret: &str, version: usize) -> bool {
        self.secret(secret).versions[version - 1].checked
    }

    fn shop(&self, secret: &str) -> Place {
        Place { project: self.projects["shop-dev"].clone(), location: None, secret: secret.to_owned() }
    }

    fn secret(&mut self, secret: &str) -> &mut Secret {
        let place = self.shop(secret);
        self.secrets.get_mut(&place).expect("the secret was put")
    }
}
