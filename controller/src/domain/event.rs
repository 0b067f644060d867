//! Entries of the history. They are written in the transaction of the change that they tell of, and never changed.

use dunlin_shared::ids::{AgentId, MigrationId, RunId, TargetName};
use serde_json::{Map, Value};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// The word that is stored.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// The value of a stored word.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

words! {
    /// What happened.
    Type {
        /// A migration was registered.
        MigrationRegistered = "migration_registered",
        /// The definition of a registered migration was changed.
        MigrationChanged = "migration_changed",
        /// A migration was taken back before any target had it.
        MigrationWithdrawn = "migration_withdrawn",
        /// A run was queued.
        RunQueued = "run_queued",
        /// A run started.
        RunStarted = "run_started",
        /// A run succeeded.
        RunSucceeded = "run_succeeded",
        /// A run failed.
        RunFailed = "run_failed",
        /// A run was cancelled.
        RunCancelled = "run_cancelled",
        /// A step started.
        StepStarted = "step_started",
        /// A step was finished.
        StepSucceeded = "step_succeeded",
        /// A step was skipped, since the target has it already.
        StepSkipped = "step_skipped",
        /// A task met an error that passes and is tried again.
        TaskRetried = "task_retried",
        /// A lease expired and its task was made ready again.
        LeaseExpired = "lease_expired",
        /// An agent gave a lease back.
        LeaseReleased = "lease_released",
        /// A stale lease was refused by the target.
        LeaseStale = "lease_stale",
        /// An agent connected.
        AgentConnected = "agent_connected",
        /// An agent went away.
        AgentDisconnected = "agent_disconnected",
        /// A target became reachable.
        TargetReachable = "target_reachable",
        /// A target cannot be reached.
        TargetUnreachable = "target_unreachable",
        /// The registry of a target differs from what was known; the target's word was taken.
        RegistryFollowed = "registry_followed",
        /// An agent repaired what an interrupted step left behind.
        StepRepaired = "step_repaired",
        /// An agent tells something about its work.
        AgentNote = "agent_note",
        /// PostgreSQL said something while a step was executed.
        ServerMessage = "server_message",
        /// Another process came with the id of an agent that lives, and waits.
        AgentIdTaken = "agent_id_taken",
        /// A database is not the target that its name says.
        TargetRefused = "target_refused",
        /// An operator has said which database a target is.
        TargetRebound = "target_rebound",
        /// An operator has let a target be forgotten.
        TargetForgotten = "target_forgotten",
        /// An agent was forgotten.
        AgentForgotten = "agent_forgotten",
    }
}

words! {
    /// How much an event matters.
    Severity {
        /// How work is done inside: of use to whoever looks into Dunlin itself.
        Debug = "debug",
        /// The normal course of things.
        Info = "info",
        /// Something was repeated, skipped or refused.
        Warning = "warning",
        /// Something failed.
        Error = "error",
    }
}

/// An event that is about to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub event_type: Type,
    /// How much it matters.
    pub severity: Severity,
    /// The target, in whose history the event gets the next number.
    pub target: Option<TargetName>,
    /// The migration.
    pub migration: Option<MigrationId>,
    /// The run.
    pub run: Option<RunId>,
    /// The step.
    pub step: String,
    /// The agent.
    pub agent: Option<AgentId>,
    /// What happened, in a sentence.
    pub message: String,
    /// Figures and reasons, by name.
    pub details: Map<String, Value>,
}

impl Event {
    /// An event about nothing in particular yet.
    #[must_use]
    pub fn new(event_type: Type, severity: Severity, message: impl Into<String>) -> Self {
        Self {
            event_type,
            severity,
            target: None,
            migration: None,
            run: None,
            step: String::new(),
            agent: None,
            message: message.into(),
            details: Map::new(),
        }
    }

    /// The same event, about a target.
    #[must_use]
    pub fn of_target(mut self, target: &TargetName) -> Self {
        self.target = Some(target.clone());
        self
    }

    /// The same event, about a migration.
    #[must_use]
    pub fn of_migration(mut self, migration: &MigrationId) -> Self {
        self.migration = Some(migration.clone());
        self
    }

    /// The same event, about a run.
    #[must_use]
    pub fn of_run(mut self, run: RunId) -> Self {
        self.run = Some(run);
        self
    }

    /// The same event, about a step.
    #[must_use]
    pub fn of_step(mut self, step: impl Into<String>) -> Self {
        self.step = step.into();
        self
    }

    /// The same event, about an agent.
    #[must_use]
    pub fn of_agent(mut self, agent: &AgentId) -> Self {
        self.agent = Some(agent.clone());
        self
    }

    /// The same event with a figure or reason.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}
