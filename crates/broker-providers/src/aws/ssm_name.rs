//! How a reference names a parameter, and which answer belongs to which question.
//!
//! A name is kept as it is written, with or without its first slash: `aws-ssm:///a` asks for `/a` and `aws-ssm://a` for
//! `a`. The version stands in the reference's `?version=`, never in its path, so that no parameter has two references.
//! Source: `GetParameters` and "Working with parameter versions" and "... labels" in the Systems Manager documentation.

use broker_core::reference::{SecretRef, Version};

use crate::aws::json::is_region;
use crate::fault::Fault;
use crate::provider::ErrorKind;

/// Most names of one `GetParameters`.
pub(crate) const BATCH: usize = 10;

/// One name of a `GetParameters`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Asked {
    /// The region of an ARN, none for a name of the instance's own region.
    pub(crate) region: Option<String>,
    /// The name, or the whole ARN.
    pub(crate) name: String,
    /// The version or the label.
    pub(crate) selector: Option<String>,
}

impl Asked {
    /// Reads a reference. One to the previous version asks for the current one, whose number says which is the previous.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for what no parameter, version or label can be called, [`ErrorKind::Unsupported`] for the
    /// pending stage.
    pub(crate) fn of(reference: &SecretRef) -> Result<Self, Fault> {
        let asked = Self::named(&reference.path)?;
        match &reference.version {
            Version::Current | Version::Previous => Ok(asked),
            Version::Id(id)
                if !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) =>
            {
                Ok(Self { selector: Some(id.clone()), ..asked })
            }
            Version::Id(_) => Err(Fault::new(ErrorKind::NotFound, "no version or label can be called that")),
            Version::Pending => {
                let cause = "the newest version of a parameter is always its current one, so none can be pending";
                Err(Fault::new(ErrorKind::Unsupported, cause))
            }
        }
    }

    fn named(path: &str) -> Result<Self, Fault> {
        let is_name =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
        let parts: Vec<&str> = path.split(':').collect();
        match *parts.as_slice() {
            [name] if is_name(name) => Ok(Self { region: None, name: path.to_owned(), selector: None }),
            ["arn", _, "ssm", region, account, resource]
                if is_region(region)
                    && account.bytes().all(|b| b.is_ascii_digit())
                    && resource.strip_prefix("parameter/").is_some_and(is_name) =>
            {
                Ok(Self { region: Some(region.to_owned()), name: path.to_owned(), selector: None })
            }
            [name, _] if is_name(name) => {
                let cause = "a version or a label stands behind `?version=`, not in the name";
                Err(Fault::new(ErrorKind::NotFound, cause))
            }
            _ => Err(Fault::new(ErrorKind::NotFound, "no parameter can be called that")),
        }
    }

    /// Returns the name as the API takes it.
    pub(crate) fn wire(&self) -> String {
        match &self.selector {
            Some(selector) => format!("{}:{selector}", self.name),
            None => self.name.clone(),
        }
    }

    /// Returns the same parameter at this version.
    pub(crate) fn at(&self, version: u64) -> Self {
        Self { selector: Some(version.to_string()), ..self.clone() }
    }

    /// Tells whether an answer is the one to this question. `selector` is the answer's, as `:3` or `:label`; a server that
    /// leaves it out is believed by the version.
    pub(crate) fn is_answered_by(&self, name: &str, arn: &str, selector: Option<&str>, version: u64) -> bool {
        let got = selector.map(|text| text.trim_start_matches(':')).filter(|text| !text.is_empty());
        (self.name == name || self.name == arn)
            && match (self.selector.as_deref(), got) {
                (None, got) => got.is_none(),
                (Some(wanted), Some(got)) => wanted == got,
                (Some(wanted), None) => wanted.parse().is_ok_and(|wanted: u64| wanted == version) || !is_number(wanted),
            }
    }

    /// The name without what can be left out: two questions that share it never go into one call.
    fn key(&self) -> &str {
        let name = self.name.split_once(":parameter").map_or(self.name.as_str(), |(_, name)| name);
        name.trim_start_matches('/')
    }
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// Packs questions, each once, into as few calls as there can be: ten names to a call, one region, and no parameter twice,
/// which would make answers hard to tell apart.
pub(crate) fn calls(mut asked: Vec<Asked>) -> Vec<Vec<Asked>> {
    asked.sort_unstable();
    asked.dedup();
    let mut calls: Vec<Vec<Asked>> = Vec::new();
    for one in asked {
        let has_room = |call: &&mut Vec<Asked>| {
            call.len() < BATCH && call.iter().all(|other| other.region == one.region && other.key() != one.key())
        };
        match calls.iter_mut().find(has_room) {
            Some(call) => call.push(one),
            None => calls.push(vec![one]),
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Result<String, ErrorKind> {
        let reference: SecretRef = text.parse().expect("it is a reference");
        Asked::of(&reference).map(|asked| asked.wire()).map_err(|fault| fault.kind)
    }

    #[test]
    fn a_name_keeps_its_slash_and_a_version_stands_behind_it() {
        let arn = "arn:aws:ssm:eu-west-1:111122223333:parameter/shop/key";
        for (text, wire) in [
            ("aws-ssm:///a/b", "/a/b"),
            ("aws-ssm://a/b", "a/b"),
            ("aws-ssm:///a?version=3", "/a:3"),
            ("aws-ssm:///a?version=release-2.1", "/a:release-2.1"),
            ("aws-ssm:///a?stage=previous", "/a"),
            (&format!("aws-ssm://{arn}"), arn),
            (&format!("aws-ssm://{arn}?version=3"), &format!("{arn}:3")),
        ] {
            assert_eq!(asked(text).as_deref(), Ok(wire), "{text}");
        }
    }

    #[test]
    fn what_no_parameter_can_be_called_is_not_found_without_a_call() {
        for text in [
            "aws-ssm:///a:3",
            "aws-ssm://a%20b",
            "aws-ssm:///a%3A3",
            "aws-ssm:///a?version=a%3Ab",
            "aws-ssm://arn:aws:ssm:eu-west-1:1:parameter/a:3",
            "aws-ssm://arn:aws:ssm:evil.example:1:parameter/a",
            "aws-ssm://arn:aws:secretsmanager:eu-west-1:1:secret:a",
        ] {
            assert_eq!(asked(text), Err(ErrorKind::NotFound), "{text}");
        }
        assert_eq!(asked("aws-ssm:///a?stage=pending"), Err(ErrorKind::Unsupported));
    }

    #[test]
    fn names_go_in_tens_and_a_parameter_goes_into_a_call_once() {
        let of = |text: &str| Asked::of(&text.parse().expect("it is a reference")).expect("it can be asked for");
        let many: Vec<_> = (0..150).map(|number| of(&format!("aws-ssm:///p{number}"))).collect();
        assert_eq!(calls([many.clone(), many].concat()).len(), 15);
        let same = ["aws-ssm:///a", "aws-ssm:///a?version=1", "aws-ssm://arn:aws:ssm:eu-west-1:1:parameter/a"];
        assert_eq!(calls(same.map(of).to_vec()).len(), 3);
        let regions = ["eu-west-1", "eu-west-1", "us-east-1"]
            .map(|region| format!("aws-ssm://arn:aws:ssm:{region}:1:parameter/"));
        let regions = regions.iter().enumerate().map(|(at, arn)| of(&format!("{arn}{at}"))).collect();
        assert_eq!(calls(regions).len(), 2);
    }

    #[test]
    fn an_answer_belongs_to_the_question_that_it_names() {
        let of = |text: &str| Asked::of(&text.parse().expect("it is a reference")).expect("it can be asked for");
        let arn = "arn:aws:ssm:eu-west-1:1:parameter/a";
        assert!(of("aws-ssm:///a").is_answered_by("/a", arn, None, 3));
        assert!(!of("aws-ssm://a").is_answered_by("/a", arn, None, 3));
        assert!(!of("aws-ssm:///a").is_answered_by("/a", arn, Some(":1"), 1));
        assert!(of("aws-ssm:///a?version=1").is_answered_by("/a", arn, Some(":1"), 1));
        assert!(of("aws-ssm:///a?version=1").is_answered_by("/a", arn, None, 1));
        assert!(!of("aws-ssm:///a?version=1").is_answered_by("/a", arn, None, 2));
        assert!(of(&format!("aws-ssm://{arn}")).is_answered_by("/a", arn, None, 3));
    }
}
