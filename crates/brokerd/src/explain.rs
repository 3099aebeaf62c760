//! What a run would get, and exactly what it would get it by: for a person who reviews it before it runs.
//!
//! Nothing is fetched and nobody is asked. References and policies name paths and accounts of the organisation: they are
//! shown to those who may read the secrets, and to others stand codes that tell two of them apart and nothing more.

use broker_core::decision::Decision;
use broker_core::request::Right;
use broker_protocol::message::{Ask, Explained, ExplainedSecret, ExplainedSession};
use sha2::{Digest as _, Sha256};

use crate::broker::Broker;
use crate::fetch::{bootstrap_of, sign_in_of};
use crate::peer::{Peer, hex};
use crate::pipeline::request_for;
use crate::refusal::Refusal;
use crate::subject::{Subject, Wanted};
use crate::trust::Trust;

/// Says what a run would get, fetching nothing and asking nobody.
pub(crate) fn explain(broker: &Broker, peer: &Peer, ask: &Ask) -> Result<Explained, Refusal> {
    let subject = Subject::of_profile(broker, ask)?;
    let request = request_for(peer, Right::Use, &subject, ask);
    let decision = broker.policy.decide(&request);
    let Some(project) = &subject.project else { return Err(Refusal::NoManifest) };
    let secret = |wanted: &Wanted| ExplainedSecret {
        name: wanted.name.clone().unwrap_or_default(),
        reference: wanted.reference.to_string(),
        kind: subject
            .instance(&wanted.reference.instance)
            .map(|instance| instance.settings.kind.clone())
            .unwrap_or_default(),
        required: wanted.required,
        description: wanted.description.clone(),
    };
    let scope = broker.scopes.scope(&peer.principal, &subject)?;
    let policies = broker.stores.session_policies(&subject, &scope, &sign_in_of(ask))?;
    let session = |(instance, policy): (String, broker_providers::issue::SessionPolicy)| ExplainedSession {
        instance,
        title: policy.title,
        text: policy.text,
    };
    let set: Vec<_> = subject.wanted.iter().filter_map(|wanted| wanted.name.as_deref()).collect();
    let bootstrap = bootstrap_of(&subject).into_iter().filter(|name| !set.contains(&name.as_str()));
    let explained = Explained {
        project: request.project.clone(),
        profile: subject.profile.clone(),
        trusted: broker.trust.holds(&Trust::pin_of(&project.path, &project.sha256)?),
        decision: match &decision {
            Decision::Allow { .. } => "allow",
            Decision::Ask { .. } => "ask",
            Decision::Deny { .. } => "deny",
        }
        .to_owned(),
        rule: decision.rule().to_owned(),
        ttl_seconds: subject.ttl.as_secs(),
        secrets: subject.wanted.iter().map(secret).collect(),
        settings: project.manifest.settings.keys().cloned().collect(),
        removed: subject.withheld.iter().cloned().chain(bootstrap).collect(),
        sessions: policies.into_iter().map(session).collect(),
        hidden: false,
    };
    let may_read = broker.policy.decide(&request_for(peer, Right::Read, &subject, ask));
    Ok(if matches!(may_read, Decision::Allow { .. }) { explained } else { hidden(explained) })
}

/// Replaces what names paths and accounts by codes.
fn hidden(mut explained: Explained) -> Explained {
    for secret in &mut explained.secrets {
        secret.reference = code(&secret.reference);
    }
    for session in &mut explained.sessions {
        session.title = "a session of its own".to_owned();
        session.text = code(&session.text);
    }
    explained.hidden = true;
    explained
}

/// Returns a code that is the same for the same text.
fn code(text: &str) -> String {
    format!("code {}", hex(&Sha256::digest(text)).get(..12).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_read_sees_names_and_codes_and_no_path() {
        let secret = |name: &str, reference: &str| ExplainedSecret {
            name: name.to_owned(),
            reference: reference.to_owned(),
            kind: "aws-secrets-manager".to_owned(),
            required: true,
            description: None,
        };
        let session = ExplainedSession {
            instance: "org".to_owned(),
            title: "session policy 1 of 1 of arn:aws:iam::111122223333:role/shop".to_owned(),
            text: "{\"Resource\":\"arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/dev/db-??????\"}"
                .to_owned(),
        };
        let explained = Explained {
            project: "shop".to_owned(),
            profile: "dev".to_owned(),
            trusted: true,
            decision: "allow".to_owned(),
            rule: "same-user".to_owned(),
            ttl_seconds: 60,
            secrets: vec![secret("A", "org://shop/dev/db"), secret("B", "org://shop/dev/db"), secret("C", "org://c")],
            settings: Vec::new(),
            removed: Vec::new(),
            sessions: vec![session],
            hidden: false,
        };
        let hidden = hidden(explained);
        let text = serde_json::to_string(&hidden).unwrap();
        assert!(
            !text.contains("shop/dev") && !text.contains("111122223333") && text.contains("\"hidden\":true"),
            "{text}"
        );
        let codes: Vec<_> = hidden.secrets.iter().map(|secret| secret.reference.as_str()).collect();
        assert!(codes[0] == codes[1] && codes[0] != codes[2] && codes[0].starts_with("code "), "{codes:?}");
    }
}
