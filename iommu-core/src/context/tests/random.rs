//! Random objects against a plain model, and on several threads.

use super::*;
use core::sync::atomic::AtomicU32;
use std::collections::BTreeMap;

/// A number below `below` that looks random.
fn dice(state: &mut u64, below: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 33) as usize % below
}

#[test]
fn random_objects_match_a_plain_model_and_go_in_order() {
    for seed in 1..30u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let account = account(Amounts::UNLIMITED);
        let context = context(Some(&account));
        let notes = Notes::default();
        // What is alive, and on whom it depends; what is not.
        let mut alive: BTreeMap<ObjectId, (u32, Vec<ObjectId>)> = BTreeMap::new();
        let mut dead: Vec<ObjectId> = Vec::new();
        let (mut tombstones, mut expected) = (0, Vec::new());
        let mut depends: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for name in 0..300 {
            let pick = |random: &mut u64| alive.keys().nth(dice(random, alive.len().max(1))).copied();
            match dice(&mut random, 10) {
                0..5 => {
                    let count = dice(&mut random, 4);
                    let on: Vec<_> = (0..count).filter_map(|_| pick(&mut random)).collect();
                    let id = context.create(&on, || notes.pages(name)).unwrap();
                    assert!(!dead.contains(&id) && !alive.contains_key(&id));
                    depends.insert(name, on.iter().map(|id| alive[id].0).collect());
                    alive.insert(id, (name, on));
                }
                5..9 => {
                    let Some(id) = pick(&mut random) else { continue };
                    let used = alive.values().any(|(_, on)| on.contains(&id));
                    let buried = dice(&mut random, 10) == 0;
                    let outcome = if buried { context.tombstone(id) } else { context.destroy(id) };
                    assert_eq!(outcome, if used { Err(Error::Busy) } else { Ok(()) });
                    if !used {
                        tombstones += usize::from(buried);
                        expected.push(alive.remove(&id).unwrap().0);
                        dead.push(id);
                    }
                }
                _ => assert!(dead.iter().all(|&id| is_gone(&context, id))),
            }
            assert_eq!((context.len(), account.usage().objects as usize), (alive.len() + tombstones, context.len()));
            assert!(alive.keys().all(|&id| context.kind(id) == Ok(ObjectKind::Pages)));
            assert_eq!(notes.gone(), expected);
        }
        drop(context);
        let gone = notes.gone();
        let at = |name: &u32| gone.iter().position(|other| other == name).unwrap();
        assert_eq!(gone.len(), depends.len());
        for (name, on) in &depends {
            assert!(on.iter().all(|other| at(name) < at(other)), "{name} went after what it depends on");
        }
        assert_eq!(account.usage(), Amounts::NONE);
    }
}

#[test]
fn threads_that_make_look_and_end_lose_nothing() {
    let [one, two] = [(); 2].map(|()| account(Amounts::UNLIMITED));
    platform();
    let context = Context::new(Some(&one), ContextConfig::default());
    let notes = Notes::default();
    let (made, moved) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (context, notes, made, moved, one, two) = (&context, &notes, &made, &moved, &one, &two);
            scope.spawn(move || {
                let mut random = thread + 3;
                let mut mine = Vec::new();
                for turn in 0..2000u32 {
                    let depends: Vec<_> = mine.iter().rev().take(1).copied().collect();
                    match dice(&mut random, 8) {
                        0..3 => match context.create(&depends, || notes.pages(turn)) {
                            Ok(id) => {
                                made.fetch_add(1, Ordering::Relaxed);
                                mine.push(id);
                            }
                            Err(error) => assert_eq!(error, Error::Busy),
                        },
                        3..6 => {
                            if let Some(id) = mine.pop() {
                                // Others look at it for a moment, or move it.
                                while let Err(error) = context.destroy(id) {
                                    assert_eq!(error, Error::Busy);
                                }
                                assert!(is_gone(context, id));
                            }
                        }
                        6 => context.for_each(&mut |id, _| match context.get::<Pages>(id) {
                            Ok(pages) => assert_eq!(pages.len(), 4096),
                            Err(error) => assert!(matches!(error, Error::Busy | Error::NoSuchObject)),
                        }),
                        _ => match context.change_owner(Some([one, two][dice(&mut random, 2)])) {
                            Ok(()) => drop(moved.fetch_add(1, Ordering::Relaxed)),
                            Err(error) => assert_eq!(error, Error::Busy),
                        },
                    }
                }
            });
        }
    });
    assert!(moved.into_inner() > 10);
    let left = context.len();
    assert_eq!((one.usage().objects + two.usage().objects) as usize, left);
    assert_eq!(notes.gone().len() + left, made.into_inner() as usize);
    context.close().unwrap();
    assert_eq!((one.usage(), two.usage()), (Amounts::NONE, Amounts::NONE));
}
