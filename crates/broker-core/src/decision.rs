//! The answer of policy to one request.

use serde::{Deserialize, Serialize};

/// What policy says, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "effect")]
#[must_use]
pub enum Decision {
    /// Go on.
    Allow {
        /// The rule that decided.
        rule: String,
    },
    /// Go on if a person agrees.
    Ask {
        /// The rule that decided.
        rule: String,
    },
    /// Stop.
    Deny {
        /// The rule that decided.
        rule: String,
        /// Why, for the person who asked.
        because: String,
    },
}

impl Decision {
    /// Returns the rule that decided.
    #[must_use]
    pub fn rule(&self) -> &str {
        match self {
            Self::Allow { rule } | Self::Ask { rule } | Self::Deny { rule, .. } => rule,
        }
    }
}
