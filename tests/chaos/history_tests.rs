//! Legal histories are accepted, and each kind of illegal one is found.

use proptest::prelude::*;

use super::*;

fn event(word: &str, step: &str) -> Event {
    Event { id: 0, sequence: 0, word: word.to_owned(), run: 1, step: step.to_owned(), task: None, epoch: None }
}

/// What may happen while a run runs.
fn noise() -> impl Strategy<Value = Vec<&'static str>> {
    let words = vec!["task_retried", "lease_expired", "lease_released", "lease_stale", "agent_note", "server_message"];
    let word = prop::sample::select(words);
    prop::collection::vec(word, 0..4)
}

fn numbered(mut events: Vec<Event>) -> Vec<Event> {
    for (event, number) in events.iter_mut().zip(1..) {
        event.sequence = number;
        event.id = number * 3;
    }
    events
}

prop_compose! {
    /// A run with the events of its life.
    fn lived()(
        steps in 0_usize..4,
        noise in prop::collection::vec(noise(), 10),
        succeeds in any::<bool>(),
    ) -> (Run, Vec<Event>) {
        let steps: Vec<String> = (0..steps).map(|step| format!("step {step}")).collect();
        let mut noise = noise.into_iter();
        let mut events = vec![event("run_queued", ""), event("run_started", "")];
        let mut disturb = |events: &mut Vec<Event>| {
            events.extend(noise.next().into_iter().flatten().map(|word| event(word, "")));
        };
        for step in &steps {
            events.push(event("step_started", step));
            disturb(&mut events);
            events.push(event("step_succeeded", step));
        }
        disturb(&mut events);
        let state = if succeeds { "succeeded" } else { "failed" };
        events.push(event(&format!("run_{state}"), ""));
        (Run { id: 1, state: state.to_owned(), steps }, numbered(events))
    }
}

fn is_landmark(event: &Event) -> bool {
    event.word.starts_with("run_") || event.word.starts_with("step_")
}

proptest! {
    #[test]
    fn a_life_is_legal_and_without_one_of_its_landmarks_it_is_not((run, events) in lived(), pick in any::<prop::sample::Index>()) {
        prop_assert_eq!(life(&run, &events), Vec::<String>::new());
        prop_assert_eq!(numbers(&events), Vec::<String>::new());
        let landmarks: Vec<usize> = (0..events.len()).filter(|index| is_landmark(&events[*index])).collect();
        let mut mutilated = events.clone();
        let gone = mutilated.remove(landmarks[pick.index(landmarks.len())]);
        // A failed run may have an open step.
        let last_step = run.steps.last().is_some_and(|last| *last == gone.step) && gone.word == "step_succeeded";
        if run.state == "succeeded" || !last_step {
            prop_assert!(!life(&run, &mutilated).is_empty(), "without {:?}", gone);
        }
        if gone.sequence != i64::try_from(events.len()).unwrap() {
            prop_assert!(!numbers(&mutilated).is_empty());
        }
    }

    #[test]
    fn a_landmark_that_comes_twice_is_found((run, events) in lived(), pick in any::<prop::sample::Index>()) {
        let landmarks: Vec<usize> = (0..events.len()).filter(|index| is_landmark(&events[*index])).collect();
        let index = landmarks[pick.index(landmarks.len())];
        let mut doubled = events.clone();
        doubled.insert(index, events[index].clone());
        prop_assert!(!life(&run, &doubled).is_empty());
        prop_assert!(!numbers(&doubled).is_empty());
    }

    #[test]
    fn nothing_but_notes_happens_after_the_end((run, mut events) in lived(), word in "lease_expired|step_started|run_failed") {
        events.push(event("agent_note", ""));
        prop_assert!(life(&run, &events).is_empty());
        events.push(event(&word, ""));
        prop_assert!(!life(&run, &events).is_empty());
    }

    #[test]
    fn a_watcher_must_see_what_is_written(written in 1_i64..50, pick in any::<prop::sample::Index>()) {
        let told = |id| Told { sequence: id, id, run: 1, message: String::new() };
        let written: Vec<Told> = (1..=written).map(told).collect();
        prop_assert!(watched(&written, &written).is_empty());
        let index = pick.index(written.len());
        let mut gap = written.clone();
        gap.remove(index);
        prop_assert!(!watched(&gap, &written).is_empty());
        let mut twice = written.clone();
        twice.insert(index, written[index].clone());
        prop_assert!(!watched(&twice, &written).is_empty());
    }

    #[test]
    fn an_epoch_that_comes_again_is_found(epochs in prop::collection::btree_set(1_i64..100, 2..20), pick in any::<prop::sample::Index>()) {
        let mut granted: Vec<(i64, i64)> = epochs.iter().map(|epoch| (7, *epoch)).collect();
        prop_assert!(grants(&granted).is_empty());
        let ended = |epoch: i64| Event { task: Some(7), epoch: Some(epoch), ..event("lease_expired", "") };
        let events: Vec<Event> = epochs.iter().copied().map(ended).collect();
        prop_assert!(leases(&events).is_empty());
        let index = pick.index(granted.len());
        granted.push(granted[index]);
        prop_assert!(!grants(&granted).is_empty());
        let again: Vec<Event> = granted.iter().map(|(_, epoch)| ended(*epoch)).collect();
        prop_assert!(!leases(&again).is_empty());
    }
}

#[test]
fn a_cancelled_run_never_began() {
    let run = Run { id: 1, state: "cancelled".to_owned(), steps: vec!["one".to_owned()] };
    assert!(life(&run, &[event("run_queued", ""), event("run_cancelled", "")]).is_empty());
    let started = [event("run_queued", ""), event("run_started", ""), event("run_cancelled", "")];
    assert!(!life(&run, &started).is_empty());
    assert!(!life(&run, &[event("run_queued", "")]).is_empty(), "it says that it is cancelled");
}

fn entries(changes: &[Change]) -> Vec<Entry> {
    let place = ("m".to_owned(), "s".to_owned(), 1);
    let numbered = changes.iter().zip(1..);
    numbered.map(|(change, id)| Entry { id, place: place.clone(), change: *change }).collect()
}

#[test]
fn a_checkpoint_that_falls_back_skips_or_outlives_its_end_is_found() {
    let made = Change::Now { made: true, epoch: 1, batches: 0, done: false };
    let now = |epoch, batches, done| Change::Now { made: false, epoch, batches, done };
    let legal =
        [made, now(1, 1, false), now(2, 1, false), now(2, 2, true), now(3, 2, true), Change::Gone, made, Change::Gone];
    assert_eq!(checkpoints(&entries(&legal)), Vec::<String>::new());
    for illegal in [
        vec![made, now(1, 2, false), Change::Gone],
        vec![made, now(1, 1, false), now(1, 0, false), Change::Gone],
        vec![made, now(2, 0, false), now(1, 1, false), Change::Gone],
        vec![made, now(2, 1, false), Change::Gone],
        vec![made, now(1, 1, true), now(1, 2, true), Change::Gone],
        vec![made, now(1, 1, true), now(1, 1, false), Change::Gone],
        vec![made, made, Change::Gone],
        vec![now(1, 1, false)],
        vec![made, Change::Gone, Change::Gone],
        vec![made],
    ] {
        assert!(!checkpoints(&entries(&illegal)).is_empty(), "{illegal:?}");
    }
}

#[test]
fn a_controller_that_was_ahead_of_the_disk_is_found() {
    let range = |run, walked, done| Range { place: ("m".to_owned(), "s".to_owned(), 1), run, walked, done };
    assert!(ahead(&[range(1, 10, false)], &[range(1, 10, false)]).is_empty());
    assert!(ahead(&[range(1, 10, false)], &[range(1, 20, true)]).is_empty());
    assert!(ahead(&[range(1, 10, true)], &[range(2, 0, false)]).is_empty(), "another application");
    assert!(ahead(&[range(1, 10, true)], &[]).is_empty(), "sealed");
    assert!(!ahead(&[range(1, 10, false)], &[range(1, 9, false)]).is_empty());
    assert!(!ahead(&[range(1, 10, true)], &[range(1, 10, false)]).is_empty());
}
