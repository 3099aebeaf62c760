//! Credentials of AWS, asked for once however many requests wait for them, and kept until shortly before they expire.
//!
//! Every link of a chain of roles is kept for itself, so that a role is assumed anew without assuming those before it.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};

/// How long before their end credentials are asked for anew, at most.
const MARGIN: Duration = Duration::from_secs(60);

/// Credentials that are kept until shortly before they expire.
#[derive(Debug)]
pub(crate) struct Kept {
    source: SharedCredentialsProvider,
    margin: Duration,
    held: tokio::sync::Mutex<Option<Credentials>>,
}

impl Kept {
    pub(crate) fn around(source: SharedCredentialsProvider) -> SharedCredentialsProvider {
        Self::with_margin(source, MARGIN)
    }

    /// Keeps the keys of sessions that live so long: a short life has a short end.
    pub(crate) fn of_sessions(source: SharedCredentialsProvider, life: Duration) -> SharedCredentialsProvider {
        Self::with_margin(source, MARGIN.min(life / 5))
    }

    fn with_margin(source: SharedCredentialsProvider, margin: Duration) -> SharedCredentialsProvider {
        SharedCredentialsProvider::new(Self { source, margin, held: tokio::sync::Mutex::default() })
    }

    async fn credentials(&self) -> provider::Result {
        // Held while asking: whoever comes meanwhile waits for the same answer.
        let mut held = self.held.lock().await;
        let is_good_for =
            |time: Duration, held: &Credentials| held.expiry().is_none_or(|expiry| expiry > SystemTime::now() + time);
        if let Some(held) = held.as_ref().filter(|held| is_good_for(self.margin, held)) {
            return Ok(held.clone());
        }
        match self.source.provide_credentials().await {
            Ok(fresh) => Ok(held.insert(fresh).clone()),
            // There is some time left, and the next request tries again.
            Err(error) => held.as_ref().filter(|held| is_good_for(Duration::ZERO, held)).cloned().ok_or(error),
        }
    }
}

impl ProvideCredentials for Kept {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Gives keys of this life, and after so many times none.
    #[derive(Debug)]
    struct Source(Arc<AtomicUsize>, Duration, usize);

    impl ProvideCredentials for Source {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(async {
                tokio::task::yield_now().await;
                if self.0.fetch_add(1, Ordering::SeqCst) >= self.2 {
                    return Err(provider::error::CredentialsError::not_loaded_no_source());
                }
                Ok(Credentials::new("a", "b", None, Some(SystemTime::now() + self.1), "test"))
            })
        }
    }

    fn kept(life: Duration, times: usize) -> (SharedCredentialsProvider, Arc<AtomicUsize>) {
        let asked = Arc::<AtomicUsize>::default();
        (Kept::around(SharedCredentialsProvider::new(Source(Arc::clone(&asked), life, times))), asked)
    }

    #[tokio::test]
    async fn many_who_wait_ask_once() {
        let (keys, asked) = kept(Duration::from_secs(3600), usize::MAX);
        let all = futures_util::future::join_all((0..200).map(|_| keys.provide_credentials())).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn sessions_are_made_anew_ahead_of_their_end_by_a_fifth_of_their_life() {
        for (left, asked_for) in [(30, 1), (10, 3)] {
            let asked = Arc::<AtomicUsize>::default();
            let source = Source(Arc::clone(&asked), Duration::from_secs(left), usize::MAX);
            let keys = Kept::of_sessions(SharedCredentialsProvider::new(source), Duration::from_secs(100));
            for _ in 0..3 {
                assert!(keys.provide_credentials().await.is_ok());
            }
            assert_eq!(asked.load(Ordering::SeqCst), asked_for, "{left} seconds are left");
        }
    }

    #[tokio::test]
    async fn keys_that_end_soon_are_replaced_and_used_to_their_end_when_they_cannot_be() {
        let (keys, asked) = kept(Duration::from_secs(30), 1);
        for _ in 0..3 {
            assert!(keys.provide_credentials().await.is_ok());
        }
        assert_eq!(asked.load(Ordering::SeqCst), 3);
        let (keys, _) = kept(Duration::ZERO, 1);
        assert!(keys.provide_credentials().await.is_ok());
        assert!(keys.provide_credentials().await.is_err(), "they are over");
    }
}
