//! A database-like engine: accounts that are made for a lease and gone with it, and `sys/leases/`.

use std::collections::BTreeMap;

use serde_json::json;

use super::duration::{seconds, time};
use super::message::{Leased, Operation, Outcome, Refusal, Reply, Request};
use super::world::{Engine, Lease, World};

#[derive(Default)]
pub(super) struct Database {
    configured: Vec<String>,
    roles: BTreeMap<String, Role>,
}

#[derive(Clone)]
struct Role {
    database: String,
    ttl: u64,
    max_ttl: u64,
}

impl World {
    /// Serves a database engine.
    pub(super) fn database_request(&mut self, request: &Request, mount: &str, path: &str) -> Outcome {
        let now = self.now();
        let token = request.token.clone().unwrap_or_default();
        let Some(Engine::Database(engine)) =
            self.space(&request.namespace).mounts.get_mut(mount).map(|m| &mut m.engine)
        else {
            return Err(Refusal::nothing());
        };
        let (section, name) = path.split_once('/').unwrap_or((path, ""));
        match (section, request.operation) {
            ("config", Operation::Write) => {
                engine.configured.push(name.to_owned());
                self.accounts.entry(name.to_owned()).or_default();
                Ok(Reply::empty())
            }
            ("roles", Operation::Write) => {
                let database = request.text("db_name").ok_or_else(|| Refusal::new(400, "database name is required"))?;
                let number = |name: &str| seconds(request.body.get(name)).filter(|n| *n > 0).unwrap_or(3_600);
                let role = Role {
                    database,
                    ttl: number("default_ttl"),
                    max_ttl: number("max_ttl").max(number("default_ttl")),
                };
                engine.roles.insert(name.to_owned(), role);
                Ok(Reply::empty())
            }
            ("roles", Operation::List) => Reply::keys(engine.roles.keys().cloned()),
            ("creds", Operation::Read) => {
                let role = engine.roles.get(name).cloned();
                let role = role.ok_or_else(|| Refusal::new(400, format!("unknown role: {name}")))?;
                if !engine.configured.contains(&role.database) {
                    return Err(Refusal::new(500, "1 error occurred:\n\t* failed to find entry for connection\n\n"));
                }
                let account = World::random(&format!("v-{name}-"));
                let id = World::random(&format!("{}/", request.path));
                let lease = Lease {
                    token,
                    issued: now,
                    expires: now + role.ttl,
                    max: now + role.max_ttl,
                    ttl: role.ttl,
                    database: role.database.clone(),
                    account: account.clone(),
                };
                self.accounts.entry(role.database).or_default().insert(account.clone());
                self.leases.insert(id.clone(), lease);
                let leased = Leased { id, duration: role.ttl, renewable: true };
                let data = json!({ "username": account, "password": World::random("pw-") });
                Ok(Reply { lease: Some(leased), ..Reply::data(data) })
            }
            _ => Err(Refusal::unsupported()),
        }
    }

    /// Serves `sys/leases/`.
    pub(super) fn lease_request(&mut self, request: &Request, path: &str) -> Outcome {
        let now = self.now();
        let (action, below) = path.split_once('/').unwrap_or((path, ""));
        let id = request.text("lease_id").unwrap_or_else(|| below.to_owned());
        let invalid = || Refusal::new(400, "invalid lease");
        match (action, request.operation) {
            ("lookup", Operation::Write) => {
                let lease = self.leases.get(&id).ok_or_else(invalid)?;
                Ok(Reply::data(json!({
                    "id": id, "issue_time": time(lease.issued), "expire_time": time(lease.expires),
                    "last_renewal": null, "renewable": true, "ttl": lease.expires - now,
                })))
            }
            ("renew", Operation::Write) => {
                let lease = self.leases.get_mut(&id).ok_or_else(|| Refusal::new(400, "lease not found"))?;
                let step = seconds(request.body.get("increment")).filter(|n| *n > 0).unwrap_or(lease.ttl);
                lease.expires = (now + step).min(lease.max);
                let leased = Leased { id, duration: lease.expires - now, renewable: true };
                Ok(Reply { status: 200, lease: Some(leased), ..Reply::default() })
            }
            // Ending what has ended is no error.
            ("revoke", Operation::Write) => {
                self.end_lease(&id);
                Ok(Reply::empty())
            }
            ("revoke-prefix", Operation::Write) => {
                let ended: Vec<String> = self.leases.keys().filter(|id| id.starts_with(below)).cloned().collect();
                for id in ended {
                    self.end_lease(&id);
                }
                Ok(Reply::empty())
            }
            ("lookup", Operation::List) => {
                let prefix = format!("{below}/");
                Reply::keys(self.leases.keys().filter_map(|id| id.strip_prefix(&prefix).map(str::to_owned)))
            }
            _ => Err(Refusal::unsupported()),
        }
    }
}
