use proptest::prelude::*;

use super::*;

fn queuing(name: &str, nominal: u32, lendable: u32) -> LevelSpec {
    let response = Response::Queue { queues: 16, hand_size: 4, queue_length: 5 };
    LevelSpec { name: name.to_owned(), nominal, lendable, borrowing_limit: u32::MAX, response }
}

fn core(specs: Vec<LevelSpec>) -> (Core<u32>, Vec<LevelId>) {
    let mut core = Core::new();
    let (ids, started) = core.configure(specs, Duration::ZERO);
    assert!(started.is_empty());
    (core, ids.into_iter().map(|(_, id)| id).collect())
}

/// A flow's hash, as scattered as a real one.
fn flow(number: u64) -> u64 {
    (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Fills a level until a request waits; the seats that run.
fn fill(core: &mut Core<u32>, level: LevelId, from: u64) -> Vec<Seats> {
    let mut running = Vec::new();
    loop {
        match core.arrive(level, flow(from), 1, Duration::ZERO, || 0) {
            Decision::Run(seats) => running.push(seats),
            _ => return running,
        }
    }
}

#[test]
fn a_flooded_level_does_not_delay_another() {
    let (mut core, ids) = core(vec![queuing("a", 10, 5), queuing("b", 10, 5)]);
    let running = fill(&mut core, ids[0], 1);
    assert_eq!(running.len(), 15, "its own seats, and those that the other lends");
    for _ in 0..5 {
        let decision = core.arrive(ids[1], flow(2), 1, Duration::ZERO, || 0);
        assert!(matches!(decision, Decision::Run(_)), "{decision:?}");
    }
}

#[test]
fn lent_seats_go_back_to_their_level_first() {
    let (mut core, ids) = core(vec![queuing("a", 10, 5), queuing("b", 10, 5)]);
    let running = fill(&mut core, ids[0], 1);
    let lender = fill(&mut core, ids[1], 2);
    assert_eq!((running.len(), lender.len()), (15, 5));
    let mut started = Vec::new();
    for seats in &running[..5] {
        started.extend(core.finish(seats, Duration::from_millis(1)));
    }
    let of_lender = started.iter().filter(|(_, seats)| seats.level == ids[1]).count();
    assert_eq!((of_lender, started.len()), (1, 2), "the lender's waiting request, then the other's");
    assert_eq!(started[0].1.level, ids[1]);
}

#[test]
fn a_flow_with_few_requests_passes_one_with_many() {
    let mut spec = queuing("a", 4, 0);
    spec.response = Response::Queue { queues: 128, hand_size: 6, queue_length: 50 };
    let (mut core, ids) = core(vec![spec]);
    let mut running = std::collections::VecDeque::new();
    let mut refused = 0;
    for _ in 0..1_000 {
        match core.arrive(ids[0], flow(1), 1, Duration::ZERO, || 1) {
            Decision::Run(seats) => running.push_back(seats),
            Decision::Wait(_) => {}
            Decision::Refuse(refusal) => {
                assert_eq!(refusal, Refusal::QueueFull);
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 1_000 - 4 - 6 * 50, "a hand of queues is full");
    let decision = core.arrive(ids[0], flow(2), 1, Duration::ZERO, || 2);
    assert!(matches!(decision, Decision::Wait(_)), "{decision:?}");
    let mut finished = 0;
    loop {
        finished += 1;
        let seats = running.pop_front().unwrap();
        let started = core.finish(&seats, Duration::from_millis(100 * finished));
        if started.iter().any(|(token, _)| *token == 2) {
            break;
        }
        running.extend(started.into_iter().map(|(_, seats)| seats));
        assert!(finished < 10, "still waiting");
    }
}

#[test]
fn a_flow_that_used_much_is_behind_and_not_shut_out() {
    let (mut core, ids) = core(vec![queuing("a", 2, 0)]);
    let long = fill(&mut core, ids[0], 1);
    let mut at = Duration::from_secs(3_600);
    let mut running: Vec<Seats> = long.iter().flat_map(|seats| core.finish(seats, at)).map(|s| s.1).collect();
    // Both flows want all seats for some seconds: each gets a part of them.
    let mut counts = [0u32; 3];
    for _ in 0..200 {
        for number in [1, 2, 1, 2, 1, 2] {
            match core.arrive(ids[0], flow(u64::from(number)), 1, at, || number) {
                Decision::Run(seats) => {
                    counts[number as usize] += 1;
                    running.push(seats);
                }
                Decision::Wait(_) | Decision::Refuse(_) => {}
            }
        }
        at += Duration::from_millis(100);
        let finished = std::mem::take(&mut running);
        for seats in finished {
            for (token, seats) in core.finish(&seats, at) {
                counts[token as usize] += 1;
                running.push(seats);
            }
        }
    }
    assert!(counts[1] > 100 && counts[2] > 100, "{counts:?}");
}

#[test]
fn the_exempt_level_never_waits_and_a_rejecting_one_never_queues() {
    let exempt = LevelSpec { response: Response::Exempt, ..queuing("exempt", 1, 0) };
    let rejecting = LevelSpec { response: Response::Reject, ..queuing("catch-all", 2, 0) };
    let (mut core, ids) = core(vec![exempt, rejecting]);
    for _ in 0..1_000 {
        assert!(matches!(core.arrive(ids[0], 0, 10, Duration::ZERO, || 0), Decision::Run(_)));
    }
    assert_eq!(fill(&mut core, ids[1], 1).len(), 2);
    let decision = core.arrive(ids[1], 0, 1, Duration::ZERO, || 0);
    assert_eq!(decision, Decision::Refuse(Refusal::ConcurrencyLimit));
}

#[test]
fn what_waits_in_a_deleted_level_runs() {
    let (mut core, ids) = core(vec![queuing("a", 1, 0), queuing("b", 1, 0)]);
    let running = fill(&mut core, ids[0], 1);
    let (left, started) = core.configure(vec![queuing("b", 1, 0)], Duration::ZERO);
    assert_eq!((left.len(), started.len()), (1, 1));
    for seats in running.iter().chain(started.iter().map(|(_, seats)| seats)) {
        core.finish(seats, Duration::ZERO);
    }
    assert_eq!(core.levels.len(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Arrive { level: usize, flow: u64, width: u32 },
    Finish(usize),
    Cancel(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0usize..3, 0u64..6, 1u32..4).prop_map(|(level, flow, width)| Step::Arrive { level, flow, width }),
        2 => any::<usize>().prop_map(Step::Finish),
        1 => any::<usize>().prop_map(Step::Cancel),
    ]
}

proptest! {
    #[test]
    fn seats_suffice_queues_keep_their_order_and_nothing_is_lost(steps in prop::collection::vec(step(), 0..300)) {
        let specs = vec![queuing("a", 3, 1), queuing("b", 5, 5), queuing("c", 4, 0)];
        let total: u32 = specs.iter().map(|spec| spec.nominal).sum();
        let (mut core, ids) = core(specs);
        let mut running: Vec<Seats> = Vec::new();
        let mut waiting: Vec<(u32, Ticket)> = Vec::new();
        let mut now = Duration::ZERO;
        let mut next = 0;
        for step in steps {
            now += Duration::from_millis(7);
            let started = match step {
                Step::Arrive { level, flow: number, width } => {
                    next += 1;
                    match core.arrive(ids[level], flow(number), width, now, || next) {
                        Decision::Run(seats) => running.push(seats),
                        Decision::Wait(ticket) => waiting.push((next, ticket)),
                        Decision::Refuse(_) => {}
                    }
                    Started::new()
                }
                Step::Finish(at) if !running.is_empty() => {
                    let seats = running.swap_remove(at % running.len());
                    core.finish(&seats, now)
                }
                Step::Cancel(at) if !waiting.is_empty() => {
                    let (_, ticket) = waiting.remove(at % waiting.len());
                    let (found, started) = core.cancel(&ticket, now);
                    prop_assert!(found);
                    started
                }
                _ => Started::new(),
            };
            for (token, seats) in started {
                let at = waiting.iter().position(|(waiting, _)| *waiting == token);
                let (_, ticket) = waiting.remove(at.unwrap());
                let overtaken = waiting.iter().find(|(_, other)| {
                    (other.level, other.queue) == (ticket.level, ticket.queue) && other.id < ticket.id
                });
                prop_assert!(overtaken.is_none(), "first in, first out");
                running.push(seats);
            }
            let in_use: u32 = running.iter().map(|seats| seats.width).sum();
            prop_assert!(in_use <= total, "{in_use} seats of {total}");
            prop_assert_eq!(core.levels.iter().map(|level| level.in_use).sum::<u32>(), in_use);
            prop_assert_eq!(core.levels.iter().map(|level| level.waiting).sum::<usize>(), waiting.len());
        }
        // When all that runs ends, all that waits runs.
        while let Some(seats) = running.pop() {
            for (token, seats) in core.finish(&seats, now) {
                waiting.retain(|(waiting, _)| *waiting != token);
                running.push(seats);
            }
        }
        prop_assert!(waiting.is_empty(), "{waiting:?}");
    }
}
