//! One case: the fault is armed, the migrations run, and whoever died is started again without it.

use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use dunlin_tests::fleet::Fleet;
use dunlin_tests::process::Process;
use dunlin_tests::programs::Program;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::Work;
use super::matrix::{Action, Case, Culprit};

/// How long a process stands still at least, unless everything is finished without it. Longer than a lease lives.
const STOP: Duration = Duration::from_secs(1);

/// How long a case may take. Far more than it takes: it only ends a test that would never end.
const DEADLINE: Duration = Duration::from_secs(300);

/// Arms the fault, runs the set, and checks what has become of it.
pub(super) async fn survive(fleet: &mut Fleet, case: &Case, set: &Work) {
    set.register(fleet).await;
    let mut suspects = arm(fleet, case, set);
    let queueing = tokio::spawn(set.queue(fleet));
    let deadline = Instant::now() + DEADLINE;
    loop {
        let ended = set.has_ended(fleet).await;
        let mut well = true;
        for suspect in &mut suspects {
            well &= suspect.tend(fleet, case, ended).await;
        }
        if ended && well {
            break;
        }
        assert!(Instant::now() < deadline, "{case}: not done within {} s", DEADLINE.as_secs());
        sleep(Duration::from_millis(40)).await;
    }
    queueing.await.unwrap();
    let hits = suspects.iter().map(|suspect| suspect.hits(fleet, case)).sum::<usize>();
    assert!(hits >= 1, "{case}: nobody came to the point");
    set.assert_done_once(fleet).await;
    // Whoever was hit is of use again.
    fleet.agents_connected(2).await;
}

/// The ends of the logs of a fleet.
pub(super) fn logs(fleet: &mut Fleet) -> String {
    let mut text = String::new();
    let ends = [
        ("controller", fleet.controller(0).log()),
        ("agent 0", fleet.agent(0).log()),
        ("agent 1", fleet.agent(1).log()),
    ];
    for (name, log) in ends {
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(60)..].join("\n");
        writeln!(text, "--- {name}, end of its log:\n{end}").unwrap();
    }
    text
}

/// A process that has the fault.
struct Suspect {
    culprit: Culprit,
    index: usize,
    log: String,
    standing_since: Option<Instant>,
}

fn arm(fleet: &mut Fleet, case: &Case, set: &Work) -> Vec<Suspect> {
    let count = match case.culprit {
        Culprit::Agents => 2,
        Culprit::Controller => 1,
    };
    let suspects = (0..count).map(|index| {
        let log = format!("{:?}-{index} {set}", case.culprit);
        let suspect = Suspect { culprit: case.culprit, index, log, standing_since: None };
        suspect.start(fleet, &[("FAILPOINTS", &case.variable())]);
        suspect
    });
    suspects.collect()
}

impl Suspect {
    fn start(&self, fleet: &mut Fleet, environment: &[(&str, &str)]) {
        match self.culprit {
            Culprit::Agents => fleet.replace_agent(self.index, Program::TestAgent, &self.log, environment),
            Culprit::Controller => fleet.replace_controller(self.index, &self.log, environment),
        }
    }

    fn process<'f>(&self, fleet: &'f mut Fleet) -> &'f mut Process {
        match self.culprit {
            Culprit::Agents => fleet.agent(self.index),
            Culprit::Controller => fleet.controller(self.index),
        }
    }

    fn hits(&self, fleet: &mut Fleet, case: &Case) -> usize {
        let log = self.process(fleet).log();
        log.lines().filter(|line| line.contains("failpoint hit") && line.contains(&case.point)).count()
    }

    /// Starts the process again when it has died, and lets it go on when it has stood still for long enough. True when nothing is
    /// the matter with it.
    async fn tend(&mut self, fleet: &mut Fleet, case: &Case, ended: bool) -> bool {
        if let Some(status) = self.process(fleet).status() {
            let died = (case.action, status.signal()) == (Action::Abort, Some(Signal::SIGABRT as i32));
            assert!(died, "{case}: {} has ended with {status}", self.log);
            self.start(fleet, &[]);
            return false;
        }
        if case.action != Action::Stop || self.hits(fleet, case) == 0 {
            return true;
        }
        if self.process(fleet).log().contains("going on after a stop") {
            return true;
        }
        let since = *self.standing_since.get_or_insert_with(Instant::now);
        if self.has_lost_its_leases(fleet).await && (ended || since.elapsed() >= STOP) {
            // Again and again: what was sent before it stood still has no effect.
            self.process(fleet).resume();
        }
        false
    }

    async fn has_lost_its_leases(&self, fleet: &Fleet) -> bool {
        let held = format!(
            "SELECT count(*) FROM dunlin_controller.tasks WHERE state = 'leased' AND agent_id = 'agent-{}'",
            self.index
        );
        match self.culprit {
            Culprit::Agents => fleet.control().value::<i64>(&held).await == 0,
            Culprit::Controller => true,
        }
    }
}
