//! Abort-DMA mode: all DMA refused without any memory, on its own and as the way in where nothing was translated.

use iommu_core::addr::Iova;
use iommu_core::hw::{HwError, Wait};
use iommu_hal::regs::Registers;
use iommu_models::vtd::{Config, Model};
use iommu_tests::bench::{config_for, memory};
use iommu_tests::spy::*;
use iommu_vtd::{Unit, abort_dma};
use std::sync::{Arc, Mutex};

/// ECAP.ADMS.
const ADMS: u64 = 1 << 52;
/// RTADDR.TTM of abort-DMA mode, in its place.
const ABORT: u64 = 3 << 10;

fn off(config: Config) -> (Arc<Spy>, Arc<Model>) {
    let model = Arc::new(Model::new(config, memory(false)));
    (Arc::new(Spy::new(model.clone())), model)
}

fn abort(spy: &Arc<Spy>, model: &Arc<Model>) -> Result<(), HwError> {
    abort_dma(model.memory().clone(), spy.clone(), config_for(model.config()))
}

/// DMA of a few requesters, with a PASID and without.
fn blocked(model: &Model) -> bool {
    [0, 8, 0x1234, 0xffff].into_iter().all(|requester| {
        [None, Some(1)].into_iter().all(|pasid| {
            [false, true].into_iter().all(|write| model.dma(requester, pasid, Iova::new(0x1000), 8, write).is_err())
        })
    })
}

#[test]
fn all_dma_is_aborted_without_memory_and_the_unit_can_be_taken_back() {
    let legacy = Config::second_stage().ecap_bits(1 << 43, false).cap_bits(Config::CAP_ESRTPS, true);
    for config in [Config::server(), Config::second_stage(), legacy] {
        let (spy, model) = off(config.ecap_bits(ADMS, true));
        model.answer_after(3);
        assert_eq!(abort(&spy, &model), Ok(()));
        assert_eq!((model.root(), model.read32(GSTS) & TE, model.memory().in_use()), (ABORT, TE, 0));
        assert!(blocked(&model));
        // Once more changes nothing.
        assert_eq!(abort(&spy, &model), Ok(()));
        assert!(blocked(&model));
        let unit = Unit::bring_up(model.memory().clone(), spy.clone(), config_for(&config)).expect("taken back");
        assert!(blocked(&model) && model.root() & ABORT != ABORT);
        // And from a unit that is up, without the driver.
        drop(unit);
        assert_eq!(abort(&spy, &model), Ok(()));
        assert_eq!((model.root(), model.read32(GSTS) & (TE | QIE)), (ABORT, TE));
        assert!(blocked(&model));
        assert_eq!(model.violations(), []);
    }
}

#[test]
fn a_unit_without_it_is_left_as_it_is() {
    let missing = |config| {
        let (spy, model) = off(config);
        let Err(HwError::Missing(capability)) = abort(&spy, &model) else { panic!("no error") };
        assert_eq!(spy.take_writes(), []);
        capability.field
    };
    assert_eq!(missing(Config::server()), "ECAP.ADMS");
    // What was cached could outlive the change.
    let legacy = Config::second_stage().ecap_bits(1 << 43, false).ecap_bits(ADMS, true);
    assert_eq!(missing(legacy), "CAP.ESRTPS");
    let (spy, model) = off(Config::server());
    model.set_absent(true);
    assert!(matches!(abort(&spy, &model), Err(HwError::Hardware(_))));
}

#[test]
fn commands_that_are_not_acknowledged_are_named() {
    for (bit, name) in [(SRTP, "GSTS.RTPS"), (TE, "GSTS.TES")] {
        let (spy, model) = off(Config::server().ecap_bits(ADMS, true));
        model.never_answer(bit);
        assert_eq!(abort(&spy, &model), Err(HwError::TimedOut(Wait::Status(name))));
        assert_eq!((model.violations(), model.memory().in_use()), (vec![], 0));
    }
}

#[test]
fn with_esrtps_a_unit_comes_up_through_it_so_that_nothing_gets_by_meanwhile() {
    let (spy, model) = off(Config::server().ecap_bits(ADMS, true));
    let open = Arc::new(Mutex::new(Vec::new()));
    let (inside, seen) = (model.clone(), open.clone());
    spy.set_hook(Some(Box::new(move |write, moment| {
        if moment == Moment::After && inside.dma(8, None, Iova::new(0x1000), 8, true).is_ok() {
            seen.lock().unwrap().push(write.offset);
        }
    })));
    let config = config_for(model.config());
    let unit = Unit::bring_up(model.memory().clone(), spy.clone(), config).expect("up");
    spy.set_hook(None);
    // Masking events, the root, and its command: TE follows, and after that nothing.
    assert_eq!(*open.lock().unwrap(), [FECTL, 0xa0, RTADDR, GCMD]);
    assert_eq!(model.violations(), []);
    drop(unit);
}

#[test]
fn a_unit_that_does_not_come_up_goes_on_aborting() {
    let (spy, model) = off(Config::server().ecap_bits(ADMS, true));
    model.never_answer(QIE);
    let config = config_for(model.config());
    let found = Unit::bring_up(model.memory().clone(), spy.clone(), config).err();
    assert_eq!(found, Some(HwError::TimedOut(Wait::Status("GSTS.QIES"))));
    assert_eq!(model.root(), ABORT);
    assert!(blocked(&model));
    assert_eq!(model.violations(), []);
}

#[test]
fn without_esrtps_bring_up_does_not_go_through_it() {
    // It would have to turn translation off again.
    let (spy, model) = off(Config::second_stage().ecap_bits(ADMS, true));
    let config = config_for(model.config());
    let unit = Unit::bring_up(model.memory().clone(), spy.clone(), config).expect("up");
    let roots: Vec<u64> = spy.take_writes().iter().filter(|write| write.offset == RTADDR).map(|it| it.value).collect();
    assert_eq!(roots.len(), 1);
    assert_ne!(roots[0] & ABORT, ABORT);
    assert_eq!(model.violations(), []);
    drop(unit);
}
