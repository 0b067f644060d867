//! What wakes the parts of a replica: that there is something to look at, never what. Missed wakes are made up for, since
//! whoever is woken looks up everything there is.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dunlin_shared::ids::TargetName;
use tokio::sync::{Notify, watch};

/// How often a target had something new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// New events.
    pub(crate) events: u64,
    /// Runs that have got on.
    pub(crate) progress: u64,
}

/// The wakes of a replica.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    dispatch: Notify,
    timer: Notify,
    targets: Mutex<HashMap<TargetName, watch::Sender<News>>>,
}

impl Signals {
    /// Tasks may be ready, or slots free.
    pub(crate) fn dispatch(&self) {
        self.dispatch.notify_one();
    }

    /// Waits for [`Signals::dispatch`].
    pub(crate) async fn dispatched(&self) {
        self.dispatch.notified().await;
    }

    /// Something may be due earlier than supposed.
    pub(crate) fn timer(&self) {
        self.timer.notify_one();
    }

    /// Waits for [`Signals::timer`].
    pub(crate) async fn timer_moved(&self) {
        self.timer.notified().await;
    }

    /// A target has new events.
    pub(crate) fn events(&self, target: &TargetName) {
        self.tell(target, |news| news.events += 1);
    }

    /// Runs on a target have got on.
    pub(crate) fn progress(&self, target: &TargetName) {
        self.tell(target, |news| news.progress += 1);
    }

    /// Anything may have happened.
    pub(crate) fn everything(&self) {
        self.dispatch();
        self.timer();
        for sender in self.targets().values() {
            sender.send_modify(|news| {
                news.events += 1;
                news.progress += 1;
            });
        }
    }

    /// Follows a target. Those that nobody follows any more are given up here, too: they may never be told of again.
    pub(crate) fn follow(&self, target: &TargetName) -> watch::Receiver<News> {
        let mut targets = self.targets();
        targets.retain(|_, sender| sender.receiver_count() > 0);
        targets.entry(target.clone()).or_default().subscribe()
    }

    fn tell(&self, target: &TargetName, change: impl FnOnce(&mut News)) {
        let mut targets = self.targets();
        let Some(sender) = targets.get(target) else { return };
        if sender.receiver_count() == 0 {
            targets.remove(target);
        } else {
            sender.send_modify(change);
        }
    }

    fn targets(&self) -> MutexGuard<'_, HashMap<TargetName, watch::Sender<News>>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wake_before_the_wait_is_not_lost() {
        let signals = Signals::default();
        signals.dispatch();
        signals.dispatched().await;
        let target = TargetName::default();
        let mut news = signals.follow(&target);
        signals.events(&target);
        news.changed().await.unwrap();
        assert_eq!(*news.borrow(), News { events: 1, progress: 0 });
        drop(news);
        signals.events(&target);
        assert!(signals.targets().is_empty(), "nobody follows");
    }

    #[test]
    fn a_target_that_nobody_follows_is_given_up_although_it_is_never_told_of_again() {
        let signals = Signals::default();
        for number in 0..100 {
            let _news = signals.follow(&TargetName::parse(format!("t{number}")).unwrap());
        }
        assert_eq!(signals.targets().len(), 1);
    }
}
