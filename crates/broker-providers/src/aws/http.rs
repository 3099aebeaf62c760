//! The connections to AWS: one pool for all instances, answers of bounded size, no proxy and no redirect.
//!
//! The client is made explicitly (rustls on ring) and never takes a proxy from the environment. Hyper follows no
//! redirect, so a credential reaches the addressed origin and nobody else. An answer larger than [`MAX_ANSWER`] is cut
//! off while it arrives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, tls};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http_body_util::Limited;

/// Largest answer that is read, in bytes. A batch is twenty secrets of 64 KiB, six bytes of JSON for the worst byte.
pub(crate) const MAX_ANSWER: usize = 16 << 20;

/// How many connections to one host are kept when they have nothing to do.
const MAX_IDLE: usize = 16;

/// The shared pool, made on first use: it reads the machine's certificates, which takes some milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Transport(OnceLock<SharedHttpClient>);

impl Transport {
    /// Returns the client, for requests that nobody counts (sign-in).
    pub(crate) fn client(&self) -> SharedHttpClient {
        let pool = self.0.get_or_init(|| {
            Builder::new()
                .pool_max_idle_per_host(MAX_IDLE)
                .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
                .build_https()
        });
        SharedHttpClient::new(Bounded { pool: pool.clone(), calls: None })
    }

    /// Returns the client, counting every request into `calls`.
    pub(crate) fn counting(&self, calls: Arc<AtomicU64>) -> SharedHttpClient {
        SharedHttpClient::new(Bounded { pool: self.client(), calls: Some(calls) })
    }
}

#[derive(Debug)]
struct Bounded {
    pool: SharedHttpClient,
    calls: Option<Arc<AtomicU64>>,
}

impl HttpClient for Bounded {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let connector = self.pool.http_connector(settings, components);
        SharedHttpConnector::new(BoundedConnector { connector, calls: self.calls.clone() })
    }
}

#[derive(Debug)]
struct BoundedConnector {
    connector: SharedHttpConnector,
    calls: Option<Arc<AtomicU64>>,
}

impl HttpConnector for BoundedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        if let Some(calls) = &self.calls {
            calls.fetch_add(1, Ordering::Relaxed);
        }
        let answer = self.connector.call(request);
        HttpConnectorFuture::new(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| SdkBody::from_body_1_x(Limited::new(body, MAX_ANSWER))))
        })
    }
}
