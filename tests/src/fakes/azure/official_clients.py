"""Microsoft's own clients against the fake: they speak TLS to the real names, which lead to it.

The clients are as they come. Names are resolved to a listener of this process, whose certificate a throwaway authority
signed, and which hands the bytes on to the fake. So the checks of the clients themselves (TLS, the login authority, that
a challenge's resource belongs to the vault) are all in force.
"""

import datetime
import ipaddress
import json
import os
import socket
import ssl
import sys
import tempfile
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SETUP = json.loads(sys.argv[1])
NAMES = {"shop.vault.azure.net": SETUP["vault"], "login.microsoftonline.com": SETUP["login"]}


def certificates(directory):
    now = datetime.datetime.now(datetime.timezone.utc)

    def build(subject, issuer, key, signer, extension, critical):
        name = lambda text: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
        builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(hours=1))
        return builder.add_extension(extension, critical).sign(signer, hashes.SHA256())

    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = build("root", "root", authority, authority, x509.BasicConstraints(ca=True, path_length=0), True)
    names = x509.SubjectAlternativeName([x509.DNSName(name) for name in NAMES])
    leaf = build("leaf", "root", key, authority, names, False)
    pem = serialization.Encoding.PEM
    with open(os.path.join(directory, "root.pem"), "wb") as file:
        file.write(root.public_bytes(pem))
    with open(os.path.join(directory, "leaf.pem"), "wb") as file:
        plain = serialization.NoEncryption()
        file.write(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + leaf.public_bytes(pem))


def hand_on(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def listen(directory):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(directory, "leaf.pem"))
    asked = threading.local()

    def remember(_, name, __):
        asked.name = name

    context.sni_callback = remember
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(raw):
        try:
            client = context.wrap_socket(raw, server_side=True)
            host, port = NAMES[asked.name].split(":")
            upstream = socket.socket()
            upstream.connect((host, int(port)))
        except (OSError, KeyError):
            raw.close()
            return
        threading.Thread(target=hand_on, args=(upstream, client), daemon=True).start()
        hand_on(client, upstream)

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def lead_names_here(port):
    real = socket.getaddrinfo
    metadata = SETUP["metadata"].split(":")

    def lookup(host, asked, *rest, **more):
        if host in NAMES:
            return real("127.0.0.1", port, *rest, **more)
        if host == "169.254.169.254":
            return real(metadata[0], int(metadata[1]), *rest, **more)
        if ipaddress.ip_address(host).is_loopback:
            return real(host, asked, *rest, **more)
        raise OSError(f"{host} is not for this test")

    socket.getaddrinfo = lookup


DIRECTORY = tempfile.mkdtemp()
certificates(DIRECTORY)
lead_names_here(listen(DIRECTORY))
os.environ["REQUESTS_CA_BUNDLE"] = os.path.join(DIRECTORY, "root.pem")

from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.identity import (
    ClientSecretCredential,
    CredentialUnavailableError,
    DeviceCodeCredential,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)
from azure.keyvault.secrets import SecretClient

VAULT = "https://shop.vault.azure.net"


def client(credential, **options):
    return SecretClient(VAULT, credential, retry_total=0, **options)


def by_secret(application, tenant=SETUP["tenant"], secret=None):
    return ClientSecretCredential(tenant, application["client_id"], secret or application["secret"], retry_total=0)


def refused(kind, action):
    try:
        action()
    except kind as error:
        return error
    raise AssertionError(f"{kind} was expected")


def inner(error):
    return error.error.innererror["code"] if isinstance(error.error.innererror, dict) else error.error.innererror.code


def secrets():
    for options in ({}, {"api_version": "7.5"}):
        vault = client(by_secret(SETUP["officer"]), **options)
        first = vault.set_secret("db-url", "postgres://é\n", content_type="text/plain", tags={"team": "shop"})
        second = vault.set_secret("db-url", "two")
        assert first.properties.version != second.properties.version
        assert vault.get_secret("db-url").value == "two"
        old = vault.get_secret("db-url", first.properties.version)
        assert (old.value, old.properties.tags, old.properties.content_type) == ("postgres://é\n", {"team": "shop"}, "text/plain")
        assert old.name == "db-url" and old.properties.vault_url == VAULT
        versions = list(vault.list_properties_of_secret_versions("db-url"))
        assert {version.version for version in versions} >= {first.properties.version, second.properties.version}
        assert all(version.created_on and version.enabled for version in versions)
    for number in range(60):
        vault.set_secret(f"many-{number:02}", str(number))
    names = [entry.name for entry in vault.list_properties_of_secrets()]
    assert len([name for name in names if name.startswith("many-")]) == 60, names
    pages = list(vault.list_properties_of_secrets(max_page_size=25).by_page())
    assert len(pages) == 3, len(pages)

    until = datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc)
    changed = vault.update_secret_properties("db-url", expires_on=until, tags={"team": "ops"})
    assert (changed.expires_on, changed.tags) == (until, {"team": "ops"})
    vault.update_secret_properties("db-url", enabled=False)
    error = refused(HttpResponseError, lambda: vault.get_secret("db-url"))
    assert (error.status_code, error.error.code, inner(error)) == (403, "Forbidden", "SecretDisabled"), error

    missing = refused(ResourceNotFoundError, lambda: vault.get_secret("nothing"))
    assert missing.error.code == "SecretNotFound", missing
    missing = refused(ResourceNotFoundError, lambda: vault.get_secret("many-00", "0" * 32))
    assert missing.error.code == "SecretNotFound", missing
    for action in (
        lambda: vault.get_secret("no_underscore"),
        lambda: vault.get_secret("many-00", "not-a-version"),
        lambda: vault.set_secret("many-00", "x" * 25601),
        lambda: client(by_secret(SETUP["officer"]), api_version="9.9").get_secret("many-00"),
    ):
        error = refused(HttpResponseError, action)
        assert (error.status_code, error.error.code) == (400, "BadParameter"), error
    assert vault.set_secret("empty", "").value == "" and vault.get_secret("EMPTY").value == ""

    deleted = vault.begin_delete_secret("many-01").result()
    assert deleted.name == "many-01" and deleted.scheduled_purge_date > deleted.deleted_date
    refused(ResourceNotFoundError, lambda: vault.get_secret("many-01"))
    error = refused(ResourceExistsError, lambda: vault.set_secret("many-01", "again"))
    assert (error.error.code, inner(error)) == ("Conflict", "ObjectIsDeletedButRecoverable"), error
    assert [entry.name for entry in vault.list_deleted_secrets()] == ["many-01"]
    assert vault.begin_recover_deleted_secret("many-01").result().name == "many-01"
    assert vault.get_secret("many-01").value == "1"
    vault.begin_delete_secret("many-01").wait()
    vault.purge_deleted_secret("many-01")
    assert vault.set_secret("many-01", "again").value == "again"


def denials():
    one = client(by_secret(SETUP["one"]))
    assert one.get_secret("db-url").value
    for action in (
        lambda: one.get_secret("many-00"),
        lambda: one.get_secret("nothing"),
        lambda: list(one.list_properties_of_secrets()),
        lambda: one.set_secret("db-url", "x"),
    ):
        error = refused(HttpResponseError, action)
        assert (error.status_code, error.error.code, inner(error)) == (403, "Forbidden", SETUP["denial"]), error
    assert len(list(one.list_properties_of_secret_versions("db-url"))) == 1


def denials_by_policy():
    one = client(by_secret(SETUP["one"]))
    error = refused(HttpResponseError, lambda: one.get_secret("db-url"))
    assert (error.status_code, error.error.code, inner(error)) == (403, "Forbidden", "AccessDenied"), error
    assert "does not have secrets get permission" in error.message


def firewall():
    error = refused(HttpResponseError, lambda: client(by_secret(SETUP["officer"])).get_secret("db-url"))
    assert (error.status_code, inner(error)) == (403, "ForbiddenByFirewall"), error


def throttled():
    error = refused(HttpResponseError, lambda: client(by_secret(SETUP["officer"])).get_secret("db-url"))
    assert (error.status_code, error.error.code) == (429, "Throttled"), error
    assert error.response.headers["Retry-After"] == "7"


def sign_ins_that_fail():
    officer = SETUP["officer"]
    stranger = {"client_id": "00000000-0000-4000-8000-000000000000", "secret": "x"}
    for credential, code in (
        (by_secret(officer, secret="wrong"), "AADSTS7000215"),
        (by_secret(stranger), "AADSTS700016"),
        (by_secret(SETUP["ended"]), "AADSTS7000222"),
        (by_secret(officer, tenant="00000000-0000-4000-8000-000000000000"), "AADSTS90002"),
    ):
        error = refused(ClientAuthenticationError, lambda: credential.get_token("https://vault.azure.net/.default"))
        assert code in str(error), error
    error = refused(ClientAuthenticationError, lambda: by_secret(officer).get_token("https://nobody.example/.default"))
    assert "AADSTS500011" in str(error), error


class Fixed:
    """A credential that has one token, whoever asks."""

    def __init__(self, token):
        self.token = token

    def get_token(self, *_, **__):
        return self.token


def tokens_that_do_not_count():
    other = by_secret(SETUP["officer"]).get_token("https://management.azure.com/.default")
    error = refused(ClientAuthenticationError, lambda: client(Fixed(other)).get_secret("db-url"))
    assert "AKV10022" in error.message, error
    error = refused(ClientAuthenticationError, lambda: client(Fixed(other._replace(token="a.b.c"))).get_secret("db-url"))
    assert error.status_code == 401, error


def workload():
    path = os.path.join(DIRECTORY, "assertion")

    def by_file(assertion):
        with open(path, "w") as file:
            file.write(assertion)
        one = SETUP["one"]
        return WorkloadIdentityCredential(tenant_id=SETUP["tenant"], client_id=one["client_id"], token_file_path=path)

    assert client(by_file(SETUP["assertion"])).get_secret("db-url").value
    for assertion, code in ((SETUP["old_assertion"], "AADSTS700024"), (SETUP["foreign_assertion"], "AADSTS700213")):
        error = refused(ClientAuthenticationError, lambda: client(by_file(assertion)).get_secret("db-url"))
        assert code in str(error), error


def machine():
    assert client(ManagedIdentityCredential()).get_secret("db-url").value
    assert client(ManagedIdentityCredential(client_id=SETUP["one"]["client_id"])).get_secret("db-url").value
    other = ManagedIdentityCredential(client_id=SETUP["officer"]["client_id"])
    error = refused(CredentialUnavailableError, lambda: client(other).get_secret("db-url"))
    assert "Identity not found" in str(error), error


def device():
    shown = []
    credential = DeviceCodeCredential(
        tenant_id=SETUP["tenant"], prompt_callback=lambda address, code, _: shown.append((address, code))
    )
    vault = client(credential)
    assert vault.get_secret("db-url").value
    # The token lives too short to be used twice; the second one comes from the refresh token, without a prompt.
    assert vault.get_secret("db-url").value
    assert len(shown) == 1 and shown[0][0] == "https://microsoft.com/devicelogin", shown


globals()[SETUP["run"]]()
print("held")
