//! What two clients of others think of the fake.

use serde_json::json;

use super::{App, Github};
use crate::python;

struct World {
    github: Github,
    app: App,
    installation: u64,
    other: u64,
}

impl World {
    fn new() -> Self {
        let github = Github::start();
        let app = github.register("broker-dev", &[("contents", "write"), ("issues", "write")]);
        let installation = github.install(&app, "shop", &["web", "api"]);
        let other = github.install_for_all(&app, "bakery");
        let _ = github.add_repository("shop", "secret");
        github.put("shop", "web", "README.md", b"# web\n");
        github.put("shop", "web", "conf/app.toml", &b"port = 80\n".repeat(20));
        Self { github, app, installation, other }
    }

    fn run(&self, name: &str) {
        let stranger = self.github.register("stranger", &[]);
        let setup = json!({
            "run": name, "url": self.github.url(), "key": self.app.private_key, "id": self.app.id,
            "client_id": self.app.client_id, "installation": self.installation, "other": self.other,
            "other_key": stranger.private_key,
        });
        assert_eq!(python::run(include_str!("clients.py"), &[&setup.to_string()]), "held\n");
    }
}

#[test]
fn pygithub_narrows_a_token_reads_with_it_and_is_refused_once_it_is_revoked() {
    let world = World::new();
    world.run("narrowed_and_revoked");
    let (issued, alive) = (world.github.issued_tokens(), world.github.alive_tokens());
    assert_eq!(alive, issued[1..], "the first one was revoked, the others were not");
    assert!(
        world.github.user_agents().iter().any(|agent| agent.contains("PyGithub")),
        "{:?}",
        world.github.user_agents()
    );
}

#[test]
fn every_answer_is_what_githubs_own_description_of_the_api_says() {
    World::new().run("described");
}
