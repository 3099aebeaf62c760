//! Refusals: a status, GitHub's words and the page that it names.

use serde_json::json;

use crate::http::Message;

/// The page that is named where no call is.
pub(super) const REST: &str = "https://docs.github.com/rest";
pub(super) const RATE_LIMITS: &str = "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api";

#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) message: String,
    pub(super) page: &'static str,
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Problem {
    pub(super) fn new(status: u16, message: impl Into<String>, page: &'static str) -> Self {
        Self { status, message: message.into(), page, headers: Vec::new() }
    }

    pub(super) fn with(mut self, header: &'static str, value: impl ToString) -> Self {
        self.headers.push((header, value.to_string()));
        self
    }

    /// The JWT of an app does not count.
    pub(super) fn jwt(message: &str) -> Self {
        Self::new(401, message, REST)
    }

    /// The one for everything that is wrong with a JWT as such: its form, its algorithm, its signature, or none at all.
    pub(super) fn no_jwt() -> Self {
        Self::jwt("A JSON web token could not be decoded")
    }

    pub(super) fn bad_credentials() -> Self {
        Self::new(401, "Bad credentials", REST)
    }

    pub(super) fn not_found(page: &'static str) -> Self {
        Self::new(404, "Not Found", page)
    }

    /// The token can see the resource and lacks a permission, which a header names (`contents=read`).
    pub(super) fn not_accessible(needed: &str, page: &'static str) -> Self {
        let problem = Self::new(403, "Resource not accessible by integration", page);
        problem.with("X-Accepted-GitHub-Permissions", needed)
    }

    pub(super) fn suspended(page: &'static str) -> Self {
        Self::new(403, "This installation has been suspended", page)
    }

    pub(super) fn into_message(self) -> Message {
        let body = json!({
            "message": self.message, "documentation_url": self.page, "status": self.status.to_string(),
        });
        let mut message = Message::json(self.status, &body);
        message.headers.extend(self.headers.into_iter().map(|(name, value)| (name.to_owned(), value)));
        message
    }
}
