//! Calls of AWS services that speak JSON 1.1, signed by hand with AWS's own signer: for services whose whole SDK would be
//! too much for a few calls.
//!
//! Source: "AWS JSON 1.1 protocol" of Smithy, and "AWS Signature Version 4" of the IAM User Guide. Bodies are wiped; an
//! answer that cannot be read is described and never quoted.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use reqwest::header::HeaderValue;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::aws::answer::Action;
use crate::fault::{Fault, persist};
use crate::provider::ErrorKind;
use crate::rest::{Answer, Rest};

const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// One service, as one instance reaches it.
#[derive(Clone, Debug)]
pub(crate) struct AwsJson {
    pub(crate) rest: Rest,
    /// The name in addresses and signatures, such as `ssm`.
    pub(crate) service: &'static str,
    /// What stands before the dot in `X-Amz-Target`.
    pub(crate) target: &'static str,
    /// The instance's own address, for test servers and private endpoints.
    pub(crate) endpoint: Option<String>,
}

/// For whom and where a call is signed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signer<'a> {
    pub(crate) credentials: &'a Credentials,
    pub(crate) region: &'a str,
}

impl AwsJson {
    /// Makes a call that may be repeated.
    pub(crate) async fn read<T: DeserializeOwned>(
        &self,
        signer: Signer<'_>,
        operation: &str,
        input: &impl Serialize,
        deadline: Instant,
    ) -> Result<T, Fault> {
        let body = body_of(input)?;
        persist(deadline, || self.once(signer, operation, body.clone(), Action::Read)).await
    }

    /// Makes a call that changes something: once, since nobody knows what became of one without an answer.
    pub(crate) async fn write<T: DeserializeOwned>(
        &self,
        signer: Signer<'_>,
        operation: &str,
        input: &impl Serialize,
        deadline: Instant,
    ) -> Result<T, Fault> {
        let sent = self.once(signer, operation, body_of(input)?, Action::Write);
        timeout_at(deadline, sent).await.unwrap_or_else(|_| Err(Fault::late()))
    }

    async fn once<T: DeserializeOwned>(
        &self,
        signer: Signer<'_>,
        operation: &str,
        body: Bytes,
        action: Action,
    ) -> Result<T, Fault> {
        let address = self.address(signer.region)?;
        let target = format!("{}.{operation}", self.target);
        let mut request = self.rest.request(reqwest::Method::POST, &address);
        request = request.header("content-type", CONTENT_TYPE).header("x-amz-target", &target);
        for (name, value) in self.signature(signer, &address, &target, &body)? {
            request = request.header(name, value);
        }
        let answer = self.rest.send(request.body(body)).await?;
        if answer.is_success() { answer.json() } else { Err(fault_of(&answer, action)) }
    }

    fn address(&self, region: &str) -> Result<String, Fault> {
        if let Some(endpoint) = &self.endpoint {
            return Ok(format!("{}/", endpoint.trim_end_matches('/')));
        }
        host(self.service, region).map(|host| format!("{host}/"))
    }

    /// Returns the headers that sign a request.
    fn signature(
        &self,
        signer: Signer<'_>,
        address: &str,
        target: &str,
        body: &[u8],
    ) -> Result<Vec<(String, HeaderValue)>, Fault> {
        let unsigned = |_| Fault::new(ErrorKind::Unauthenticated, "the request cannot be signed");
        let identity = signer.credentials.clone().into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(signer.region)
            .name(self.service)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|_| Fault::new(ErrorKind::Unauthenticated, "the request cannot be signed"))?;
        let headers = [("content-type", CONTENT_TYPE), ("x-amz-target", target)];
        let request = SignableRequest::new("POST", address, headers.into_iter(), SignableBody::Bytes(body));
        let signed = sign(request.map_err(unsigned)?, &parameters.into()).map_err(unsigned)?;
        let (instructions, _) = signed.into_parts();
        let headers = instructions.headers().filter_map(|(name, value)| {
            let mut value = HeaderValue::from_str(value).ok()?;
            value.set_sensitive(true);
            Some((name.to_owned(), value))
        });
        Ok(headers.collect())
    }
}

/// Returns the address of a service in a region.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for what can be no region.
pub(crate) fn host(service: &str, region: &str) -> Result<String, Fault> {
    if !is_region(region) {
        return Err(Fault::new(ErrorKind::Unsupported, "`region` is no name of a region"));
    }
    let suffix = match region {
        _ if region.starts_with("cn-") => "amazonaws.com.cn",
        _ if region.starts_with("us-iso-") => "c2s.ic.gov",
        _ if region.starts_with("us-isob-") => "sc2s.sgov.gov",
        _ => "amazonaws.com",
    };
    Ok(format!("https://{service}.{region}.{suffix}"))
}

/// Writes a body, which is wiped when it is dropped: it may hold a value.
pub(crate) fn body_of(input: &impl Serialize) -> Result<Bytes, Fault> {
    let body = serde_json::to_vec(input).map_err(|_| Fault::new(ErrorKind::Unsupported, "it cannot be written"))?;
    Ok(Bytes::from_owner(Zeroizing::new(body)))
}

/// Tells whether `text` can be the name of a region: nothing else gets into a host name.
pub(crate) fn is_region(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= 40 && text.bytes().all(is_part)
}

/// The documented part of an error: its code and its words.
#[derive(Deserialize)]
struct Named {
    #[serde(rename = "__type", default)]
    code: String,
    message: Option<String>,
    /// Some services write it so, and some both.
    #[serde(rename = "Message")]
    message_upper: Option<String>,
}

fn fault_of(answer: &Answer, action: Action) -> Fault {
    let Ok(named) = answer.json::<Named>() else { return answer.fault() };
    let header = answer.headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok());
    let code = if named.code.is_empty() { header.unwrap_or_default() } else { &named.code };
    // `com.amazonaws.ssm#ParameterNotFound` and `ParameterNotFound:http://...` are the same as `ParameterNotFound`.
    let code = code.split(':').next().unwrap_or_default();
    let code = code.rsplit('#').next().unwrap_or_default();
    if code.is_empty() {
        return answer.fault();
    }
    let fault = Fault::named(code, &named.message.or(named.message_upper).unwrap_or_default(), answer.status, action);
    Fault { retry_after: answer.retry_after(), ..fault }
}
