//! Secrets and their versions: what Secret Manager itself does.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use serde_json::{Map, Value, json};

use super::answer::{Answered, Problem};
use super::ask::{Filter, aliases, body, check_etag, strings};
use super::names::{Name, Place};
use super::{World, timestamp};
use crate::http::Message;

/// Largest payload, in bytes.
const MAX_PAYLOAD: usize = 64 << 10;

pub(super) struct Secret {
    pub(super) created: i64,
    /// The order of creation, since times are whole seconds.
    pub(super) nth: u64,
    pub(super) etag: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) aliases: BTreeMap<String, u64>,
    pub(super) replication: Option<Value>,
    pub(super) versions: Vec<SecretVersion>,
}

pub(super) struct SecretVersion {
    pub(super) created: i64,
    pub(super) destroyed: Option<i64>,
    pub(super) etag: String,
    pub(super) state: State,
    pub(super) payload: Vec<u8>,
    pub(super) checked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Enabled,
    Disabled,
    Destroyed,
}

impl State {
    fn word(self) -> &'static str {
        ["ENABLED", "DISABLED", "DESTROYED"][self as usize]
    }

    /// Enums are numbers where the client asks for that.
    fn to_json(self, request: &Message) -> Value {
        let as_number = request.query("$alt").is_some_and(|alt| alt.contains("enum-encoding=int"));
        if as_number { json!(self as u8 + 1) } else { json!(self.word()) }
    }
}

impl World {
    pub(super) fn secret_manager(&mut self, request: &Message, path: &str, regional: bool) -> Answered {
        let name = Name::parse(path).ok_or(Problem::NoSuchPage)?;
        let number = match self.projects.get(&name.project) {
            Some(number) => number.clone(),
            None if self.projects.values().any(|number| *number == name.project) => name.project.clone(),
            // A project that is not there looks like one that one may not see.
            None => {
                self.caller(request)?;
                return Err(Problem::denied("secretmanager.secrets.list", &format!("projects/{}", name.project)));
            }
        };
        if name.collection == Some("locations")
            || (name.location.is_some() && name.secret.is_none() && name.collection.is_none())
        {
            return self.locations(request, &name, &number);
        }
        let here = regional.then(|| self.region.clone());
        if name.location != here {
            return Err(Problem::invalid(match name.location {
                Some(_) => "Regional secrets are served by the endpoint of their region.",
                None => "The regional endpoint serves regional secrets only.",
            }));
        }
        let verb = name.verb.as_deref().unwrap_or_default();
        let method = request.method();
        if name.collection == Some("secrets") {
            let parent = Place { project: number, location: name.location, secret: String::new() };
            return match (method, verb) {
                ("GET", "") => self.list_secrets(request, &parent),
                ("POST", "") => self.create_secret(request, parent),
                _ => Err(Problem::NoSuchPage),
            };
        }
        let secret = name.secret.ok_or(Problem::NoSuchPage)?;
        let place = Place { project: number, location: name.location, secret };
        if name.collection == Some("versions") {
            return if (method, verb) == ("GET", "") {
                self.list_versions(request, &place)
            } else {
                Err(Problem::NoSuchPage)
            };
        }
        match name.version {
            Some(version) => match (method, verb) {
                ("GET", "") => self.get_version(request, &place, &version),
                ("GET", "access") => self.access(request, &place, &version),
                ("POST", "enable") => self.change_state(request, &place, &version, State::Enabled),
                ("POST", "disable") => self.change_state(request, &place, &version, State::Disabled),
                ("POST", "destroy") => self.change_state(request, &place, &version, State::Destroyed),
                _ => Err(Problem::NoSuchPage),
            },
            None => match (method, verb) {
                ("GET", "") => self.get_secret(request, &place),
                ("PATCH", "") => self.patch_secret(request, &place),
                ("DELETE", "") => self.delete_secret(request, &place),
                ("POST", "addVersion") => self.add_version(request, &place),
                ("GET", "getIamPolicy") => {
                    self.found(request, "secretmanager.secrets.getIamPolicy", &place)?;
                    Ok(self.policy(&place))
                }
                ("POST", "setIamPolicy") => {
                    self.found(request, "secretmanager.secrets.setIamPolicy", &place)?;
                    self.set_policy(&place, &request.body_json()["policy"])
                }
                ("POST", "testIamPermissions") => self.tested(request, &place, &request.body_json()["permissions"]),
                ("POST", "rotateSecret" | "enableManagedRotation") => Err(Problem::unimplemented()),
                _ => Err(Problem::NoSuchPage),
            },
        }
    }

    fn locations(&self, request: &Message, name: &Name, number: &str) -> Answered {
        let one = json!({
            "name": format!("projects/{number}/locations/{}", self.region), "locationId": self.region,
        });
        let project = format!("projects/{number}");
        if (request.method(), &name.verb) != ("GET", &None) {
            return Err(Problem::NoSuchPage);
        }
        match &name.location {
            None => {
                self.authorize(request, "secretmanager.locations.list", &project, None)?;
                Ok(json!({ "locations": [one] }))
            }
            Some(location) => {
                self.authorize(request, "secretmanager.locations.get", &project, None)?;
                if *location == self.region { Ok(one) } else { Err(Problem::not_found("Location not found.")) }
            }
        }
    }

    /// Checks that the caller may, then that the secret is there.
    fn found(&self, request: &Message, permission: &str, place: &Place) -> Result<&Secret, Problem> {
        self.authorize(request, permission, &place.name(), Some(place))?;
        self.secrets.get(place).ok_or_else(|| Problem::not_found(format!("Secret [{}] not found.", place.name())))
    }

    fn create_secret(&mut self, request: &Message, parent: Place) -> Answered {
        self.authorize(request, "secretmanager.secrets.create", &parent.parent(), None)?;
        let id = request.query("secretId").unwrap_or_default();
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if id.is_empty() || id.len() > 255 || !id.bytes().all(fits) {
            return Err(Problem::invalid("The provided Secret ID does not match the expected format [[a-zA-Z_0-9]+]"));
        }
        let body = body(request, &["name", "labels", "annotations", "versionAliases", "replication", "etag"])?;
        let place = Place { secret: id, ..parent };
        let replication = body.get("replication").filter(|value| !value.is_null());
        let kinds = replication.and_then(Value::as_object).map_or(0, Map::len);
        if place.location.is_none() && kinds != 1 {
            return Err(Problem::invalid("The replication policy of a secret must be set."));
        }
        if place.location.is_some() && replication.is_some() {
            return Err(Problem::invalid("The replication policy of a regional secret must not be set."));
        }
        if self.secrets.contains_key(&place) {
            return Err(Problem::exists(format!("Secret [{}] already exists.", place.name())));
        }
        let etag = self.etag();
        let secret = Secret {
            created: self.now(),
            nth: self.etags,
            etag,
            labels: strings(body.get("labels"))?,
            annotations: strings(body.get("annotations"))?,
            aliases: BTreeMap::new(),
            replication: replication.cloned(),
            versions: Vec::new(),
        };
        let json = secret.to_json(&place);
        self.secrets.insert(place, secret);
        Ok(json)
    }

    fn get_secret(&self, request: &Message, place: &Place) -> Answered {
        Ok(self.found(request, "secretmanager.secrets.get", place)?.to_json(place))
    }

    fn patch_secret(&mut self, request: &Message, place: &Place) -> Answered {
        self.found(request, "secretmanager.secrets.update", place)?;
        let body =
            body(request, &["name", "labels", "annotations", "versionAliases", "replication", "etag", "createTime"])?;
        let mask = request.query("updateMask").filter(|mask| !mask.is_empty());
        let mask = mask.ok_or_else(|| Problem::invalid("The update mask must be set."))?;
        let etag = self.etag();
        let secret = self.secrets.get_mut(place).expect("it was found");
        check_etag(body.get("etag").and_then(Value::as_str), &secret.etag)?;
        for field in mask.split(',') {
            match field {
                "labels" => secret.labels = strings(body.get("labels"))?,
                "annotations" => secret.annotations = strings(body.get("annotations"))?,
                "versionAliases" | "version_aliases" => {
                    secret.aliases = aliases(&strings(body.get("versionAliases"))?, secret.versions.len())?;
                }
                _ => return Err(Problem::invalid(format!("The field `{field}` cannot be updated."))),
            }
        }
        secret.etag = etag;
        Ok(secret.to_json(place))
    }

    fn delete_secret(&mut self, request: &Message, place: &Place) -> Answered {
        let secret = self.found(request, "secretmanager.secrets.delete", place)?;
        check_etag(request.query("etag").as_deref(), &secret.etag)?;
        self.secrets.remove(place);
        self.bindings.remove(&place.name());
        Ok(json!({}))
    }

    fn list_secrets(&self, request: &Message, parent: &Place) -> Answered {
        let name = match &parent.location {
            Some(_) => parent.parent(),
            None => format!("projects/{}", parent.project),
        };
        self.authorize(request, "secretmanager.secrets.list", &name, None)?;
        let filter = Filter::read(&request.query("filter").unwrap_or_default())?;
        let mut all: Vec<_> = self
            .secrets
            .iter()
            .filter(|(place, _)| place.project == parent.project && place.location == parent.location)
            .filter(|(place, secret)| filter.takes(&place.name(), Some(&secret.labels), None))
            .collect();
        all.sort_by_key(|(_, secret)| std::cmp::Reverse(secret.nth));
        self.page(request, "secrets", all.into_iter().map(|(place, secret)| secret.to_json(place)).collect())
    }

    fn list_versions(&self, request: &Message, place: &Place) -> Answered {
        let secret = self.found(request, "secretmanager.versions.list", place)?;
        let filter = Filter::read(&request.query("filter").unwrap_or_default())?;
        let all = secret.versions.iter().enumerate().rev();
        let taken = all.filter(|(at, version)| {
            filter.takes(&place.version(&(at + 1).to_string()), None, Some(version.state.word()))
        });
        let json = taken.map(|(at, version)| version.to_json(place, at + 1, request)).collect();
        self.page(request, "versions", json)
    }

    /// Cuts a page out of a listing.
    fn page(&self, request: &Message, field: &str, all: Vec<Value>) -> Answered {
        let number = |name: &str| request.query(name).filter(|text| !text.is_empty()).map(|text| text.parse::<usize>());
        let size =
            number("pageSize").unwrap_or(Ok(0)).map_err(|_| Problem::invalid("Invalid value at 'page_size'."))?;
        let size = if size == 0 { self.page } else { size.min(self.page) };
        let start = number("pageToken").unwrap_or(Ok(0)).map_err(|_| Problem::invalid("Invalid page token."))?;
        let total = all.len();
        let page: Vec<_> = all.into_iter().skip(start).take(size).collect();
        let mut answer = json!({ "totalSize": total });
        if start + page.len() < total {
            answer["nextPageToken"] = json!((start + page.len()).to_string());
        }
        if !page.is_empty() {
            answer[field] = json!(page);
        }
        Ok(answer)
    }

    fn add_version(&mut self, request: &Message, place: &Place) -> Answered {
        self.found(request, "secretmanager.versions.add", place)?;
        let body = body(request, &["parent", "payload"])?;
        let payload = body.get("payload").cloned().unwrap_or_default();
        let data = payload["data"].as_str().unwrap_or_default();
        let decoded = BASE64_STANDARD.decode(data).or_else(|_| BASE64_URL_SAFE.decode(data));
        let data = decoded.map_err(|_| Problem::invalid("Invalid value at 'payload.data' (TYPE_BYTES)"))?;
        if data.is_empty() {
            return Err(Problem::invalid("Secret Payload cannot be empty."));
        }
        if data.len() > MAX_PAYLOAD {
            return Err(Problem::invalid(format!("The size of payload.data exceeds {MAX_PAYLOAD} bytes.")));
        }
        let claimed = match &payload["dataCrc32c"] {
            Value::Null => None,
            // 64-bit integers are strings; the servers read numbers, too.
            claimed => {
                let number = claimed.as_str().map_or_else(|| claimed.as_i64(), |text| text.parse().ok());
                Some(number.ok_or_else(|| Problem::invalid("Invalid value at 'payload.data_crc32c' (TYPE_INT64)"))?)
            }
        };
        if claimed.is_some_and(|claimed| claimed != i64::from(crc32c(&data))) {
            return Err(Problem::invalid("The checksum of the payload does not match its data_crc32c."));
        }
        let (created, etag) = (self.now(), self.etag());
        let secret = self.secrets.get_mut(place).expect("it was found");
        let checked = claimed.is_some();
        let version = SecretVersion { created, destroyed: None, etag, state: State::Enabled, payload: data, checked };
        let json = version.to_json(place, secret.versions.len() + 1, request);
        secret.versions.push(version);
        Ok(json)
    }

    /// Finds a version by number, `latest` (the one made last) or alias.
    fn version(&self, place: &Place, version: &str) -> Result<(usize, &SecretVersion), Problem> {
        let missing = || {
            let words = if version == "latest" { "not found or has no versions" } else { "not found" };
            let name = if version == "latest" { place.name() } else { place.version(version) };
            let what = if version == "latest" { "Secret" } else { "Secret Version" };
            Problem::not_found(format!("{what} [{name}] {words}."))
        };
        let secret = self
            .secrets
            .get(place)
            .ok_or_else(|| Problem::not_found(format!("Secret [{}] not found or has no versions.", place.name())))?;
        let at = match version {
            "latest" => secret.versions.len(),
            _ if version.bytes().all(|b| b.is_ascii_digit()) => version.parse().map_err(|_| missing())?,
            alias => usize::try_from(*secret.aliases.get(alias).ok_or_else(missing)?).map_err(|_| missing())?,
        };
        let found = at.checked_sub(1).and_then(|index| secret.versions.get(index)).ok_or_else(missing)?;
        Ok((at, found))
    }

    fn get_version(&self, request: &Message, place: &Place, version: &str) -> Answered {
        self.authorize(request, "secretmanager.versions.get", &place.version(version), Some(place))?;
        let (at, found) = self.version(place, version)?;
        Ok(found.to_json(place, at, request))
    }

    fn access(&self, request: &Message, place: &Place, version: &str) -> Answered {
        self.authorize(request, "secretmanager.versions.access", &place.version(version), Some(place))?;
        let (at, found) = self.version(place, version)?;
        let name = place.version(&at.to_string());
        if found.state != State::Enabled {
            return Err(Problem::precondition(format!("Secret Version [{name}] is in {} state.", found.state.word())));
        }
        let crc = crc32c(&found.payload) ^ u32::from(self.flip_crc);
        let data = BASE64_STANDARD.encode(&found.payload);
        Ok(json!({ "name": name, "payload": { "data": data, "dataCrc32c": crc.to_string() } }))
    }

    fn change_state(&mut self, request: &Message, place: &Place, version: &str, state: State) -> Answered {
        let permission = match state {
            State::Enabled => "secretmanager.versions.enable",
            State::Disabled => "secretmanager.versions.disable",
            State::Destroyed => "secretmanager.versions.destroy",
        };
        self.authorize(request, permission, &place.version(version), Some(place))?;
        let body = body(request, &["name", "etag"])?;
        let (at, found) = self.version(place, version)?;
        check_etag(body.get("etag").and_then(Value::as_str), &found.etag)?;
        if found.state == State::Destroyed {
            let name = place.version(&at.to_string());
            return Err(Problem::precondition(format!("Secret Version [{name}] is in DESTROYED state.")));
        }
        let (now, etag) = (self.now(), self.etag());
        let secret = self.secrets.get_mut(place).expect("it was found");
        let changed = &mut secret.versions[at - 1];
        (changed.state, changed.etag) = (state, etag);
        if state == State::Destroyed {
            (changed.payload, changed.destroyed) = (Vec::new(), Some(now));
        }
        Ok(changed.to_json(place, at, request))
    }
}

impl Secret {
    fn to_json(&self, place: &Place) -> Value {
        let mut json = json!({ "name": place.name(), "createTime": timestamp(self.created), "etag": self.etag });
        for (field, map) in [("labels", &self.labels), ("annotations", &self.annotations)] {
            if !map.is_empty() {
                json[field] = json!(map);
            }
        }
        if !self.aliases.is_empty() {
            let aliases: BTreeMap<_, _> = self.aliases.iter().map(|(name, to)| (name, to.to_string())).collect();
            json["versionAliases"] = json!(aliases);
        }
        if let Some(replication) = &self.replication {
            json["replication"] = replication.clone();
        }
        json
    }
}

impl SecretVersion {
    fn to_json(&self, place: &Place, number: usize, request: &Message) -> Value {
        let mut json = json!({
            "name": place.version(&number.to_string()), "createTime": timestamp(self.created),
            "state": self.state.to_json(request), "etag": self.etag,
        });
        if place.location.is_none() {
            json["replicationStatus"] = json!({ "automatic": {} });
        }
        if self.checked {
            json["clientSpecifiedPayloadChecksum"] = json!(true);
        }
        if let Some(destroyed) = self.destroyed {
            json["destroyTime"] = timestamp(destroyed);
        }
        json
    }
}

/// Returns the Castagnoli CRC (RFC 3720 appendix B.4), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        // RFC 3720 appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
