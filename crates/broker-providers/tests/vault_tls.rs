//! A Vault whose certificate is of an authority of its own: the right one is believed, and nobody else.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::io::{BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use broker_core::instance::InstanceSettings;
use broker_core::secret::SecretValue;
use broker_providers::provider::{ErrorKind, ProviderError};
use broker_providers::registry::Instance;
use broker_providers::resolve::{ResolveOptions, resolve};
use broker_tests::http;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;
use support::vault::{Server, ours, with_token};
use support::{reference, registry, signed_in};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Stands before a server and speaks TLS, with a certificate for `127.0.0.1` of this authority. Returns its address.
fn with_tls(server: &Server, authority: &Authority) -> String {
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(ring).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(vec![own.der().clone()], key).unwrap());
    let (listener, upstream) = (TcpListener::bind("127.0.0.1:0").unwrap(), server.ours().address());
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (config, upstream) = (Arc::clone(&config), upstream.clone());
            // A client that does not believe us leaves in the middle.
            std::thread::spawn(move || drop(serve(client, config, &upstream)));
        }
    });
    format!("https://{address}")
}

fn serve(client: TcpStream, config: Arc<ServerConfig>, upstream: &str) -> std::io::Result<()> {
    let tls = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut client = BufReader::new(StreamOwned::new(tls, client));
    while let Some(request) = http::read_request(&mut client)? {
        let mut stream = TcpStream::connect(upstream)?;
        stream.write_all(&request.to_bytes())?;
        let answer = http::read_response(&mut BufReader::new(stream))?;
        client.get_mut().write_all(&answer.to_bytes())?;
    }
    Ok(())
}

async fn fetch(server: &Server, address: &str, ca: Option<&Path>) -> Result<Vec<u8>, ProviderError> {
    let dir = tempfile::tempdir().unwrap();
    let settings = InstanceSettings {
        address: Some(address.to_owned()),
        ca: ca.map(|path| path.to_str().unwrap().to_owned()),
        timeout: Some("5s".to_owned()),
        ..InstanceSettings::of_kind("vault")
    };
    let (registry, instance) = (registry(dir.path()), Instance::fixed(settings));
    let open = |name: &str| registry.open(name, &instance, &with_token(server.root()));
    let resolved = resolve(&[reference("org://secret/db")], ResolveOptions::default(), open).await.remove(0)?;
    Ok(resolved.value.expose().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_authority_is_believed_and_no_other() {
    let server = ours();
    server.store("secret", "db", &json!({ "value": "the value" }));
    let (right, wrong) = (authority(), authority());
    let address = with_tls(&server, &right);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (good, bad) = (file("right.pem", &right.pem()), file("wrong.pem", &wrong.pem()));
    assert_eq!(fetch(&server, &address, Some(&good)).await.unwrap(), b"the value");
    // A bundle may hold several.
    let both = file("both.pem", &format!("{}{}", wrong.pem(), right.pem()));
    assert_eq!(fetch(&server, &address, Some(&both)).await.unwrap(), b"the value");
    for ca in [Some(bad.as_path()), None] {
        let error = fetch(&server, &address, ca).await.expect_err("nobody vouches for it");
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert!(error.cause.contains("certificate"), "{error}");
    }
    let nothing = file("empty.pem", "no certificate here: canary");
    let missing = dir.path().join("missing.pem");
    for ca in [nothing.as_path(), missing.as_path(), Path::new("relative.pem")] {
        let error = fetch(&server, &address, Some(ca)).await.expect_err("there is no authority");
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.cause.contains("`ca`") && !error.cause.contains("canary"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_one_authority_is_not_shown_to_another_one_at_the_same_address() {
    let server = ours();
    server.store("secret", "db", &json!({ "value": "the value" }));
    let (first, second, dir) = (authority(), authority(), tempfile::tempdir().unwrap());
    let both = with_tls(&server, &first);
    let settings = |name: &str, pem: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).unwrap();
        let ca = Some(path.to_str().unwrap().to_owned());
        InstanceSettings { address: Some(both.clone()), ca, ..InstanceSettings::of_kind("vault") }
    };
    let registry = registry(dir.path());
    let nobody = signed_in(&[]);
    let read = async |settings: &InstanceSettings| {
        let instance = Instance::of_manifest(settings.clone());
        let open = |name: &str| registry.open(name, &instance, &nobody);
        resolve(&[reference("org://secret/db")], ResolveOptions::default(), open).await.remove(0)
    };
    let trusted = settings("first.pem", first.pem());
    let way = registry.login("org", &Instance::of_manifest(trusted.clone()), &nobody).unwrap().unwrap();
    let soon = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    let token = SecretValue::from(server.root().to_owned());
    registry.sign_ins().answer(&way, vec![token], soon).await.unwrap();
    assert!(read(&trusted).await.is_ok());
    // It believes the server, too, and would get the token from it otherwise.
    let wider = settings("wider.pem", format!("{}{}", second.pem(), first.pem()));
    let error = read(&wider).await.expect_err("nobody signed in under these authorities");
    assert_eq!((error.kind, error.cause.as_str()), (ErrorKind::Unauthenticated, "nobody is signed in"));
}
