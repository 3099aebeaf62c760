//! The session policies that allow exactly what one scope lists, and nothing else. Pure.
//!
//! A policy names whole resources: where AWS appends six characters to a secret's name it has six `?`, and never a `*` in
//! the place of a name. What could be read as a wildcard is no name and is left out. A policy has at most 2,048 characters;
//! what does not fit goes into another one, with a session of its own, and none gets wider for it. Sources: "Service
//! authorization reference" of both services, "Session policies" and "IAM and STS quotas" of the IAM User Guide.

use std::collections::{BTreeMap, BTreeSet};

use broker_core::reference::{SecretRef, Version};
use serde::Serialize;

use crate::aws::json::{host, is_region};
use crate::aws::sm_fetch::region_of;
use crate::aws::ssm_name::Asked;
use crate::aws::{sm, ssm};
use crate::fault::Fault;
use crate::provider::{Capabilities, ErrorKind};

/// Most characters of a session policy.
pub(crate) const MAX_POLICY: usize = 2048;
/// Longest name of a secret.
const MAX_SECRET_NAME: usize = 512;
/// How many characters AWS appends to the name of a secret, with their hyphen.
const SUFFIX: usize = 7;

/// A service whose secrets a session is cut for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    SecretsManager,
    ParameterStore,
}

/// Where the names of a scope belong.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    service: Service,
    partition: String,
    account: String,
    region: String,
    replicas: Vec<String>,
}

/// One reference, and what it takes to fetch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) reference: SecretRef,
    /// The regions that it may be asked for in, the first one first.
    regions: Vec<String>,
    resources: Vec<String>,
}

/// What a scope comes to.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// What one session each is cut for.
    pub(crate) parts: Vec<Vec<Want>>,
    /// What no session can be cut for, and why.
    pub(crate) refused: Vec<(SecretRef, Fault)>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Policy<'p> {
    version: &'static str,
    statement: Vec<Statement<'p>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement<'p> {
    effect: &'static str,
    action: Vec<&'static str>,
    resource: BTreeSet<&'p str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<Condition>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Condition {
    string_equals: ViaService,
}

#[derive(Serialize)]
struct ViaService {
    #[serde(rename = "kms:ViaService")]
    services: BTreeSet<String>,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::SecretsManager => "secretsmanager",
            Self::ParameterStore => "ssm",
        }
    }

    /// Returns what a provider of it can do.
    pub(crate) fn capabilities(self) -> Capabilities {
        match self {
            Self::SecretsManager => sm::CAPABILITIES,
            Self::ParameterStore => ssm::CAPABILITIES,
        }
    }

    fn actions(self) -> Vec<&'static str> {
        match self {
            Self::SecretsManager => vec!["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"],
            Self::ParameterStore => vec!["ssm:GetParameters"],
        }
    }
}

impl Ground {
    /// Returns that of names without an account: the one of `role`, which was checked to be the ARN of one.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for what can be no region.
    pub(crate) fn of(service: Service, role: &str, region: &str, replicas: &[String]) -> Result<Self, Fault> {
        host(service.name(), region)?;
        let part = |at| role.split(':').nth(at).unwrap_or_default().to_owned();
        let replicas = replicas.iter().filter(|replica| is_region(replica) && *replica != region).cloned().collect();
        Ok(Self { service, partition: part(1), account: part(4), region: region.to_owned(), replicas })
    }

    /// Cuts the parts for `references`, as few as there can be.
    pub(crate) fn parts<'r>(&self, references: impl Iterator<Item = &'r SecretRef>) -> Parts {
        let mut all = Parts::default();
        let mut wants = Vec::new();
        for reference in references {
            match self.want(reference) {
                Ok(want) if self.policy(std::slice::from_ref(&want)).len() <= MAX_POLICY => wants.push(want),
                Ok(want) => all.refused.push((want.reference, too_long())),
                Err(fault) => all.refused.push((reference.clone(), fault)),
            }
        }
        // As they are asked for: by region, and in the order of their names.
        wants.sort_by(|a, b| (&a.regions, &a.reference).cmp(&(&b.regions, &b.reference)));
        let batch = self.service.capabilities().batch;
        let mut part: Vec<Want> = Vec::new();
        for want in wants {
            part.push(want);
            while self.policy(&part).len() > MAX_POLICY {
                // Without the last one it fitted. Whole batches stay together.
                let fits = part.len() - 1;
                let rest = part.split_off(if fits > batch { fits / batch * batch } else { fits });
                all.parts.push(std::mem::replace(&mut part, rest));
            }
        }
        all.parts.extend((!part.is_empty()).then_some(part));
        all
    }

    fn want(&self, reference: &SecretRef) -> Result<Want, Fault> {
        match self.service {
            Service::SecretsManager => self.secret(reference),
            Service::ParameterStore => self.parameter(reference),
        }
    }

    fn secret(&self, reference: &SecretRef) -> Result<Want, Fault> {
        let path = reference.path.as_str();
        let own = || vec![self.region.clone()];
        let with_replicas = |regions: Vec<String>| regions.into_iter().chain(self.replicas.iter().cloned()).collect();
        if !path.starts_with("arn:") {
            check_name(path)?;
            let regions: Vec<String> = with_replicas(own());
            let (partition, account) = (&self.partition, &self.account);
            let arn =
                |region: &String| format!("arn:{partition}:secretsmanager:{region}:{account}:secret:{path}-??????");
            return Ok(Want { reference: reference.clone(), resources: regions.iter().map(arn).collect(), regions });
        }
        let (head, region, account, name) = match *path.splitn(7, ':').collect::<Vec<_>>().as_slice() {
            ["arn", partition, "secretsmanager", region, account, "secret", name] => (partition, region, account, name),
            _ => return Err(no_name("its ARN is not that of a secret")),
        };
        if !is_partition(head) || !is_region(region) || !is_account(account) {
            return Err(no_name("its ARN is not that of a secret"));
        }
        check_name(name)?;
        let is_own = region_of(path) == Some(self.region.as_str());
        let regions: Vec<String> = if is_own { with_replicas(own()) } else { vec![region.to_owned()] };
        let mut resources = Vec::new();
        for region in &regions {
            let arn = format!("arn:{head}:secretsmanager:{region}:{account}:secret:{name}");
            resources.push(format!("{arn}-??????"));
            // It may be whole, or a secret may be called so: AWS takes it for both.
            resources.extend(has_suffix(name).then_some(arn));
        }
        Ok(Want { reference: reference.clone(), resources, regions })
    }

    fn parameter(&self, reference: &SecretRef) -> Result<Want, Fault> {
        let asked = Asked::of(reference)?;
        let region = asked.region.clone().unwrap_or_else(|| self.region.clone());
        let resource = match asked.region {
            Some(_) => {
                let parts: Vec<&str> = asked.name.split(':').collect();
                let (partition, account) = (parts.get(1), parts.get(4));
                if !partition.is_some_and(|it| is_partition(it)) || !account.is_some_and(|it| is_account(it)) {
                    return Err(no_name("its ARN is not that of a parameter"));
                }
                asked.name
            }
            None => {
                let name = asked.name.strip_prefix('/').unwrap_or(&asked.name);
                format!("arn:{}:ssm:{region}:{}:parameter/{name}", self.partition, self.account)
            }
        };
        Ok(Want { reference: reference.clone(), regions: vec![region], resources: vec![resource] })
    }

    /// Writes the policy of one part.
    pub(crate) fn policy(&self, wants: &[Want]) -> String {
        let allow =
            |action: Vec<&'static str>, resource| Statement { effect: "Allow", action, resource, condition: None };
        let everything = || BTreeSet::from(["*"]);
        let resources = wants.iter().flat_map(|want| &want.resources).map(String::as_str).collect();
        let mut statement = vec![allow(self.service.actions(), resources)];
        if self.service == Service::SecretsManager && has_batch(wants) {
            // The action knows no resources, and shows no value that the statement before does not allow.
            statement.push(allow(vec!["secretsmanager:BatchGetSecretValue"], everything()));
        }
        let regions: BTreeSet<&String> = wants.iter().flat_map(|want| &want.regions).collect();
        let service = |region: &String| host(self.service.name(), region).ok();
        let services = regions.into_iter().filter_map(service).map(|host| host.replacen("https://", "", 1)).collect();
        let condition = Some(Condition { string_equals: ViaService { services } });
        statement.push(Statement { condition, ..allow(vec!["kms:Decrypt"], everything()) });
        // Texts and lists of texts: it can always be written.
        serde_json::to_string(&Policy { version: "2012-10-17", statement }).unwrap_or_default()
    }
}

/// Returns the failure of a reference that has more to say than a policy can hold.
pub(crate) fn too_long() -> Fault {
    let cause =
        format!("the session policy of this one alone has more than the {MAX_POLICY} characters that AWS takes");
    Fault::new(ErrorKind::Unsupported, cause)
}

fn no_name(cause: &str) -> Fault {
    Fault::new(ErrorKind::NotFound, cause)
}

/// Tells whether two current values or more are asked for in one region.
fn has_batch(wants: &[Want]) -> bool {
    let mut counts = BTreeMap::<&[String], BTreeSet<&str>>::new();
    for want in wants.iter().filter(|want| want.reference.version == Version::Current) {
        counts.entry(&want.regions).or_default().insert(&want.reference.path);
    }
    counts.values().any(|paths| paths.len() > 1)
}

/// Checks that a secret can be called so. No wildcard and no variable of IAM can.
fn check_name(name: &str) -> Result<(), Fault> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+=.@-".contains(&byte);
    if name.is_empty() || name.len() > MAX_SECRET_NAME + SUFFIX || !name.bytes().all(fits) {
        return Err(no_name("no secret can be called that: AWS takes letters, digits and `/_+=.@-`"));
    }
    Ok(())
}

fn has_suffix(name: &str) -> bool {
    let suffix = name.len().checked_sub(SUFFIX).and_then(|at| name.get(at..));
    suffix
        .and_then(|suffix| suffix.strip_prefix('-'))
        .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_alphanumeric()))
}

fn is_partition(text: &str) -> bool {
    text.starts_with("aws") && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const ROLE: &str = "arn:aws:iam::111122223333:role/shop";

    fn ground(service: Service) -> Ground {
        Ground::of(service, ROLE, "eu-west-1", &[]).unwrap()
    }

    fn cut(ground: &Ground, references: &[&str]) -> Parts {
        let references: Vec<SecretRef> = references.iter().map(|text| text.parse().unwrap()).collect();
        ground.parts(references.iter())
    }

    /// Returns the statements of the only policy.
    fn statements(ground: &Ground, references: &[&str]) -> Vec<Value> {
        let parts = cut(ground, references);
        assert!(parts.parts.len() == 1 && parts.refused.is_empty(), "{parts:?}");
        let policy: Value = serde_json::from_str(&ground.policy(&parts.parts[0])).unwrap();
        policy["Statement"].as_array().unwrap().clone()
    }

    fn resources(ground: &Ground, reference: &str) -> Vec<String> {
        let all = statements(ground, &[reference])[0]["Resource"].as_array().unwrap().clone();
        all.iter().map(|arn| arn.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_policy_of_one_secret_is_exactly_this() {
        let ground = ground(Service::SecretsManager);
        let parts = cut(&ground, &["org://shop/db"]);
        assert_eq!(
            ground.policy(&parts.parts[0]),
            concat!(
                r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","#,
                r#""Action":["secretsmanager:GetSecretValue","secretsmanager:DescribeSecret"],"#,
                r#""Resource":["arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-??????"]},"#,
                r#"{"Effect":"Allow","Action":["kms:Decrypt"],"Resource":["*"],"#,
                r#""Condition":{"StringEquals":{"kms:ViaService":["secretsmanager.eu-west-1.amazonaws.com"]}}}]}"#
            )
        );
    }

    #[test]
    fn only_what_fetches_two_current_values_of_a_region_may_batch() {
        let ground = ground(Service::SecretsManager);
        let may = |references: &[&str]| {
            statements(&ground, references).iter().any(|s| s["Action"][0] == "secretsmanager:BatchGetSecretValue")
        };
        assert!(may(&["org://a", "org://b"]));
        let there = "org://arn:aws:secretsmanager:us-east-1:111122223333:secret:b";
        for references in [&["org://a"][..], &["org://a", "org://a?stage=previous"], &["org://a", there]] {
            assert!(!may(references), "{references:?}");
        }
    }

    #[test]
    fn an_arn_is_taken_as_it_is_and_one_that_may_lack_its_suffix_in_both_forms() {
        let ground = ground(Service::SecretsManager);
        let arn = "arn:aws:secretsmanager:us-east-2:444455556666:secret:shop/db";
        assert_eq!(resources(&ground, &format!("org://{arn}")), [format!("{arn}-??????")]);
        assert_eq!(
            resources(&ground, &format!("org://{arn}-AbCdEf")),
            [format!("{arn}-AbCdEf"), format!("{arn}-AbCdEf-??????")]
        );
    }

    #[test]
    fn what_replicas_have_is_named_in_every_region_and_what_is_elsewhere_in_its_own() {
        let replicas = ["eu-central-1".to_owned(), "eu-*".to_owned()];
        let ground = Ground::of(Service::SecretsManager, ROLE, "eu-west-1", &replicas).unwrap();
        let regions = |reference: &str| -> Vec<String> {
            resources(&ground, reference).iter().map(|arn| arn.split(':').nth(3).unwrap().to_owned()).collect()
        };
        assert_eq!(regions("org://a"), ["eu-central-1", "eu-west-1"]);
        let arn = |region: &str| format!("org://arn:aws:secretsmanager:{region}:111122223333:secret:a");
        assert_eq!(regions(&arn("eu-west-1")), ["eu-central-1", "eu-west-1"]);
        assert_eq!(regions(&arn("us-east-1")), ["us-east-1"]);
        let policy = statements(&ground, &["org://a"]);
        let services = &policy.last().unwrap()["Condition"]["StringEquals"]["kms:ViaService"];
        assert_eq!(services.as_array().unwrap().len(), 2, "{services}");
    }

    #[test]
    fn the_partition_is_that_of_the_role() {
        let role = "arn:aws-cn:iam::111122223333:role/shop";
        let ground = Ground::of(Service::ParameterStore, role, "cn-north-1", &[]).unwrap();
        let all = statements(&ground, &["org:///a"]);
        assert_eq!(all[0]["Resource"][0], "arn:aws-cn:ssm:cn-north-1:111122223333:parameter/a");
        let service = &all[1]["Condition"]["StringEquals"]["kms:ViaService"][0];
        assert_eq!(service, "ssm.cn-north-1.amazonaws.com.cn");
    }

    #[test]
    fn a_parameter_is_named_exactly_and_read_by_one_action() {
        let ground = ground(Service::ParameterStore);
        let shared = "arn:aws:ssm:us-east-2:444455556666:parameter/shared/key";
        let all = statements(&ground, &["org:///shop/db?version=3", "org://bare", &format!("org://{shared}")]);
        assert_eq!(all[0]["Action"], serde_json::json!(["ssm:GetParameters"]));
        let own = |name: &str| format!("arn:aws:ssm:eu-west-1:111122223333:parameter/{name}");
        assert_eq!(all[0]["Resource"], serde_json::json!([own("bare"), own("shop/db"), shared]));
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn what_iam_would_read_as_a_wildcard_is_no_name_and_stands_in_no_policy() {
        for (service, names) in [
            (
                Service::SecretsManager,
                &[
                    "org://*",
                    "org://a%3F",
                    "org://a${aws:username}",
                    "org://a\\",
                    "org://a%22b",
                    "org://ä",
                    "org://arn:aws:secretsmanager:*:111122223333:secret:a",
                    "org://arn:aws:secretsmanager:eu-west-1:*:secret:a",
                    "org://arn:*:secretsmanager:eu-west-1:111122223333:secret:a",
                    "org://arn:aws:secretsmanager:eu-west-1:111122223333:secret:*",
                    "org://arn:aws:secretsmanager:eu-west-1:111122223333:secret:a:b",
                    "org://arn:aws:s3:::bucket",
                ][..],
            ),
            (
                Service::ParameterStore,
                &[
                    "org:///*",
                    "org:///a%3F",
                    "org:///${a}",
                    "org://arn:*:ssm:eu-west-1:111122223333:parameter/a",
                    "org://arn:aws:ssm:eu-west-1::parameter/a",
                    "org://arn:aws:ssm:eu-west-1:111122223333:parameter/*",
                ],
            ),
        ] {
            let ground = ground(service);
            for name in names {
                let parts = cut(&ground, &["org://good", name]);
                let kinds: Vec<_> = parts.refused.iter().map(|(_, fault)| fault.kind).collect();
                assert_eq!(kinds, [ErrorKind::NotFound], "{name}");
                let good = cut(&ground, &["org://good"]);
                assert_eq!(parts.parts, good.parts, "{name}");
            }
        }
    }

    #[test]
    fn a_policy_of_any_number_of_secrets_fits_and_every_secret_stands_in_one() {
        for (service, length) in
            [(Service::SecretsManager, 12), (Service::SecretsManager, 300), (Service::ParameterStore, 12)]
        {
            let ground = ground(service);
            let names: Vec<_> = (0..120).map(|n| format!("org://{}{n:03}", "x".repeat(length))).collect();
            let parts = cut(&ground, &names.iter().map(String::as_str).collect::<Vec<_>>());
            assert!(parts.parts.len() > 1 && parts.refused.is_empty());
            assert_eq!(parts.parts.iter().map(Vec::len).sum::<usize>(), 120);
            for part in &parts.parts {
                let policy = ground.policy(part);
                assert!(policy.len() <= MAX_POLICY && !policy.contains("-*"), "{policy}");
                let named = policy.matches(&"x".repeat(length)).count();
                assert_eq!(named, part.len(), "{policy}");
            }
        }
    }

    #[test]
    fn parts_line_up_with_batches_where_they_can() {
        let ground = ground(Service::ParameterStore);
        let names: Vec<_> = (0..45).map(|n| format!("org:///shop/{n:02}")).collect();
        let parts = cut(&ground, &names.iter().map(String::as_str).collect::<Vec<_>>());
        let sizes: Vec<_> = parts.parts.iter().map(Vec::len).collect();
        assert!(sizes.iter().rev().skip(1).all(|size| size.is_multiple_of(10)), "{sizes:?}");
    }

    #[test]
    fn a_reference_whose_policy_alone_is_too_long_is_an_error_of_its_own() {
        let replicas: Vec<_> = (0..10).map(|n| format!("eu-west-{n}")).collect();
        let ground = Ground::of(Service::SecretsManager, ROLE, "eu-north-1", &replicas).unwrap();
        let parts = cut(&ground, &["org://short", &format!("org://{}", "x".repeat(400))]);
        assert_eq!(parts.parts.len(), 1);
        assert_eq!(parts.refused[0].1, too_long());
    }
}
