//! What a thousand held secrets cost, in bytes allocated: counted by the allocator and not guessed from the process.
//! Not shown: the slack of the system's allocator, which adds some tens of percent.
#![allow(unsafe_code, reason = "a counting allocator cannot be written without it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering};

use broker_providers::resolve::{ResolveOptions, resolve};
use serde_json::json;
use support::fake_aws::{FakeAws, Reply, ids};

static LIVE: AtomicIsize = AtomicIsize::new(0);

struct Counting;

// SAFETY: every call is passed to the system's allocator unchanged; only a number is kept.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: the caller's promise about `layout` is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: the caller's promise about `place` and `layout` is handed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[tokio::test]
async fn a_thousand_held_secrets_add_less_than_three_megabytes() {
    let fake = FakeAws::new(std::time::Duration::ZERO, |call| {
        let entry = |id: &String| {
            json!({ "Name": id, "ARN": format!("arn:aws:secretsmanager:eu-west-1:1:secret:{id}-AbCdEf"),
            "VersionId": "7e0a7a1e-6c5b-4a52-9a1f-0c4bb1d2f3a4", "SecretString": "v".repeat(1024) })
        };
        Reply::Json(200, json!({ "SecretValues": ids(call).iter().map(entry).collect::<Vec<_>>() }))
    });
    let dir = tempfile::tempdir().unwrap();
    let registry = support::registry(dir.path());
    let settings = support::aws(&fake.url());
    let fetch = async |names: std::ops::Range<usize>| {
        let references: Vec<_> =
            names.map(|n| support::reference(&format!("org://shop/dev/service-{n}/database"))).collect();
        let open = |name: &str| registry.open(name, &support::of_manifest(&settings), &support::root());
        let results = resolve(&references, ResolveOptions::default(), open).await;
        if let Some(Err(error)) = results.iter().find(|result| result.is_err()) {
            panic!("{error}");
        }
    };
    // The connections and whatever else is made once.
    fetch(5000..6000).await;
    registry.forget_all();
    fetch(6000..6002).await;
    let before = LIVE.load(Ordering::Relaxed);
    fetch(0..1000).await;
    let added = LIVE.load(Ordering::Relaxed) - before;
    assert_eq!(registry.held_values(), 1002);
    // A kibibyte each is a mebibyte of values alone: the count counts.
    assert!((1_024_000..3_000_000).contains(&added), "{added} bytes");
    support::figure("memory-of-1000-held-secrets", &format!("{added} bytes, 1024 of each the value"));
}
