//! The ways to sign in to Vault, as `auth` names them.

/// What `auth` may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Token,
    AppRole,
    Userpass,
    Jwt,
    Oidc,
    Kubernetes,
}

impl Method {
    const ALL: [(&'static str, Self); 6] = [
        ("token", Self::Token),
        ("approle", Self::AppRole),
        ("userpass", Self::Userpass),
        ("jwt", Self::Jwt),
        ("oidc", Self::Oidc),
        ("kubernetes", Self::Kubernetes),
    ];

    pub(crate) fn named(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, method)| method);
        let all = Self::ALL.map(|(known, _)| format!("`{known}`")).join(", ");
        found.ok_or_else(|| format!("`auth` must be one of {all}"))
    }

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, method)| *method == self).map_or("", |(name, _)| name)
    }
}
