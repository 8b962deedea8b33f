//! Accounts and ledgers, alone and under several threads.

extern crate std;

use super::*;
use crate::test_support::platform;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::vec::Vec;

fn account(limits: Amounts) -> Account {
    platform();
    Account::new(limits).unwrap()
}

fn pinned(amount: u64) -> Amounts {
    Amounts::of(Resource::Pinned, amount)
}

/// What an object has cost `from`, all of which goes to `to`, which pays from then on.
fn moves(from: &Account, to: &Account, change: impl Fn(Option<&Account>) -> Result<(), Error>) {
    let cost = from.usage();
    assert!(cost != Amounts::NONE);
    to.set_limits(cost.saturating_sub(Amounts { metadata: 1, objects: 1, ..Amounts::NONE }));
    assert!(matches!(change(Some(to)), Err(Error::Quota(_))));
    assert_eq!((from.usage(), to.usage()), (cost, Amounts::NONE));
    to.set_limits(cost);
    change(Some(to)).unwrap();
    assert_eq!((from.usage(), to.usage()), (Amounts::NONE, cost));
}

#[test]
fn what_is_charged_can_be_moved() {
    use crate::access::{Access, AccessConfig};
    use crate::hw::Stage;
    let [from, to] = [(); 2].map(|()| account(Amounts::UNLIMITED));
    let access = Access::new(AccessConfig { account: Some(from.clone()), ..AccessConfig::default() }).unwrap();
    moves(&from, &to, |to| access.change_owner(to));
    drop(access);
    let queue = crate::fault::FaultQueue::charged_to(&from, 4).unwrap();
    moves(&from, &to, |to| queue.change_owner(to));
    drop(queue);
    let group = crate::group::Group::new(Some(&from)).unwrap();
    moves(&from, &to, |to| group.change_owner(to));
    drop(group);

    // What the address space has cost stays with its owner.
    to.set_limits(Amounts::UNLIMITED);
    let world = crate::device::tests::World::new();
    let config = crate::hwpt::HwptConfig { nest_parent: true, ..crate::hwpt::HwptConfig::new(Stage::Second) };
    let hwpt = world.hwpt_of(&world.ioas, config);
    world.ioas.change_owner(Some(&from)).unwrap();
    let before = from.usage();
    let viommu = crate::viommu::Viommu::new(&hwpt).unwrap();
    let events = viommu.events(1, 4).unwrap();
    let cost = from.usage().saturating_sub(before);
    viommu.change_owner(Some(&to)).unwrap();
    assert_eq!((from.usage(), to.usage()), (before, cost));
    drop((events, viommu));
    assert_eq!(to.usage(), Amounts::NONE);
}

/// Some of each, so that no resource can be mistaken for another.
const SOME: Amounts = Amounts { pinned: 1, metadata: 20, objects: 300, pasids: 4000 };

fn twice(amounts: Amounts) -> Amounts {
    amounts.checked_add(amounts).unwrap()
}

#[test]
fn each_resource_is_counted_by_itself() {
    let account = account(Amounts::UNLIMITED);
    account.charge(SOME).unwrap();
    assert_eq!(account.usage(), SOME);
    for resource in Resource::ALL {
        assert_eq!(Amounts::of(resource, 7).get(resource), 7);
        account.charge(Amounts::of(resource, 7)).unwrap();
        assert_eq!(account.usage().get(resource), SOME.get(resource) + 7);
        account.release(Amounts::of(resource, 7));
    }
    account.release(SOME);
    assert_eq!(account.usage(), Amounts::NONE);
}

#[test]
fn a_charge_is_all_or_nothing_and_names_what_is_short() {
    for short in Resource::ALL {
        let limits = Resource::ALL.into_iter().fold(Amounts::NONE, |limits, resource| {
            let limit = SOME.get(resource) - u64::from(resource == short);
            limits.checked_add(Amounts::of(resource, limit)).unwrap()
        });
        let account = account(limits);
        assert_eq!(account.charge(SOME), Err(Error::Quota(short)));
        assert_eq!(account.usage(), Amounts::NONE);
        account.set_limits(SOME);
        account.charge(SOME).unwrap();
        assert_eq!(account.charge(Amounts::of(short, 1)), Err(Error::Quota(short)));
        account.charge(Amounts::NONE).unwrap();
        assert_eq!(account.usage(), SOME);
    }
}

#[test]
fn nothing_wraps() {
    let account = account(Amounts::UNLIMITED);
    account.charge(pinned(u64::MAX)).unwrap();
    assert_eq!(account.charge(pinned(1)), Err(Error::Quota(Resource::Pinned)));
    assert_eq!(account.charge(pinned(u64::MAX)), Err(Error::Quota(Resource::Pinned)));
    account.release(pinned(u64::MAX));
    let ledger = Ledger::new(Some(account.clone()));
    ledger.charge(pinned(u64::MAX)).unwrap();
    assert_eq!(ledger.charge(pinned(1)), Err(Error::Quota(Resource::Pinned)));
    // Two that do not fit in 64 bits together: an account cannot pay for both, nobody can.
    transfer(&[&ledger], None).unwrap();
    let other = Ledger::new(Some(account.clone()));
    other.charge(pinned(1)).unwrap();
    assert_eq!(transfer(&[&ledger, &other], Some(&account)), Err(Error::Quota(Resource::Pinned)));
    transfer(&[&ledger, &other], None).unwrap();
    assert_eq!((account.usage(), ledger.held(), other.held()), (Amounts::NONE, pinned(u64::MAX), pinned(1)));
}

#[test]
fn lower_limits_refuse_what_is_to_come() {
    let account = account(Amounts::UNLIMITED);
    account.charge(pinned(10)).unwrap();
    account.set_limits(pinned(5));
    assert_eq!((account.limits(), account.usage()), (pinned(5), pinned(10)));
    assert_eq!(account.charge(pinned(1)), Err(Error::Quota(Resource::Pinned)));
    account.release(pinned(6));
    account.charge(pinned(1)).unwrap();
    assert_eq!(account.charge(pinned(1)), Err(Error::Quota(Resource::Pinned)));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "more pinned memory given back")]
fn giving_back_too_much_is_noticed() {
    account(Amounts::UNLIMITED).release(pinned(1));
}

#[test]
fn a_ledger_gives_back_what_it_holds() {
    let account = account(twice(SOME));
    let ledger = Ledger::new(Some(account.clone()));
    ledger.charge(SOME).unwrap();
    ledger.charge(SOME).unwrap();
    assert_eq!(ledger.charge(Amounts::of(Resource::Objects, 1)), Err(Error::Quota(Resource::Objects)));
    assert_eq!((ledger.held(), account.usage()), (twice(SOME), twice(SOME)));
    ledger.release(SOME);
    assert_eq!((ledger.held(), account.usage()), (SOME, SOME));
    assert!(ledger.account().unwrap().same(&account));
    drop(ledger);
    assert_eq!(account.usage(), Amounts::NONE);
}

#[test]
fn what_nobody_pays_for_is_not_counted() {
    let ledger = Ledger::new(None);
    ledger.charge(Amounts::UNLIMITED).unwrap();
    ledger.charge(Amounts::UNLIMITED).unwrap();
    assert_eq!(ledger.held(), Amounts::NONE);
    ledger.release(SOME);
    transfer(&[&ledger], None).unwrap();
    let account = account(Amounts::UNLIMITED);
    assert!(matches!(transfer(&[&ledger], Some(&account)), Err(Error::Invalid(_))));
    assert!(ledger.account().is_none());
}

#[test]
fn a_transfer_moves_what_is_held_and_what_will_be() {
    let [one, two, to] = [(); 3].map(|()| account(Amounts::UNLIMITED));
    let ledgers = [&one, &two, &to].map(|account| Ledger::new(Some(account.clone())));
    for ledger in &ledgers {
        ledger.charge(SOME).unwrap();
    }
    let [a, b, c] = &ledgers;
    // The last one is where it is to go: it must not be paid for twice, not even for a moment.
    to.set_limits(twice(SOME).checked_add(SOME).unwrap());
    transfer(&[a, b, c], Some(&to)).unwrap();
    assert_eq!((one.usage(), two.usage()), (Amounts::NONE, Amounts::NONE));
    assert_eq!(to.usage(), to.limits());
    to.set_limits(Amounts::UNLIMITED);
    a.charge(SOME).unwrap();
    assert_eq!((one.usage(), a.held()), (Amounts::NONE, twice(SOME)));
    // To nobody, who goes on counting, and back.
    transfer(&[a, b, c], None).unwrap();
    assert_eq!(to.usage(), Amounts::NONE);
    b.charge(SOME).unwrap();
    c.release(SOME);
    transfer(&[b, c], Some(&one)).unwrap();
    assert_eq!((one.usage(), b.held(), c.held()), (twice(SOME), twice(SOME), Amounts::NONE));
    drop(ledgers);
    assert_eq!((one.usage(), two.usage(), to.usage()), (Amounts::NONE, Amounts::NONE, Amounts::NONE));
}

#[test]
fn a_transfer_that_fails_changes_nothing() {
    let from = account(Amounts::UNLIMITED);
    let ledgers = [(); 2].map(|()| Ledger::new(Some(from.clone())));
    let [a, b] = &ledgers;
    a.charge(SOME).unwrap();
    b.charge(SOME).unwrap();
    let mut limits = twice(SOME);
    limits.objects -= 1;
    let to = account(limits);
    assert_eq!(transfer(&[a, b], Some(&to)), Err(Error::Quota(Resource::Objects)));
    assert_eq!(transfer(&[a, b, a], Some(&from)), Err(Error::Busy), "named twice");
    let uncounted = Ledger::new(None);
    assert!(matches!(transfer(&[a, &uncounted], Some(&to)), Err(Error::Invalid(_))));
    assert_eq!((from.usage(), to.usage()), (twice(SOME), Amounts::NONE));
    // And nothing is left behind that would be in the way.
    a.charge(SOME).unwrap();
    a.release(SOME);
    to.set_limits(twice(SOME));
    transfer(&[b, a], Some(&to)).unwrap();
    assert_eq!((from.usage(), to.usage()), (Amounts::NONE, twice(SOME)));
}

/// A number that looks random, from the one before.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn threads_that_charge_release_and_move_lose_nothing() {
    const LIMIT: u64 = 3000;
    const TURNS: usize = 20_000;
    let accounts = [(); 3].map(|()| account(Amounts { pinned: LIMIT, ..Amounts::UNLIMITED }));
    let ledgers = [0, 0, 1, 2].map(|at: usize| Ledger::new(Some(accounts[at].clone())));
    // What the threads hold in each ledger, as they know it.
    let expected = [(); 4].map(|()| [(); 2].map(|()| AtomicU64::new(0)));
    let stop = AtomicBool::new(false);
    let moves = std::thread::scope(|scope| {
        let movers: Vec<_> = (0..2u64)
            .map(|seed| {
                let (accounts, ledgers, stop) = (&accounts, &ledgers, &stop);
                scope.spawn(move || {
                    let mut state = seed + 99;
                    let mut moves = [0u32; 3];
                    while !stop.load(Ordering::Relaxed) {
                        let to = next(&mut state) as usize % 4;
                        let picked: Vec<_> = ledgers.iter().filter(|_| next(&mut state).is_multiple_of(2)).collect();
                        let outcome = match transfer(&picked, accounts.get(to)) {
                            Ok(()) => 0,
                            Err(Error::Quota(Resource::Pinned)) => 1,
                            Err(Error::Busy) => 2,
                            Err(error) => panic!("{error}"),
                        };
                        moves[outcome] += 1;
                        // Also over what is charged there already: never above the limit.
                        assert!(accounts.iter().all(|account| account.usage().pinned <= LIMIT));
                        std::thread::yield_now();
                    }
                    moves
                })
            })
            .collect();
        let chargers: Vec<_> = (0..3u64)
            .map(|seed| {
                let (ledgers, expected) = (&ledgers, &expected);
                scope.spawn(move || {
                    let mut state = seed + 1;
                    let mut mine = [[0u64; 2]; 4];
                    for _ in 0..TURNS {
                        let at = next(&mut state) as usize % 4;
                        let amount = next(&mut state) % 300;
                        let amounts = Amounts { pinned: amount, metadata: amount / 2, ..Amounts::NONE };
                        if next(&mut state).is_multiple_of(2) {
                            match ledgers[at].charge(amounts) {
                                Ok(()) => (mine[at][0], mine[at][1]) = (mine[at][0] + amount, mine[at][1] + amount / 2),
                                Err(error) => assert_eq!(error, Error::Quota(Resource::Pinned)),
                            }
                        } else if mine[at][0] >= amount && mine[at][1] >= amount / 2 {
                            ledgers[at].release(amounts);
                            (mine[at][0], mine[at][1]) = (mine[at][0] - amount, mine[at][1] - amount / 2);
                        }
                    }
                    for (expected, mine) in expected.iter().flatten().zip(mine.iter().flatten()) {
                        expected.fetch_add(*mine, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        chargers.into_iter().for_each(|charger| charger.join().unwrap());
        stop.store(true, Ordering::Relaxed);
        movers.into_iter().map(|mover| mover.join().unwrap()).fold([0; 3], |mut sum, moves| {
            sum.iter_mut().zip(moves).for_each(|(sum, moves)| *sum += moves);
            sum
        })
    });
    std::eprintln!("transfers done, refused, in each other's way: {moves:?}");
    assert!(moves[0] > 0);
    let mut sums = [Amounts::NONE; 3];
    for (ledger, expected) in ledgers.iter().zip(&expected) {
        let [pinned, metadata] = expected.each_ref().map(|number| number.load(Ordering::Relaxed));
        let expected = Amounts { pinned, metadata, ..Amounts::NONE };
        assert_eq!(ledger.held(), expected);
        if let Some(payer) = ledger.account() {
            let at = accounts.iter().position(|account| account.same(&payer)).unwrap();
            sums[at] = sums[at].checked_add(expected).unwrap();
        }
    }
    assert_eq!(accounts.each_ref().map(Account::usage), sums);
    drop(ledgers);
    assert!(accounts.iter().all(|account| account.usage() == Amounts::NONE));
}
