//! ACL policies: their text, and what they grant.
//!
//! Paths are exact, end in `*`, or hold `+` for one segment. The most specific rule decides alone; rules of several
//! policies for the same pattern add up, and `deny` wins among them (documentation, "Policies", "Priority matching").

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What every token may do that does not renounce it.
pub(super) const DEFAULT: &str = r#"
path "auth/token/lookup-self"      { capabilities = ["read"] }
path "auth/token/renew-self"       { capabilities = ["update"] }
path "auth/token/revoke-self"      { capabilities = ["update"] }
path "sys/capabilities-self"       { capabilities = ["update"] }
path "sys/internal/ui/resultant-acl" { capabilities = ["read"] }
path "sys/renew"                   { capabilities = ["update"] }
path "sys/renew/*"                 { capabilities = ["update"] }
path "sys/leases/renew"            { capabilities = ["update"] }
path "sys/leases/renew/*"          { capabilities = ["update"] }
path "sys/leases/lookup"           { capabilities = ["update"] }
path "cubbyhole/*"                 { capabilities = ["create", "read", "update", "delete", "list"] }
path "sys/wrapping/wrap"           { capabilities = ["update"] }
path "sys/wrapping/lookup"         { capabilities = ["update"] }
path "sys/wrapping/unwrap"         { capabilities = ["update"] }
"#;

const KNOWN: [&str; 8] = ["create", "read", "update", "delete", "list", "sudo", "patch", "deny"];

/// The rules of one or more policies: a pattern and its capabilities.
pub(super) type Rules = BTreeMap<String, BTreeSet<String>>;

/// Reads a policy, HCL or JSON.
pub(super) fn parse(text: &str) -> Result<Rules, String> {
    if text.trim_start().starts_with('{') { parse_json(text) } else { parse_hcl(text) }
}

fn parse_json(text: &str) -> Result<Rules, String> {
    let policy: Value = serde_json::from_str(text).map_err(|error| format!("failed to parse policy: {error}"))?;
    let mut rules = Rules::new();
    for (path, rule) in policy["path"].as_object().into_iter().flatten() {
        add(&mut rules, path, super::message::words(rule.get("capabilities")))?;
    }
    Ok(rules)
}

fn parse_hcl(text: &str) -> Result<Rules, String> {
    let mut words = tokens(text)?.into_iter();
    let mut rules = Rules::new();
    let failed = |what: &str| format!("failed to parse policy: {what}");
    while let Some(word) = words.next() {
        let path = match (word.as_str(), words.next()) {
            ("path", Some(path)) if path.starts_with('"') => path.trim_matches('"').to_owned(),
            _ => return Err(failed("a `path \"...\"` was expected")),
        };
        if words.next().as_deref() != Some("{") {
            return Err(failed("a block was expected"));
        }
        let mut granted = Vec::new();
        loop {
            match words.next().as_deref() {
                Some("}") => break,
                Some("capabilities") => {
                    let opened = words.next().as_deref() == Some("=") && words.next().as_deref() == Some("[");
                    if !opened {
                        return Err(failed("a list of capabilities was expected"));
                    }
                    granted.extend(words.by_ref().take_while(|word| word != "]").filter(|word| word != ","));
                }
                Some(other) => return Err(failed(&format!("this server does not know `{other}`"))),
                None => return Err(failed("a block has no end")),
            }
        }
        add(&mut rules, &path, granted.iter().map(|word| word.trim_matches('"').to_owned()).collect())?;
    }
    Ok(rules)
}

fn add(rules: &mut Rules, path: &str, granted: Vec<String>) -> Result<(), String> {
    if let Some(unknown) = granted.iter().find(|word| !KNOWN.contains(&word.as_str())) {
        return Err(format!("failed to parse policy: path \"{path}\": invalid capability \"{unknown}\""));
    }
    if path.contains("+*") {
        return Err(format!("failed to parse policy: path \"{path}\": invalid use of wildcards ('+*' is forbidden)"));
    }
    rules.entry(path.trim_start_matches('/').to_owned()).or_default().extend(granted);
    Ok(())
}

/// Takes HCL apart: strings with their quotes, words and signs; comments are left out.
fn tokens(text: &str) -> Result<Vec<String>, String> {
    let (mut found, mut rest) = (Vec::new(), text);
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '"' => {
                let end = rest[1..].find('"').ok_or("failed to parse policy: a string has no end")? + 2;
                found.push(rest[..end].to_owned());
                end
            }
            '{' | '}' | '[' | ']' | '=' | ',' => {
                found.push(c.to_string());
                1
            }
            c if c.is_whitespace() => c.len_utf8(),
            _ => {
                let is_end = |c: char| !c.is_alphanumeric() && c != '_';
                let end = rest.find(is_end).filter(|end| *end > 0);
                let end = end.ok_or_else(|| format!("failed to parse policy: illegal character {c:?}"))?;
                found.push(rest[..end].to_owned());
                end
            }
        };
        rest = &rest[length..];
    }
    Ok(found)
}

/// Adds the rules of one policy to those of others.
pub(super) fn join(all: &mut Rules, policy: &Rules) {
    for (path, granted) in policy {
        all.entry(path.clone()).or_default().extend(granted.iter().cloned());
    }
}

/// Returns what `rules` grant on `path`; nothing where `deny` stands or no rule matches.
pub(super) fn granted(rules: &Rules, path: &str, is_list: bool) -> BTreeSet<String> {
    let rule = rule_for(rules, path).or_else(|| {
        // A folder may be listed with a rule that lacks the slash.
        if is_list { rule_for(rules, path.trim_end_matches('/')) } else { None }
    });
    let granted = rule.cloned().unwrap_or_default();
    if granted.contains("deny") { BTreeSet::new() } else { granted }
}

fn rule_for<'a>(rules: &'a Rules, path: &str) -> Option<&'a BTreeSet<String>> {
    if let Some(exact) = rules.get(path).filter(|_| !path.contains('+') && !path.ends_with('*')) {
        return Some(exact);
    }
    rules
        .iter()
        .filter(|(pattern, _)| matches(pattern, path))
        .max_by_key(|(pattern, _)| weight(pattern))
        .map(|(_, g)| g)
}

/// How specific a pattern is, the more the greater: where its first wildcard stands, whether it ends in `*`, how many
/// `+` it has, how long it is.
fn weight(pattern: &str) -> (usize, bool, std::cmp::Reverse<usize>, usize, String) {
    let first = pattern.find('+').unwrap_or(usize::MAX);
    let first = if pattern.ends_with('*') { first.min(pattern.len() - 1) } else { first };
    let pluses = pattern.split('/').filter(|segment| *segment == "+").count();
    (first, !pattern.ends_with('*'), std::cmp::Reverse(pluses), pattern.len(), pattern.to_owned())
}

fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, is_prefix) = match pattern.strip_suffix('*') {
        Some(stem) => (stem, true),
        None => (pattern, false),
    };
    let (wanted, given): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
    if given.len() < wanted.len() || (!is_prefix && given.len() != wanted.len()) {
        return false;
    }
    wanted.iter().zip(&given).enumerate().all(|(at, (segment, given))| {
        *segment == "+" || segment == given || (is_prefix && at + 1 == wanted.len() && given.starts_with(segment))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(rules: &str, path: &str) -> Vec<String> {
        granted(&parse(rules).expect("it parses"), path, false).into_iter().collect()
    }

    #[test]
    fn the_most_specific_rule_decides_alone_and_deny_wins() {
        let rules = r#"
            path "secret/*" { capabilities = ["read", "list"] } # all
            path "secret/data/+/db" { capabilities = ["update"] }
            path "secret/data/shop/*" { capabilities = ["create"] }
            path "secret/data/shop/db" { capabilities = ["deny", "read"] }
            path "a/+/+/d" { capabilities = ["read"] }
            path "a/+/c/d" { capabilities = ["update"] }
        "#;
        assert_eq!(words(rules, "secret/other"), ["list", "read"]);
        assert_eq!(words(rules, "secret/data/x/db"), ["update"]);
        assert_eq!(words(rules, "secret/data/shop/x"), ["create"]);
        assert!(words(rules, "secret/data/shop/db").is_empty());
        assert!(words(rules, "secretly").is_empty());
        assert_eq!(words(rules, "a/b/c/d"), ["update"]);
        assert_eq!(words(rules, "a/b/x/d"), ["read"]);
        assert!(words(rules, "a/b/x/d/e").is_empty());
    }

    #[test]
    fn a_text_that_is_no_policy_is_refused() {
        for text in
            ["path secret {}", "path \"x\" { capabilities = [\"fly\"] }", "path \"x\" { foo = 1 }", "path \"x\" {"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
