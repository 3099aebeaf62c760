//! The rules that a policy holds and the order in which they decide: a rule that forbids wins over one that allows.

use broker_core::decision::Decision;
use broker_core::request::Request;

/// The rules in force.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// One rule: a stable name for the audit, and what it looks at.
#[derive(Clone, Copy, Debug)]
struct Rule {
    id: &'static str,
    verdict: fn(&Request) -> Verdict,
}

/// What one rule says of one request.
enum Verdict {
    Allow,
    Forbid(String),
}

impl Policy {
    /// Returns the policy that applies where nobody wrote another: the broker of a user serves that user's processes.
    #[must_use]
    pub fn shipped() -> Self {
        Self { rules: vec![Rule { id: "same-user", verdict: same_user }] }
    }

    /// Decides on a request.
    pub fn decide(&self, request: &Request) -> Decision {
        let mut allowed = None;
        for rule in &self.rules {
            match (rule.verdict)(request) {
                Verdict::Forbid(because) => return Decision::Deny { rule: rule.id.to_owned(), because },
                Verdict::Allow => allowed = allowed.or(Some(rule.id)),
            }
        }
        match allowed {
            Some(rule) => Decision::Allow { rule: rule.to_owned() },
            None => Decision::Deny { rule: "default".to_owned(), because: "no rule allows it".to_owned() },
        }
    }
}

/// `same-user`: the process runs as the user whose broker this is. Root is another user.
fn same_user(request: &Request) -> Verdict {
    let principal = &request.principal;
    if principal.uid == principal.owner {
        return Verdict::Allow;
    }
    Verdict::Forbid(format!("the broker of uid {} does not serve uid {}", principal.owner, principal.uid))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use broker_core::principal::{Principal, ProcessId};
    use broker_core::request::Right;

    use super::*;

    fn request(uid: u32) -> Request {
        let process = ProcessId { pid: 1, start_time: 1, boot_id: String::new() };
        let principal =
            Principal { uid, owner: 1000, process, exe: None, exe_sha256: None, terminal: None, session: 1 };
        Request {
            principal,
            right: Right::Use,
            project: "shop".into(),
            profile: "dev".into(),
            references: Vec::new(),
            argv: vec!["true".into()],
            cwd: "/".into(),
            reason: None,
            ttl: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_process_of_the_same_user_is_served() {
        assert_eq!(Policy::shipped().decide(&request(1000)), Decision::Allow { rule: "same-user".into() });
    }

    #[test]
    fn every_other_user_is_refused_root_included() {
        for uid in [0, 1001, u32::MAX] {
            let decision = Policy::shipped().decide(&request(uid));
            assert!(matches!(&decision, Decision::Deny { rule, .. } if rule == "same-user"), "{decision:?}");
        }
    }

    #[test]
    fn what_no_rule_allows_is_denied() {
        let decision = Policy { rules: Vec::new() }.decide(&request(1000));
        assert!(matches!(&decision, Decision::Deny { rule, .. } if rule == "default"), "{decision:?}");
    }
}
