//! Requests to Vault and OpenBao: headers, paths, and what their refusals mean in our own few kinds.
//!
//! The token is a header marked sensitive and goes to the instance's address only. A refusal is told in the server's own
//! words (`errors` of its answer), made safe; any other text of an answer is never quoted, since it may hold a value.
//! Source: HTTP API of Vault 1.20 and OpenBao 2.5, "HTTP status codes".

use std::collections::BTreeMap;
use std::fmt;

use broker_core::secret::SecretValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::fault::{Fault, persist};
use crate::provider::ErrorKind;
use crate::rest::{Answer, Rest};
use crate::words::safe;

/// What stays as it is in a segment of a path: the unreserved characters of RFC 3986.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The code of a refusal that a token meets which the server does not know, or knew.
pub(crate) const INVALID_TOKEN: &str = "invalid token";

/// One server, in one namespace.
#[derive(Clone)]
pub(crate) struct Wire {
    rest: Rest,
    /// Without a slash at its end.
    address: String,
    namespace: Option<String>,
}

/// What is asked for.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    /// Below `/v1/`, decoded.
    pub(crate) path: &'a str,
    /// With its values encoded; empty for none.
    pub(crate) query: &'a str,
    pub(crate) body: Option<Zeroizing<Vec<u8>>>,
}

impl<'a> Call<'a> {
    pub(crate) fn read(path: &'a str) -> Self {
        Self { method: Method::GET, path, query: "", body: None }
    }

    pub(crate) fn list(path: &'a str) -> Self {
        Self { query: "list=true", ..Self::read(path) }
    }

    pub(crate) fn delete(path: &'a str) -> Self {
        Self { method: Method::DELETE, ..Self::read(path) }
    }

    /// Writes a body, which may hold a secret: it is wiped when the call is dropped.
    pub(crate) fn write(path: &'a str, body: &impl Serialize) -> Self {
        let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
        // Our own structures always become JSON.
        let _ = serde_json::to_writer(&mut *bytes, body);
        Self { method: Method::POST, body: Some(bytes), ..Self::read(path) }
    }
}

impl Call<'_> {
    /// Says what an answer that is no success means. The code of a denial is the rule that would grant the call.
    fn refusal(&self, answer: &Answer) -> Fault {
        let fault = fault(answer);
        if fault.kind != ErrorKind::Denied {
            return fault;
        }
        let (slash, capabilities) = match (&self.method, self.query) {
            (&Method::DELETE, _) => ("", r#""delete""#),
            (&Method::POST, _) => ("", r#""create", "update""#),
            // A folder ends with a slash where policies speak of it.
            (_, "list=true") => ("/", r#""list""#),
            _ => ("", r#""read""#),
        };
        let rule = format!("path \"{}{slash}\" {{ capabilities = [{capabilities}] }}", safe(self.path));
        Fault { code: Some(rule), ..fault }
    }
}

impl Wire {
    pub(crate) fn new(rest: Rest, address: &str, namespace: Option<&str>) -> Self {
        let namespace = namespace.map(|name| name.trim_matches('/').to_owned()).filter(|name| !name.is_empty());
        Self { rest, address: address.trim_end_matches('/').to_owned(), namespace }
    }

    /// Returns the same server in another namespace.
    pub(crate) fn in_namespace(&self, namespace: Option<&str>) -> Self {
        Self::new(self.rest.clone(), &self.address, namespace)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Names the authorities that alone are believed; nothing where it is the machine's.
    pub(crate) fn trust(&self) -> Option<&str> {
        self.rest.trust()
    }

    pub(crate) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Sends a request until it is answered, makes no sense to repeat, or `deadline` comes.
    ///
    /// # Errors
    /// The server's, in our kinds.
    pub(crate) async fn ask(
        &self,
        token: Option<&SecretValue>,
        call: &Call<'_>,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        persist(deadline, || self.once(token, call)).await
    }

    /// Like [`Wire::ask`], but what is there and deleted is an answer, too: status 404 with data.
    pub(crate) async fn ask_for_deleted(
        &self,
        token: Option<&SecretValue>,
        call: &Call<'_>,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        persist(deadline, || async {
            let answer = self.send(token, call).await?;
            let is_told = answer.status == 404 && is_told_deleted(&answer);
            if answer.is_success() || is_told { Ok(answer) } else { Err(call.refusal(&answer)) }
        })
        .await
    }

    /// Sends a request once, for what must not be done twice.
    pub(crate) async fn once(&self, token: Option<&SecretValue>, call: &Call<'_>) -> Result<Answer, Fault> {
        let answer = self.send(token, call).await?;
        if answer.is_success() { Ok(answer) } else { Err(call.refusal(&answer)) }
    }

    async fn send(&self, token: Option<&SecretValue>, call: &Call<'_>) -> Result<Answer, Fault> {
        let segments: Vec<_> =
            call.path.split('/').map(|segment| utf8_percent_encode(segment, SEGMENT).to_string()).collect();
        let mark = if call.query.is_empty() { "" } else { "?" };
        let url = format!("{}/v1/{}{mark}{}", self.address, segments.join("/"), call.query);
        let mut request = self.rest.request(call.method.clone(), &url);
        // Keeps a page in a browser from asking in our place (documentation, "API", "request header").
        request = request.header(HeaderName::from_static("x-vault-request"), HeaderValue::from_static("true"));
        if let Some(namespace) = &self.namespace {
            request = request.header(HeaderName::from_static("x-vault-namespace"), namespace);
        }
        if let Some(token) = token {
            // Opened to be sent to the manager.
            let header = HeaderValue::from_bytes(token.expose());
            let mut header = header
                .map_err(|_| Fault::new(ErrorKind::Unauthenticated, "the token holds characters that no token has"))?;
            header.set_sensitive(true);
            request = request.header(HeaderName::from_static("x-vault-token"), header);
        }
        if let Some(body) = &call.body {
            let json = HeaderValue::from_static("application/json");
            request = request.header(reqwest::header::CONTENT_TYPE, json).body(body.to_vec());
        }
        self.rest.send(request).await
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("address", &self.address)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// Tells whether a path can be sent as it is: what URLs treat as a step (`.`, `..`), an empty segment or a control
/// character would make it another one, or none.
pub(crate) fn is_sendable(path: &str) -> bool {
    let is_step = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
    !path.split('/').any(is_step) && !path.chars().any(char::is_control)
}

/// Tells whether a text can be the path of a mount or of a namespace, or the name of a role.
pub(crate) fn is_plain(name: &str) -> bool {
    let is_strange = |c: char| c.is_whitespace() || matches!(c, '=' | '?' | '#' | '%' | '"' | '\\');
    is_sendable(name) && !name.contains(is_strange)
}

#[derive(Deserialize)]
struct Refused {
    #[serde(default)]
    errors: Vec<String>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct ToldDeleted<'a> {
    #[serde(borrow)]
    data: Option<&'a serde_json::value::RawValue>,
}

fn is_told_deleted(answer: &Answer) -> bool {
    answer.json_within::<ToldDeleted<'_>>().is_ok_and(|told| told.data.is_some_and(|data| data.get() != "null"))
}

/// Says what an answer that is no success means.
pub(crate) fn fault(answer: &Answer) -> Fault {
    let words = answer.json::<Refused>().ok().map(|refused| {
        let warnings = refused.warnings.unwrap_or_default();
        refused
            .errors
            .iter()
            .chain(&warnings)
            .map(|words| plain(words))
            .filter(|w| !w.is_empty())
            .collect::<Vec<_>>()
            .join("; ")
    });
    let bare = answer.fault();
    let Some(words) = words.filter(|words| !words.is_empty()) else {
        return match answer.status {
            404 => Fault::new(ErrorKind::NotFound, ""),
            412 => Fault::new(ErrorKind::Unavailable, "HTTP 412, the node has not caught up yet"),
            _ => bare,
        };
    };
    let has = |part: &str| words.contains(part);
    let kind = match answer.status {
        403 if has("invalid token") || has("bad token") || has("missing client token") || has("token not found") => {
            return Fault { code: Some(INVALID_TOKEN.to_owned()), ..told(ErrorKind::Unauthenticated, 403, &words) };
        }
        400 if has("missing client token") => ErrorKind::Unauthenticated,
        // For a moment, while a mount becomes one of version 2.
        400 if has("Upgrading from non-versioned") => ErrorKind::Unavailable,
        400 | 405 => ErrorKind::Unsupported,
        412 | 472 | 473 => ErrorKind::Unavailable,
        _ => bare.kind,
    };
    Fault { retry_after: bare.retry_after, ..told(kind, answer.status, &words) }
}

fn told(kind: ErrorKind, status: u16, words: &str) -> Fault {
    Fault::coded(kind, &format!("HTTP {status}"), words)
}

/// Takes the frame off that the server puts around a list of errors: `1 error occurred:\n\t* permission denied\n\n`.
fn plain(words: &str) -> String {
    match words.split_once(" occurred:") {
        Some((count, rest)) if count.ends_with("error") || count.ends_with("errors") => {
            rest.split("* ").map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
        }
        _ => words.trim().to_owned(),
    }
}

/// Writes a JSON object with one secret and some words.
pub(crate) fn json_with(
    name: &str,
    secret: &SecretValue,
    words: &[(&str, &str)],
) -> Result<impl serde::Serialize + use<>, Fault> {
    // Opened to be sent to the manager.
    let text = std::str::from_utf8(secret.expose());
    let text = text.map_err(|_| Fault::new(ErrorKind::Unauthenticated, "that is no text"))?;
    let mut body = BTreeMap::from([(name.to_owned(), Zeroizing::new(text.to_owned()))]);
    body.extend(words.iter().map(|(name, word)| ((*name).to_owned(), Zeroizing::new((*word).to_owned()))));
    Ok(Body(body))
}

/// Words that are wiped when they are dropped.
struct Body(BTreeMap<String, Zeroizing<String>>);

impl serde::Serialize for Body {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, word)| (name, word.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_would_become_another_one_is_not_sent() {
        for path in ["a/../b", "a/./b", "a//b", "/a", "a/", "", "a\nb", ".."] {
            assert!(!is_sendable(path), "{path:?}");
        }
        for path in ["a/b", "a/...", "a/.b", "ä/%2e%2e", "a b/?#", "a+b/*"] {
            assert!(is_sendable(path), "{path:?}");
        }
    }

    #[test]
    fn a_mount_a_namespace_or_a_role_holds_nothing_that_means_something_else_elsewhere() {
        for name in
            ["", "a b", "a\tb", "a=b", "a?b", "a#b", "..", "a/../b", "a\u{7}", "a\"b", "a%2e", "token namespace=team-a"]
        {
            assert!(!is_plain(name), "{name:?}");
        }
        for name in ["token", "team/shop", "ada@example.com", "5ad1ebb5-8e3f", "a.b_c+d", "équipe"] {
            assert!(is_plain(name), "{name:?}");
        }
    }

    #[test]
    fn the_frame_around_a_list_of_errors_is_taken_off() {
        assert_eq!(plain("1 error occurred:\n\t* permission denied\n\n"), "permission denied");
        assert_eq!(
            plain("2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"),
            "permission denied, invalid token"
        );
        assert_eq!(plain("Vault is sealed"), "Vault is sealed");
    }
}
