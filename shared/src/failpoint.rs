//! Faults on purpose: named points between two durable steps, where a test lets a process die, stand still or meet an error.
//!
//! A point does nothing, and compiles to nothing, without the cargo feature `failpoints`; a release build refuses the feature.
//! With it, `FAILPOINTS` says what happens where, as the crate `fail` reads it: `range.taken=1*return(abort)`, with a `;` before the
//! next point and `2*off->` before an action to let the point be passed twice. The actions:
//!
//! | action | what happens |
//! | --- | --- |
//! | `abort` | The process ends at once, with nothing tidied up. |
//! | `pause MS` | Who came to the point waits; everything else in the process, heartbeats among it, goes on. |
//! | `stop` | The whole process stands still (SIGSTOP) until somebody sends SIGCONT. |
//! | `error` | What would really go wrong here goes wrong: each caller makes it so. |
//!
//! A pause alone never outlives a lease, because heartbeats renew it; so `stop` is the pause that is longer than the lease. It is
//! harder than a blocked runtime: sockets stay open, transactions too, and when the process goes on, every timer is late at once.
//!
//! What must stay true: every hit is in the log, so that a test can tell a fault that was survived from one that never happened.

/// An error that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an error on purpose, at a failpoint")]
pub struct Injected;

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("the feature `failpoints` is for tests: a release build must not have it");

#[cfg(feature = "failpoints")]
pub use on::{Scenario, armed, hit};

#[cfg(not(feature = "failpoints"))]
pub use off::{Scenario, armed, hit};

#[cfg(feature = "failpoints")]
mod on {
    use std::process::abort;
    use std::time::Duration;

    use nix::sys::signal::{Signal, raise};

    use super::Injected;

    /// The failpoints of this process, armed until this is dropped.
    pub struct Scenario(#[expect(dead_code, reason = "it is there to be dropped")] fail::FailScenario<'static>);

    impl Scenario {
        /// Arms what `FAILPOINTS` names.
        ///
        /// # Panics
        /// It cannot be read.
        #[must_use]
        pub fn from_environment() -> Self {
            let scenario = Self(fail::FailScenario::setup());
            for (point, actions) in fail::list() {
                tracing::warn!(point, actions, "a failpoint is armed");
            }
            scenario
        }
    }

    impl std::fmt::Debug for Scenario {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_list().entries(fail::list()).finish()
        }
    }

    /// True when something can happen at a point. Where a step is usually one message, it is cut in two then.
    #[must_use]
    pub fn armed(point: &str) -> bool {
        fail::list().iter().any(|(name, _)| name == point)
    }

    /// Comes to a point.
    ///
    /// # Errors
    /// One was asked for.
    pub async fn hit(point: &str) -> Result<(), Injected> {
        let Some(action) = asked(point) else { return Ok(()) };
        tracing::warn!(point, action, "failpoint hit");
        match action.split_once(' ').unwrap_or((&action, "")) {
            ("abort", "") => abort(),
            ("error", "") => return Err(Injected),
            ("stop", "") => {
                // Where the signal cannot be raised the test waits for it in vain, and says so.
                let raised = raise(Signal::SIGSTOP);
                tracing::warn!(point, ?raised, "going on after a stop");
            }
            ("pause", time) if time.parse::<u64>().is_ok() => {
                tokio::time::sleep(Duration::from_millis(time.parse().unwrap_or(0))).await;
            }
            // A misspelt action must not pass for a fault that was survived.
            _ => {
                tracing::error!(point, action, "FAILPOINTS names an action that does not exist");
                abort();
            }
        }
        Ok(())
    }

    fn asked(point: &str) -> Option<String> {
        fail::fail_point!(point, |action| action);
        None
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn a_point_does_what_it_is_told_as_often_as_it_is_told() {
            let _scenario = Scenario::from_environment();
            fail::cfg("here", "1*off->1*return(error)").unwrap();
            assert!(armed("here") && !armed("there"));
            assert_eq!(hit("here").await, Ok(()));
            assert_eq!(hit("here").await, Err(Injected));
            assert_eq!(hit("here").await, Ok(()));
            assert_eq!(hit("there").await, Ok(()));
        }

        #[tokio::test]
        async fn a_pause_holds_up_only_who_came_to_it() {
            let _scenario = Scenario::from_environment();
            fail::cfg("here", "1*return(pause 60000)->return(pause 1)").unwrap();
            let beside = tokio::time::timeout(Duration::from_millis(20), hit("here"));
            assert!(beside.await.is_err(), "the timer beside it goes on");
            assert_eq!(hit("here").await, Ok(()));
        }
    }
}

#[cfg(not(feature = "failpoints"))]
mod off {
    use super::Injected;

    /// Nothing.
    #[derive(Debug)]
    pub struct Scenario;

    impl Scenario {
        /// Does nothing.
        #[must_use]
        pub fn from_environment() -> Self {
            Self
        }
    }

    /// False.
    #[must_use]
    #[inline(always)]
    pub const fn armed(_point: &str) -> bool {
        false
    }

    /// Does nothing.
    ///
    /// # Errors
    /// Never.
    #[inline(always)]
    pub fn hit(_point: &str) -> std::future::Ready<Result<(), Injected>> {
        std::future::ready(Ok(()))
    }
}
