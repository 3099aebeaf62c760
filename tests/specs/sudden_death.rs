//! A thousand runs, each with a sudden death in it: of the command, of its client before it became the command, or of the
//! daemon, at any moment. Nothing stays alive at the manager, nothing is held here, and nothing was delivered off the record.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use broker_tests::{deadline, process, user};

use crate::vault_shop::{SOON, VaultShop};

/// How many runs are made, as root; an ordinary user's are the same, so that fewer of them will do.
const RUNS: usize = 1000;

/// How many are under way at a time.
const AT_ONCE: usize = 4;

/// Numbers that look random and are the same each time (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit
    }
}

/// What a run was like.
#[derive(Default)]
struct Deaths {
    runs: AtomicUsize,
    commands: AtomicUsize,
    daemons: AtomicUsize,
}

#[test]
fn a_thousand_runs_with_a_sudden_death_in_each_leave_nothing_behind() {
    let shop = VaultShop::new("1h", "15m");
    let config = shop.home.config().join("broker/config.toml");
    let text = fs::read_to_string(&config).expect("it is there");
    let limits = "[quota]\nleases = 100000\nleases-per-minute = 100000\nissued-per-minute = 100000\n";
    shop.home.configure(&format!("{text}{limits}"));
    let project = shop.project("");
    project.exec(["/bin/true"]).succeed();
    let runs = if user::is_root() { RUNS } else { RUNS / 10 };
    let (deaths, delivered) = (Deaths::default(), project.directory().join("delivered"));
    // The command says for itself what it was given, and under which lease.
    let script = "echo \"$BROKER_LEASE $DB_USER\" >>delivered; sleep 0.0$1";
    let lock = Mutex::new(());
    thread::scope(|scope| {
        for worker in 0..AT_ONCE {
            let (deaths, project, shop, lock) = (&deaths, &project, &shop, &lock);
            scope.spawn(move || {
                let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ (worker as u64 + 1));
                while deaths.runs.fetch_add(1, Ordering::Relaxed) < runs {
                    let profile = if dice.below(2) == 0 { "dev" } else { "all" };
                    let life = dice.below(5).to_string();
                    let run =
                        project.broker(["exec", "-P", profile, "--", "/bin/sh", "-c", script, "sh", &life]).start();
                    // Anywhere between the start of the client and some time after the end of the command.
                    thread::sleep(Duration::from_micros(dice.below(60_000)));
                    if dice.below(3) == 0 {
                        let _turn = lock.lock();
                        if let Some(daemon) = shop.home.listener() {
                            process::kill(daemon);
                            deaths.daemons.fetch_add(1, Ordering::Relaxed);
                        }
                    } else {
                        process::signal(run.pid(), 9);
                        deaths.commands.fetch_add(1, Ordering::Relaxed);
                    }
                    let _ = run.finish();
                }
            });
        }
    });
    let took = shop.until_nothing_is_alive();
    assert!(took <= SOON, "{took:?}");
    deadline::until_true("nothing is held here", || {
        let status = shop.home.status();
        status["leases"] == 0 && status["credentials"] == 0
    });
    let (leases, open) = on_record(&shop);
    assert!(open.is_empty(), "each lease has the one record that closes it: {open:?}");
    let delivered = said(&delivered);
    let unrecorded: Vec<_> = delivered.iter().filter(|lease| !leases.contains(*lease)).collect();
    assert!(unrecorded.is_empty(), "delivered and not on record: {unrecorded:?}");
    let (commands, daemons) = (deaths.commands.load(Ordering::Relaxed), deaths.daemons.load(Ordering::Relaxed));
    let figure = format!(
        "{runs} runs, {commands} commands or clients and {daemons} daemons killed; {} leases were issued for, {} delivered; \
         nothing alive {took:?} after the last",
        leases.len(),
        delivered.len()
    );
    let _ = writeln!(std::io::stderr(), "{figure}");
    assert!(
        commands > runs / 2 && daemons > runs / 10 && delivered.len() > runs / 10,
        "it was as wild as it is said to be"
    );
}

/// Returns the leases that were begun and issued for, and those that are not closed by exactly one record.
fn on_record(shop: &VaultShop) -> (BTreeSet<String>, Vec<String>) {
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    for record in shop.home.audited("request").iter().filter(|record| record["lease"].is_object()) {
        ends.insert(text(&record["lease"]["id"]), 0);
    }
    for record in shop.home.audited("lease-ended") {
        *ends.entry(text(&record["lease"])).or_default() += 1;
    }
    let open = ends.iter().filter(|(_, ends)| **ends != 1).map(|(lease, ends)| format!("{lease}: {ends}")).collect();
    let issued = shop.home.audited("issued").iter().map(|record| text(&record["lease"])).collect();
    (issued, open)
}

/// Returns the leases under which commands were given an account.
fn said(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let with_account =
        |line: &str| line.split_once(' ').filter(|(_, account)| !account.is_empty()).map(|(l, _)| l.to_owned());
    text.lines().filter_map(with_account).collect()
}
