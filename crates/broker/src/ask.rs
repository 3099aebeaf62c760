//! Builds the request that every command about a project sends.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use broker_core::duration;
use broker_core::sign_in::travels;
use broker_protocol::message::{Ask, ManifestBytes, SignInVariable};

/// Which secrets a request is about.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Selected {
    /// Profile of the manifest (also BROKER_PROFILE; default: the manifest's own)
    #[arg(short = 'P', long, value_name = "NAME", add = crate::complete::profiles())]
    pub profile: Option<String>,
    /// Only these secrets of the profile
    #[arg(long, value_name = "A,B", value_delimiter = ',', add = crate::complete::secrets())]
    pub only: Vec<String>,
    /// All secrets of the profile but these
    #[arg(long, value_name = "A,B", value_delimiter = ',', add = crate::complete::secrets())]
    pub except: Vec<String>,
}

impl Selected {
    /// Builds a request for these secrets.
    pub(crate) fn ask(self, manifest: Option<ManifestBytes>, cwd: PathBuf) -> Ask {
        let profile = self.profile.or_else(|| std::env::var("BROKER_PROFILE").ok().filter(|name| !name.is_empty()));
        Ask { profile, only: self.only, except: self.except, ..outside(manifest, cwd) }
    }
}

/// Builds a request that selects nothing: for one secret, or for a whole instance.
pub(crate) fn outside(manifest: Option<ManifestBytes>, cwd: PathBuf) -> Ask {
    Ask {
        manifest,
        profile: None,
        only: Vec::new(),
        except: Vec::new(),
        ttl_ms: None,
        reason: None,
        watch: None,
        offline: false,
        refresh: false,
        argv: Vec::new(),
        cwd,
        sign_in: sign_in(std::env::vars_os()),
    }
}

/// Picks the caller's sign-in variables. One that is no UTF-8 can't be a credential that a provider takes.
fn sign_in(ours: impl Iterator<Item = (OsString, OsString)>) -> Vec<SignInVariable> {
    let travelling = ours.filter(|(name, _)| name.to_str().is_some_and(travels));
    travelling
        .filter_map(|(name, value)| Some(SignInVariable(name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Names the sign-in variables that a request of ours would carry.
pub(crate) fn sign_in_names() -> Vec<String> {
    sign_in(std::env::vars_os()).into_iter().map(|SignInVariable(name, _)| name).collect()
}

/// Reads a duration of the command line.
///
/// # Errors
/// Says what a duration looks like.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| "a duration is a number and a unit, such as `90s`, `15m` or `1h`".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn only_sign_in_variables_travel() {
        let ours = [("AWS_PROFILE", "dev"), ("AWS_ENDPOINT_URL", "http://evil"), ("HOME", "/h"), ("STRIPE_KEY", "x")];
        let mut ours: Vec<_> = ours.map(|(n, v)| (OsString::from(n), OsString::from(v))).into();
        ours.push(("VAULT_TOKEN".into(), OsString::from_vec(vec![0xff])));
        let names: Vec<_> = sign_in(ours.into_iter()).into_iter().map(|SignInVariable(name, _)| name).collect();
        assert_eq!(names, ["AWS_PROFILE"]);
    }
}
