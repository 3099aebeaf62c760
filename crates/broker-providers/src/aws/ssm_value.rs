//! What Parameter Store can hold, checked before it is sent: every refusal names the reason.
//!
//! A parameter is text of 1 to 4096 bytes, or 8192 in the advanced tier, which costs and cannot be left again; so it is
//! never entered by the way. Source: `PutParameter` and "Managing parameter tiers" in the Systems Manager documentation.

use broker_core::reference::{SecretRef, Version};
use broker_core::secret::SecretValue;
use serde::{Deserialize, Serialize};

use crate::aws::ssm_list::Known;
use crate::aws::ssm_name::Asked;
use crate::fault::Fault;
use crate::provider::ErrorKind;

/// Most bytes of a standard parameter.
const STANDARD: usize = 4096;
/// Most bytes of an advanced parameter.
const ADVANCED: usize = 8192;

/// A text that Parameter Store takes under a name that it takes.
pub(crate) struct Checked<'a> {
    name: &'a str,
    text: &'a str,
}

/// The body of `PutParameter`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Write<'a> {
    name: &'a str,
    value: &'a str,
    r#type: &'static str,
    overwrite: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<&'a str>,
}

/// The answer of `PutParameter`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Put {
    pub(crate) version: u64,
}

fn refuse(cause: &str) -> Fault {
    Fault::new(ErrorKind::Unsupported, cause)
}

impl<'a> Checked<'a> {
    /// Checks a value and the name that it is for.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] with the reason.
    pub(crate) fn of(reference: &'a SecretRef, value: &'a SecretValue) -> Result<Self, Fault> {
        if reference.version != Version::Current {
            return Err(refuse("only the current version can be written"));
        }
        Asked::of(reference).map_err(|fault| Fault { kind: ErrorKind::Unsupported, ..fault })?;
        if reference.path.starts_with("arn:") {
            return Err(refuse("a parameter is written by its name, not by its ARN"));
        }
        // Opened to be looked at, and sent to the manager.
        let text = std::str::from_utf8(value.expose())
            .map_err(|_| refuse("Parameter Store holds text only, and this value is no UTF-8"))?;
        match text.len() {
            0 => Err(refuse("Parameter Store cannot hold an empty value")),
            length if length > ADVANCED => Err(refuse("a parameter holds at most 8 KiB, and this value is larger")),
            _ if text.contains('\0') => Err(refuse("Parameter Store holds text only, and this value has a NUL byte")),
            _ => Ok(Self { name: &reference.path, text }),
        }
    }

    /// Returns what is written over the parameter as it is known to be, or as a new one.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a parameter that is stored in plain text, which AWS cannot change, and for a value
    /// that its tier cannot hold.
    pub(crate) fn over(self, known: Option<&'a Known>) -> Result<Write<'a>, Fault> {
        if known.is_some_and(|known| known.kind != "SecureString") {
            return Err(refuse("it is stored in plain text, and AWS cannot encrypt what exists"));
        }
        let tier = known.and_then(|known| known.tier.as_deref()).filter(|tier| *tier != "Standard");
        if self.text.len() > STANDARD && tier.is_none() {
            return Err(refuse("a standard parameter holds at most 4 KiB, and this value is larger"));
        }
        let key_id = known.and_then(|known| known.key_id.as_deref());
        Ok(Write { name: self.name, value: self.text, r#type: "SecureString", overwrite: true, key_id, tier })
    }
}

/// Names the way out of a refused write.
pub(crate) fn hint(fault: &Fault) -> Option<String> {
    let cause = fault.cause.as_str();
    let hint = if cause.contains("plain text") {
        "delete it, then set it anew: it is encrypted from then on"
    } else if cause.contains("4 KiB") {
        "make it an advanced parameter first (`aws ssm put-parameter --tier Advanced`, which costs), or keep it in Secrets \
         Manager"
    } else if cause.contains("8 KiB") || cause.contains("text only") {
        "keep it in Secrets Manager, or write it as base64"
    } else if fault.kind == ErrorKind::Denied && cause.contains("ssm:DescribeParameters") {
        "writing needs `ssm:DescribeParameters` too, to keep the key that encrypts it"
    } else {
        return None;
    };
    Some(hint.to_owned())
}
