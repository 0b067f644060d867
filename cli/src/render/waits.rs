//! What migrations and runs wait for, in a word or two.

use dunlin_proto::v1::{Wait, WaitReason};

/// What is waited for. That no agent is there holds for all migrations of a target alike, and is told once, elsewhere.
pub(crate) fn short(waits: &[Wait]) -> Option<String> {
    let of = |reason| waits.iter().filter(move |wait| wait.reason() == reason);
    if let Some(run) = of(WaitReason::Run).next() {
        return Some(format!("run {}, which has not ended", run.run_id));
    }
    let mut parts: Vec<&str> = of(WaitReason::Dependency).map(|wait| wait.migration_id.as_str()).collect();
    parts.extend(of(WaitReason::Transform).chain(of(WaitReason::Unspecified)).map(|wait| wait.message.as_str()));
    if let Some(other) = of(WaitReason::Order).next().filter(|_| parts.is_empty()) {
        return Some(format!("its turn, behind {}", other.migration_id));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// What a run waits for in the middle of its work, as a sentence.
pub(crate) fn at_work(waits: &[Wait]) -> Option<&str> {
    let reasons = [WaitReason::Identity, WaitReason::Retry, WaitReason::Slot, WaitReason::Lock];
    waits.iter().find(|wait| reasons.contains(&wait.reason())).map(|wait| wait.message.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(reason: WaitReason, id: &str) -> Wait {
        let message = "words".to_owned();
        Wait { reason: reason.into(), migration_id: id.to_owned(), message, run_id: 7, ..Wait::default() }
    }

    #[test]
    fn dependencies_say_more_than_the_order() {
        let order = wait(WaitReason::Order, "a");
        assert_eq!(short(std::slice::from_ref(&order)).as_deref(), Some("its turn, behind a"));
        assert_eq!(short(&[order.clone(), wait(WaitReason::Dependency, "b")]).as_deref(), Some("b"));
        assert_eq!(short(&[order, wait(WaitReason::Run, "c")]).as_deref(), Some("run 7, which has not ended"));
        assert_eq!(short(&[]), None);
    }

    #[test]
    fn what_is_waited_for_in_the_middle_of_the_work_is_told_in_its_own_words() {
        let waits = [wait(WaitReason::Lock, "")];
        assert_eq!((short(&waits), at_work(&waits)), (None, Some("words")));
        assert_eq!(at_work(&[wait(WaitReason::Order, "a")]), None);
    }

    #[test]
    fn the_lack_of_an_agent_is_told_apart() {
        let waits = [wait(WaitReason::Agent, "")];
        assert_eq!(short(&waits), None);
    }
}
