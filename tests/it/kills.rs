//! Random outages while the monitor is killed in the middle of its work and the receiver fails: what arrives is what
//! arrives without any of that, key for key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use as_infrastructure_service::clock::Clock;
use as_infrastructure_service::domain::observation::{Observation, Reason};
use as_infrastructure_service::domain::time::{Stamp, from_ms};
use tokio::runtime::{Builder, Runtime};

use crate::support::{Recorder, T0, TestApp, eventually};

const SERVICES: usize = 5;
const STEPS: usize = 120;

/// Small, the same everywhere, good enough to shuffle with.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// One process after another on the same records; each ends when it is killed.
struct Lives {
    folder: Arc<tempfile::TempDir>,
    clock: Clock,
    hook: String,
    now: Option<(Runtime, Arc<TestApp>)>,
}

impl Lives {
    fn begin(hook: String) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let mut services = String::new();
        for place in 0..SERVICES {
            services += &format!("[[service]]\nname = \"s{place}\"\nurl = \"http://localhost:1\"\ncritical = true\n");
        }
        std::fs::write(folder.path().join("services.toml"), services).unwrap();
        Self { folder, clock: Clock::manual(from_ms(T0)), hook, now: None }
    }

    fn app(&mut self) -> (&Runtime, Arc<TestApp>) {
        if self.now.is_none() {
            let (folder, clock, hook) = (self.folder.clone(), self.clock.clone(), self.hook.clone());
            let file = folder.path().join("services.toml").display().to_string();
            let life = runtime();
            let app = life.block_on(async {
                let more = [
                    ("SERVICES_FILE", file.as_str()),
                    ("ALERT_WEBHOOK_URL", &hook),
                    ("NOTIFICATION_GROUP_WAIT_MS", "0"),
                    ("NOTIFICATION_RETRY_MIN_MS", "10"),
                    ("NOTIFICATION_RETRY_MAX_MS", "20"),
                    // Checks come from the script alone, and what the beat of the real clock decides is not compared.
                    ("NOTIFICATION_MERGE_AFTER_MS", "100000000"),
                    ("OUTAGE_VERIFICATION_ENABLED", "false"),
                    ("FLAP_HIGH_PERCENT", "0"),
                    ("ALERT_ESCALATION_MINUTES", "0"),
                    ("ALERT_REPEAT_MINUTES", "0"),
                ];
                Arc::new(TestApp::start(folder, clock, &more).await)
            });
            self.now = Some((life, app));
        }
        let (life, app) = self.now.as_ref().unwrap();
        (life, app.clone())
    }

    /// Whatever is on its way is lost, nothing is said good-bye to.
    fn kill(&mut self) {
        if let Some((life, app)) = self.now.take() {
            drop(app);
            life.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// A check of one service; with `killed` the process ends in the middle of it, and its successor checks again what
    /// was not noted.
    fn check(&mut self, name: &str, good: bool, killed: bool) {
        let seen = || match good {
            true => Observation::answered(200, Duration::from_millis(5)),
            false => Observation::failed(Reason::ConnectRefused, ""),
        };
        if !killed {
            let (life, app) = self.app();
            life.block_on(app.take_in(name, seen()));
            return;
        }
        let (life, app) = self.app();
        let (of, seen_now) = (name.to_owned(), seen());
        life.spawn(async move { app.take_in(&of, seen_now).await });
        self.kill();
        let now = Stamp(self.clock.now());
        let (life, app) = self.app();
        life.block_on(async {
            let known = app.get(&format!("/health/service/{name}")).await.json;
            if known["service"]["lastChecked"] != serde_json::json!(now) {
                app.take_in(name, seen()).await;
            }
        });
    }
}

/// Plays the outages of `seed`; what the receiver was told about outages, by alert, in order and without copies.
fn play(seed: u64, disturbed: bool) -> BTreeMap<String, Vec<String>> {
    let receiving = runtime();
    let recorder = receiving.block_on(Recorder::start());
    let mut lives = Lives::begin(recorder.url());
    let (mut script, mut chaos) = (Dice(seed), Dice(seed ^ 0x5eed));
    let mut down = [false; SERVICES];
    for _ in 0..STEPS {
        let place = script.roll(SERVICES as u64) as usize;
        down[place] ^= script.roll(3) == 0;
        let outcome = !down[place];
        let kill = disturbed && chaos.roll(12) == 0;
        if disturbed && chaos.roll(6) == 0 {
            recorder.answer_with([200, 200, 503, 500][chaos.roll(4) as usize]);
        }
        lives.check(&format!("s{place}"), outcome, kill);
        lives.clock.advance(Duration::from_secs(15));
    }
    recorder.answer_with(200);
    let (life, app) = lives.app();
    life.block_on(eventually("everything owed told", async || {
        let health = app.get("/health").await.json;
        (health["self"]["outbox"]["depth"] == 0).then_some(())
    }));
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for message in recorder.messages() {
        let alert = message.body["data"]["alert"]["id"].as_str().unwrap().to_owned();
        let key = format!("{} {}", message.body["id"].as_str().unwrap(), message.kind());
        let keys = told.entry(alert).or_default();
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    told.retain(|alert, _| alert.contains("-service-down-"));
    told
}

#[test]
fn a_receiver_hears_the_same_with_kills_and_failures_as_without() {
    let seeds: u64 = std::env::var("KILL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    for seed in 1..=seeds {
        let (quiet, disturbed) = (play(seed, false), play(seed, true));
        assert!(quiet.len() > 3, "seed {seed} says little: {quiet:?}");
        assert_eq!(disturbed, quiet, "seed {seed}");
    }
}
